# Models in which something is missing: blocks that no gradient comes to, dead neurons, zero and constant matrices, values at the edge of what types hold;
# and imatrices without some entries.
. "$(dirname "$0")/common.sh"
: "${ST_EDIT:?tests/cli/st_edit}"
CASES=$GOLDEN/cases
B=model.layers.1
BLOCK='layers\.1\.(self_attn\.[qkv]|mlp\.(gate|up))_proj'
SMALL="--text $TEXT --seq-len 32 --tokens 256 --seed 3 --compute f32"
METHODS="flipflop fastkron yaqa-a yaqa-b kfac flipflop-tokens diag input-only none"

# model NAME OPERATION...: the tiny model with other numbers
model() {
    local name=$1
    shift
    mkdir "$name" && cp "$HF"/*.json "$name" && must "$ST_EDIT" "$name/model.safetensors" "+$HF/model.safetensors" "$@"
}
# warned N REGEX: must's command gave N warnings, and one of them matches
warned() {
    [ "$(grep -c '^kronq: warning:' must.err)" -eq "$1" ] || { cat must.err; fail "not $1 warnings"; }
    [ "$1" -eq 0 ] || grep -Eq -- "$2" must.err || { cat must.err; fail "no warning matches /$2/"; }
}
# text_of METHOD: its calibration's options
text_of() { [ "$1" = none ] || echo "$SMALL"; }
finite() { ! grep -Eiq '[^a-z](nan|inf)[^a-z]' "$1" || fail "$1 holds $(grep -Eio '.{20}[^a-z](nan|inf)[^a-z]' "$1" | head -1)"; }

say "a block whose outputs are zero: by every method the bytes of identity factors, one warning, and a field in the report"
model zero set all 0 $B.self_attn.o_proj.weight set all 0 $B.mlp.down_proj.weight
for m in none $METHODS; do
    rm -rf out.$m
    must "$KRONQ" quantize zero -o out.$m --embed-bits 8 $(text_of $m) --method $m --only "$BLOCK" --seed 3 --quiet --json
    [ "$m" = none ] || [ "$m" = input-only ] || cmp out.none/model.safetensors out.$m/model.safetensors || fail "$m: other bytes than without factors"
    case $m in
    none | input-only) warned 0 ;;
    *)
        warned 1 "no gradient comes to 5 modules \($B.self_attn.q_proj, .*, $B.mlp.up_proj\): rounded with identity factors"
        [ "$(get must.out modules/$B.mlp.gate_proj/identity)" = "no gradient" ] || fail "$m: nothing in the report"
        [ "$(get must.out modules/$B.mlp.gate_proj/predicted_loss)" = 0.0 ] || fail "$m: a predicted loss"
        ;;
    esac
done
model tiny type F32 '*' times 1e-30 $B.self_attn.o_proj.weight times 1e-40 $B.mlp.down_proj.weight
model norm set all 0 $B.input_layernorm.weight set all 0 $B.post_attention_layernorm.weight
for name in tiny norm; do
    must "$KRONQ" quantize $name -o $name.none --embed-bits 8 --method none --only "$BLOCK" --seed 3 --quiet
    for m in flipflop kfac $([ $name = tiny ] || echo input-only); do
        must "$KRONQ" quantize $name -o $name.$m --embed-bits 8 $SMALL --method $m --only "$BLOCK" --quiet
        warned 1 "of|to 5 modules .*: rounded with identity factors"
        cmp $name.none/model.safetensors $name.$m/model.safetensors || fail "$name, $m: other bytes than without factors"
    done
done

say "in a factor file, in several of one pass, in mixed bits, in a GGUF, in a comparison"
must "$KRONQ" calibrate zero -o f.safetensors $SMALL --method fastkron --quiet
warned 1 "no gradient comes to 5 modules"
must "$KRONQ" quantize --tune none zero -o from --factors f.safetensors --seed 3 --compute f32 --quiet
warned 1 "no gradient comes to 5 modules"
must "$KRONQ" quantize --tune none --sequential none zero -o direct $SMALL --method fastkron --quiet
cmp from/model.safetensors direct/model.safetensors || fail "other bytes from the file"
must "$KRONQ" quantize --tune none zero -o mixed --factors f.safetensors --bits 2.5 --seed 3 --compute f32 --quiet --json
for k in self_attn.q_proj self_attn.v_proj mlp.gate_proj mlp.up_proj self_attn.o_proj; do # o_proj is zero itself
    [ "$(get must.out modules/$B.$k/bits)" = 2 ] || fail "$k has more than 2 bits"
done
[ "$(get must.out modules/model.layers.0.self_attn.v_proj/bits)" = 4 ] || fail "bits went nowhere"
must "$KRONQ" quantize --tune none --sequential none zero -o mixed2 $SMALL --method fastkron --bits 2.5 --quiet
cmp mixed/model.safetensors mixed2/model.safetensors || fail "other bits without the file"
for m in none flipflop yaqa-a; do
    must "$KRONQ" quantize zero -o $m.gguf --to gguf --type Q4_0 $(text_of $m) --method $m --only "$BLOCK" --quiet --json
    get must.out modules/$B.mlp.up_proj/relative_mse >$m.mse
    cmp none.mse $m.mse || fail "$m: other blocks than without factors"
done
must "$KRONQ" compare zero -o cmp --methods flipflop,kfac --text "$TEXT" --tokens 256 --seq-len 32 --ppl "$TEXT" --ctx 64 --chunks 2 --quiet
warned 1 "no gradient comes to 5 modules"
must "$KRONQ" report cmp

say "dead neurons, zero, constant and very small matrices, a loss that is constant: every method, and no NaN"
model odd type F32 '*' set row:3 0 'model.layers.0.mlp.gate_proj.weight' set row:5 0 'model.layers.0.mlp.up_proj.weight' set col:7 0 'model.layers.0.mlp.down_proj.weight' \
    set at:0:4 0 'model.layers.0.input_layernorm.weight' set row:0 0 model.embed_tokens.weight set row:9 0 model.embed_tokens.weight \
    set all 0 $B.self_attn.q_proj.weight set all 0.05 $B.self_attn.v_proj.weight times 1e-30 $B.self_attn.k_proj.weight set all 0 model.layers.2.mlp.up_proj.weight
model flat set all 0 model.norm.weight
for name in odd flat; do
    for m in $METHODS; do
        rm -rf out
        must "$KRONQ" quantize --tune none $name -o out $(text_of $m) --method $m --quiet --json
        finite must.out
        [ $name = flat ] || [ "$(get must.out modules/$B.self_attn.q_proj/relative_mse)" = 0.0 ] || fail "$m: a zero matrix is not rounded to zeros"
        [ $m = kfac ] || continue
        must "$KRONQ" eval out --ppl "$TEXT" --ctx 64 --chunks 1 --quiet --json
        finite must.out
    done
done
for t in Q4_0 Q8_0 Q4_K; do
    rm -f out.gguf
    must "$KRONQ" quantize odd -o out.gguf --to gguf --type $t --fallback F16 $SMALL --quiet --json
    finite must.out
done
printf 'a%.0s' $(seq 4000) >same.txt # the queries' gradients are rounding errors
for c in f32 bf16; do
    must "$KRONQ" quantize --tune none "$HF" -o same.$c --text same.txt --seq-len 32 --tokens 256 --compute $c --quiet --json
    finite must.out
done

say "an imatrix with an entry that is absent, zero or never counted: as without one, and a warning; NaN is refused before anything is made"
I=$CASES/14-imatrix
while read -r file words; do
    must "$KRONQ" quantize --tune none "$GGUF" -o $file --factors "$I/$file.gguf" --seed 3 --quiet --json
    warned 1 "$words 1 module \(.*\): rounded with identity factors"
    module=$(sed -n 's/.*1 module (\(.*\)):.*/\1/p' must.err)
    [ -n "$(get must.out modules/$module/identity)" ] || fail "$file: $module is not marked"
    get must.out modules/$module/relative_mse >got
    must "$KRONQ" quantize "$GGUF" -o $file.none --method none --only "$module\$" --seed 3 --quiet --json
    get must.out modules/$module/relative_mse >want
    cmp got want || fail "$file: $module is not rounded as without factors"
    must "$KRONQ" quantize "$GGUF" -o $file.gguf --to gguf --type Q4_0 --fallback F16 --factors "$I/$file.gguf" --quiet
    warned 1 "$words 1 module"
done <<'END'
i_missing the imatrix has no entry for
i_zero the imatrix is zero throughout for
i_count0 the imatrix never counted an input of
END
refuse 1 "i_nan.gguf: blk.*: sum of squares [0-9]+ is" "$KRONQ" quantize --tune none "$GGUF" -o never/sub/out --factors $I/i_nan.gguf --quiet
refuse 1 "i_nan.gguf: blk.*: sum of squares [0-9]+ is" "$KRONQ" quantize "$GGUF" -o never/sub/out.gguf --to gguf --type Q4_0 --fallback F16 --factors $I/i_nan.gguf --quiet
[ ! -e never ] && [ ! -e never.gguf ] || fail "something was made"

say "weights beyond what a type holds: tensor and place, before anything is made; what it holds is held"
model big type F32 '*' set at:3:4 600000 $B.self_attn.q_proj.weight
for t in Q4_0 Q4_1; do
    want=$([ $t = Q4_0 ] && echo 1 || echo 0)
    if [ $want = 1 ]; then
        refuse 1 "$B.self_attn.q_proj.weight\[3, 4\] is 600000, beyond what the scales of $t can hold" "$KRONQ" quantize big -o never.gguf --to gguf --type $t --pure --fallback F32 \
            --method none --quiet
    else
        must "$KRONQ" quantize big -o held.gguf --to gguf --type $t --pure --fallback F32 --method none --quiet --json
        awk -v e="$(get must.out modules/$B.self_attn.q_proj/relative_mse)" 'BEGIN { exit !(e < 1e-3) }' || fail "$t: relative error $(get must.out modules/$B.self_attn.q_proj/relative_mse)"
    fi
done
refuse 1 "$B.self_attn.q_proj.weight\[3, 4\] is 600000, beyond what F16 can hold" "$KRONQ" export big -o never.gguf --to gguf --type F16 --quiet
must "$KRONQ" export big -o big.gguf --to gguf --type BF16 --quiet
must "$KRONQ" export big -o big8.gguf --to gguf --type Q8_0 --fallback F32 --quiet
model bigger type F32 '*' set at:3:4 -9e6 $B.self_attn.k_proj.weight set at:7:1 1e30 model.embed_tokens.weight
refuse 1 "$B.self_attn.k_proj.weight\[3, 4\] is -9e\+06, beyond what Q8_0 can hold|embed_tokens.weight\[7, 1\] is 1e\+30, beyond what Q8_0" "$KRONQ" export bigger -o never.gguf --to gguf \
    --type Q8_0 --fallback F32 --quiet
refuse 1 "embed_tokens.weight\[7, 1\] is 1e\+30, beyond what scales in F16" "$KRONQ" quantize bigger -o never --embed-bits 8 --method none --quiet
must "$KRONQ" quantize bigger -o bigger.q --method none --embed-bits 16 --quiet
[ ! -e never ] && [ ! -e never.gguf ] || fail "something was made"
model small type F32 '*' times 1e-6 $B.self_attn.q_proj.weight
must "$KRONQ" quantize small -o small.gguf --to gguf --type Q8_0 --fallback F32 --method none --quiet --json
warned 1 "the largest weight of $B.self_attn.q_proj.weight is .*, which scales in F16 hardly hold"
model vast type F32 '*' set at:3:4 3e38 $B.mlp.up_proj.weight times 1e-37 $B.self_attn.q_proj.weight times 1e-5 $B.self_attn.q_proj.weight
refuse 1 "$B.mlp.up_proj.weight\[3, 4\] is 3e\+38, beyond what a checkpoint's scale may be" "$KRONQ" quantize vast -o never --method none --only "$BLOCK" --quiet
[ ! -e never ] || fail "something was made"
must "$KRONQ" quantize vast -o vast.q --method none --only q_proj --quiet
warned 1 "the largest weight of $B.self_attn.q_proj.weight is .*, less than a scale can be"
must "$KRONQ" export vast.q -o vast.e --to gguf --type F32 --quiet
echo ok
