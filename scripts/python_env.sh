#!/bin/sh
# Make build/venv, the Python that tests/python runs with, and build/transformers4, the last transformers 4 beside it. Nothing is done where
# they are already, or where KRONQ_PYTHON names a Python. The download is large (torch). NO_INSTALL=1: only say what is missing.
set -eu
cd "$(dirname "$0")/.."
[ -n "${KRONQ_PYTHON:-}" ] && exit 0
done=build/venv/installed
if ! cmp -s tests/python/requirements.txt "$done"; then
    if [ -n "${NO_INSTALL:-}" ]; then
        echo "the plug-in's tests need build/venv: scripts/python_env.sh makes it" >&2
        exit 1
    fi
    echo "installing torch and transformers into build/venv"
    mkdir -p build
    python3 -m venv build/venv
    build/venv/bin/python -m pip install -q -r tests/python/requirements.txt
    build/venv/bin/python -m pip install -q --no-deps --upgrade --target build/transformers4 \
        transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
    cp tests/python/requirements.txt "$done"
fi
