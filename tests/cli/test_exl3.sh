# EXL3 folders: every command reads one as any other model, and what cannot be read is refused by name. quantize --to exl3
# writes one: every code, resuming, refusals; where Python has numpy, scripts/exl3.py decodes what was written.
. "$(dirname "$0")/common.sh"
E=$GOLDEN/exl3
PPL="--ppl $TEXT --ctx 64 --chunks 4 --compute f32 --quiet --json"

say "info"
must "$KRONQ" info "$E" --json
[ "$(get must.out kind)" = "EXL3 folder" ] || fail "info calls it $(get must.out kind)"
has must.out quantization_config

say "an export to bf16 computes the same; so does one to GGUF"
must "$KRONQ" export "$E" --to bf16 -o plain --quiet
must "$KRONQ" export "$E" --to gguf --type F32 -o plain.gguf --quiet
grep -q quantization_config plain/config.json && fail "the bf16 folder claims to be quantized"
must "$KRONQ" eval "$E" $PPL
nll=$(get must.out nll)
must "$KRONQ" eval plain $PPL
near "$(get must.out nll)" "$nll" 1e-4 || fail "bf16: nll $(get must.out nll), the folder's is $nll"
must "$KRONQ" eval plain.gguf $PPL
near "$(get must.out nll)" "$nll" 1e-6 || fail "F32: nll $(get must.out nll), the folder's is $nll"

say "as the reference of a KL divergence, and as the model"
must "$KRONQ" eval plain.gguf $PPL --kld "$E"
awk -v k="$(get must.out kld)" 'BEGIN { exit !(k < 1e-5) }' || fail "KLD $(get must.out kld) of the export"
must "$KRONQ" eval "$E" $PPL --kld plain.gguf
awk -v k="$(get must.out kld)" 'BEGIN { exit !(k < 1e-5) }' || fail "KLD $(get must.out kld) to the export"

say "run writes what the F32 export's does"
must "$KRONQ" run "$E" -p the -n 12 --temp 0 --compute f32 --quiet
cp must.out answer
must "$KRONQ" run plain.gguf -p the -n 12 --temp 0 --compute f32 --quiet
cmp -s must.out answer || fail "run writes something else"

say "quantize: what is not rounded becomes bf16"
must "$KRONQ" quantize "$E" -o again --bits 4 --method none --tune none --only 'layers\.0\.' --quiet
must "$KRONQ" eval again $PPL
near "$(get must.out nll)" "$nll" 0.2 || fail "nll $(get must.out nll) after another rounding, the folder's is $nll"

say "refused by name"
cp -r "$E" broken
sed -i 's/"quant_method": "exl3"/"quant_method": "exl2"/' broken/config.json
refuse 1 'broken/config.json.*quant_method "exl2".*EXL3 with "exl3"' "$KRONQ" info broken
rm -r broken
cp -r "$E" broken
sed -i 's/layers\.1\.mlp\.up_proj\.svh/layers.1.mlp.up_proj.xvh/' broken/model.safetensors
refuse 1 'broken/model.safetensors.*layers.1.mlp.up_proj.svh is missing' "$KRONQ" eval broken $PPL
rm -r broken

PYTHON=${KRONQ_PYTHON:-python3}
"$PYTHON" -c 'import numpy' 2>/dev/null || { PYTHON=""; echo "SKIP: no numpy, scripts/exl3.py is not run"; }
# decoded FOLDER: kronq and numpy find the same weights in it, and quantization_config.json lists them.
decoded() {
    [ -n "$PYTHON" ] || return 0
    rm -rf decoded
    must "$KRONQ" export "$1" --to bf16 -o decoded --quiet
    must "$PYTHON" "$GOLDEN/../../scripts/exl3.py" check "$1" decoded
}
KLD="--ppl $TEXT --ctx 64 --chunks 8 --compute f32 --quiet --json --kld $HF"

