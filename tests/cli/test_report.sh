#!/bin/bash
# report: the page as a browser sees it (headless Chromium, where there is one), in light, dark and on a narrow screen.
. "$(dirname "$0")/common.sh"

must "$KRONQ" compare "$HF" -o cmp --only 'layers\.[12]\.(mlp\.down|self_attn\.[qo])' --methods flipflop,fastkron,none --sweep tokens=256,512 --bits 2,3 --seeds 0,1 --text "$TEXT" --seq-len 32 --ppl "$TEXT" --ctx 64 --chunks 2 --quiet
must "$KRONQ" report cmp -o page.html
grep -q page.html must.err && [ ! -s must.out ] || fail "what report says"
must "$KRONQ" report cmp --quiet
cmp page.html cmp/report.html || fail "the page depends on its name"
marks=$((2 * $(ls cmp/rows | wc -l)))
[ "$(grep -c 'class="pt ' page.html)" = $marks ] && [ $marks = 40 ] || fail "$(grep -c 'class="pt ' page.html) marks, expected $marks"
refuse 1 "no folder of .kronq compare." "$KRONQ" report "$HF"
refuse 2 "is one argument too many" "$KRONQ" report cmp cmp
echo '{"format": 1}' >cmp/rows/none_tokens=256-2bit-seed0.json
refuse 1 "none_tokens=256-2bit-seed0.json: key \"row\" is missing" "$KRONQ" report cmp

browser=$(command -v chromium-headless-shell || command -v chromium || command -v chromium-browser || command -v google-chrome) ||
    { say "SKIP: no Chromium here to look at the page with"; exit 0; }
say "the page in $(basename "$browser")"
see() { timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$W/profile" "$@" "file://$W/page.html" >see.out 2>see.err || { tail -3 see.err; fail "the browser: $*"; }; }
see --dump-dom
[ "$(grep -o '<path class="pt ' see.out | wc -l)" = $marks ] || fail "the browser's document has $(grep -o '<path class="pt ' see.out | wc -l) marks"
[ "$(grep -o '</svg>' see.out | wc -l)" = "$(grep -o '</svg>' page.html | wc -l)" ] || fail "the browser closed other elements than the page"
size() { od -An -tu4 --endian=big -j 16 -N 8 "$1" | tr -s ' ' ' '; }
for look in "1100,5000 0 dark" "1100,5000 1 light" "420,5000 1 narrow"; do
    set -- $look
    see --window-size="$1" --blink-settings=preferredColorScheme="$2" --screenshot="$W/$3.png"
    [ "$(size "$3.png")" = " ${1/,/ }" ] || fail "$3.png is$(size "$3.png")"
    [ "$(stat -c %s "$3.png")" -gt 50000 ] || fail "$3.png is $(stat -c %s "$3.png") bytes: an empty page?"
done
cmp -s dark.png light.png && fail "dark and light look alike"
exit 0
