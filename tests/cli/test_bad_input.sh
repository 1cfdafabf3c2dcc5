#!/bin/bash
# Broken models, texts and outputs: status 1 (2 where the request itself is meaningless), one line that names what is wrong, and no config.json.
. "$(dirname "$0")/common.sh"
FAST="--method none --quiet"

# A copy of the folder, to be spoilt.
fresh() { rm -rf bad && cp -r "${1:-$HF}" bad && chmod -R u+w bad; }
config() { sed -i "$1" bad/config.json; }
no_result() { [ ! -e never ] || fail "$1 left $(find never)"; }
# try STATUS REGEX MODEL: every command that opens a model refuses it.
try() {
    refuse "$1" "$2" "$KRONQ" quantize "$3" -o never $FAST
    no_result "$3"
    refuse "$1" "$2" "$KRONQ" eval "$3" --ppl "$TEXT" --ctx 64 --quiet
    refuse "$1" "$2" "$KRONQ" info "$3"
    refuse "$1" "$2" "$KRONQ" run "$3" -p x --quiet
}

say "missing files"
try 1 "nowhere: does not exist" nowhere
try 1 "nowhere.gguf: does not exist" nowhere.gguf
mkdir empty && try 1 "empty: has no config.json" empty
fresh && rm bad/model.safetensors && try 1 "bad: holds neither model.safetensors" bad
fresh && rm bad/tokenizer.json
refuse 1 "tokenizer.json" "$KRONQ" quantize --tune none bad -o never $CAL --quiet
refuse 1 "tokenizer.json" "$KRONQ" eval bad --ppl "$TEXT" --quiet
no_result tokenizer

say "truncated and damaged files"
for size in 0 5 100 5000 200000 255000; do
    fresh && truncate -s $size bad/model.safetensors && try 1 "bad/model.safetensors" bad
done
for size in 0 3 30 3000 20000 100000 165000; do
    head -c $size "$GGUF" >cut.gguf && try 1 "cut.gguf" cut.gguf
done
fresh && head -c 200 "$HF/config.json" >bad/config.json && try 1 "bad/config.json" bad
fresh && : >bad/config.json && try 1 "bad/config.json" bad
fresh && echo "not a model" >text.gguf && try 1 "text.gguf" text.gguf
fresh && head -c 5000 "$HF/tokenizer.json" >bad/tokenizer.json
refuse 1 "bad/tokenizer.json" "$KRONQ" run bad -p x --quiet

say "what kronq does not do"
fresh && config 's/"model_type": "llama"/"model_type": "mistral"/' && try 1 "bad/config.json.*mistral" bad
fresh && config 's/"attention_bias": false/"attention_bias": true/' && try 1 "attention_bias" bad
fresh && config 's/"hidden_act": "silu"/"hidden_act": "gelu"/' && try 1 "hidden_act.*gelu" bad
fresh && config 's/^{/{"is_causal": false,/' && try 1 "is_causal" bad
fresh && config 's/"rope_scaling": null/"rope_scaling": {"type": "su", "factor": 4.0}/' && try 1 "rope_type .su." bad
fresh "$ODD" && config 's/^{/{"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 0,/' && try 1 "sliding" bad

say "tensors that do not fit the configuration"
fresh && config 's/"intermediate_size": 112/"intermediate_size": 128/' && try 1 "mlp.gate_proj.*112.*128" bad
fresh && config 's/"num_hidden_layers": 3/"num_hidden_layers": 4/' && try 1 "model.layers.3.* (missing|not there)" bad
fresh && config 's/"vocab_size": 384/"vocab_size": 400/' && try 1 "embed_tokens.*384.*400" bad
fresh && config 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' && try 1 "lm_head" bad
fresh && config 's/"num_hidden_layers": 3/"num_hidden_layers": 1000000000/' && try 1 "num_hidden_layers" bad
fresh && config 's/"head_dim": 16/"head_dim": 0/' && try 1 "head_dim" bad

say "NaN and Inf in weights: the tensor and the index are named, whatever it is used for"
# the data begin after 8 bytes and the header; NaN is 0xffff in BF16
spoil() { # TENSOR ELEMENT [BYTES]
    fresh
    local header begin
    header=$(($(od -An -tu8 -N 8 bad/model.safetensors)))
    dd if=bad/model.safetensors bs=1 skip=8 count=$header of=header.json 2>/dev/null
    begin=$(get header.json "$1/data_offsets/0")
    printf "${3:-\\377\\377}" | dd of=bad/model.safetensors bs=1 seek=$((8 + header + begin + 2 * $2)) conv=notrunc 2>/dev/null
}
spoil model.layers.1.mlp.up_proj.weight 100
refuse 1 "model.layers.1.mlp.up_proj.*NaN.*(index 100|\[1, 36\])" "$KRONQ" quantize --tune none bad -o never $CAL --quiet
refuse 1 "model.layers.1.mlp.up_proj.*NaN.*(index 100|\[1, 36\])" "$KRONQ" quantize --tune none bad -o never1 $CAL --method input-only --quiet
refuse 1 "model.layers.1.mlp.up_proj.*NaN.*(index 100|\[1, 36\])" "$KRONQ" quantize bad -o never2 $FAST
refuse 1 "model.layers.1.mlp.up_proj.*NaN.*index 100" "$KRONQ" quantize bad -o never3 $FAST --only 'layers\.0\.'
[ -z "$(ls -d never[123]/config.json 2>/dev/null)" ] || fail "NaN left a checkpoint"
refuse 1 "up_proj.*NaN" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --chunks 1 --quiet
no_result NaN
rm -rf never[123]
for t in model.layers.0.input_layernorm.weight model.norm.weight model.embed_tokens.weight; do
    spoil $t 7
    refuse 1 "$t.*NaN.*index 7" "$KRONQ" quantize bad -o never $FAST --only 'layers\.0\.self_attn.k'
    no_result "NaN in $t"
