#!/bin/sh
# Build one preset with its tests and run them all. Usage: run_tests.sh release|asan|tsan
set -eu
preset=$1
jobs=$(nproc)
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
if [ -z "${KRONQ_TEST_MODEL:-}" ] && [ -f "$model" ]; then
    KRONQ_TEST_MODEL=$(pwd)/$model
    export KRONQ_TEST_MODEL
fi
# One library's own leak is not ours: see the file for each.
export LSAN_OPTIONS="suppressions=$(pwd)/tests/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS=print_stacktrace=1
if [ "$preset" = release ]; then
    scripts/python_env.sh || echo "SKIP: torch and transformers could not be installed; the plug-in's tests will say so"
fi
cmake --preset "$preset" ${CI:+-DKRONQ_WERROR=ON} > "/tmp/kronq-cmake-$$.log" 2>&1 || { cat "/tmp/kronq-cmake-$$.log"; exit 1; }
rm -f "/tmp/kronq-cmake-$$.log"
cmake --build --preset "$preset" -j "$jobs"
ctest --preset "$preset" -j "$jobs"
