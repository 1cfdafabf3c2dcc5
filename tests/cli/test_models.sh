#!/bin/bash
# Model folders in the forms that are published: each has the figure that transformers gives for it (tests/golden/cases/models.txt, made by
# scripts/make_model_cases.py from the folders that KEEP=DIR leaves), or is refused by name. Warnings come where transformers warns.
. "$(dirname "$0")/common.sh"
CASES=$GOLDEN/cases
: "${ST_EDIT:?tests/cli/st_edit}"
EVAL="--ppl $CASES/text.txt --ctx 64 --chunks 4 --compute f32 --quiet"

# ---- making and measuring ----

D=
# new NAME [FROM]: a copy of the folder, to be changed.
new() { D=$1 && rm -rf "$D" && cp -r "${2:-$HF}" "$D" && chmod -R u+w "$D" && BASE=${2:-$HF}/model.safetensors; }
config() { sed -i "$1" "$D/config.json"; }
put() { config "s/^{/{$1,/"; }
# st FILE OPERATION...: a file of the folder from the base model's tensors.
st() { local file=$D/$1; shift; "$ST_EDIT" "$file" "+$BASE" "$@" || fail "st_edit $D"; }
# shards FIRST-PATTERN: the base model in two shards.
ONE=model-00001-of-00002.safetensors TWO=model-00002-of-00002.safetensors
shards() { rm -f "$D/model.safetensors"; st $ONE drop '*layers.2.*' && st $TWO keep '*layers.2.*'; }
# index FILE=PATTERN...: an index that sends every tensor of the base model to the first FILE whose pattern it matches, and -NAME=FILE: one more.
index() {
    local name rule out='{"metadata": {}, "weight_map": {"": ""'
    while read -r name; do
        for rule in "$@"; do
            if [[ $rule != -* && $name == ${rule#*=} ]]; then out+=", \"$name\": \"${rule%%=*}\""; break; fi
        done
    done < <(head -c 9000 "$BASE" | grep -ao '"[a-z_0-9.]*weight"' | tr -d '"' | sort)
    for rule in "$@"; do
        [[ $rule == -* ]] && { rule=${rule#-}; out+=", \"${rule%%=*}\": \"${rule#*=}\""; }
    done
    echo "${out/\"\": \"\", /}}}" >"$D/model.safetensors.index.json"
}
keep() { [ -z "${KEEP:-}" ] || { rm -rf "$KEEP/$D" && cp -rL "$D" "$KEEP/$D"; }; }
want() { awk -v n="$D" '$1 == n { print $2 }' "$CASES/models.txt"; }

# figure [WARNING]: transformers' perplexity; on stderr the one warning, or nothing.
figure() {
    keep
    [ -z "${KEEP:-}" ] || return 0
    local expected
    expected=$(want)
    must "$KRONQ" eval "$D" $EVAL --json
    near "$(get must.out nll)" "$expected" 1e-6 || fail "$D: nll $(get must.out nll), transformers $expected"
    if [ -n "${1:-}" ]; then
        [ "$(wc -l <must.err)" = 1 ] && grep -Eq "^kronq: warning: .*$1" must.err || { cat must.err; fail "$D: no warning of /$1/"; }
    else
        [ ! -s must.err ] || { cat must.err; fail "$D: a warning"; }
    fi
}

# refused REGEX: by every command that opens a model, before anything is written. transformers refuses it too, or would take random numbers.
refused() {
    keep
    [ -z "${KEEP:-}" ] || return 0
    refuse 1 "$1" "$KRONQ" quantize "$D" -o never --method none --quiet
    [ -n "${SANITIZE:-}" ] || refuse 1 "$1" "$KRONQ" eval "$D" $EVAL # the same reader: once is enough where a process is slow to start
    [ ! -e never ] || fail "$D: a refused model left a folder"
}

# ends [WARNING]: the greedy continuation ends where transformers' generate() ends it. models.txt has its ids, joined by commas.
ends() {
    keep
    [ -z "${KEEP:-}" ] || return 0
    local ids n finish=length prompt="Out know"
    ids=$(want)
    n=$(tr , '\n' <<<"$ids" | wc -l)
    [ "$n" = 8 ] || { finish=end; n=$((n - 1)); }
    [ ! -e "$D/prompt" ] || prompt=$(cat "$D/prompt")
    must "$KRONQ" run "$D" -p "$prompt" -n 8 --temp 0 --compute f32 --json --quiet
    [ "$(get must.out tokens finish | tr '\n' ' ')" = "$n $finish " ] || { cat must.out; fail "$D: transformers has $ids"; }
    grep -Eq "${1:-^$}" must.err || [ ! -s must.err -a -z "${1:-}" ] || { cat must.err; fail "$D: no warning of /$1/"; }
}

# ---- the cases ----

say "side files as Python reads them"
new base && figure
new bigint && sed -i 's/"model_max_length": 512/"model_max_length": 1000000000000000019884624838656/' "$D/tokenizer_config.json" && grep -q 19884624838656 "$D/tokenizer_config.json" && figure
new nan && sed -i 's/^{/{"a": NaN, "b": [Infinity, -Infinity, 1e999], "c": "\\ud800",/' "$D/tokenizer_config.json" && put '"x": NaN, "y": -1e999' && figure
new config-tp && put '"pretraining_tp": 2' && figure
new config-eos-negative && config 's/"eos_token_id": 2/"eos_token_id": -1/' && figure 'eos_token_id -1 is outside the vocabulary'
new config-twice && config 's/"hidden_size": 64/"hidden_size": 65, "hidden_size": 64/' && figure
new config-window && put '"sliding_window": 16' && figure 'sliding_window is set; it is ignored'
new config-sliding && put '"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 16' && keep
[ -n "${KEEP:-}" ] || { must "$KRONQ" eval "$D" $EVAL --json; near "$(get must.out nll)" "$(want)" 1e-6 && [ "$(grep -c ignored must.err)" = 2 ] || { cat must.err; fail "$D"; }; }
new config-experts && put '"num_local_experts": 8, "num_experts": null, "max_window_layers": "28"' && figure 'num_local_experts is set; it is ignored'
new config-partial && put '"partial_rotary_factor": 0.5' && figure 'partial_rotary_factor is 0.5; it is ignored'
new config-both-ways && put '"is_causal": false' && keep # transformers lets the tokens see what follows
[ -n "${KEEP:-}" ] || refuse 1 "config.json: is_causal is not true" "$KRONQ" eval "$D" $EVAL
new config-types && put '"layer_types": ["full_attention", "full_attention", "full_attention"], "architectures": null, "torch_dtype": 5, "logits_scaling": 3' && figure
new config-long && config 's/"max_position_embeddings": 512/"max_position_embeddings": 1000000000000000019884624838656/' && figure 'max_position_embeddings is beyond 2147483648'
new config-act && config 's/"silu"/"swish"/' && figure
new config-head && config 's/"head_dim": 16/"head_dim": null/' && figure
new config-base && config 's/LlamaForCausalLM/LlamaModel/' && figure
new config-mark && { printf '\xef\xbb\xbf'; cat "$HF/config.json"; } >"$D/config.json" && refused 'config.json.*byte order mark'
new config-comment && config 's/^{/{ \/\/ x/' && refused 'config.json: not valid JSON'
new qwen-window "$ODD" && put '"use_sliding_window": true, "sliding_window": 16' && figure
new qwen-window-slides "$ODD" && put '"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 0' && keep
[ -n "${KEEP:-}" ] || refuse 1 "use_sliding_window" "$KRONQ" eval "$D" $EVAL
new bos-list && config 's/"bos_token_id": 0/"bos_token_id": [0]/' && keep # newer versions of transformers refuse it, older ones read it
[ -n "${KEEP:-}" ] || { D=base; expected=$(want); must "$KRONQ" eval bos-list $EVAL --json; near "$(get must.out nll)" "$expected" 1e-6 || fail "bos_token_id as a list"; }

say "the files of the weights"
new stale-index && index "model-00001-of-00002.safetensors=*" && figure 'model.safetensors.index.json is not used'
new index-of-single && index "model.safetensors=*" && figure
new sharded && shards && index "$TWO=*layers.2.*" "$ONE=*" && figure
new single-and-shards && shards && index "$TWO=*layers.2.*" "$ONE=*" && st model.safetensors times 0.5 '*layers.0.mlp.down*' && figure 'is not used'
new overlay && shards && index "model-overlay.safetensors=*layers.1.mlp.down*" "$TWO=*layers.2.*" "$ONE=*" && st model-overlay.safetensors keep '*layers.1.mlp.down*' times 0.5 '*' && figure
new overlay-first && shards && index "a-overlay.safetensors=*layers.1.mlp.down*" "$TWO=*layers.2.*" "$ONE=*" && st a-overlay.safetensors keep '*layers.1.mlp.down*' times 0.5 '*' && figure 'layers.1.mlp.down_proj.weight is taken from this file'
new unindexed && shards && st $TWO keep '*layers.2.*' add model.layers.0.self_attn.rotary_emb.inv_freq F32 8 && index "$TWO=*layers.2.*" "$ONE=*" && figure
new partial-index && shards && index "$TWO=*layers.2.[im]*" "$ONE=*norm*" && figure
new wrong-shard && shards && index "$ONE=*layers.2.mlp.up*" "$TWO=*layers.2.*" "$ONE=*" && figure
new absent-head && shards && index "$TWO=*layers.2.*" "$ONE=*" "-lm_head.weight=$ONE" && figure
new absent-other && shards && index "$TWO=*layers.2.*" "$ONE=*" "-model.rotary_emb.inv_freq=$ONE" && figure
new other-file && mv "$D/model.safetensors" "$D/other.safetensors" && put '"transformers_weights": "other.safetensors"' && figure
new cache-links && mkdir "$D/blobs" && for f in config.json model.safetensors tokenizer.json; do mv "$D/$f" "$D/blobs/$f" && ln -s "blobs/$f" "$D/$f"; done && figure
new broken-link && rm "$D/model.safetensors" && ln -s blobs/x "$D/model.safetensors"
[ -n "${KEEP:-}" ] || refuse 1 "broken-link/model.safetensors: is a link to a file that is not there" "$KRONQ" eval "$D" $EVAL
new gone-shard && shards && index "$TWO=*layers.2.*" "$ONE=*" && rm "$D/$TWO" && refused "names $TWO, which is not there"
new gone-shard-unused && shards && index "$TWO=*layers.2.*" "$ONE=*" "-x=gone.safetensors" && refused "names gone.safetensors, which is not there"
new absent-weight && shards && st $TWO keep '*layers.2.*' drop '*up_proj*' && index "$TWO=*layers.2.*" "$ONE=*" && refused "layers.2.mlp.up_proj.weight.*stale index"
new half-index && shards && index "$ONE=*norm*" && refused "stale index"
new way-up && shards && index "../x/$TWO=*layers.2.*" "$ONE=*" && refused "a file of the same folder"
new absolute && put '"transformers_weights": "\/etc\/passwd.safetensors"' && refused "transformers_weights"
new pointer && printf 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 255816\n' >"$D/model.safetensors" && refused "Git LFS pointer"
new pointer-config && cp pointer/model.safetensors "$D/config.json" && refused "config.json.*Git LFS pointer"
new bin-only && mv "$D/model.safetensors" "$D/pytorch_model.bin" && refused "pytorch_model.bin.*save_pretrained"
new adapter && echo '{"peft_type": "LORA"}' >"$D/adapter_config.json" && keep
[ -n "${KEEP:-}" ] || refuse 1 "adapter_config.json" "$KRONQ" eval "$D" $EVAL
new gguf-folder && rm "$D"/* && touch "$D/b.gguf" "$D/a.gguf" && refused 'has no config.json, but holds a.gguf'
new no-config && rm "$D/config.json" && mkdir "$D/snapshots" && refused "has no config.json.*snapshots"

say "names and places of tensors"
new no-prefix && st model.safetensors prefix model. '' && figure
new some-prefix && st model.safetensors prefix model.layers. layers. && figure
new more-prefix && st model.safetensors prefix model. model.model. && figure
new no-prefix-shards && shards && st $ONE drop '*layers.2.*' prefix model. '' && st $TWO keep '*layers.2.*' prefix model. '' && index "$TWO=*layers.2.*" "$ONE=*" && sed -i 's/"model\.\([^"]*weight\)"/"\1"/g' "$D/model.safetensors.index.json" && figure
new inv-freq && st model.safetensors add model.layers.0.self_attn.rotary_emb.inv_freq F32 8 add model.rotary_emb.inv_freq F32 8 && figure
new extras && st model.safetensors add foo.bar F32 3 add model.layers.0.masked_bias F32 1 add x F32 1x2x1x2 && figure '3 stored tensors are not part'
new bias && st model.safetensors add model.layers.0.self_attn.q_proj.bias BF16 64 add model.layers.1.mlp.up_proj.bias BF16 112 && figure '2 stored biases are not used'
new fewer-layers && config 's/"num_hidden_layers": 3/"num_hidden_layers": 2/' && figure '9 stored tensors are not part'
new more-layers && config 's/"num_hidden_layers": 3/"num_hidden_layers": 4/' && refused "model.layers.3.*missing"
new no-index && shards && refused "holds $ONE, but neither model.safetensors nor"
new two-prefixes && st model.safetensors copy model.norm.weight norm.weight && keep
[ -n "${KEEP:-}" ] || refuse 1 "model.norm.weight appears twice" "$KRONQ" eval "$D" $EVAL
new missing && st model.safetensors drop '*layers.1.self_attn.q_proj*' && refused "layers.1.self_attn.q_proj.weight is missing"

say "the head"
new tied-same && st model.safetensors copy model.embed_tokens.weight lm_head.weight && figure
new tied-same-f32 && st model.safetensors copy model.embed_tokens.weight lm_head.weight type F32 lm_head.weight && figure
new tied-other && st model.safetensors copy model.embed_tokens.weight lm_head.weight times 0.7 lm_head.weight && figure 'lm_head.weight differs from the embedding'
new tied-only-head && st model.safetensors prefix model.embed_tokens lm_head && figure
new untied && config 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' && st model.safetensors copy model.embed_tokens.weight lm_head.weight times 0.7 lm_head.weight && figure
new untied-model && config 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' && st model.safetensors copy model.embed_tokens.weight model.lm_head.weight times 0.7 '*lm_head.weight' && figure
new untied-absent && config 's/"tie_word_embeddings": true/"tie_word_embeddings": false/' && refused "lm_head.weight is missing"

say "types of numbers"
new f16 && st model.safetensors type F16 '*' && figure
new f32 && st model.safetensors type F32 '*' && figure
new f64 && st model.safetensors type F64 '*' && figure
new mixture && st model.safetensors type F64 '*layers.0.*' type F16 '*mlp*' type F32 '*norm*' && figure
new fp8-plain && st model.safetensors type F8_E4M3 '*down_proj*' && figure
new fp8-e5m2-plain && st model.safetensors type F8_E5M2 '*down_proj*' && figure

say "FP8 with scales"
FP8='"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": '
new fp8-blocks && put "$FP8[32, 16]}" && st model.safetensors fp8 32x16 BF16 '*o_proj*' fp8 32x16 BF16 '*q_proj*' && figure
new fp8-qwen "$ODD" && put "$FP8[20, 20], \"modules_to_not_convert\": [\"lm_head\", \"model.layers.0.mlp.gate_proj\", \"model.layers.0.mlp.up_proj\", \"model.layers.0.mlp.down_proj\"]}" && st model.safetensors fp8 20x20 F32 '*attn.?_proj*' && figure
new fp8-128 && put "$FP8[128, 128]}" && st model.safetensors fp8 128x128 F32 '*_proj.weight' && figure
new fp8-ragged && put "$FP8[48, 48]}" && st model.safetensors fp8 48x48 F32 '*_proj.weight' && figure
new fp8-tensor && put "${FP8}null}" && st model.safetensors fp8 0x0 F32 '*_proj.weight' && figure
new fp8-no-prefix && put "$FP8[16, 16]}" && st model.safetensors fp8 16x16 F32 '*_proj.weight' prefix model. '' && figure
new fp8-no-scale && put "$FP8[128, 128]}" && st model.safetensors fp8 128x128 F32 '*_proj.weight' drop '*layers.1.mlp.up_proj.weight_scale_inv' && refused "layers.1.mlp.up_proj.weight is FP8.*scales.*missing"
new fp8-wrong-blocks && put "$FP8[64, 64]}" && st model.safetensors fp8 16x16 F32 '*_proj.weight' && refused "FP8 scales.*wrong weight_block_size"
new fp8-no-config && st model.safetensors fp8 128x128 F32 '*_proj.weight' && refused "FP8 scales, but config.json has no quantization_config"
new fp8-other && put '"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}' && refused 'compressed-tensors.*FP8'
new gptq && put '"quantization_config": {"quant_method": "gptq", "bits": 4}' && refused 'gptq'

say "what ends an answer"
G() { new "$1" && printf '%s' "$2" >"$D/generation_config.json" && config "s/\"eos_token_id\": 2/\"eos_token_id\": ${3:-2}/"; }
G gen-2 '{"eos_token_id": 2}' && ends
G gen-list '{"eos_token_id": [2, 183]}' && ends
G gen-first '{"eos_token_id": 74}' && ends # an answer without a token
G gen-number '{"eos_token_id": 183}' && ends
G gen-float '{"eos_token_id": 183.0}' && ends
G gen-over-config '{"eos_token_id": 2}' 183 && ends
G gen-absent '{"bos_token_id": 0}' 183 && ends 'names no eos_token_id'
G gen-null '{"eos_token_id": null}' 183 && ends 'names no eos_token_id'
G gen-negative '{"eos_token_id": [183, -1]}' && ends 'eos_token_id -1 is outside'
G gen-outside '{"eos_token_id": [183, 99999]}' && ends 'eos_token_id 99999 is outside'
G gen-many "{\"eos_token_id\": [$(seq -s, 170 189)]}" && ends
G gen-twice '{"eos_token_id": 2, "eos_token_id": 183}' && ends
G gen-python '{"temperature": NaN, "eos_token_id": 183, "x": 1e999, "y": 1000000000000000019884624838656}' && ends 'key "temperature": found "NaN", a number of at least 0 is expected: it is not used'
G gen-broken '{' 183 && ends 'generation_config.json: not valid JSON.*not used'
G gen-odd-sampling '{"temperature": "hot", "top_p": 2, "eos_token_id": 183}' && ends 'key "top_p": found 2, a number from 0 to 1 is expected: it is not used'
new gen-none && rm "$D/generation_config.json" && config 's/"eos_token_id": 2/"eos_token_id": [5, 183]/' && ends
new gen-separator && config 's/"rope_theta": 10000.0/"rope_theta": 500.0/' && printf 'Go her so two sound some b' >"$D/prompt" && ends # the first token is <|endoftext|>, which ends nothing
G gen-not-applied '{"eos_token_id": 2, "num_beams": 1, "forced_bos_token_id": null, "no_repeat_ngram_size": 0, "min_length": 2, "suppress_tokens": [300]}' &&
    ends 'settings are not applied.*: suppress_tokens, min_length$'
G gen-text '{"eos_token_id": "183"}' && keep
[ -n "${KEEP:-}" ] && exit 0
refuse 1 'key "eos_token_id": found "183", a token id or a list of token ids is expected' "$KRONQ" run gen-text -p x --quiet

if command -v curl >/dev/null; then
    say "the server's answer ends there too"
    "$KRONQ" serve gen-list --port 0 --json --compute f32 >ready 2>log &
    server=$!
    trap 'kill -9 $server 2>/dev/null; rm -rf "$W"' EXIT
    for _ in $(seq 600); do [ -s ready ] && break; kill -0 $server 2>/dev/null || { cat log; fail "serve did not start"; }; sleep 0.1; done
    curl -s -m 60 -o answer -H 'Content-Type: application/json' -d '{"prompt": "Out know", "max_tokens": 8, "temperature": 0}' "$(get ready url)/v1/completions"
    [ "$(get answer choices/0/finish_reason usage/completion_tokens | tr '\n' ' ')" = "stop 1 " ] || { cat answer log; fail "the server's answer"; }
    kill $server && wait $server
fi

say "the end tokens go on with a checkpoint and with exports"
must "$KRONQ" info --plan bigint --seq-len 64
for m in bigint nan; do
    must "$KRONQ" info $m
    must "$KRONQ" quantize $m -o all --bits 4 --method none --quiet
    must "$KRONQ" eval all --ppl "$TEXT" --ctx 64 --chunks 1 --quiet
    must "$KRONQ" export $m --to gguf --type F16 -o all.gguf --quiet
    must "$KRONQ" export $m --to bf16 -o all16 --quiet
    must "$KRONQ" run all16 -p x -n 2 --quiet
    rm -rf all all16 all.gguf
done
must "$KRONQ" export bos-list --to bf16 -o all16 --quiet && [ "$(get all16/config.json bos_token_id)" = 0 ] || fail "bos_token_id of an export"
must "$KRONQ" quantize gen-list -o ck --bits 4 --method none --quiet
must "$KRONQ" export gen-list --to bf16 -o hf16 --quiet
must "$KRONQ" export gen-list --to gguf --type F16 -o out.gguf --quiet
must "$KRONQ" export ck --to gguf --type F16 -o ck.gguf --quiet
for m in hf16 out.gguf; do
    must "$KRONQ" run $m -p "Out know" -n 8 --temp 0 --compute f32 --json --quiet
    [ "$(get must.out tokens finish | tr '\n' ' ')" = "1 end " ] || fail "$m: the end token is lost"
done
cmp -s gen-list/generation_config.json ck/generation_config.json || fail "a checkpoint without generation_config.json"
# the checkpoint's own answer ends at 183 wherever that comes first; a copy without the list goes on
must "$KRONQ" run ck -p "Out know" -n 40 --temp 0 --json --quiet && with=$(get must.out tokens)
must "$KRONQ" run ck.gguf -p "Out know" -n 40 --temp 0 --compute f32 --json --quiet && [ "$(get must.out tokens)" = "$with" ] || fail "the checkpoint's GGUF ends elsewhere"

say "what is stored goes on: an untied head, FP8 as numbers, extras left out"
must "$KRONQ" export tied-other --to bf16 -o tied16 --quiet
[ "$(get tied16/config.json tie_word_embeddings)" = false ] || fail "the export says that its head is tied"
must "$KRONQ" eval tied16 $EVAL --json
D=tied-other; near "$(get must.out nll)" "$(want)" 1e-3 || fail "the exported head is another"
must "$KRONQ" quantize tied-other -o tiedck --bits 4 --method none --quiet
[ "$(get tiedck/config.json tie_word_embeddings)" = false ] || fail "the checkpoint says that its head is tied"
must "$KRONQ" quantize fp8-128 -o fp8ck --bits 4 --only 'layers.0' --method none --quiet
must "$KRONQ" eval fp8ck --ppl "$CASES/text.txt" --ctx 64 --chunks 4 --quiet
if grep -qa 'scale_inv' fp8ck/model.safetensors; then fail "FP8 scales in a checkpoint"; fi
must "$KRONQ" export fp8-128 --to gguf --type F16 -o fp8.gguf --quiet
must "$KRONQ" eval fp8.gguf $EVAL --json
D=fp8-128; near "$(get must.out nll)" "$(want)" 1e-3 || fail "FP8 as a GGUF"
must "$KRONQ" quantize extras -o exck --bits 4 --method none --quiet
if grep -qa 'foo.bar' exck/model.safetensors; then fail "a tensor without a place in a checkpoint"; fi
exit 0
