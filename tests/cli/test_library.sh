# The library as others use it: it exports what kronq.h declares and nothing else, and an installation works through pkg-config and through CMake.
. "$(dirname "$0")/common.sh"
: "${BUILD:?the build folder}" "${CC:=cc}"
HEADER=$(dirname "$0")/../../include/kronq.h

say "both libraries export the functions of kronq.h and nothing else"
"$CC" -E -P "$HEADER" | tr '\n' ' ' | tr ';' '\n' | grep -v -e typedef -e 'static inline' | grep -oE '\bkq_[a-z_0-9]+ *\(' | tr -d '( ' | sort -u >declared
[ "$(wc -l <declared)" -gt 15 ] || fail "only $(wc -l <declared) functions found in kronq.h"
nm -D --defined-only "$BUILD/libkronq.so" | awk '{print $3}' | sort -u >shared
diff declared shared >diff.out || fail "libkronq.so exports something else: $(cat diff.out)"
# OpenMP's critical sections are common symbols, which an archive cannot hide; sanitizers add names of their own
nm -g --defined-only "$BUILD/libkronq.a" 2>/dev/null | awk 'NF==3 {print $3}' | grep -v -E '^(\.gomp_critical_user_kq_|__|asan|_ZTI|DW\.ref)' | sort -u >static
diff declared static >diff.out || fail "libkronq.a exports something else: $(cat diff.out)"

say "the header is C and C++ by itself, without warnings"
: "${CXX:=c++}"
echo '#include <kronq.h>' >header.c
must $CC -std=c17 -Wall -Wextra -Wstrict-prototypes -pedantic -Werror -fsyntax-only -I "$(dirname "$HEADER")" header.c
must $CXX -std=c++17 -Wall -Wextra -pedantic -Werror -fsyntax-only -x c++ -I "$(dirname "$HEADER")" header.c

say "an installed library builds the programs of kronq.h's first page, shared and static"
must cmake --install "$BUILD" --prefix "$W/prefix"
[ -x prefix/bin/kronq ] || fail "no program in prefix/bin"
[ -n "$(find prefix -name LICENSE)" ] && [ -n "$(find prefix -name format.md)" ] || fail "no licence or no documents are installed"
# page QUANTIZE: the program under this heading
page() { awk -v h="^ [*] $1:" '$0 ~ h { on = 1; next } /^ [*] [A-Za-z]/ { on = 0 } on && sub(/^ [*]     /, "")' "$W/prefix/include/kronq.h"; }
page QUANTIZE >program.c
page RUN >run.c
grep -q kq_quantize program.c && grep -q kq_model_chat run.c || fail "no programs in kronq.h"
sed -i "s|\"model.gguf\"|\"$GGUF\"|; s|opt.bits = 2;|opt.bits = 2; opt.calibration.method = \"none\";|" program.c
PKG_CONFIG_PATH=$(dirname "$(find "$W/prefix" -name kronq.pc)")
lib=$(dirname "$(find "$W/prefix" -name libkronq.so)")
export PKG_CONFIG_PATH LD_LIBRARY_PATH="$lib"
flags=$(pkg-config --cflags --libs kronq) || fail "pkg-config"
case $flags in *jansson* | *openblas*) fail "pkg-config gives a shared user what only kronq needs: $flags" ;; esac
must $CC -std=c17 program.c -o program $flags $SANITIZE
must $CC -std=c17 run.c -o run $flags $SANITIZE
must ./program
[ -f out/config.json ] || fail "no checkpoint"
must ./run
[ -s must.out ] || fail "the second program of kronq.h says nothing"
must "$KRONQ" info out
mv out shared_out
must $CC -std=c17 program.c -o program_static $(pkg-config --cflags kronq) "$lib/libkronq.a" $(pkg-config --static --libs kronq | sed 's/-lkronq//') $SANITIZE
unset LD_LIBRARY_PATH
must ./program_static
same out shared_out

say "find_package(kronq): the examples, and the first program against the static library"
must cmake -S "$(dirname "$0")/../../examples" -B examples -DCMAKE_PREFIX_PATH="$W/prefix" -DCMAKE_C_COMPILER="$CC" -DCMAKE_C_FLAGS="-Werror $SANITIZE"
must cmake --build examples
mkdir project && cp program.c project/
cat >project/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES C)
find_package(kronq @VERSION@ REQUIRED)
add_executable(static program.c)
target_link_libraries(static PRIVATE kronq::static)
END
version=$(sed -n 's/^#define KRONQ_VERSION "\(.*\)"/\1/p' "$HEADER")
sed -i "s/@VERSION@/$version/" project/CMakeLists.txt
must cmake -S project -B project/build -DCMAKE_PREFIX_PATH="$W/prefix" -DCMAKE_C_COMPILER="$CC" -DCMAKE_C_FLAGS="$SANITIZE"
must cmake --build project/build
rm -r out && must project/build/static && same out shared_out
must "$KRONQ" --version
grep -qx "kronq $version" must.out || fail "the program's version is not the header's"

say "the examples do what they say"
for i in 1 2 3 4 5; do cat "$TEXT" >>long.txt; done # 16384 tokens
must examples/quantize "$HF" ex1 long.txt
grep -q '^21 modules' must.out && grep -q 'bits a quantized weight$' must.out || { cat must.out; fail "examples/quantize"; }
must examples/generate ex1 "the water" "and the fire"
[ "$(grep -c 'new tokens' must.out)" -eq 2 ] || { cat must.out; fail "examples/generate"; }
must examples/progress "$HF" ex2 long.txt
same ex1 ex2
"$INTERRUPT" 2 300000 process examples/progress "$HF" ex3 long.txt 2>must.err
case $? in
130) grep -qE "stopped|interrupted" must.err || { cat must.err; fail "an interrupt without a word"; } ;;
0) echo "(it was quicker than the interrupt)" ;;
*) cat must.err; fail "examples/progress, interrupted" ;;
esac
must examples/progress "$HF" ex3 long.txt # the same command continues
same ex1 ex3
echo ok
