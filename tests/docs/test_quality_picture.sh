#!/bin/sh
# docs/pictures/quality.svg is what scripts/draw_quality.py makes of docs/pictures/quality.csv, byte for byte.
# So nobody changes a figure and forgets the picture, or the picture and not the figure.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
command -v python3 > /dev/null || { echo "SKIP: no python3 here"; exit 77; }
drawn=$(mktemp)
trap 'rm -f "$drawn"' EXIT
python3 "$root/scripts/draw_quality.py" "$root/docs/pictures/quality.csv" "$drawn"
cmp "$drawn" "$root/docs/pictures/quality.svg" || {
    echo "FAILED: docs/pictures/quality.svg is out of date: run scripts/draw_quality.py"
    exit 1
}
# Every picture is well-formed XML.
python3 -c '
import sys, xml.dom.minidom
for svg in sys.argv[1:]:
    xml.dom.minidom.parse(svg)' "$root"/docs/pictures/*.svg || {
    echo "FAILED: a picture is not well-formed XML"
    exit 1
}
