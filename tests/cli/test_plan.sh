#!/bin/bash
# --dry-run, --only, info on every kind of MODEL, factor files, shards.
. "$(dirname "$0")/common.sh"

say "--dry-run prints the plan and writes nothing"
must "$KRONQ" quantize --tune none "$HF" -o planned --bits 3 $CAL --dry-run --json
cp must.out plan.json
has plan.json modules bits bpw file_bytes planned_memory_bytes planned_disk_bytes quantized_modules
[ "$(get plan.json quantized_modules bits calibration_tokens | tr '\n' ' ')" = "21 3 512 " ] || fail "plan.json"
must "$KRONQ" quantize "$ODD" --dry-run --seq-len 32
grep -q "mlp.down_proj .* 40 x 52 .*padded" must.out || fail "the table does not tell of padding"
refuse 2 "bits 7" "$KRONQ" quantize "$HF" --dry-run --bits 7
[ -z "$(ls -d planned 2>/dev/null)" ] || fail "--dry-run left something"

say "the planned size is the written size (header apart), the planned memory is not exceeded"
must "$KRONQ" quantize "$HF" -o whole --bits 3 --method none $CAL --json --quiet
cp must.out whole.json
awk -v p="$(get plan.json file_bytes)" -v w="$(get whole.json file_bytes)" 'BEGIN { exit !(w >= p && w < p + 16384) }' || fail "planned $(get plan.json file_bytes), written $(get whole.json file_bytes)"

