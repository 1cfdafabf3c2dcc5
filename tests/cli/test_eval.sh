#!/bin/bash
# eval --ppl and --kld: what the JSON holds, windows, saved logits there and back, and contexts that are too long.
. "$(dirname "$0")/common.sh"
E="$KRONQ eval $HF --compute f32 --quiet"

say "figures of windows and percentiles"
must $E --ppl "$TEXT" --ctx 64 --chunks 5 --kld "$GGUF" --json --per-window w.csv
has must.out convention kld_percentiles/min kld_percentiles/median kld_percentiles/99.9 kld_percentiles/max per_window/4/kld per_window/4/top1 reference_ppl ln_ppl_ratio_stderr dp_rms
[ "$(get must.out convention)" = kronq ] && [ "$(wc -l <w.csv)" = 6 ] && head -1 w.csv | grep -q '^window,tokens,nll,ppl,kld,top1$' || fail "the windows"
near "$(awk -F, 'NR > 1 { s += $3 } END { printf "%.12g", s / 5 }' w.csv)" "$(get must.out nll)" 1e-7 || fail "the windows' mean is not the mean"
awk -v a="$(get must.out kld_percentiles/min)" -v b="$(get must.out kld_percentiles/median)" -v c="$(get must.out kld_percentiles/90)" -v d="$(get must.out kld_percentiles/max)" \
    'BEGIN { exit !(a <= b && b <= c && c <= d) }' || fail "percentiles out of order"

say "saved logits"
must $E --ppl "$TEXT" --ctx 64 --chunks 5 --save-logits hf.kld --json
[ "$(get must.out convention)" = llama.cpp ] && [ "$(get must.out tokens)" = $((5 * 31)) ] || fail "the convention"
nll=$(get must.out nll)
must $E --kld hf.kld --json
near "$(get must.out nll)" "$nll" 1e-9 || fail "nll from the saved tokens"
awk -v k="$(get must.out kld)" 'BEGIN { exit !(k > -1e-4 && k < 1e-4) }' && [ "$(get must.out top1)" = 1.0 ] || fail "a model differs from its own saved logits: $(get must.out kld)"
must $E --kld hf.kld --ppl "$TEXT" --chunks 2
grep -q "second half of each window" must.out || fail "the convention is not named"
must "$KRONQ" eval "$GGUF" --kld hf.kld --json --quiet
awk -v k="$(get must.out kld)" 'BEGIN { exit !(k > 1e-7 && k < 0.1) }' || fail "another model: $(get must.out kld)"

say "refused"
head -c 4000 "$TEXT" | tr a e >other.txt
refuse 1 "its tokens are not those that hf.kld was made of" $E --kld hf.kld --ppl other.txt
refuse 2 "hf.kld holds windows of 64 tokens" $E --kld hf.kld --ctx 32
refuse 2 "a text is missing" $E --kld "$GGUF"
refuse 2 "--ctx 513: .*made for at most 512 tokens" $E --ppl "$TEXT" --ctx 513
refuse 2 "logits wants whole windows" $E --ppl "$TEXT" --ctx 64 --save-logits x.kld --logits l.safetensors
refuse 2 "at least 4 tokens" $E --ppl "$TEXT" --ctx 3 --save-logits x.kld
head -c 5000 hf.kld >cut.kld
refuse 1 "cut.kld: 5000 bytes are not 5 windows" $E --kld cut.kld
[ ! -e x.kld ] && [ ! -e x.kld.tmp ] || fail "a refused file is left"
exit 0
