#!/bin/sh
# Install what is missing to build kronq on Debian or Ubuntu. NO_INSTALL=1: only say what it is. Arguments: these packages instead.
set -eu
packages="build-essential cmake ninja-build pkg-config libopenblas-openmp-dev libdnnl-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev libzstd-dev libmicrohttpd-dev libcmocka-dev locales python3 python3-pip python3-venv unzip"
[ $# -eq 0 ] || packages="$*"
missing=""
for p in $packages; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' && continue
    # tools that came some other way will do
    case $p in
        locales) command -v localedef >/dev/null && continue ;;
        cmake) command -v cmake >/dev/null && continue ;;
        ninja-build) command -v ninja >/dev/null && continue ;;
        python3) command -v python3 >/dev/null && continue ;;
        python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
        python3-venv) python3 -c 'import ensurepip' >/dev/null 2>&1 && continue ;;
        unzip) command -v unzip >/dev/null && continue ;;
        build-essential) command -v cc >/dev/null && command -v make >/dev/null && continue ;;
    esac
    missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ -n "${NO_INSTALL:-}" ]; then
    echo "kronq needs packages that are not installed. \`make deps\` installs them, or:" >&2
    echo "    sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing:$missing"
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo apt-get update -qq
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
