#!/bin/bash
# --bits 2.5, --module-bits, --shrink: what each module gets, that the result loads everywhere, resuming, refusals.
. "$(dirname "$0")/common.sh"
A="model.layers.0" # of whose modules some are looked at

# average REPORT: of the modules' bits, weighted by their weights
average() {
    awk -F'[][",: ]+' '/"shape"/ { getline m; getline n; gsub(/[^0-9]/, "", m); gsub(/[^0-9]/, "", n) } /"bits"/ && m { w += m * n; b += m * n * $3; m = "" } END { print b / w }' "$1"
}

say "an average of 2.5 bits: kept, used up to a module, in config.json, the card and the report"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o mixed --bits 2.5 $CAL --json --quiet
cp must.out mixed.json
has mixed.json bits allocation/average allocation/least_possible allocation/forecast_loss modules/$A.mlp.up_proj/forecast_loss
near "$(average mixed.json)" "$(get mixed.json bits)" 1e-6 || fail "the modules' average is $(average mixed.json), bits says $(get mixed.json bits)"
# 101,376 weights; the smallest module has 2048
awk -v b="$(get mixed.json bits)" 'BEGIN { exit !(b <= 2.5 && b > 2.5 - 7168 / 101376) }' || fail "bits $(get mixed.json bits)"
awk -v p="$(get mixed.json predicted_loss)" -v f="$(get mixed.json allocation/forecast_loss)" -v l="$(get mixed.json allocation/least_possible)" \
    'BEGIN { exit !(p / f > 0.8 && p / f < 1.25 && l <= f && l > 0.9 * f) }' || fail "predicted $(get mixed.json predicted_loss), forecast $(get mixed.json allocation)"
for m in self_attn.q_proj self_attn.o_proj mlp.down_proj; do
    near "$(get mixed.json modules/$A.$m/predicted_loss)" "$(get mixed.json modules/$A.$m/forecast_loss)" 0.3 || fail "forecast of $m"
    k=$(get mixed.json modules/$A.$m/bits)
    [ "$(get mixed/config.json quantization_config/module_bits/$A.$m)" = "$k" ] || fail "module_bits of $m"
done
for k in 2 3 4; do grep -q "\"bits\": $k" mixed.json || fail "no module has $k bits"; done
[ "$(get mixed/config.json quantization_config/bits quantization_config/bits_asked | tr '\n' ' ')" = "2 2.5 " ] || fail "bits, bits_asked in config.json"
near "$(get mixed/config.json quantization_config/bits_average)" "$(get mixed.json bits)" 1e-6 || fail "bits_average"
grep -q -- "--bits 2.5 " mixed/README.md && grep -q "mixed-precision" mixed/README.md || fail "the card"

say "it is better than 2 bits and worse than 3, by the forecast and by the KL divergence; loads, runs, exports"
for k in 2 3; do must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o whole$k --bits $k $CAL --json --quiet; get must.out predicted_loss >whole$k.loss; done
for m in mixed whole2 whole3; do
    must "$KRONQ" eval $m --ppl "$TEXT" --ctx 64 --chunks 6 --kld "$HF" --json --quiet
    get must.out kld >$m.kld
done
awk -v m="$(get mixed.json predicted_loss)" -v a="$(cat whole2.loss)" -v b="$(cat whole3.loss)" 'BEGIN { exit !(b < m && m < (a + b) / 2) }' ||
    fail "predicted loss: 2 bits $(cat whole2.loss), 2.5 $(get mixed.json predicted_loss), 3 $(cat whole3.loss)"
