#!/bin/bash
# What cannot be meant is refused with status 2 and one line; help and version; closed and full outputs.
. "$(dirname "$0")/common.sh"
Q="$KRONQ quantize $HF -o never"

say "commands"
refuse 2 "unknown command frobnicate" "$KRONQ" frobnicate
"$KRONQ" >out 2>err && fail "no command succeeds"
[ ! -s out ] && grep -q usage err || fail "no command: usage on stderr"
for a in --help -h help --version; do must "$KRONQ" $a; [ -s must.out ] && [ ! -s must.err ] || fail "$a"; done
for c in quantize calibrate eval run info compare; do must "$KRONQ" $c --help; grep -q -- --json must.out || fail "$c --help"; done

say "selfcheck takes no model, and says what it compared"
must "$KRONQ" selfcheck --isa ref
grep -Eq '^kern +[0-9]+ .* yes$' must.out && grep -q "kernels up to ref: each computes what plain C does" must.out || fail "selfcheck: $(cat must.out)"
must "$KRONQ" selfcheck --isa avx2 --json --quiet
[ "$(get must.out failed)" = 0 ] && [ "$(get must.out checked)" -gt 0 ] || fail "selfcheck --json: $(head -c 200 must.out)"
must "$KRONQ" selfcheck --isa ref --quiet; [ ! -s must.out ] && [ ! -s must.err ] || fail "selfcheck --quiet speaks"
refuse 2 "is one argument too many \(it takes options only\)" "$KRONQ" selfcheck "$HF"
refuse 2 "unknown option --threads" "$KRONQ" selfcheck --threads 2

say "one line, whatever the word"
refuse 2 "unknown command QUANTIZE; did you mean quantize" "$KRONQ" QUANTIZE
refuse 2 "unknown command a\?b" "$KRONQ" $'a\nb'
refuse 2 "unknown option --a\?b" $Q $'--a\nb'
refuse 2 "--tokens 1\?2: a whole number" $Q --tokens $'1\n2'
refuse 2 "unknown option --aaa.* \.\.\.$" $Q "--$(printf %09000d 0 | tr 0 a)"
refuse 2 "one argument too many" $Q $'a\r\033[2Jb'

say "options"
refuse 2 "unknown option --frob" $Q --frob
refuse 2 "unknown option" $Q -x
refuse 2 "needs a value" $Q --tokens
refuse 2 "MODEL is missing" "$KRONQ" quantize -o never
refuse 2 "one argument too many" $Q "$ODD"
refuse 2 "-o OUT is missing" "$KRONQ" quantize "$HF"
refuse 2 "-o FILE is missing" "$KRONQ" calibrate "$HF"
refuse 2 "a text is missing \(--ppl FILE\)" "$KRONQ" eval "$HF" --kld "$HF"
refuse 2 "-p TEXT is missing" "$KRONQ" run "$HF"
refuse 2 "prompt is empty" "$KRONQ" run "$HF" -p ""
refuse 2 "prompt has [0-9]+ tokens, the model's context is 512" "$KRONQ" run "$HF" -p "$(head -c 3000 "$TEXT")"
must "$KRONQ" run "$HF" -p the -n 999999999 --json
[ "$(get must.out tokens)" -lt 512 ] || fail "run went beyond the context"