say "--only leaves the other modules as they were"
must "$KRONQ" quantize "$HF" -o only --method none --only 'layers\.1\.mlp\.(up|down)_proj' --embed-bits 16 --json --quiet
[ "$(get must.out quantized_modules)" = 2 ] || fail "quantized_modules $(get must.out quantized_modules)"
must "$KRONQ" info only --tensors --json
cp must.out only.json
[ "$(get only.json quantization_config/module_bits)" = '{"model.layers.1.mlp.up_proj":2,"model.layers.1.mlp.down_proj":2}' ] || fail "module_bits"
[ "$(grep -c '"name": "model.layers.*proj.weight"' only.json)" = 19 ] || fail "19 plain modules expected"
[ "$(grep -c 'trellis"' only.json)" = 2 ] || fail "2 packed modules expected"
[ "$(get only.json types/BF16)" = 27 ] || fail "plain tensors are BF16: $(get only.json types)"

say "info: folder, GGUF, checkpoint; also without a tokenizer"
for m in "$HF" "$GGUF" "$ODD" whole "$GOLDEN/tiny_llama3"; do
    must "$KRONQ" info "$m"
    must "$KRONQ" info "$m" --tensors
    must "$KRONQ" info "$m" --json
    has must.out kind architecture layers d_model heads kv_heads head_dim d_ff vocab tensors tensor_bytes types
done
must "$KRONQ" info "$HF" --json && has must.out plan/planned_memory_bytes plan/file_bytes
must "$KRONQ" info whole --json && [ "$(get must.out kind quantization_config/bits | tr '\n' ' ')" = "kronq checkpoint 3 " ] || fail "info whole"

say "factors: calibrate, then quantize --factors, is quantize"
for method in flipflop input-only; do
    must "$KRONQ" calibrate "$HF" -o $method.safetensors --method $method $CAL --only 'layers\.(1|2)\.' --json --quiet
    has must.out file_bytes seconds/total peak_rss_bytes modules/model.layers.2.mlp.up_proj
    must "$KRONQ" quantize "$HF" -o $method-a --factors $method.safetensors --only 'layers\.(1|2)\.' --seed 3 --json --quiet
    a=$(get must.out predicted_loss)
    must "$KRONQ" quantize "$HF" -o $method-b --method $method $CAL --only 'layers\.(1|2)\.' --json --quiet
    [ "$a" = "$(get must.out predicted_loss)" ] || fail "predicted loss $a, $(get must.out predicted_loss)"
    same $method-a $method-b "--exclude=config.json --exclude=README.md" # which tell where the factors came from
done
say "a factor file with its text: also the targets are those of the run that calibrates"
must "$KRONQ" calibrate "$HF" -o all.safetensors $CAL --quiet
must "$KRONQ" quantize --tune none "$HF" -o all-a --factors all.safetensors $CAL --quiet
must "$KRONQ" quantize --tune none "$HF" -o all-b $CAL --quiet
cmp all-a/model.safetensors all-b/model.safetensors || fail "other bytes from the factor file"
must "$KRONQ" quantize --tune none "$HF" -o all-c --factors all.safetensors --seed 3
grep -q "each matrix is rounded by itself, because --factors is given without a --text" must.err || { cat must.err; fail "no word of it"; }
cmp -s all-a/model.safetensors all-c/model.safetensors && fail "targets without a text"
must "$KRONQ" quantize --tune none "$HF" -o all-d --factors all.safetensors --seed 3 --text "$TEXT" --seq-len 32 --quiet # as much as there is

say "info --plan: from a config.json alone; the arithmetic of LLaMA-2-7B by hand; a budget of 1.5 times the weights in 16 bits and 256 MB"
for m in llama2_7b:6738149376 llama3_8b:8029995008 qwen3_8b:8190427136; do
    must "$KRONQ" info --plan "$GOLDEN/configs/${m%:*}" --tokens 128k --threads 2 --json
    cp must.out ways.json
    has ways.json ways/0/seconds/total ways/2/seconds/rounding measured/gemm_gflops self_text_bytes
    [ "$(get ways.json parameters ways/0/gradients ways/1/gradients ways/2/gradients | tr '\n' ' ')" = "${m#*:} memory disk stream " ] || fail "${m%:*}: $(get ways.json parameters)"
    awk -v p="${m#*:}" -v disk="$(get ways.json ways/1/memory_bytes)" -v memory="$(get ways.json ways/0/memory_bytes)" \
        'BEGIN { exit !(disk <= 1.5 * 2 * p + 256e6 && disk < memory) }' || fail "${m%:*}: disk $(get ways.json ways/1/memory_bytes), memory $(get ways.json ways/0/memory_bytes)"
    near "$(get ways.json ways/2/seconds/backward)" "$(awk -v b="$(get ways.json ways/0/seconds/backward)" 'BEGIN { print (2 + 4 * 16 / 128) * b }')" 1e-3 || fail "six passes a block, four of them over 16 of 128 sequences"
done
# rounding from the lowest block up keeps the factors: 2 (m (m + 1) + n (n + 1)) bytes of each of Qwen3-8B's matrices
cp ways.json with.json
must "$KRONQ" info --plan "$GOLDEN/configs/qwen3_8b" --tokens 128k --threads 2 --sequential none --tune none --json
[ "$(get must.out ways/0/seconds/targets ways/0/seconds/tuning | tr '\n' ' ')" = "0.0 0.0 " ] || fail "time of what is not done"
awk -v with="$(get with.json ways/0/disk_bytes)" -v without="$(get must.out ways/0/disk_bytes)" 'BEGIN {
    d = 4096; kv = 1024; f = 12288; side_d = d * (d + 1); side_kv = kv * (kv + 1); side_f = f * (f + 1)
    kept = 36 * 2 * (4 * side_d + 2 * (side_d + side_kv) + 3 * (side_d + side_f)); streams = 4 * 32 * (1024 * d * 4 + 8)
    exit !(with - without == kept + streams) }' || fail "disk $(get with.json ways/0/disk_bytes), without $(get must.out ways/0/disk_bytes)"
# 128 sequences of 1024 tokens, all seven linears as g and x in bf16: 1024 (8192 * 4 + 15104 * 3) values each
must "$KRONQ" info --plan "$GOLDEN/configs/llama2_7b" --tokens 128k --threads 2 --json
[ $(($(get must.out ways/1/disk_bytes) - $(get must.out ways/0/disk_bytes))) = $((128 * 1024 * (8192 * 4 + 15104 * 3) * 2)) ] || fail "gradients of a block on disk"
must "$KRONQ" info --plan "$GOLDEN/configs/llama2_7b" --memory 4G --gradients memory
grep -q "too little" must.out || fail "4 GB are enough for LLaMA-2-7B's gradients"
must "$KRONQ" info --plan "$HF" --seq-len 32 --tokens 512 --method kfac
grep -q "^memory" must.out && ! grep -q "^disk" must.out || fail "kfac keeps no gradients"
refuse 2 "context is 512" "$KRONQ" info --plan "$HF"
refuse 2 "nowhere is unknown" "$KRONQ" info --plan "$HF" --seq-len 32 --gradients nowhere