awk -v m="$(cat mixed.kld)" -v a="$(cat whole2.kld)" -v b="$(cat whole3.kld)" 'BEGIN { exit !(b < m && m < a) }' || fail "kld $(cat whole2.kld mixed.kld whole3.kld)"
must "$KRONQ" run mixed -p "the water" -n 3 --quiet
must "$KRONQ" bench mixed --pp 8 --tg 2 --format json --quiet
must "$KRONQ" info mixed --json
must "$KRONQ" export mixed --to bf16 -o dense --quiet
must "$KRONQ" eval dense --ppl "$TEXT" --ctx 64 --chunks 6 --kld mixed --json --quiet
awk -v k="$(get must.out kld)" 'BEGIN { exit !(k < 0.01) }' || fail "exported, the KL divergence is $(get must.out kld)"
must "$KRONQ" export mixed --to gguf --type F32 -o dense.gguf --quiet
grep -aq "Quantized by kronq to 2.4[0-9] bits" dense.gguf || fail "the GGUF's description"

say "calibrate, then --factors: the same bytes; the plan from factors tells each module's bits"
must "$KRONQ" calibrate "$HF" -o f.safetensors $CAL --quiet
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o filed --bits 2.5 --factors f.safetensors --seed 3 --quiet
same mixed filed "--exclude=config.json --exclude=README.md"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" --bits 2.5 --factors f.safetensors --seed 3 --dry-run --json
cp must.out plan.json
[ "$(get plan.json bits_settled)" = true ] || fail "bits_settled"
near "$(get plan.json bits)" "$(get mixed.json bits)" 1e-4 && near "$(get plan.json bpw)" "$(get mixed.json bpw)" 1e-4 || fail "the plan's bits and bpw"
for i in 0 5 13 20; do
    [ "$(get plan.json modules/$i/bits)" = "$(get mixed.json "modules/$(get plan.json modules/$i/name)/bits")" ] || fail "the plan's module $i"
done
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" --bits 2.5 $CAL --dry-run --json
[ "$(get must.out bits_settled bits modules/0/bits | tr '\n' ' ')" = "false 2.5 2.5 " ] || fail "a plan without factors"
kept=$(get must.out planned_disk_bytes)
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" --bits 2 $CAL --dry-run --json
# the factors of all modules, f32 triangles: for each block 2 (64 65) + 2 (32 33) of outputs, ...
awk -v a="$kept" -v b="$(get must.out planned_disk_bytes)" -v f="$(stat -c %s f.safetensors)" 'BEGIN { d = a - b; exit !(d > 0.9 * f && d < 1.2 * f) }' ||
    fail "disk: $kept with factors kept, $(get must.out planned_disk_bytes) without, they have $(stat -c %s f.safetensors)"

say "one thread, the same bytes"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o one --bits 2.5 $CAL --threads 1 --quiet
same mixed one

say "killed at seven moments, resumed: the same bytes"
for i in 1 2 3 4 5 6 7; do
    rm -rf part
    "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o part --bits 2.5 $CAL --quiet 2>/dev/null &
    pid=$!
    sleep 0.$((i * 13))
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o part --bits 2.5 $CAL --quiet --resume
    same part mixed
done

say "exceptions: the first rule that matches counts, with a whole number and with an average"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o rules --bits 2 $CAL --module-bits 'layers\.1\.mlp\.down=4' --module-bits 'mlp\.down|v_proj=3' --quiet --json
cp must.out rules.json
[ "$(get rules.json modules/model.layers.1.mlp.down_proj/bits modules/model.layers.0.mlp.down_proj/bits modules/$A.self_attn.v_proj/bits modules/$A.self_attn.q_proj/bits |
    tr '\n' ' ')" = "4 3 3 2 " ] || fail "rules"