say "values"
refuse 2 "bits 7: 2, 3 or 4" $Q --bits 7
refuse 2 "bits 1: 2, 3 or 4" $Q --bits 1
refuse 2 "bits" $Q --bits two
refuse 2 "code" $Q --code qtip
refuse 2 "method" $Q --method magic
refuse 2 "isa" $Q --isa sse9
refuse 2 "compute f16" $Q --compute f16
refuse 2 "embed-bits 5" $Q --embed-bits 5
refuse 2 "head-bits 5" $Q --head-bits 5
refuse 2 "frequent-rows gives rows 4 bits where --embed-bits or --head-bits is 3 or 2" $Q --frequent-rows 64
refuse 2 "--tokens 1e9: a whole number" $Q --tokens 1e9
refuse 2 "--tokens -5: a whole number" $Q --tokens -5
refuse 2 "--tokens 12abc: a whole number" $Q --tokens 12abc
refuse 2 "--tokens 99999999999999999999" $Q --tokens 99999999999999999999
refuse 2 "--tokens : a whole number" $Q --tokens ""
refuse 2 "--tokens 16: less than one sequence" $Q --tokens 16 --seq-len 32
refuse 2 "--seq-len 1:" $Q --seq-len 1
refuse 2 "--seq-len 600: the model's context is 512" $Q --seq-len 600
refuse 2 "--batch 3: does not divide" $Q $CAL --batch 3
refuse 2 "--batch 0" $Q $CAL --batch 0
refuse 2 "--threads 5000" $Q --threads 5000
refuse 2 "rho" $Q $CAL --rho 0
refuse 2 "--rho nan" $Q --rho nan
refuse 2 "--tol 1x" $Q --tol 1x
refuse 2 "--sigma-reg -1" $Q --sigma-reg -1
refuse 2 "--shrink 1: from 0 to less than 1" $Q --shrink 1
refuse 2 "--shrink -0.1" $Q --shrink -0.1
refuse 2 "rounds" $Q $CAL --rounds 0
refuse 2 "--start zero" $Q --start zero
refuse 2 "--factor-dtype f8" "$KRONQ" calibrate "$HF" -o never --factor-dtype f8
refuse 2 "none has no factors" "$KRONQ" calibrate "$HF" -o never --method none
refuse 2 "--only \(: not a regular expression.*position" $Q --only '('
refuse 2 "--only conv: matches no module" $Q --only conv
refuse 2 "--only: the regular expression cannot be decided on the name model.layers.0.self_attn.q_proj: match limit" $Q --only '(([a-z_.0-9]+)+)+[0-9]$'
refuse 2 "--only: a regular expression of 5000 bytes, expected 4096" $Q --only "$(printf %05000d 0)"
refuse 2 "--ctx 1" "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 1 --quiet
refuse 2 "compute" "$KRONQ" run "$HF" -p x --compute f64
[ ! -e never ] || fail "a refused command left its output"

say "--isa ref is honoured and no more than asked"
must "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 64 --chunks 1 --isa ref --json --quiet
[ "$(get must.out isa)" = ref ] || fail "isa $(get must.out isa)"
KRONQ_ISA=frob refuse 2 "frob" "$KRONQ" eval "$HF" --ppl "$TEXT" --quiet

say "standard output: full, closed, a reader that leaves; standard error closed"
if [ -w /dev/full ]; then
    for c in "info $HF --json" "eval $HF --ppl $TEXT --ctx 64 --chunks 1 --json --quiet" "quantize $HF --dry-run --json --seq-len 32" "run $HF -p the -n 3 --quiet" "--help"; do
        "$KRONQ" $c >/dev/full 2>err
        [ $? -eq 1 ] && grep -q "standard output cannot be written" err || fail "$c > /dev/full: $(cat err)"
    done
fi
"$KRONQ" info "$HF" --json >&- 2>err
[ $? -eq 1 ] && grep -q "standard output" err || fail "closed stdout"
("$KRONQ" info "$HF" --tensors --json 2>err; echo $? >status) | true
for i in 1 2 3 4 5 6 7 8 9 10; do [ -s status ] || sleep 0.3; done
[ "$(cat status)" = 1 ] || [ "$(cat status)" = 0 ] || fail "broken pipe: status $(cat status)" # 0: all fitted into the pipe before it was closed
"$KRONQ" quantize "$HF" -o quiet1 --method none --only 'layers\.0\.self_attn' --seed 1 2>&- <&- >&- || fail "no standard streams at all"
must "$KRONQ" quantize "$HF" -o quiet2 --method none --only 'layers\.0\.self_attn' --seed 1 --quiet
same quiet1 quiet2
echo ok