say "quantize --to exl3: codes and bits"
must "$KRONQ" calibrate "$HF" -o f.safetensors $CAL --quiet
for spec in 2:mul1 3:mcg 4:3inst 6:mul1; do
    some="--head-bits 3" # the search takes longer at 5 bits and more
    [ $spec = 6:mul1 ] && some="--only layers\.1\.self_attn"
    must "$KRONQ" quantize "$HF" --to exl3 --bits ${spec%:*} --code ${spec#*:} $some --factors f.safetensors -o w$spec --json --quiet
    cp must.out w$spec.json
    has must.out bits head_bits bpw bpw_file file_bytes predicted_loss relative_mse seconds/rounding
    [ "$(get must.out file_bytes)" = "$(stat -c %s w$spec/model.safetensors)" ] || fail "file_bytes is not the file's size"
    decoded w$spec
    must "$KRONQ" eval w$spec $KLD
    get must.out kld >w$spec.kld
    [ ! -e w$spec/.kronq-work ] || fail "the work folder is left"
    grep -q -- "--to exl3" w$spec/README.md || fail "the card's command"
done
awk '{ getline b < "w3:mcg.kld"; getline c < "w4:3inst.kld"; getline d < "w6:mul1.kld"; exit !($1 > 2 * b && b > 2 * c && c > 2 * d) }' w2:mul1.kld ||
    fail "KLD by bits: $(cat w2:mul1.kld w3:mcg.kld w4:3inst.kld w6:mul1.kld)"
must "$KRONQ" run w2:mul1 -p the -n 3 --quiet

say "the same bytes again, on other threads, and resumed"
must "$KRONQ" quantize "$HF" --to exl3 --bits 2 --head-bits 3 --factors f.safetensors -o again2 --threads 3 --quiet
same w2:mul1 again2
must "$KRONQ" quantize "$HF" --to exl3 --bits 2 --head-bits 3 --factors f.safetensors -o again2 --resume --json --quiet
grep -q complete must.out || fail "--resume of a complete folder"
refuse 1 'other settings' "$KRONQ" quantize "$HF" --to exl3 --bits 3 --head-bits 3 --factors f.safetensors -o again2 --resume --quiet
must "$KRONQ" quantize "$HF" --to exl3 --bits 3 --head-bits 3 $CAL -o whole --quiet
"$INTERRUPT" 15 400000 process "$KRONQ" quantize "$HF" --to exl3 --bits 3 --head-bits 3 $CAL -o cut --quiet >/dev/null 2>&1
must "$KRONQ" quantize "$HF" --to exl3 --bits 3 --head-bits 3 $CAL -o cut --resume --quiet
same whole cut

say "from a GGUF, sizes that are no multiples of 16, shards, a head of 16 bits, some modules only"
must "$KRONQ" quantize "$GGUF" --to exl3 --bits 4 --head-bits 16 --method none -o g --quiet
decoded g
must "$KRONQ" quantize "$ODD" --to exl3 --bits 4 --head-bits 4 --method none -o odd --shard-size 40k --quiet
[ -f odd/model.safetensors.index.json ] || fail "no shards"
decoded odd
must "$KRONQ" quantize "$HF" --to exl3 --bits 4 --head-bits 16 --method none --only 'layers\.1\.' -o part --quiet
grep -q lm_head part/model.safetensors && fail "a tied head of 16 bits is stored"
decoded part
must "$KRONQ" quantize "$E" --to exl3 --bits 5 --head-bits 16 --only 'layers\.0\.' --method none -o again5 --quiet
decoded again5

say "bits that differ: an average by factors, with equal bits where exllamav3 fuses, and rules"
must "$KRONQ" quantize "$HF" --to exl3 --bits 2.5 --head-bits 3 --factors f.safetensors -o mixed --json --quiet
awk -v b="$(get must.out bits)" 'BEGIN { exit !(b <= 2.5 && b > 2.2) }' || fail "average $(get must.out bits)"
for pair in k_proj:v_proj q_proj:k_proj gate_proj:up_proj; do
    a=${pair%:*} b=${pair#*:} part=self_attn
    [ $a = gate_proj ] && part=mlp
    for layer in 0 1 2; do
        [ "$(get must.out "modules/model.layers.$layer.$part.$a/bits")" = "$(get must.out "modules/model.layers.$layer.$part.$b/bits")" ] ||
            fail "$a and $b of layer $layer differ"
    done
done
decoded mixed
must "$KRONQ" eval mixed $KLD
awk -v m="$(get must.out kld)" '{ getline b < "w3:mcg.kld"; exit !(m < 0.8 * $1 && m > b) }' w2:mul1.kld || fail "KLD $(get must.out kld) at 2.5 bits"
must "$KRONQ" quantize "$HF" --to exl3 --bits 2 --module-bits 'down_proj=5' --head-bits 16 --only 'layers\.1\.' --method none -o rules --json --quiet
[ "$(get must.out modules/model.layers.1.mlp.down_proj/bits)" = 5 ] || fail "a rule"
decoded rules
refuse "1|2" 'at least 5' "$KRONQ" quantize "$HF" --to exl3 --bits 2.5 --factors f.safetensors --module-bits '.=5' -o no --quiet
refuse "1|2" '1 to 8 are possible' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --module-bits 'q_proj=9' -o no --quiet
refuse "1|2" 'matches no module' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --module-bits 'x_proj=3' -o no --quiet

say "the plan, and what is refused"
must "$KRONQ" quantize "$HF" --to exl3 --bits 3 --dry-run --json
has must.out bits head_bits bpw file_bytes modules planned_memory_bytes
must "$KRONQ" quantize "$HF" --to exl3 --bits 3 --dry-run
refuse "1|2" '1 to 8' "$KRONQ" quantize "$HF" --to exl3 --bits 9 -o no --quiet
refuse "1|2" 'an average needs --factors' "$KRONQ" quantize "$HF" --to exl3 --bits 2.5 -o no --quiet
refuse "1|2" 'mul1, mcg and 3inst' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --code hyb -o no --quiet
refuse "1|2" 'head-bits 12' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --head-bits 12 -o no --quiet
refuse 2 'embed-bits does not belong to --to exl3' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --embed-bits 4 -o no --quiet
mkdir mine
touch mine/notes
refuse "1|2" 'not empty' "$KRONQ" quantize "$HF" --to exl3 --bits 2 --method none -o mine --quiet
[ ! -e no ] || fail "a refused run left a folder"
exit 0