say "the trace of an iteration: two products a step, down to the tolerance"
must "$KRONQ" calibrate "$HF" -o trace.safetensors --method yaqa-b --tol 1e-2 $CAL --only 'layers\.2\.mlp\.up' --json --quiet
m=modules/model.layers.2.mlp.up_proj
get must.out $m/trace | tr -d '[] \n' | tr ',' ' ' | awk -v n="$(get must.out $m/products)" \
    '{ for (i = 1; i < NF; i += 2) { if ($i != i + 1) exit 1; last = $(i + 1) } if (NF != n || last > 1e-2 || $2 < 1e-2) exit 1 }' || fail "trace $(get must.out $m/trace)"
must "$KRONQ" calibrate "$HF" -o half.safetensors $CAL --only 'layers\.2\.' --factor-dtype bf16 --quiet
must "$KRONQ" quantize "$HF" -o half --factors half.safetensors --only 'layers\.2\.mlp' --seed 3 --quiet
[ $(($(stat -c %s half.safetensors) * 3)) -lt "$(stat -c %s flipflop.safetensors)" ] || fail "bf16 factors of one block are not a quarter of two blocks'"
refuse 1 "holds no factors of model.layers.0" "$KRONQ" quantize "$HF" -o never --factors half.safetensors --only 'layers\.0\.' --quiet
refuse 1 "of another model" "$KRONQ" quantize --tune none "$GGUF" -o never --factors half.safetensors --quiet
refuse 1 "is not a factor file" "$KRONQ" quantize --tune none "$HF" -o never --factors "$HF/model.safetensors" --quiet
refuse 1 "No such file" "$KRONQ" quantize --tune none "$HF" -o never --factors missing.safetensors --quiet
head -c 5000 half.safetensors >cut.safetensors
refuse 1 "cut.safetensors" "$KRONQ" quantize --tune none "$HF" -o never --factors cut.safetensors --quiet
head -c -1 half.safetensors >cut.safetensors
refuse 1 "cut.safetensors" "$KRONQ" quantize "$HF" -o never --factors cut.safetensors --only 'layers\.2\.' --quiet
[ ! -e never ] || [ ! -e never/config.json ] || fail "a refused command left a checkpoint"

say "factors: what is said of the calibration must be the file's; a lacking module is found before any work"
F="$KRONQ quantize --tune none $HF -o never --factors flipflop.safetensors --quiet"
L='layers\.(1|2)\.'
must "$KRONQ" quantize "$HF" -o said --factors flipflop.safetensors --only "$L" $CAL --method flipflop --rho 0.01 --rounds 3 --labels text --draws 1 --batch 1 --quiet
same said flipflop-a
must "$KRONQ" quantize "$HF" -o said2 --factors flipflop.safetensors --only "$L" --seed 3 --tokens 520 --quiet # 16 sequences of the file's 32
same said2 flipflop-a
head -c 5000 "$TEXT" >other.txt
refuse 1 "made from another text" $F --only "$L" --text other.txt
refuse 1 "made from another text" $F --only "$L" --text "$TEXT" --text other.txt
refuse 1 "made with tokens 512, asked for is 256" $F --only "$L" --tokens 256
refuse 1 "made with seq_len 32, asked for is 64" $F --only "$L" --seq-len 64
refuse 1 "made with batch 1, asked for is 2" $F --only "$L" --batch 2
refuse 1 'made with labels "text", asked for is "sampled"' $F --only "$L" --labels sampled
refuse 1 'made with method "flipflop", asked for is "kfac"' $F --only "$L" --method kfac
refuse 1 "made with rho 0.01, asked for is 0.1" $F --only "$L" --rho 0.1
refuse 1 "made with rounds 3, asked for is 4" $F --only "$L" --rounds 4
refuse 1 "does not tell with which tol its factors were made" $F --only "$L" --tol 0.1
refuse 1 "made with exact false, asked for is true" $F --only "$L" --exact
refuse 1 "made from another text" "$KRONQ" quantize "$HF" --to gguf --type Q4_0 --tensor-type ffn_down=F16 --factors flipflop.safetensors --only "$L" --text other.txt -o never.gguf --quiet
refuse 1 "holds no factors of model.layers.0.self_attn.q_proj" $F
refuse 1 "imatrix.gguf: does not tell with which text" "$KRONQ" quantize --tune none "$HF" -o never --factors "$GOLDEN/imatrix.gguf" --text "$TEXT" --quiet
must "$KRONQ" quantize --tune none "$HF" -o im --factors "$GOLDEN/imatrix.gguf" --method input-only --quiet
sed 's/model.layers.2.mlp.up_proj.H_out/model.layers.2.mlp.up_proj.H_oux/' flipflop.safetensors >oneside.safetensors
refuse 1 "holds model.layers.2.mlp.up_proj.H_in but no model.layers.2.mlp.up_proj.H_out" "$KRONQ" quantize "$HF" -o never --factors oneside.safetensors --only "$L" --quiet
[ ! -e never ] && [ ! -e never.gguf ] || fail "a refused command left its output"

