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

say "an installed library builds the program of kronq.h's first page, shared and static"
must cmake --install "$BUILD" --prefix "$W/prefix"
[ -x prefix/bin/kronq ] || fail "no program in prefix/bin"
[ -n "$(find prefix -name LICENSE)" ] && [ -n "$(find prefix -name format.md)" ] || fail "no licence or no documents are installed"
sed -n '/^ \* QUANTIZE:/,/^ \* RUN:/s/^ \*     //p' "$W/prefix/include/kronq.h" >program.c
grep -q kq_quantize program.c || fail "no program in kronq.h"
sed -i "s|\"model.gguf\"|\"$GGUF\"|; s|opt.bits = 2;|opt.bits = 2; opt.calibration.method = \"none\";|" program.c
PKG_CONFIG_PATH=$(dirname "$(find "$W/prefix" -name kronq.pc)")
lib=$(dirname "$(find "$W/prefix" -name libkronq.so)")
export PKG_CONFIG_PATH LD_LIBRARY_PATH="$lib"
flags=$(pkg-config --cflags --libs kronq) || fail "pkg-config"
case $flags in *jansson* | *openblas*) fail "pkg-config gives a shared user what only kronq needs: $flags" ;; esac
must $CC -std=c17 program.c -o program $flags $SANITIZE
must ./program
[ -f out/config.json ] || fail "no checkpoint"
must "$KRONQ" info out
mv out shared_out
must $CC -std=c17 program.c -o program_static $(pkg-config --cflags kronq) "$lib/libkronq.a" $(pkg-config --static --libs kronq | sed 's/-lkronq//') $SANITIZE
unset LD_LIBRARY_PATH
must ./program_static
same out shared_out

say "find_package(kronq)"
mkdir project && cp program.c project/
cat >project/CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(user LANGUAGES C)
find_package(kronq 0.1 REQUIRED)
add_executable(shared program.c)
target_link_libraries(shared PRIVATE kronq::kronq)
add_executable(static program.c)
target_link_libraries(static PRIVATE kronq::static)
END
must cmake -S project -B project/build -DCMAKE_PREFIX_PATH="$W/prefix" -DCMAKE_C_COMPILER="$CC" -DCMAKE_C_FLAGS="$SANITIZE"
must cmake --build project/build
rm -r out && must project/build/shared && same out shared_out
rm -r out && must project/build/static && same out shared_out
must "$KRONQ" --version
grep -qx "kronq $(sed -n 's/^#define KRONQ_VERSION "\(.*\)"/\1/p' "$HEADER")" must.out || fail "the program's version is not the header's"
echo ok
