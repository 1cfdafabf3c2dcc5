#!/bin/bash
# What the program says of its own options: --help, the same as JSON, and the man pages and completions that scripts/make_man.py makes of it.
. "$(dirname "$0")/common.sh"
SCRIPTS=$(dirname "$0")/../../scripts
PYTHON=${KRONQ_PYTHON:-python3}

say "every option of --help is one of the JSON's, with its default"
must "$KRONQ" help --json && mv must.out all.json
[ "$(get all.json version)" = "$("$KRONQ" --version | sed 's/kronq //')" ] || fail "version"
i=0
for c in quantize tune calibrate imatrix eval compare report run serve export bench info selfcheck; do
    must "$KRONQ" $c --help
    sed -n 's/^  \(-., \)\?--\(\[no-\]\)\?\([a-z0-9-]*\).*/\3/p' must.out >shown
    [ "$(get all.json commands/$i/help/command)" = $c ] || fail "command $i is not $c"
    n=0
    while read -r name; do
        [ "$(get all.json commands/$i/help/options/$n/name)" = "$name" ] || fail "$c --help: --$name is not option $n of the JSON"
        n=$((n + 1))
    done <shown
    [ $n -gt 1 ] || fail "$c --help shows $n options"
    get all.json commands/$i/help/options/$n/name >/dev/null 2>&1 && fail "$c: the JSON has options that --help does not show"
    i=$((i + 1))
    awk -v c=$c '/^options:/ { below = 1 } below && length > 100 { print c ": " $0; bad = 1 } END { exit bad }' must.out || fail "an option of --help takes more than 100 columns"
done
must "$KRONQ" quantize --help
grep -q -- "--early N  *flipflop: .*first" must.out || fail "--early does not name its method"
grep -q "ones; 0: all (default: 16)" must.out || fail "--early does not name its default"
grep -q "^factors:$" must.out || fail "no heading"

say "a switch that is on by default can be switched off"
must "$KRONQ" quantize "$HF" --dry-run --no-parse-special --text "$TEXT" --seq-len 32
must "$KRONQ" quantize "$HF" --dry-run --parse-special --text "$TEXT" --seq-len 32
refuse 2 "unknown option --no-exact" "$KRONQ" quantize "$HF" --dry-run --no-exact
refuse 2 "unknown option --seq_len; did you mean --seq-len" "$KRONQ" quantize "$HF" --dry-run --seq_len 32

command -v "$PYTHON" >/dev/null || { echo "no python3: man pages and completions are not tried"; echo ok; exit 0; }
say "man pages and completions"
must "$PYTHON" "$SCRIPTS/make_man.py" "$KRONQ" made
[ "$(ls made/man1 | wc -l)" = 14 ] || fail "pages: $(ls made/man1)"
if command -v man >/dev/null && command -v groff >/dev/null; then
    for page in made/man1/*; do
        MANWIDTH=100 MAN_KEEP_FORMATTING= man --warnings -l "$page" >page.txt 2>page.err </dev/null || fail "man $page"
        grep -v "can't set the locale" page.err >warnings
        [ ! -s warnings ] || fail "$page: $(head -3 warnings)"
        grep -q "^NAME" page.txt || fail "$page: no NAME"
    done
    MANWIDTH=100 man -l made/man1/kronq-quantize.1 2>/dev/null | grep -q -- "--seq-len N" || fail "no --seq-len in the page"
fi
must bash -n made/kronq.bash
cat >complete.sh <<'END'
. made/kronq.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_kronq
echo "${COMPREPLY[*]}"
END
completes() { # EXPECTED WORDS...
    local want=$1 got
    shift
    got=$(bash complete.sh "$@") || fail "completion of $*"
    [ "$got" = "$want" ] || fail "completion of '$*': $got, expected $want"
}
completes "quantize" kronq qua
completes "flipflop flipflop-tokens" kronq quantize model --method fl
completes "--seq-len --sequential --seed" kronq quantize --se
completes "--no-parse-special" kronq eval --no
completes "text sampled" kronq compare m --labels ""
completes "kronq gguf exl3" kronq quantize --to ""
completes "bf16 gguf" kronq export --to ""
completes "report" kronq help rep
if command -v zsh >/dev/null; then must zsh -n made/_kronq; fi
if command -v fish >/dev/null; then must fish -n made/kronq.fish; fi
echo ok
