#!/bin/sh
# Build stock llama.cpp's command line tools for scripts/test_llama.sh: scripts/build_llama.sh [FOLDER]   (default build/llama.cpp)
# Its sources come with the source archive of the llama-cpp-python package on PyPI (vendor/llama.cpp); nothing else of that package is used.
# On two cores the build takes over ten minutes. A folder that holds the sources already is used as it is. Leaves FOLDER/build/bin/llama-*.
set -eu
version=${LLAMA_CPP_PYTHON_VERSION:-0.3.36}
dir=${1:-build/llama.cpp}
python=${PYTHON:-python3}
targets="llama-quantize llama-imatrix llama-perplexity llama-bench llama-tokenize llama-completion"

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ ! -f "$dir/CMakeLists.txt" ]; then
    work=$(mktemp -d "$dir/download.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && "$python" -m pip download --quiet --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version")
    tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
    mv "$work"/llama_cpp_python-*/vendor/llama.cpp/* "$dir"
    rm -rf "$work"
    trap - EXIT
fi
generator=
command -v ninja > /dev/null && generator="-G Ninja"
# shellcheck disable=SC2086
cmake -S "$dir" -B "$dir/build" $generator -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DGGML_CUDA=OFF -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TOOLS=ON > "$dir/cmake.log" 2>&1 ||
    { tail -20 "$dir/cmake.log"; exit 1; }
# shellcheck disable=SC2086
nice -n 10 cmake --build "$dir/build" -j "${JOBS:-$(nproc)}" --target $targets > "$dir/build.log" 2>&1 || { tail -20 "$dir/build.log"; exit 1; }
ls "$dir/build/bin"
