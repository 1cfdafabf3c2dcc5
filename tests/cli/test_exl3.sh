# EXL3 folders: every command reads one as any other model, and what cannot be read is refused by name.
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
exit 0