done

spoil model.embed_tokens.weight 70 '\177\177'
refuse 1 "embed_tokens.weight\[1, 6\] is 3.38953e\+38, beyond what scales in F16 .*--embed-bits 16" "$KRONQ" quantize bad -o never $FAST --embed-bits 8 --only 'layers\.0\.self_attn.k'
refuse 1 "embed_tokens.weight\[1, 6\] is 3.38953e\+38, beyond what a checkpoint's scale may be .*--embed-bits 16 keeps it" "$KRONQ" quantize bad -o never $FAST --only 'layers\.0\.self_attn.k'
no_result "a huge weight"

say "texts"
: >empty.txt
refuse 2 "empty.txt: holds no text" "$KRONQ" quantize --tune none "$HF" -o never --text empty.txt --seq-len 32 --tokens 512 --quiet
[ ! -e never ] || fail "an empty text left $(ls -A never)"
head -c 300 "$TEXT" >short.txt
refuse 2 "short.txt: .*tokens make .*whole sequences of 32, 16 are asked for" "$KRONQ" quantize --tune none "$HF" -o never --text short.txt --seq-len 32 --tokens 512 --quiet
[ ! -e never ] || fail "a short text left $(ls -A never)"
refuse 1 "none.txt: No such file" "$KRONQ" quantize --tune none "$HF" -o never --text none.txt --seq-len 32 --tokens 512 --quiet
echo '{"text": 5}' >bad.jsonl
refuse 1 "bad.jsonl: line 1: key .text.: found 5, a string is expected" "$KRONQ" quantize --tune none "$HF" -o never --text bad.jsonl --seq-len 32 --tokens 512 --quiet
printf '{"text": "the and of"}\n{"text": \n' >bad.jsonl
refuse 1 "bad.jsonl: line 2" "$KRONQ" calibrate "$HF" -o neverf --text bad.jsonl --seq-len 32 --tokens 512 --quiet
[ ! -e neverf ] && [ ! -e neverf.work ] || fail "calibrate left something"
refuse 2 "empty.txt: holds no text" "$KRONQ" eval "$HF" --ppl empty.txt --quiet
refuse 2 "short.txt|window" "$KRONQ" eval "$HF" --ppl short.txt --ctx 512 --quiet
refuse 1 "none.txt: No such file" "$KRONQ" eval "$HF" --ppl none.txt --quiet
refuse 1 "is a folder" "$KRONQ" eval "$HF" --ppl empty --quiet
refuse 1 "384 tokens, the reference 300" "$KRONQ" eval "$HF" --ppl "$TEXT" --kld "$GOLDEN/tiny_llama3" --ctx 64 --quiet
printf 'the \377\300 of\0and water ' >odd.txt && cat "$TEXT" >>odd.txt # not UTF-8: the tokenizer copes or refuses, never crashes
"$KRONQ" eval "$HF" --ppl odd.txt --ctx 64 --chunks 2 --quiet >out 2>err
[ $? -le 1 ] || fail "odd.txt: $(cat err)"

say "outputs that cannot be written"
: >file
refuse 1 "file/out: .*(Not a directory|cannot be created)" "$KRONQ" quantize "$HF" -o file/out $FAST
refuse 1 "(cannot be created|No such file|Not a directory)" "$KRONQ" quantize "$HF" -o /proc/kronq-test/out $FAST
refuse 1 "file/f|file: " "$KRONQ" calibrate "$HF" -o file/f $CAL --quiet
long=$(printf 'x%.0s' $(seq 300))
refuse 1 "File name too long" "$KRONQ" quantize "$HF" -o "$long" $FAST

say "a full disk (file size limit): an error, no checkpoint, and --resume finishes once there is room"
must "$KRONQ" quantize "$HF" -o whole $CAL --only 'layers\.2\.' --quiet
for blocks in 1 8 24 48; do # of 1024 bytes
    rm -rf never
    (ulimit -f $blocks && refuse 1 "(cannot be (written|created)|File too large)" "$KRONQ" quantize "$HF" -o never $CAL --only 'layers\.2\.' --quiet) || exit 1
    [ ! -e never/config.json ] || fail "a full disk left a checkpoint"
    must "$KRONQ" quantize "$HF" -o never $CAL --only 'layers\.2\.' --quiet --resume
    same never whole
