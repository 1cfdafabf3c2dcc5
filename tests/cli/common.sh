# What the scripts share. Each runs in a fresh folder, prints what it checks, and ends with status 1 at the first failure.
set -u
: "${KRONQ:?the program}" "${JSON_GET:?tests/cli/json_get}" "${GOLDEN:?tests/golden}"
TINY=$GOLDEN/tiny_cli
HF=$TINY/hf GGUF=$TINY/model.gguf ODD=$TINY/odd TEXT=$TINY/text.txt
# Short and sufficient: 16 sequences of 32 tokens.
CAL="--text $TEXT --seq-len 32 --tokens 512 --seed 3"
W=$(mktemp -d "$PWD/$(basename "$0" .sh).XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
cd "$W" || exit 1
unset KRONQ_ISA OPENBLAS_CORETYPE

say() { echo "-- $*"; }
fail() { echo "FAILED: $*"; exit 1; }

# must WORDS...: the command succeeds.
must() {
    "$@" >must.out 2>must.err || { cat must.err; fail "status $?: $*"; }
}

# refuse STATUS REGEX COMMAND...: ends with this status (or one of "1|2"), nothing on stdout, and exactly one line on stderr, which matches. Give --quiet to what shows progress.
refuse() {
    local want=$1 regex=$2 got
    shift 2
    "$@" >refuse.out 2>refuse.err
    got=$?
    [[ "|$want|" = *"|$got|"* ]] || { cat refuse.err; fail "status $got, expected $want: $*"; }
    [ ! -s refuse.out ] || fail "something on stdout: $*"
    [ "$(wc -l <refuse.err)" -eq 1 ] || { cat refuse.err; fail "not one line on stderr: $*"; }
    grep -Eq -- "$regex" refuse.err || { cat refuse.err; fail "the message does not match /$regex/: $*"; }
}

get() { "$JSON_GET" "$@"; }

# has FILE PATH...: the JSON file holds all of them.
has() {
    get "$@" >/dev/null || fail "$1 lacks a key"
}

# near A B TOLERANCE (relative)
near() {
    awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; m = b < 0 ? -b : b; exit !(d <= t * m) }'
}

# same A B [option of diff]: the folders hold the same bytes, and no temporary file.
same() {
    diff -r ${3:-} "$1" "$2" >diff.out 2>&1 || { head -5 diff.out; fail "$1 and $2 differ"; }
    [ -z "$(find "$1" "$2" -name '*.tmp' -o -name '.kronq-work')" ] || fail "temporary files are left in $1 or $2"
}

# poke FILE OFFSET: flip one bit of the byte there.
poke() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1") || fail "poke $1"
    printf "\\$(printf %03o $((byte ^ 16)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# timeless DIR: of a comparison's table what does not depend on the machine's speed.
timeless() { grep -vE '_s"|peak_bytes"' "$1/table.json"; }
