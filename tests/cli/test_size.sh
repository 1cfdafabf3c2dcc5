#!/bin/bash
# --size, --bpw, --kld: the file is as large as was asked, the forecast is the sum of the modules', resuming, refusals.
. "$(dirname "$0")/common.sh"
Q="$KRONQ quantize $HF --tune none --quiet"
must "$KRONQ" calibrate "$HF" -o f.safetensors $CAL --quiet
F="--factors f.safetensors --seed 3"

# sum REPORT KEY: over the report's modules
sum() { awk -F'[:,]' -v k="\"$2\"" '/"modules"/ { on = 1 } on && $1 ~ k { s += $2 } END { printf "%.10g\n", s }' "$1"; }

say "every size: the file has at most as many bytes as asked, and exactly as many as the plan said"
SIZES="60k 64000 64kB 70k 75k 78000 80k 84k 87000" MOMENTS="1 2 3 4 5"
[ -z "${SANITIZE:-}" ] || SIZES="60k 64000" MOMENTS=2 # ten times as slow
for size in $SIZES; do
    must $Q -o s$size --size $size $F --json
    cp must.out s.json
    bytes=$(stat -c %s s$size/model.safetensors)
    asked=$(get s.json allocation/size_asked)
    [ "$bytes" -le "$asked" ] || fail "--size $size: $bytes bytes"
    # the smallest module's step is 2048 weights of 1 bit; where all linears have 4 bits, the embedding's next step is 8 bits
    awk -v b="$bytes" -v a="$asked" -v k="$(get s.json allocation/average)" 'BEGIN { exit !(b > a - 256 - 0.01 * a || k == 4) }' || fail "--size $size: only $bytes bytes"
    [ "$(get s.json file_bytes)" = "$bytes" ] && [ "$(get s.json allocation/expected_bytes)" = "$bytes" ] || fail "--size $size: file_bytes, expected_bytes"
    near "$(get s.json allocation/expected_bpw_file)" "$(get s.json bpw_file)" 1e-7 || fail "bpw_file"
    near "$(sum s.json forecast_loss)" "$(get s.json allocation/forecast_loss)" 1e-6 && near "$(get s.json allocation/forecast_kld)" "$(awk -v l="$(get s.json allocation/forecast_loss)" -v c="$(get s.json allocation/kld_per_loss)" -v r="$(get s.json allocation/forecast_rows_kld)" 'BEGIN { printf "%.10g", l * c + r }')" 1e-6 || fail "the forecast is not the sum of the modules'"
    near "$(get s.json allocation/forecast_loss)" "$(get s.json predicted_loss)" 0.25 || fail "forecast and predicted loss"
    get s.json allocation/forecast_kld
done >forecasts
sort -c -g -r forecasts || fail "a larger file has a larger forecast: $(cat forecasts)"
must "$KRONQ" run s64000 -p "the water" -n 3 --quiet

say "what is measured is held against the forecast: in the JSON, in the line, and on the card"
must "$KRONQ" eval s64000 --ppl "$TEXT" --ctx 64 --chunks 16 --kld "$HF" --quiet --json --card
cp must.out e.json
near "$(get e.json forecast_kld)" "$(sed -n 2p forecasts)" 1e-6 || fail "forecast_kld of eval"
awk -v r="$(get e.json kld_over_forecast)" -v k="$(get e.json kld)" -v f="$(get e.json forecast_kld)" 'BEGIN { d = r - k / f; exit !(d * d < 1e-10 && r > 0.5 && r < 2.5) }' ||
    fail "kld_over_forecast $(get e.json kld_over_forecast)"
grep -q "nats; same most likely token .*; [0-9.]* of the forecast" s64000/README.md || fail "the ratio on the card"
must "$KRONQ" eval s64000 --ppl "$TEXT" --ctx 64 --chunks 2 --kld "$HF" --quiet
grep -q "measured / forecast" must.out || fail "the forecast in the lines of eval"

say "what was asked and expected is in config.json and on the card; the card's command has the size and not the bits"
[ "$(get s64000/config.json quantization_config/size_asked)" = 64000 ] || fail "size in config.json"
near "$(get s64000/config.json quantization_config/forecast_kld)" "$(sed -n 2p forecasts)" 1e-6 || fail "forecast_kld in config.json"
grep -q -- "-o OUT .*--size 64000" s64000/README.md || fail "the card's command"
grep -qE -- "--bits|--embed-bits" s64000/README.md && fail "the card's command has what was chosen"
grep -q "Forecast of the KL divergence" s64000/README.md || fail "the card's forecast"

say "calibrating first, other threads, killed and resumed: the same bytes"
must $Q -o cal --size 70k $CAL
must $Q -o one --size 70k $CAL --threads 1
same cal one
for i in $MOMENTS; do
    rm -rf part
    $Q -o part --size 70k $CAL 2>/dev/null &
    pid=$!
    sleep 0.$((i * 17))
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    must $Q -o part --size 70k $CAL --resume
    same part cal
