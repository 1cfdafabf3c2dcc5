#!/bin/bash
# A GGUF in three parts (as llama-gguf-split leaves it) is the model it was split from, for every command.
. "$(dirname "$0")/common.sh"
PARTS=$GOLDEN/cases/22-split-gguf
FIRST=$PARTS/gs-00001-of-00003.gguf

say "the same figures as the whole file"
must "$KRONQ" eval "$FIRST" --ppl "$TEXT" --ctx 48 --chunks 1 --compute f32 --json --quiet
near "$(get must.out ppl)" 2833.9162 1e-6 || fail "perplexity $(get must.out ppl), expected 2833.9162"
must "$KRONQ" info "$FIRST" --json
[ "$(get must.out tensors)" = 29 ] || fail "info counts $(get must.out tensors) tensors, expected 29"

say "the same checkpoint, GGUF and answer"
must "$KRONQ" quantize --tune none "$FIRST" $CAL -o a --quiet
must "$KRONQ" quantize --tune none "$GGUF" $CAL -o b --quiet
cmp a/model.safetensors b/model.safetensors || fail "another checkpoint"
for f in config.json tokenizer.json tokenizer_config.json generation_config.json; do
    cmp a/$f b/$f || fail "another $f"
done
must "$KRONQ" export "$FIRST" --to gguf -o a.gguf --quiet
must "$KRONQ" export "$GGUF" --to gguf -o b.gguf --quiet
cmp a.gguf b.gguf || fail "another export"
must "$KRONQ" quantize "$FIRST" --to gguf --type Q4_0 --tensor-type ffn_down=F16 --method none -o c.gguf --quiet
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --tensor-type ffn_down=F16 --method none -o d.gguf --quiet
cmp c.gguf d.gguf || fail "another GGUF"
must "$KRONQ" run "$FIRST" -p "a" -n 4 --temp 0 --quiet
mv must.out a.txt
must "$KRONQ" run "$GGUF" -p "a" -n 4 --temp 0 --quiet
cmp a.txt must.out || fail "another answer"

say "refusals"
refuse 2 "is part 2 of 3 of a model: open the first part, .*gs-00001-of-00003.gguf" "$KRONQ" eval "$PARTS/gs-00002-of-00003.gguf" --ppl "$TEXT" --quiet
cp "$FIRST" . && cp "$PARTS/gs-00003-of-00003.gguf" .
refuse 1 "gs-00002-of-00003.gguf: part 2 of 3 is missing" "$KRONQ" info gs-00001-of-00003.gguf
cp "$PARTS/gs-00003-of-00003.gguf" gs-00002-of-00003.gguf
refuse 1 "gs-00002-of-00003.gguf: is part 3 of 3" "$KRONQ" info gs-00001-of-00003.gguf
cp "$PARTS/gs-00002-of-00003.gguf" . && head -c 30000 "$PARTS/gs-00003-of-00003.gguf" >gs-00003-of-00003.gguf
refuse 1 "gs-00003-of-00003.gguf: the data of .* passes the end" "$KRONQ" info gs-00001-of-00003.gguf