[ "$(get rules/config.json quantization_config/module_bits_rules/0)" = 'layers\.1\.mlp\.down=4' ] || fail "module_bits_rules"
grep -qF -- "--module-bits 'layers\.1\.mlp\.down=4'" rules/README.md || fail "the card's command"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o rules --bits 2 $CAL --module-bits 'layers\.1\.mlp\.down=4' --module-bits 'mlp\.down|v_proj=3' --resume --json
[ "$(get must.out complete)" = true ] || fail "complete"
refuse 1 "module_bits_rules" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o rules --bits 2 $CAL --module-bits 'mlp\.down|v_proj=3' --resume --quiet
refuse 1 "module_bits_rules" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o rules --bits 2 $CAL --resume --quiet
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o both --bits 2.5 --factors f.safetensors --module-bits 'layers\.0\.mlp=2' --quiet --json
[ "$(get must.out modules/$A.mlp.up_proj/bits modules/$A.mlp.down_proj/bits modules/$A.mlp.gate_proj/bits | tr '\n' ' ')" = "2 2 2 " ] || fail "rules and an average"
awk -v b="$(get must.out bits)" 'BEGIN { exit !(b <= 2.5 && b > 2.4) }' || fail "rules and an average: $(get must.out bits)"
must "$KRONQ" quantize "$HF" -o nocurve --bits 2 --method none --module-bits 'down_proj=3' --quiet

say "resuming with other bits is refused"
refuse 1 "made with bits_asked 2.5, now it is 2.6" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o mixed --bits 2.6 $CAL --resume --quiet
refuse 1 "made with bits_asked 2.5, now it is 2" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o mixed --bits 2 $CAL --resume --quiet
refuse 1 "made with bits 2, now it is 2.5" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o whole2 --bits 2.5 $CAL --resume --quiet
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o mixed --bits 2.5 $CAL --resume --quiet

say "refusals"
Q="$KRONQ quantize $HF -o never --tune none --quiet"
for b in 1.9 4.1 nan -1; do refuse 2 "bits" $Q --bits $b $CAL; done
refuse 2 "the method input-only predicts no loss" $Q --bits 2.5 --method input-only $CAL
refuse 2 "the method none predicts no loss" $Q --bits 2.5 --method none
must "$KRONQ" calibrate "$HF" -o in.safetensors --method input-only $CAL --quiet
refuse 2 "in.safetensors: the method input-only predicts no loss" $Q --bits 2.5 --factors in.safetensors
refuse 2 "in.safetensors: the method input-only predicts no loss" "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" --dry-run --bits 2.5 --factors in.safetensors
refuse 2 "with --module-bits the average is at least" $Q --bits 2.1 --module-bits mlp=4 $CAL
for r in mlp mlp= =3 mlp=5 mlp=33 mlp=x; do refuse 2 "expected REGEX=BITS" $Q --module-bits $r $CAL; done
refuse 2 "\(=3: not a regular expression" $Q --module-bits '(=3' $CAL
refuse 2 "conv=3: matches no module that is quantized" $Q --module-bits conv=3 $CAL
refuse 2 "matches no module that is quantized" $Q --module-bits 'layers\.1=3' --only 'layers\.0' $CAL
refuse 2 "does not belong to --to gguf" "$KRONQ" quantize "$HF" --to gguf --type Q4_0 --module-bits mlp=3 -o never --quiet
[ ! -e never ] || fail "a refused command left its output"

say "--shrink: in config.json and on the card; the default is 0.5, and 0 is none"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o shrunk --factors f.safetensors --seed 3 --shrink 0.1 --quiet
[ "$(get shrunk/config.json quantization_config/shrink)" = 0.1 ] && grep -q -- "--shrink 0.1 " shrunk/README.md || fail "shrink is not on record"
cmp -s shrunk/model.safetensors whole2/model.safetensors && fail "--shrink changes nothing"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o usual --factors f.safetensors --seed 3 --shrink 0.5 --quiet
same usual whole2 "--exclude=config.json --exclude=README.md"
must "$KRONQ" quantize --tune none --sequential none --embed-bits 8 "$HF" -o unshrunk --factors f.safetensors --seed 3 --shrink 0 --quiet
[ "$(get unshrunk/config.json quantization_config/shrink)" = 0.0 ] && ! cmp -s unshrunk/model.safetensors whole2/model.safetensors || fail "--shrink 0"
echo ok
