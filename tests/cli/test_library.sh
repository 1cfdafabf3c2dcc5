# The library as others use it: only kq_ names, an installation that pkg-config finds, the program of the header's first page, any locale.
. "$(dirname "$0")/common.sh"
: "${BUILD:?the build folder}" "${CC:=cc}"

say "every exported name begins with kq_"
other=$(nm -g --defined-only "$BUILD/libkronq.a" 2>/dev/null | awk 'NF==3 && $2 ~ /[TDBRVW]/ {print $3}' | grep -v '^kq_' | grep -v -E '^(__|_ZTI|asan|\.)' | sort -u)
[ -z "$other" ] || fail "other names: $(echo $other)"

say "an installed library builds the program of kronq.h's first page"
must cmake --install "$BUILD" --prefix "$W/prefix"
[ -x prefix/bin/kronq ] || fail "no program in prefix/bin"
sed -n '/#include <kronq.h>/,/^ \*     }$/s/^ \*     //p' "$W/prefix/include/kronq.h" >program.c
grep -q kq_quantize program.c || fail "no program in kronq.h"
sed -i "s|\"model.gguf\"|\"$GGUF\"|; s|opt.bits = 2;|opt.bits = 2; opt.calibration.method = \"none\";|" program.c
pc=$(find prefix -name kronq.pc)
flags=$(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs kronq) || fail "pkg-config"
must $CC -std=c17 program.c -o program $flags $SANITIZE
must ./program
[ -f out/config.json ] || fail "no checkpoint"
must "$KRONQ" info out
