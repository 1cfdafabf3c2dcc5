#!/bin/sh
# Test the plug-in with transformers 5 or 4: run.sh 5|4. Status 77: there is no such Python here.
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
python=${KRONQ_PYTHON:-$root/build/venv/bin/python}
path=$root/python
[ "$1" = 4 ] && path=$path:$root/build/transformers4
export PYTHONPATH="$path" PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
probe="import sys, torch, numpy, safetensors, transformers as t; sys.exit(t.__version__.split('.')[0] != '$1')"
if ! "$python" -c "$probe" 2>/dev/null; then
    echo "SKIP: the plug-in's tests: $python has no torch with transformers $1; scripts/python_env.sh installs them"
    exit 77
fi
exec "$python" "$here/test_plugin.py"