say "shards: factors and checkpoint"
must "$KRONQ" calibrate "$HF" -o sh.safetensors $CAL --only 'layers\.(1|2)\.' --shard-size 1k --quiet
[ "$(ls sh.safetensors-*-of-00003.safetensors | wc -l)" = 3 ] || fail "two blocks and the rows of the head: three factor shards expected: $(ls)"
has sh.safetensors files/1
must "$KRONQ" quantize "$HF" -o sh-a --factors sh.safetensors --only 'layers\.(1|2)\.' --seed 3 --quiet
same sh-a flipflop-b "--exclude=config.json --exclude=README.md"
cp sh.safetensors-00002-of-00003.safetensors right
must "$KRONQ" calibrate "$HF" -o sh2.safetensors $CAL --rho 0.1 --only 'layers\.(1|2)\.' --shard-size 1k --quiet
cp sh2.safetensors-00002-of-00003.safetensors sh.safetensors-00002-of-00003.safetensors
refuse 1 "00002-of-00003.safetensors: is not of the calibration that sh.safetensors lists" "$KRONQ" quantize --tune none "$HF" -o never --factors sh.safetensors --quiet
cp right sh.safetensors-00002-of-00003.safetensors
mv sh.safetensors-00002-of-00003.safetensors gone
refuse 1 "00002-of-00003.*No such file" "$KRONQ" quantize --tune none "$HF" -o never --factors sh.safetensors --quiet
must "$KRONQ" quantize "$HF" -o shards --factors flipflop.safetensors --only 'layers\.(1|2)\.' --seed 3 --shard-size 20k --quiet
has shards/model.safetensors.index.json weight_map/model.norm.weight metadata/total_size
[ "$(ls shards/model-*.safetensors | wc -l)" -gt 4 ] && [ ! -e shards/model.safetensors ] || fail "shards: $(ls shards)"
for d in shards flipflop-a; do
    must "$KRONQ" eval $d --ppl "$TEXT" --ctx 64 --chunks 2 --json --quiet
    get must.out nll >$d.nll
done
cmp shards.nll flipflop-a.nll || fail "a sharded checkpoint evaluates otherwise"

say "a quantized model is not quantized again; an output in use is left alone"
refuse 2 "is quantized already" "$KRONQ" quantize whole -o never --quiet
refuse 2 "exists already" "$KRONQ" quantize "$HF" -o whole --method none --quiet
mkdir mine && echo important >mine/thesis.txt
refuse 2 "is not empty" "$KRONQ" quantize "$HF" -o mine --method none --quiet
refuse 1 "is a file" "$KRONQ" quantize "$HF" -o mine/thesis.txt --method none --quiet
[ "$(cat mine/thesis.txt)" = important ] || fail "a file was touched"
cp -r "$HF" copy
refuse 1 "not of a kronq checkpoint" "$KRONQ" quantize "$HF" -o copy --method none --resume --quiet
same copy "$HF"
say "progress: one line a block, none a module"
must "$KRONQ" quantize --tune none "$HF" -o lines $CAL
[ "$(grep -c '^block [012]: 7 linears, relative error .*, predicted loss .* s\]$' must.err)" -eq 3 ] || { cat must.err; fail "not a line for each block"; }
grep -q 'model\.layers' must.err && fail "$(grep -m1 'model\.layers' must.err)"
must "$KRONQ" calibrate "$HF" -o lines.safetensors $CAL
[ "$(grep -c '^block [012]: 7 linears \[.* s\]$' must.err)" -eq 3 ] || { cat must.err; fail "not a line for each block of calibrate"; }
echo ok
