# kronq export: bf16 folders and GGUF files of any MODEL compute what the model computes; nothing is overwritten, nothing partial is left.
. "$(dirname "$0")/common.sh"
PPL="--ppl $TEXT --ctx 64 --chunks 4 --compute f32 --quiet --json"

say "a packed checkpoint"
must "$KRONQ" quantize "$HF" -o packed --bits 2 --method none --quiet
must "$KRONQ" eval packed $PPL
base=$(get must.out nll)
must "$KRONQ" export packed --to bf16 -o folder --quiet --json
has must.out file_bytes tensors seconds peak_rss_bytes
[ "$(get must.out type)" = BF16 ] || fail "the report's type"
must "$KRONQ" eval folder $PPL
near "$(get must.out nll)" "$base" 2e-3 || fail "bf16: nll $(get must.out nll), the checkpoint's is $base"
grep -q quantization_config folder/config.json && fail "the bf16 folder claims to be quantized"
cmp -s packed/tokenizer.json folder/tokenizer.json || fail "another tokenizer.json"
[ -z "$(find folder -name '.*' -type f)" ] || fail "a temporary file is left"
must "$KRONQ" export packed --to bf16 -o sharded --shard-size 20k --quiet
[ -f sharded/model.safetensors.index.json ] || fail "no shards"
must "$KRONQ" eval sharded $PPL
near "$(get must.out nll)" "$base" 2e-3 || fail "sharded: nll $(get must.out nll)"

for type in F32 F16 BF16 Q8_0; do
    say "GGUF $type"
    must "$KRONQ" export packed --to gguf --type $type $([ $type = Q8_0 ] && echo --fallback bf16) -o "$type.gguf" --quiet
    must "$KRONQ" eval "$type.gguf" $PPL
    near "$(get must.out nll)" "$base" 2e-3 || fail "$type: nll $(get must.out nll), the checkpoint's is $base"
done
must "$KRONQ" eval F32.gguf $PPL
near "$(get must.out nll)" "$base" 1e-6 || fail "F32 is not the same model"
[ -z "$(find . -name '*.tmp')" ] || fail "a temporary file is left"

say "from a plain folder and from a GGUF; a GGUF carries its metadata over and gives the same folder again"
must "$KRONQ" export "$HF" --to gguf --type BF16 -o plain.gguf --quiet
must "$KRONQ" export "$GGUF" --to gguf --type F32 -o again.gguf --quiet
must "$KRONQ" export again.gguf --to bf16 -o a --quiet
must "$KRONQ" export "$GGUF" --to bf16 -o b --quiet
for file in model.safetensors tokenizer.json config.json; do
    cmp -s "a/$file" "b/$file" || fail "$file differs after a detour through a GGUF"
done
must "$KRONQ" export plain.gguf --to bf16 -o c --quiet
must "$KRONQ" eval c $PPL
plain=$(get must.out nll)
must "$KRONQ" eval "$HF" $PPL
near "$(get must.out nll)" "$plain" 1e-6 || fail "$HF -> GGUF BF16 -> bf16: nll $plain, expected $(get must.out nll)"

say "rows that Q8_0 cannot hold"
refuse 1 'token_embd.weight .*40 weights.*--fallback F16' "$KRONQ" export "$ODD" --to gguf --type Q8_0 -o odd.gguf --quiet
[ ! -e odd.gguf ] && [ ! -e odd.gguf.tmp ] || fail "something is left of a refused export"
must "$KRONQ" export "$ODD" --to gguf --type Q8_0 --fallback F16 -o odd.gguf --json --quiet
[ "$(get must.out fallback_tensors)" -gt 0 ] || fail "no tensor fell back"

