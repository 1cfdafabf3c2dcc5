#!/bin/bash
# What cannot be meant on the command line is refused with status 2 and one line that names the option as it was given: unknown words, missing and impossible values, options
# that have no effect together, files that cannot be written. A table: COMMAND and words | the message.
. "$(dirname "$0")/common.sh"
J=task.jsonl
echo '{}' >$J

# table: lines "WORDS | REGEX" on stdin; HF, TEXT and J stand for their files. Each is refused with status $1.
table() {
    local line words regex
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        words=${line%% | *} regex=${line#* | }
        words=${words//HF/$HF} words=${words//TEXT/$TEXT}
        eval "refuse $1 \"\$regex\" \"\$KRONQ\" $words"
    done
    [ ! -e never ] && [ ! -e never.work ] || fail "a refused command left its output"
}

say "words"
table 2 <<'END'
quantise | unknown command quantise; did you mean quantize\?
evla HF | unknown command evla; did you mean eval\?
frobnicate | unknown command frobnicate; .kronq --help
--quiet info HF | --quiet: a command comes first
HF | unknown command .*a command comes before the model
help frobnicate | unknown command frobnicate
help quantise | did you mean quantize
quantize HF -o never --bit 2 | unknown option --bit; did you mean --bits\?
quantize HF -o never --seqlen 32 | unknown option --seqlen; did you mean --seq-len\?
quantize HF -o never --tokns=32 | unknown option --tokns=32; did you mean --tokens\?
quantize HF -o never --xyzzy | unknown option --xyzzy; see
quantize HF -o never -x | unknown option -x; see
eval HF --pp TEXT | unknown option --pp; did you mean --ppl\?
eval HF --no-parse-specal | unknown option --no-parse-specal; did you mean --no-parse-special\?
eval HF --parse-specal | unknown option --parse-specal; did you mean --parse-special\?
serve HF --prot 80 | unknown option --prot; did you mean --port\?
run HF --promt x | unknown option --promt; did you mean --prompt\?
info HF -n 3 | unknown option -n
quantize HF -o never --tokens | --tokens needs a value \(N\); see
quantize HF -o | -o needs a value
quantize HF -o --bits 2 | -o needs a value \(PATH\) before --bits
quantize HF -o never --text --tokens 5 | --text needs a value \(FILE\) before --tokens
info HF --json=yes | --json takes no value \(--json=yes\)
quantize HF other -o never | other is one argument too many \(MODEL is .* already\)
info HF -- --json | --json is one argument too many .*after -- nothing is an option
quantize -o never | MODEL is missing \(a folder
report | DIR is missing \(the folder that kronq compare wrote\)
info "" | MODEL is an empty word
quantize HF -o "" | -o '': it may not be empty
serve HF --model-name= | --model-name '': it may not be empty
quantize HF -o never --method= | --method '': it may not be empty
END

say "numbers"
table 2 <<'END'
quantize HF -o never --threads=abc | --threads abc: a whole number
quantize HF -o never --threads 1025 | --threads 1025: 0 to 1024
quantize HF -o never --threads -1 | --threads -1: a whole number
eval HF --ppl TEXT --threads 99999 | --threads 99999: 0 to 1024
run HF -p x --threads 99999999999 | --threads 99999999999: a whole number
bench HF --threads 5000 | --threads 5000
serve HF --threads 5000 | --threads 5000
info HF --plan --threads 5000 | --threads 5000
imatrix HF -o never --threads 5000 | --threads 5000
run HF -p x -n abc | -n abc: a whole number
run HF -p x --n abc | --n abc: a whole number
run HF -p x -n 0 | -n 0: at least 1
run HF -p x -n -5 | -n -5: a whole number
run HF -p x -n 1.5 | -n 1.5: a whole number
quantize HF -o never --tokens 0 | --tokens 0: at least 1
quantize HF -o never --tokens -1 | --tokens -1: a whole number
quantize HF -o never --tokens 1e400 | --tokens 1e400: a whole number
quantize HF -o never --tokens 0x10 | --tokens 0x10: a whole number
quantize HF -o never --tokens 5x | --tokens 5x: a whole number
quantize HF -o never --tokens 999999999999999999999 | --tokens 9+: a whole number
quantize HF -o never --tokens 99999999G | --tokens 99999999G: a whole number
quantize HF -o never --seq-len 1 | --seq-len 1: at least 2
quantize HF -o never --seq-len 2000000 | --seq-len 2000000: at least 2 is expected, and at most 1048576
quantize HF -o never --batch 0 | --batch 0: at least 1
quantize HF -o never --draws 2000 | --draws 2000: 1 to 1024
quantize HF -o never --rounds 0 | --rounds 0: at least 1
quantize HF -o never --passes 0 | --passes 0: 1 to 100
quantize HF -o never --max-iter 100000 | --max-iter 100000: 1 to 10000
quantize HF -o never --rho nan | --rho nan: a number
quantize HF -o never --rho inf | --rho inf: a number
quantize HF -o never --rho 0x1p-3 | --rho 0x1p-3: a number
quantize HF -o never --rho -1 | --rho -1: a number
quantize HF -o never --tol 1e-400 | --tol 1e-400: a number
quantize HF -o never --tol 1,5 | --tol 1,5: a number
quantize HF -o never --sigma-reg 1e9 | --sigma-reg 1e9: at least 0
quantize HF -o never --bits nan | --bits nan: a number
quantize HF -o never --embed-bits eight | --embed-bits eight: a whole number
quantize HF -o never --memory 1 | --memory 1: at least 1048576
quantize HF -o never --memory 0 | --memory 0: at least 1048576
quantize HF -o never --memory lots | --memory lots: a size in bytes
quantize HF -o never --seed 18446744073709551616 | --seed 18446744073709551616: a whole number below 2\^63
quantize HF -o never --seed 9223372036854775808 | --seed 9223372036854775808: a whole number below 2\^63
quantize HF -o never --seed -1 | --seed -1: a whole number
quantize HF -o never --shard-size 1 | --shard-size 1: at least 1024
quantize HF -o never --to gguf --type Q4_0 --sweeps 1001 | --sweeps 1001: 0 to 1000
eval HF --ppl TEXT --ctx 0 | --ctx 0: at least 2
eval HF --ppl TEXT --ctx 1 | --ctx 1: at least 2
eval HF --ppl TEXT --ctx 600 --quiet | --ctx 600: .*at most 512
eval HF --ppl TEXT --chunks 0 | --chunks 0: at least 1
eval HF --task arc_easy=$J --limit 0 | --limit 0: at least 1
run HF -p x --temp -1 | --temp -1: a number
run HF -p x --temp 1e9 | --temp 1e9: 0 to 100
run HF -p x --top-p 2 | --top-p 2: 0 to 1
run HF -p x --top-p -0.1 | --top-p -0.1: a number
run HF -p x --min-p 1.5 | --min-p 1.5: 0 to 1
run HF -p x --top-k -1 | --top-k -1: a whole number
run HF -p x --repeat-penalty 0 | --repeat-penalty 0: 0.01 to 100
run HF --chat --ctx 600 | --ctx 600: the model's context is 512|chat
bench HF --repetitions 0 | --repetitions 0: at least 1
bench HF --pp 1x | --pp 1x: whole numbers
bench HF --tg -3 | --tg -3: whole numbers
serve HF --port 99999 | --port 99999: 0 to 65535
serve HF --port http | --port http: a whole number
serve HF --slots 0 | --slots 0: 1 to 4096
serve HF --queue 0 | --queue 0: at least 1
serve HF --max-body 0 | --max-body 0: at least 1
serve HF --timeout soon | --timeout soon: a whole number
serve HF --ctx 600 | --ctx 600: .*512
compare HF -o never --methods none --ppl TEXT --bits 2,x | --bits x: a number
compare HF -o never --methods none:sigma_reg=1 --ppl TEXT | in none:sigma_reg=1: sigma_reg=1: no such setting
compare HF -o never --methods flipflop:rounds=0 --ppl TEXT | in flipflop:rounds=0: rounds=0: at least 1
compare HF -o never --methods none --ppl TEXT --ctx 600 | --ctx 600: from 2 to the model's context, 512
compare HF -o never --methods none --task foo=$J | --task foo: unknown; there are
compare HF -o never --methods none --task piqa=$J --task piqa=$J | --task piqa: given twice
compare HF -o never --methods none --ppl TEXT --seeds 1,-2 | --seeds -2: a whole number
END

say "options that have no effect together"
table 2 <<'END'
quantize HF -o never --sweeps 2 | --sweeps belongs to --to gguf
quantize HF -o never --type Q4_0 | --type belongs to --to gguf
quantize HF -o never --pure | --pure belongs to --to gguf
quantize HF -o never --tensor-type a=Q4_0 | --tensor-type belongs to --to gguf
quantize HF -o never --fallback Q8_0 | --fallback belongs to --to gguf
quantize HF -o never --to gguf --type Q4_0 --module-bits a=3 | --module-bits does not belong to --to gguf
quantize HF -o never --to gguf --type Q4_0 --code hyb | --code does not belong to --to gguf
quantize HF -o never --to gguf --type Q4_0 --bits 3 | --bits does not belong to --to gguf
quantize HF -o never --to gguf --type Q4_0 --embed-bits 4 | --embed-bits does not belong to --to gguf
quantize HF -o never --to onnx | --to onnx: kronq, gguf or exl3
export HF -o never --to bf16 --type F16 | --type goes with --to gguf
export HF -o never --to gguf --shard-size 1G | --shard-size belongs to --to bf16
eval HF --ppl TEXT --limit 3 | --limit belongs to --task
eval HF --ppl TEXT --resume | --resume belongs to --task
eval HF --task arc_easy=$J --ctx 64 | --ctx belongs to --ppl, not to --task
eval HF --task arc_easy=$J --save-logits x | --save-logits belongs to --ppl
compare HF -o never --methods none --ppl TEXT --limit 3 | --limit goes with --task
compare HF -o never --methods none --task arc_easy=$J --chunks 3 | --chunks goes with --ppl
run HF -p x --system y | --system goes with --chat
run HF -p x --ctx 64 | --ctx belongs to a conversation
bench HF --table6 --pp 5 | --pp has no effect with --table6
bench HF --json --format csv | --format contradicts --json
END

warned() { # MESSAGE WORDS...: the command works, and says so
    local message=$1
    shift
    must "$KRONQ" "$@"
    grep -q -- "kronq: warning: $message" must.err || { cat must.err; fail "no warning: $*"; }
}
warned "--rounds has no effect with --method fastkron" quantize "$HF" --dry-run --method fastkron --rounds 2 --seq-len 32
warned "--tol has no effect with --method flipflop" quantize "$HF" --dry-run --tol 1e-4 --seq-len 32
warned "--text has no effect with --method none" quantize "$HF" --dry-run --method none --text "$TEXT"
warned "--top-p has no effect with --temp 0" run "$HF" -p the -n 2 --temp 0 --top-p 0.5

say "files that cannot be written are named before the work begins"
mkdir folder
: >plain
table 1 <<'END'
eval HF --ppl TEXT --save-logits no/such/x --quiet | no/such/x: cannot be written: No such file or directory
eval HF --ppl TEXT --per-window no/such/x --quiet | no/such/x: cannot be written: No such file
eval HF --ppl TEXT --logits folder --quiet | folder: cannot be written: Is a directory
eval HF --ppl TEXT --logits plain/x --quiet | plain/x: cannot be written: Not a directory
eval HF --task arc_easy=$J --log-samples no/x --quiet | no/x: cannot be written: No such file
calibrate HF -o no/such/f --quiet | no/such/f: cannot be written: No such file
imatrix HF -o no/such/f --quiet | no/such/f: cannot be written: No such file
export HF -o no/such/f.gguf --to gguf --quiet | no/such/f.gguf: cannot be written: No such file
compare HF -o never --methods none --task arc_easy=nosuch.jsonl --quiet | nosuch.jsonl: No such file
report HF -o no/such/f.html --quiet | no/such/f.html: cannot be written: No such file
END
[ ! -e no ] || fail "a folder was made"

say "help and version in every form"
for c in quantize calibrate imatrix eval compare report run serve export bench info; do
    must "$KRONQ" $c --help && mv must.out want
    for form in "help $c" "--help $c" "-h $c" "$c help" "$c -h"; do
        must "$KRONQ" $form
        cmp -s must.out want || fail "kronq $form"
    done
done
must "$KRONQ" --version && mv must.out want
must "$KRONQ" -V && cmp must.out want || fail "-V"

say "more threads than processors: a warning, the same result, and no crawling"
must "$KRONQ" run "$HF" -p the -n 100 --temp 0 --threads 1 && mv must.out want
must timeout 20 "$KRONQ" run "$HF" -p the -n 100 --temp 0 --threads 1024
cmp must.out want || fail "run with 1024 threads"
grep -q "warning: --threads 1024: this process may use [0-9]* processor" must.err || fail "no warning: $(cat must.err)"
must taskset -c "$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')" "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 64 --chunks 2 --threads 2 --quiet
grep -q "warning: --threads 2: this process may use 1 processor;" must.err || fail "affinity: $(cat must.err)"

say "what a file holds is told whatever KRONQ_ISA says"
KRONQ_ISA=foo must "$KRONQ" info "$HF"
grep -q "^plan_error .*KRONQ_ISA=foo is unknown" must.out || fail "no plan_error"

say "the last of an option given twice counts"
must "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 64 --ctx 128 --json --quiet
[ "$(get must.out ctx)" = 128 ] || fail "ctx $(get must.out ctx)"
echo ok
