#!/bin/bash
# compare: its figures are those of separate commands; what is shared; interrupted and continued; folders and SPECs that are refused.
. "$(dirname "$0")/common.sh"
# Two modules: the test is about the comparison, not about rounding.
ONLY='layers\.1\.(mlp\.down|self_attn\.q)'
SET="--only $ONLY --text $TEXT --seq-len 32 --tokens 512 --ppl $TEXT --ctx 64 --chunks 3 --quiet"
C="$KRONQ compare $HF $SET"

# figure DIR ROW KEY: from table.json
index() { # DIR SPEC BITS SEED
    local i=0
    while [ "$(get "$1/table.json" rows/$i/spec 2>/dev/null)" ]; do
        [ "$(get "$1/table.json" rows/$i/spec rows/$i/bits rows/$i/seed | tr '\n' ' ')" = "$2 $3.0 $4.0 " ] && { echo $i; return; }
        i=$((i + 1))
    done
    fail "$1 has no row $2, $3 bits, seed $4"
}
figure() { get "$1/table.json" "rows/$2/$3"; }

say "the figures are those of calibrate, quantize and eval"
SPECS=flipflop,flipflop:rho=1e-1:rounds=2,fastkron:tokens=256,flipflop:labels=sampled:draws=2,flipflop:text=self:tokens=128,input-only,none,flipflop:sigma-reg=5e-2:code=1mad
must $C -o all --methods $SPECS --bits 2,3 --seeds 5,6 --json --task arc_easy="$GOLDEN/tasks/arc_easy.jsonl" --limit 6 --compute f32
[ "$(get must.out .)" = "$(get all/table.json .)" ] || fail "--json is not the table"
[ "$(ls all/rows | wc -l)" = 32 ] && [ "$(wc -l <all/table.csv)" = 33 ] || fail "32 rows are expected"
check() { # SPEC BITS SEED CALIBRATE-OPTIONS... [-- ROUNDING-OPTIONS...]
    local spec=$1 bits=$2 seed=$3 i factors="" cal=() round=() key
    shift 3
    while [ $# -gt 0 ] && [ "$1" != -- ]; do cal+=("$1"); shift; done
    [ $# -eq 0 ] || shift
    round=("$@")
    i=$(index all "$spec" "$bits" "$seed") || exit 1
    rm -rf f.safetensors q
    if [ "$spec" != none ]; then
        must "$KRONQ" calibrate "$HF" -o f.safetensors --only "$ONLY" --seq-len 32 "${cal[@]}" --seed "$seed" --compute f32 --quiet
        factors="--factors f.safetensors"
    fi
    must "$KRONQ" quantize "$HF" -o q --only "$ONLY" $factors --method "${spec%%:*}" --bits "$bits" --seed "$seed" "${round[@]}" --compute f32 --json --quiet
    for key in predicted_loss relative_mse bpw bpw_file file_bytes; do
        [ "$(get must.out $key)" = null ] && [ "$(figure all $i $key)" = null ] || near "$(get must.out $key)" "$(figure all $i $key)" 1e-7 ||
            fail "$spec, $bits bits: $key is $(figure all $i $key), quantize says $(get must.out $key)"
    done
    must "$KRONQ" eval q --kld "$HF" --ppl "$TEXT" --ctx 64 --chunks 3 --compute f32 --json --quiet
    for key in kld ppl nll top1; do
        near "$(get must.out $key)" "$(figure all $i $key:text.txt)" 1e-8 || fail "$spec, $bits bits: $key is $(figure all $i $key:text.txt), eval says $(get must.out $key)"
    done
    near "$(get must.out ln_ppl_ratio)" "$(figure all $i loss_rise:text.txt)" 1e-7 || fail "$spec: loss rise"
}
check flipflop 2 5 --text "$TEXT" --tokens 512
check flipflop:rho=1e-1:rounds=2 3 6 --text "$TEXT" --tokens 512 --rho 1e-1 --rounds 2
check fastkron:tokens=256 2 6 --text "$TEXT" --tokens 256 --method fastkron
check flipflop:labels=sampled:draws=2 2 6 --text "$TEXT" --tokens 512 --labels sampled --draws 2
check flipflop:text=self:tokens=128 3 5 --tokens 128
check input-only 2 5 --text "$TEXT" --tokens 512 --method input-only
check flipflop:sigma-reg=5e-2:code=1mad 2 5 --text "$TEXT" --tokens 512 -- --sigma-reg 5e-2 --code 1mad
check none 2 6
must "$KRONQ" eval q --task arc_easy="$GOLDEN/tasks/arc_easy.jsonl" --limit 6 --compute f32 --json --quiet
near "$(get must.out "results/arc_easy/acc,none")" "$(figure all "$(index all none 2 6)" acc:arc_easy)" 1e-9 || fail "accuracy"
must "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 64 --chunks 3 --compute f32 --json --quiet
near "$(get must.out ppl)" "$(get all/table.json reference/ppl:text.txt)" 1e-8 || fail "the reference's perplexity"
must "$KRONQ" eval "$HF" --task arc_easy="$GOLDEN/tasks/arc_easy.jsonl" --limit 6 --compute f32 --json --quiet
near "$(get must.out "results/arc_easy/acc,none")" "$(get all/table.json reference/acc:arc_easy)" 1e-9 || fail "the reference's accuracy"

say "bits shared out, and by hand"
must $C -o mixed --methods 'flipflop,flipflop:module-bits=q_proj$=3' --bits 2.5 --compute f32
must "$KRONQ" calibrate "$HF" -o m.safetensors --only "$ONLY" --seq-len 32 --text "$TEXT" --tokens 512 --compute f32 --quiet
for rule in "" 'q_proj$=3'; do
    rm -rf q
    must "$KRONQ" quantize "$HF" -o q --only "$ONLY" --factors m.safetensors --bits 2.5 ${rule:+--module-bits "$rule"} --compute f32 --json --quiet
    i=$([ "$rule" ] && echo 1 || echo 0)
    for key in predicted_loss relative_mse bpw; do near "$(get must.out $key)" "$(figure mixed $i $key)" 1e-7 || fail "mixed bits ($rule): $key"; done
done
[ "$(get mixed/table.json rows/1/spec rows/1/bits | tr '\n' ' ')" = 'flipflop:module-bits=q_proj$=3 2.5 ' ] || fail "the row of mixed bits"
refuse 2 "none: --bits 2.5: the method none predicts no loss" $C -o never --methods none --bits 2,2.5
refuse 2 "the average is at least" $C -o never --methods 'flipflop:module-bits=q_proj$=3' --bits 2.1

say "means over seeds"
a=$(figure all "$(index all flipflop 2 5)" kld:text.txt) b=$(figure all "$(index all flipflop 2 6)" kld:text.txt)
[ "$(get all/table.json seeds/0/spec seeds/0/bits seeds/0/seeds | tr '\n' ' ')" = "flipflop 2 2 " ] || fail "the first kind of row"
near "$(get all/table.json seeds/0/kld:text.txt/mean)" "$(awk -v a="$a" -v b="$b" 'BEGIN { printf "%.12g", (a + b) / 2 }')" 1e-9 || fail "mean over seeds"
near "$(get all/table.json seeds/0/kld:text.txt/sd)" "$(awk -v a="$a" -v b="$b" 'BEGIN { d = a - b; if (d < 0) d = -d; printf "%.12g", d / sqrt(2) }')" 1e-6 || fail "spread over seeds"

say "what is shared, and what is left behind"
must $C -o all --methods $SPECS --bits 2,3 --seeds 5,6 --dry-run --json --task arc_easy="$GOLDEN/tasks/arc_easy.jsonl" --limit 6 --compute f32
[ "$(get must.out rows/31/done)" = true ] && [ "$(get must.out passes)" = "[]" ] || fail "a finished comparison has work to do"
must $C -o no --methods $SPECS --bits 2,3 --seeds 5,6 --dry-run --json
# text labels of any seed are one pass (flipflop twice, fastkron, input-only); drawn labels and self-written text are two each
[ "$(get must.out passes/0 | tr , '\n' | wc -l)" = 4 ] && get must.out passes/4 >/dev/null && ! get must.out passes/5 >/dev/null 2>&1 || fail "passes: $(get must.out passes)"
[ ! -e no ] || fail "a dry run made its folder"
[ -z "$(ls all/models)" ] && [ -z "$(ls all/factors | grep -v json)" ] || fail "checkpoints or factors are left"
grep -q "| none | 3 | n/a | 6 |" all/table.md && grep -q "^| original " all/table.md || fail "table.md"
must $C -o kept --methods flipflop,none --keep-models --keep-factors
must "$KRONQ" info kept/models/flipflop-2bit-seed0
[ "$(ls kept/factors | wc -l)" = 2 ] && [ -e kept/models/none-2bit-seed0/config.json ] || fail "--keep-models, --keep-factors"

say "rows are added; what is done stays; a sweep over what a method does not look at gives one row"
before=$(stat -c %y kept/rows/flipflop-2bit-seed0.json)
must $C -o kept --methods flipflop --bits 2,4
[ "$(stat -c %y kept/rows/flipflop-2bit-seed0.json)" = "$before" ] || fail "a finished row was made again"
[ "$(get kept/table.json rows/0/row rows/1/row rows/2/row | tr '\n' ' ')" = "flipflop-2bit-seed0 none-2bit-seed0 flipflop-4bit-seed0 " ] || fail "the order of rows"
must $C -o sweep --methods flipflop,none --sweep tokens=256,512 --sweep rounds=1,2 --dry-run --json
[ "$(get must.out rows/4/spec)" = none:tokens=256:rounds=1 ] && ! get must.out rows/5 >/dev/null 2>&1 || fail "rows of the sweep"

say "interrupted at any moment and continued: the same table"
start=$(date +%s%N)
must $C -o whole --methods flipflop,fastkron:tokens=256,none --bits 2,3
ms=$((($(date +%s%N) - start) / 1000000))
RANDOM=7
for i in 1 2 3 4 5 6; do
    rm -rf part
    for again in 1 2; do
        $C -o part --methods flipflop,fastkron:tokens=256,none --bits 2,3 >/dev/null 2>&1 &
        sleep "$(awk -v m=$ms -v i=$i -v r=$RANDOM 'BEGIN { print m * (i - r / 32768) / 6000 }')"
        kill -KILL $! 2>/dev/null
        wait $! 2>/dev/null
    done
    must $C -o part --methods flipflop,fastkron:tokens=256,none --bits 2,3
    diff <(timeless whole) <(timeless part) >diff.out || { cat diff.out; fail "the table of an interrupted comparison differs"; }
    [ -z "$(find part -name '*.tmp' -o -name '*.work' -o -name '*.pass')" ] && [ -z "$(ls part/models)" ] || fail "something is left: $(find part)"
done
# died when a row was written and its checkpoint and factors were still there; what an earlier run was told to keep stays
mkdir whole/models/none-2bit-seed0 && echo '{}' | tee whole/models/none-2bit-seed0/config.json >whole/models/none-2bit-seed0.json
for f in whole/factors/*.json; do echo x >"${f%.json}.safetensors"; done
must $C -o whole --methods flipflop,fastkron:tokens=256,none --bits 2,3
[ -z "$(ls whole/models)" ] && [ -z "$(find whole/factors -name '*.safetensors')" ] || fail "left by a run that died: $(find whole)"
must $C -o kept --methods none,flipflop
[ -e kept/models/none-2bit-seed0/config.json ] && [ "$(ls kept/factors | wc -l)" = 2 ] || fail "what was kept is gone: $(find kept)"
for i in 1 2 3 4 5; do # again where it was through before the signal came: a busy machine
    rm -rf part
    $C -o part --methods flipflop,fastkron:tokens=256,none --bits 2,3 >/dev/null 2>int.err &
    until compgen -G 'part/rows/*.json' >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.005; done # the first of six rows: most is to come
    kill -INT $! 2>/dev/null
    wait $!
    got=$?
    [ $got -eq 0 ] || break
done
[ $got -eq 130 ] && grep -q "; the same command continues" int.err || fail "status $got, and what an interruption says: $(cat int.err)"
# a pass that was interrupted with other estimates than are asked for now
rm -rf other
for i in $(seq 200); do
    rm -rf other
    $C -o other --methods fastkron:tol=1e-9:max-iter=200 --threads 1 >/dev/null 2>&1 &
    for j in $(seq 200); do [ -n "$(compgen -G 'other/factors/*.work/factors-*.seal')" ] && break; kill -0 $! 2>/dev/null || break; sleep 0.005; done
    kill -KILL $! 2>/dev/null
    wait $! 2>/dev/null
    # killed after the factor file was whole, the parts are read no more
    compgen -G 'other/factors/*.work/factors-*.seal' >/dev/null && ! compgen -G 'other/factors/*.safetensors' >/dev/null && break
    rm -rf other
done
compgen -G 'other/factors/*.work/factors-*.seal' >/dev/null || fail "could not catch a pass unfinished"
cp -r other damaged
must $C -o other --methods fastkron:tol=1e-9:max-iter=200,flipflop
[ -z "$(ls other/models)" ] && [ "$(ls other/rows | wc -l)" = 2 ] || fail "rows of the changed pass"
# unfinished work that is damaged: refused; --fresh discards it, and nothing that is finished
seal=$(ls damaged/factors/*.work/factors-*.seal | head -1)
poke "${seal%.seal}" 3000
refuse 1 "factors-0.*is damaged; --fresh discards" $C -o damaged --methods fastkron:tol=1e-9:max-iter=200
must $C -o damaged --methods fastkron:tol=1e-9:max-iter=200 --fresh
[ "$(ls damaged/rows | wc -l)" = 1 ] && [ -z "$(find damaged -name '*.work')" ] || fail "rows after --fresh"
cp -r whole before
must $C -o whole --methods flipflop,fastkron:tokens=256,none --bits 2,3 --fresh
diff -r before whole >diff.out || { cat diff.out; fail "--fresh touched what was finished"; }

say "a folder of something else"
head -c 4000 "$TEXT" >other.txt
mkdir t && head -c 4000 "$TEXT" >t/text.txt # the same name, another text
refuse 1 "whole/compare.json: is of another comparison \(texts: then .*; choose another folder" "$KRONQ" compare "$HF" -o whole --methods none --ppl t/text.txt --ctx 64 --chunks 3 --quiet
refuse 1 "another comparison \(texts: then .*text.txt.* now .*other.txt" "$KRONQ" compare "$HF" -o whole --methods none --ppl other.txt --ctx 64 --chunks 3 --quiet
refuse 1 "another comparison \(ctx: then 64, now 32\)" "$KRONQ" compare "$HF" -o whole --methods none --ppl "$TEXT" --ctx 32 --chunks 3 --quiet
refuse 1 "another comparison \(model: then \"hf\", now \"model.gguf\"\)" "$KRONQ" compare "$GGUF" -o whole $SET --methods none
cp -r "$HF" hf2 && poke hf2/model.safetensors $(($(stat -c %s hf2/model.safetensors) - 1000)) && mkdir m && mv hf2 m/hf
refuse 1 "another comparison \(fingerprint: then " "$KRONQ" compare m/hf -o whole $SET --methods none
refuse 1 "rows/flipflop-2bit-seed0.json: was made with another tokens \(then 512, now 256\); give it in the spec \(flipflop:tokens=...\)" \
    "$KRONQ" compare "$HF" -o whole --only "$ONLY" --text "$TEXT" --seq-len 32 --tokens 256 --ppl "$TEXT" --ctx 64 --chunks 3 --methods flipflop --quiet
for f in compare.json rows/none-2bit-seed0.json; do
    cp whole/$f saved
    echo '{"format": 1, "rows": ["../../x"]}' >whole/$f
    refuse 1 "$f: " $C -o whole --methods none
    echo '[' >whole/$f
    refuse 1 "$f: .*expected near" $C -o whole --methods none
    cp saved whole/$f
done
must $C -o whole --methods none

say "SPECs and lists that mean nothing"
N="$C -o never"
refuse 2 "methods SPEC,... is missing" $N
refuse 2 "in flipflop:rho=x: rho=x: a number of at least 0" $N --methods flipflop:rho=x
refuse 2 "in flipflop:frob=1: frob=1: no such setting" $N --methods none,flipflop:frob=1
refuse 2 "in flipflop:bits=2: bits=2: no such setting" $N --methods flipflop:bits=2
refuse 2 "in flipflop:tokens: tokens=: a value is missing" $N --methods flipflop:tokens
refuse 2 "in flipflop:exact=1: exact=1: takes no value" $N --methods flipflop:exact=1
refuse 2 "in :rho=1: method=: " $N --methods :rho=1
refuse 2 "unknown method \"magic\"" $N --methods magic
refuse 2 "flipflop:batch=3: --batch 3: does not divide" $N --methods flipflop,flipflop:batch=3
refuse 2 "flipflop: it is asked for twice" $N --methods flipflop,flipflop
refuse 2 "flipflop: --bits 7: 2, 3 or 4" $N --methods flipflop --bits 2,7
refuse 2 "bits : a number of at least 0" $N --methods flipflop --bits 2,,3
refuse 2 "seeds a: a whole number" $N --methods flipflop --seeds a
refuse 2 "sweep tokens=: KEY=VALUE" $N --methods flipflop --sweep tokens=
refuse 2 "in flipflop:frob=1: frob=1: no such setting" $N --methods flipflop --sweep frob=1,2
refuse 1 "flipflop:text=nofile: nofile: No such file" $N --methods flipflop:text=nofile
refuse 2 "ppl FILE is missing" "$KRONQ" compare "$HF" -o never --methods none
[ ! -e never ] || fail "a refused comparison left its folder"
(ulimit -f 0; exec "$KRONQ" compare "$HF" -o never/sub --methods none --ppl "$TEXT" --ctx 64 --chunks 1 --quiet) 2>&1 | grep -q "compare.json: cannot be written" || fail "compare.json was written with no room for it"
[ ! -e never ] || fail "a comparison that could store nothing left its folder"
exit 0