done
must $Q -o cal --size 70k $CAL --resume --json
[ "$(get must.out complete)" = true ] || fail "complete"
refuse 1 "made with size_asked 71680, now it is 61440" $Q -o cal --size 60k $CAL --resume
refuse 1 "made with size_asked 71680, now it is" $Q -o cal --bits 2 $CAL --resume

say "the plan from factors tells all of it; without factors it says when it will"
"$KRONQ" quantize "$HF" --dry-run --size 70k $F --json >plan.json || fail "plan"
must $Q -o again --size 70k $F --json
cp must.out again.json
[ "$(get plan.json bits_settled file_bytes embed_bits | tr '\n' ' ')" = "true $(get again.json file_bytes) $(get again/config.json quantization_config/embed_bits) " ] || fail "the plan"
near "$(get plan.json allocation/forecast_kld)" "$(get again.json allocation/forecast_kld)" 1e-5 || fail "the plan's forecast"
must "$KRONQ" quantize --tune none "$HF" --dry-run --size 70k $CAL
grep -q "chosen when the factors are there" must.out || fail "a plan without factors"

if [ -z "${SANITIZE:-}" ]; then

say "--bpw, --kld: kept; the embedding's bits are kept where they are given, and so are --module-bits"
must $Q -o bpw --bpw 4.5 $F --json
awk -v b="$(get must.out bpw_file)" 'BEGIN { exit !(b <= 4.5 && b > 4.4) }' || fail "bpw_file $(get must.out bpw_file)"
must $Q -o bpw8 --bpw 5.2 $F --embed-bits 8 --module-bits 'layers\.0\.mlp\.up=3' --json
[ "$(get bpw8/config.json quantization_config/embed_bits)" = 8 ] && [ "$(get must.out modules/model.layers.0.mlp.up_proj/bits)" = 3 ] || fail "kept bits"
grep -q -- "--embed-bits 8" bpw8/README.md || fail "the card's command keeps the embedding's bits"
must $Q -o kld --kld 0.3 $F --json
cp must.out k.json
awk -v f="$(get k.json allocation/forecast_kld)" 'BEGIN { exit !(f <= 0.3 && f > 0.25) }' || fail "--kld 0.3: forecast $(get k.json allocation/forecast_kld)"
must $Q -o less --size $(($(get k.json file_bytes) - 600)) $F --json
awk -v f="$(get must.out allocation/forecast_kld)" 'BEGIN { exit !(f > 0.29) }' || fail "a smaller file has that forecast too: $(get must.out allocation/forecast_kld)"

say "more than the largest: said, and the largest is made"
must "$KRONQ" quantize "$HF" -o huge --tune none --size 45M $F
grep -q "the largest checkpoint of this model has $(stat -c %s huge/model.safetensors) bytes" must.err || fail "nothing is said of the largest"

fi
say "info --plan: the average bits for a size, from a config.json alone"
must "$KRONQ" info --plan "$HF" --size 70k --seq-len 32 --tokens 512 --json
awk -v b="$(get must.out bits)" -v r="$(get must.out result_bytes)" 'BEGIN { exit !(b > 2 && b < 4 && r <= 71680 && r > 65000) }' || fail "info --plan --size: $(get must.out bits result_bytes)"
must "$KRONQ" info --plan "$HF" --size 45M --seq-len 32 --tokens 512 --json
[ "$(get must.out bits)" = 4 ] || fail "info --plan of a large size"
refuse 2 "the smallest checkpoint of this model has about" "$KRONQ" info --plan "$HF" --size 10k --seq-len 32 --tokens 512

say "refusals"
refuse 2 "--size 20480: the smallest checkpoint of this model has 4[0-9]{4} bytes" $Q -o never --size 20k $F
refuse 2 "--bpw 1: the smallest checkpoint .* 3\.[0-9]+ bits a weight" $Q -o never --bpw 1 $F
refuse 2 "--kld 0.001: the largest checkpoint of this model has a forecast of" $Q -o never --kld 0.001 $F
refuse 2 "give one of them" $Q -o never --size 70k --bits 2 $F
refuse "1|2" "--memory 40M is too little to measure" $Q -o never --size 70k --memory 40M $F
if [ -z "${SANITIZE:-}" ]; then # a sanitizer keeps freed memory
    must $Q -o small --size 70k --memory 140M $CAL --json
    awk -v p="$(get must.out peak_rss_bytes)" 'BEGIN { exit !(p < 140 * 1048576) }' || fail "--memory 140M: a peak of $(get must.out peak_rss_bytes)"
fi
refuse 2 "give one of them" $Q -o never --size 70k --bpw 3 $F
refuse 2 "--size does not belong to --to gguf" "$KRONQ" quantize "$HF" --to gguf --type Q4_0 --size 70k -o never --quiet
for s in 0 lots 5X 4MiBs -3 1e6 .; do refuse 2 "size" $Q -o never --size $s $F; done
refuse 2 "the method none predicts no loss" $Q -o never --size 70k --method none
must "$KRONQ" calibrate "$HF" -o in.safetensors --method input-only $CAL --quiet
refuse 2 "in.safetensors: the method input-only predicts no loss" $Q -o never --size 70k --factors in.safetensors
[ ! -e never/config.json ] || fail "a refused command wrote a checkpoint"
echo ok
