#!/bin/bash
# A process that dies between any two changes of its folders, and the same command after it: the result of an undisturbed run, and nothing left.
. "$(dirname "$0")/common.sh"
: "${DIE_AT_SO:?the library of die_at.c}"
# Each STEP-th place, from one that differs from command to command: 1 tries all (two minutes, most of an hour with sanitizers).
STEP=${STEP:-${SANITIZE:+29}} STEP=${STEP:-11}
ONLY='layers\.1\.(mlp\.down|self_attn\.q)'

# die_everywhere WHOLE RESULT COMMAND...: the command with RESULT for its output, killed at each place in turn and run again, gives WHOLE (by `alike`).
start=0
die_everywhere() {
    local whole=$1 result=$2 n tried=0 status left
    shift 2
    start=$((start % STEP + 1))
    for ((n = start;; n += STEP)); do
        rm -rf "$result"*
        (DIE_AT=$n LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} exec "$@") >died.out 2>&1
        status=$?
        [ $status = 0 ] && break
        [ $status = 137 ] || { cat died.out; fail "status $status instead of a death at place $n: $*"; }
        must "$@"
        alike "$whole" "$result" || fail "after a death at place $n: $*"
        left=$(find "$result"* \( -name '*.tmp' -o -name '*.work' -o -name '*.pass' -o -name .kronq-work -o -path '*/models/*' \) ; ls -d "$result".?* 2>/dev/null)
        [ -z "$left" ] || fail "left after a death at place $n: $left: $*"
        tried=$((tried + 1))
    done
    [ $tried -ge 1 ] || fail "no deaths: $*"
    echo "   $tried deaths of $((n - 1)) or fewer places"
} 2>/dev/null # the shell's own "Killed"

say "quantize"
alike() { diff -r "$1" "$2"; }
Q="$KRONQ quantize $HF $CAL --only $ONLY --threads 1 --resume --quiet"
must $Q -o whole
die_everywhere whole q $Q -o q

say "quantize to a GGUF file"
alike() { cmp "$1" "$2"; }
Q="$KRONQ quantize $HF $CAL --only layers.1.self_attn --threads 1 --resume --quiet"
must $Q --to gguf --type Q4_0 -o whole.gguf
die_everywhere whole.gguf g $Q --to gguf --type Q4_0 -o g

say "calibrate"
Q="$KRONQ calibrate $HF $CAL --only $ONLY --threads 1 --resume --quiet"
must $Q -o whole.factors
die_everywhere whole.factors f $Q -o f

say "compare"
alike() { diff <(timeless "$1") <(timeless "$2") && [ -z "$(find "$2/factors" -name '*.safetensors')" ]; }
Q="$KRONQ compare $HF --only $ONLY --text $TEXT --seq-len 32 --tokens 256 --ppl $TEXT --ctx 64 --chunks 2 --methods flipflop,fastkron:tokens=128,none --bits 2,3 --quiet"
must $Q -o comparison
die_everywhere comparison part $Q -o part