say "smaller types: what quantize makes without factors; of a checkpoint a second rounding, and its error is said"
must "$KRONQ" quantize "$HF" --to gguf --type Q4_K_M --fallback llama --method none -o rounded.gguf --quiet
must "$KRONQ" export "$HF" --to gguf --type Q4_K_M --fallback llama -o small.gguf --json --quiet
has must.out relative_mse fallback_tensors
[ "$(get must.out second_rounding)" = false ] || fail "a plain folder was not rounded before"
must "$KRONQ" eval small.gguf $PPL --kld rounded.gguf
awk '{ exit !($1 < 1e-9) }' <<<"$(get must.out kld)" || fail "not what quantize makes"
must "$KRONQ" export packed --to gguf --type Q4_0 --fallback F16 --threads 2 -o second.gguf --json
grep -q "a second time" must.err || fail "a second rounding is not called one"
[ "$(get must.out second_rounding)" = true ] || fail "second_rounding"
awk '{ exit !($1 > 0.001 && $1 < 0.01) }' <<<"$(get must.out relative_mse)" || fail "relative_mse $(get must.out relative_mse)"
refuse 1 'q_proj.weight: rows of 64 .* IQ2_XXS blocks of 256.*\(IQ4_NL\)' "$KRONQ" export packed --to gguf --type IQ2_XXS -o x --quiet
refuse 2 '^kronq: --fallback Q9: expected llama' "$KRONQ" export packed --to gguf --type Q4_0 --fallback Q9 -o x --quiet
[ ! -e x ] && [ ! -e x.tmp ] || fail "something is left of a refused export"

say "usage, and outputs that are in use"
refuse 2 'MODEL is missing' "$KRONQ" export
refuse 2 'PATH is missing' "$KRONQ" export packed --to bf16
refuse 2 'to gguf is missing' "$KRONQ" export packed -o x
refuse 2 'bf16 or gguf' "$KRONQ" export packed --to onnx -o x --quiet
refuse 2 'F16, BF16, Q8_0' "$KRONQ" export packed --to gguf --type Q9 -o x --quiet
refuse 2 'goes with --to gguf' "$KRONQ" export packed --to bf16 --type F16 -o x --quiet
refuse 2 'not empty' "$KRONQ" export packed --to bf16 -o folder --quiet
refuse 2 'not empty' "$KRONQ" export packed --to bf16 -o packed --quiet
refuse 2 'exists already' "$KRONQ" export packed --to gguf -o F16.gguf --quiet
refuse 1 'is a file' "$KRONQ" export packed --to bf16 -o F16.gguf --quiet
refuse 1 'does not exist' "$KRONQ" export nothing --to bf16 -o x --quiet
[ ! -e x ] || fail "x should not be there"

say "an export that was killed is done again"
mkdir killed && touch killed/.kronq-export killed/model-00001-of-00009.safetensors killed/config.json
must "$KRONQ" export packed --to bf16 -o killed --quiet
same killed folder

say "a checkpoint that is damaged"
cp -r packed damaged
sed -i 's/"format_version": 2/"format_version": 9/' damaged/config.json
refuse 1 'format_version' "$KRONQ" export damaged --to bf16 -o x --quiet
[ ! -e x ] || fail "x should not be there"

say "model cards"
for key in 'tags:' '- 2-bit' 'quantized_by: kronq' 'kronq quantize hf -o OUT --bits 2 --method none' '<!-- kronq eval -->' 'import kronq' 'Seed | 0'; do
    grep -qF -- "$key" packed/README.md || fail "packed/README.md lacks $key"
done
grep -qF 'dequantized' folder/README.md || fail "folder/README.md"
must "$KRONQ" eval folder --ppl "$TEXT" --ctx 64 --chunks 2 --compute f32 --quiet --card
must "$KRONQ" eval folder --ppl "$TEXT" --ctx 64 --chunks 3 --compute f32 --quiet --card --kld packed
must "$KRONQ" eval folder --ppl "$TEXT" --ctx 64 --chunks 2 --compute f32 --quiet --card
[ "$(grep -c '^| Perplexity' folder/README.md)" -eq 2 ] || fail "each figure once: $(grep '^| Perp' folder/README.md)"
[ "$(grep -c '^| KL divergence' folder/README.md)" -eq 1 ] || fail "no KL divergence on the card"
grep -q 'Nothing measured' folder/README.md && fail "the card says that nothing was measured"
grep -qF 'AutoTokenizer' folder/README.md || fail "the rest of the card is gone"
refuse 2 'no README' "$KRONQ" eval F16.gguf --ppl "$TEXT" --ctx 64 --chunks 1 --quiet --card
