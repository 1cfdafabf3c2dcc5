#!/bin/bash
# quantize --to gguf: types, refusals, plan, threads, resuming, and files that open again.
. "$(dirname "$0")/common.sh"
DOWN="--tensor-type ffn_down=F16" # its 112 inputs are no whole number of blocks of 32

say "every type of blocks of 32, read back"
for type in Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL; do
    must "$KRONQ" quantize "$GGUF" --to gguf --type $type $DOWN --method none -o $type.gguf --quiet
    must "$KRONQ" eval $type.gguf --ppl "$TEXT" --ctx 32 --chunks 20 --kld "$GGUF" --json --quiet
    get must.out kld >$type.kld || fail "no kld"
done
awk '{ if ($1 > 0.02) exit 1 }' Q8_0.kld || fail "Q8_0: KL divergence $(cat Q8_0.kld)"
awk '{ getline b < "Q4_0.kld"; exit !($1 < b) }' Q5_0.kld || fail "Q5_0 is no better than Q4_0"

say "factors: better than without; threads do not matter"
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o t1.gguf --threads 1 --json --quiet
has must.out type bpw bpw_file file_bytes predicted_loss relative_mse seconds/rounding peak_rss_bytes planned_bytes
[ "$(get must.out file_bytes)" = "$(stat -c %s t1.gguf)" ] || fail "file_bytes is not the file's size"
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o t3.gguf --threads 3 --quiet
cmp t1.gguf t3.gguf || fail "the number of threads shows"
[ "$(stat -c %s t1.gguf)" -ge "$(stat -c %s Q4_0.gguf)" ] || fail "sizes"

say "from a factor file, and --only keeps the rest bit for bit"
must "$KRONQ" calibrate "$GGUF" -o f.safetensors $CAL --quiet
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN --factors f.safetensors -o f.gguf --quiet
must "$KRONQ" eval f.gguf --ppl "$TEXT" --ctx 32 --chunks 20 --kld t1.gguf --json --quiet
awk '{ exit !($1 < 1e-9) }' <<<"$(get must.out kld)" || fail "factors from a file give another model"
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --tensor-type 'token_embd=F32' --only 'layers\.1\.self_attn\.o' --method none -o only.gguf --quiet
must "$KRONQ" info only.gguf --tensors --json
grep -q Q4_0 must.out || fail "nothing was quantized"

say "from a folder: the same weights as from the GGUF of the same model"
must "$KRONQ" export "$HF" --to gguf --type F32 -o hf32.gguf --quiet
must "$KRONQ" quantize "$HF" --to gguf --type Q5_0 $DOWN --method none -o fromhf.gguf --quiet
must "$KRONQ" quantize hf32.gguf --to gguf --type Q5_0 $DOWN --method none -o from32.gguf --quiet
must "$KRONQ" eval fromhf.gguf --ppl "$TEXT" --ctx 32 --chunks 20 --kld from32.gguf --json --quiet
awk '{ exit !($1 < 1e-9) }' <<<"$(get must.out kld)" || fail "a folder and its GGUF give different models"
must "$KRONQ" run fromhf.gguf -p "a" -n 2 --quiet

say "codewords: rows of 256, sizes, mixtures, and a model of codewords as the original"
for type in IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_XS; do
    must "$KRONQ" quantize "$GOLDEN/tune_blocks.gguf" --to gguf --type $type --method none --tensor-type .=$type -o pure-$type.gguf --quiet
    must "$KRONQ" info pure-$type.gguf
    grep -q "$type  *15" must.out || fail "$type: not all of its matrices"
done
must "$KRONQ" quantize "$GOLDEN/tune_blocks.gguf" --to gguf --type IQ2_S --method none -o IQ2_S.gguf --quiet
must "$KRONQ" info IQ2_S.gguf
grep -q "IQ2_XS  *10" must.out && grep -q "IQ3_S  *4" must.out && grep -q "Q5_K  *1" must.out || fail "the mixture IQ2_S"
must "$KRONQ" quantize "$GOLDEN/tune_codebooks.gguf" --to gguf --type Q8_0 --method none -o again.gguf --json --quiet
awk '{ exit !($1 < 1e-3) }' <<<"$(get must.out relative_mse)" || fail "codewords were not read"
must "$KRONQ" quantize "$GGUF" --to gguf --type IQ3_M --fallback llama --tensor-type ffn_down=F16 $CAL -o IQ3_M.gguf --quiet
must "$KRONQ" info IQ3_M.gguf
grep -q "IQ4_NL  *1[0-9]" must.out || fail "64 columns hold no block of 256: llama-quantize takes IQ4_NL"
refuse 1 "q_proj.weight: rows of 64 .* IQ3_S blocks of 256.*\(IQ4_NL\)" "$KRONQ" quantize "$GGUF" --to gguf --type IQ3_M --method none --quiet -o n.gguf
refuse 2 "IQ1_S: expected one of Q4_0.* IQ2_XXS" "$KRONQ" quantize "$GGUF" --to gguf --type IQ1_S --method none --quiet -o n.gguf
refuse 2 "TQ2_0 is no type" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --tensor-type ffn_down=TQ2_0 --method none --quiet -o n.gguf

say "resumed: killed at five moments"
for i in 1 2 3 4 5; do
    rm -rf r.gguf r.gguf.work
    "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o r.gguf --quiet 2>/dev/null &
    pid=$!
    sleep 0.$i
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o r.gguf --resume --quiet
    cmp r.gguf t1.gguf || fail "resumed, the file differs"
    [ ! -e r.gguf.work ] && [ ! -e r.gguf.tmp ] || fail "unfinished work is left"
done
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o r.gguf --resume --quiet
refuse 1 "r.gguf: the file there was not made with these settings" "$KRONQ" quantize "$GGUF" --to gguf --type Q5_0 $DOWN $CAL -o r.gguf --resume --quiet
refuse 1 "r.gguf: the file there was not made with these settings" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL --shrink 0.1 -o r.gguf --resume --quiet
refuse 2 "r.gguf: exists already" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $DOWN $CAL -o r.gguf --quiet

say "refusals"
N="--method none --quiet -o n.gguf"
refuse 1 "layers.0.mlp.down_proj.weight: rows of 112 .* Q4_0 blocks of 32.*--tensor-type" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 $N
refuse 1 "layers.0.self_attn.q_proj.weight: rows of 64 .* Q4_K blocks of 256.*\(Q5_0\)" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_K_M $N
refuse 2 "Q4_X: expected one of Q4_0" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_X $N
refuse 2 "type is missing" "$KRONQ" quantize "$GGUF" --to gguf $N
refuse 2 "ffn_down=Q4_X: Q4_X is no type" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --tensor-type ffn_down=Q4_X $N
refuse 2 "\[=F16: not a regular expression" "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --tensor-type '[=F16' $N
refuse 2 "belongs to --to gguf" "$KRONQ" quantize "$GGUF" --type Q4_0 -o n --quiet
[ ! -e n.gguf ] || fail "a refused file is there"

say "plan"
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_K_M --fallback llama --tensor-type ffn_down=F16 --method none --dry-run --json
has must.out type embedding modules file_bytes planned_memory_bytes
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_K_M --fallback llama --tensor-type ffn_down=F16 --method none --dry-run
grep -q "self_attn.q_proj .*Q5_0" must.out || fail "the plan's types"
echo ok