done
rm -rf never
if mkdir disk && mount -t tmpfs -o size=96k tmpfs disk 2>/dev/null; then
    say "a full disk (tmpfs)"
    trap 'cd /; umount "$W/disk"; rm -rf "$W"' EXIT
    refuse 1 "(No space left|[kMG]B free)" "$KRONQ" quantize "$HF" -o disk/out $CAL --only 'layers\.2\.' --quiet
    [ ! -e disk/out/config.json ] || fail "a full disk left a checkpoint"
    refuse 1 "(No space left|[kMG]B free)" "$KRONQ" calibrate "$HF" -o disk/f $CAL --quiet
    [ ! -e disk/f ] || fail "a full disk left factors"
else
    say "a full disk (tmpfs): SKIPPED, mounting is not allowed here"
fi

say "a damaged checkpoint"
must "$KRONQ" quantize "$HF" -o ck --bits 3 $FAST
spoil_ck() { rm -rf bad && cp -r ck bad; }
spoil_ck && config 's/"format_version": 2/"format_version": 9/' && refuse 1 "format_version is 9" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
spoil_ck && config 's/"code": "mul1"/"code": "zzz"/' && refuse "1|2" "zzz" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
spoil_ck && truncate -s 30000 bad/model.safetensors && refuse 1 "bad/model.safetensors" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
for s in su sv scale trellis; do
    spoil_ck && LC_ALL=C sed -i "s/model.layers.1.mlp.up_proj.$s\"/model.layers.1.mlp.up_prox.$s\"/" bad/model.safetensors
    refuse 1 "model.layers.1.mlp.up_proj" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
done
header=$(($(od -An -tu8 -N 8 ck/model.safetensors)))
dd if=ck/model.safetensors bs=1 skip=8 count=$header of=ck.json 2>/dev/null
at=$((8 + header + $(get ck.json model.layers.0.self_attn.q_proj.su/data_offsets/0) + 7))
spoil_ck && printf '\374' | dd of=bad/model.safetensors bs=1 seek=$at conv=notrunc 2>/dev/null # an exponent of 31
refuse 1 "q_proj.su holds (Inf|NaN) at index 3" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet

say "a damaged embedding that is a trellis"
must "$KRONQ" quantize "$HF" -o fine --bits 3 $FAST --embed-bits 3 --frequent-rows 64 --only 'layers\.0\.self_attn\.k'
rm -rf bad && cp -r fine bad && config 's/"frequent_rows": 64/"frequent_rows": 80/'
refuse 1 "embed_tokens.trellis is I16 \[4928, 0, 0\] .*expected I16 \[4992, 0, 0\]" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
rm -rf bad && cp -r fine bad && config 's/"frequent_rows": 64/"frequent_rows": -1/'
refuse 1 "frequent_rows is -1" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
rm -rf bad && cp -r fine bad && config 's/"model.embed_tokens": 3/"model.embed_tokens": 7/'
refuse 1 "one_sided_modules gives model.embed_tokens 7 bits" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
rm -rf ck
must "$KRONQ" quantize "$HF" -o ck --bits 3 $FAST --embed-bits 3
for s in su sv scale trellis; do
    spoil_ck && LC_ALL=C sed -i "s/model.embed_tokens.$s\"/model.embed_tokenz.$s\"/" bad/model.safetensors
    refuse 1 "model.embed_tokens" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
done
header=$(($(od -An -tu8 -N 8 ck/model.safetensors)))
dd if=ck/model.safetensors bs=1 skip=8 count=$header of=ck.json 2>/dev/null
at=$((8 + header + $(get ck.json model.embed_tokens.sv/data_offsets/0) + 7))
spoil_ck && printf '\374' | dd of=bad/model.safetensors bs=1 seek=$at conv=notrunc 2>/dev/null
refuse 1 "embed_tokens.sv holds (Inf|NaN) at index 3" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
at=$((8 + header + $(get ck.json model.embed_tokens.scale/data_offsets/0) + 3))
spoil_ck && printf '\277' | dd of=bad/model.safetensors bs=1 seek=$at conv=notrunc 2>/dev/null # a sign
refuse 1 "embed_tokens.scale is -" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
spoil_ck && LC_ALL=C sed -i 's/"shape":\[24,4,48\]/"shape":[48,4,24]/' bad/model.safetensors
refuse 1 "embed_tokens.trellis is I16 \[48, 4, 24\] .*expected I16 \[24, 4, 48\]" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
spoil_ck && LC_ALL=C sed -i 's/"shape":\[24,4,48\]/"shape":[4,24,48]/' bad/model.safetensors
refuse 1 "embed_tokens.trellis is I16 \[4, 24, 48\] .*expected I16 \[24, 4, 48\]" "$KRONQ" eval bad --ppl "$TEXT" --ctx 64 --quiet
echo ok
