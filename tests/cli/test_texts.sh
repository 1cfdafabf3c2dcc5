#!/usr/bin/env bash
# What --text and --ppl are given: every kind of file, against figures of tokenizers and transformers (scripts/make_golden_texts.py).
. "$(dirname "$0")/common.sh"
: "${DIE_AT_SO:?the library of die_at.c}"
FORMATS=$GOLDEN/cases/07-text-formats SPECIALS=$GOLDEN/cases/08-calibration-specials FIGURES=$GOLDEN/cases/texts.json
EVAL="--ctx 64 --compute f32 --quiet --json"

# figure FILE KEY: what the referee says
figure() { get "$FIGURES" "$(basename "$1")/$2"; }

say "documents, tokens and perplexity are the referee's, whatever the file's form"
for f in "$FORMATS"/{array.json,c4-train.00000-of-01024.json,ok.jsonl,ok.jsonl.gz,ok.jsonl.zst,members.jsonl.gz,utf16.txt} "$SPECIALS"/{chat.txt,chat.jsonl,messages.jsonl,messages.json,sharegpt.jsonl}; do
    must "$KRONQ" eval "$HF" --ppl "$f" $EVAL
    [ ! -s must.err ] || { cat must.err; fail "$f: something on stderr"; }
    for key in documents tokens; do
        [ "$(get must.out texts/0/$key)" = "$(figure "$f" $key)" ] || fail "$f: $(get must.out texts/0/$key) $key, expected $(figure "$f" $key)"
    done
    near "$(get must.out ppl)" "$(figure "$f" perplexity)" 1e-5 || fail "$f: perplexity $(get must.out ppl), expected $(figure "$f" perplexity)"
    [ "$(get must.out parse_special)" = true ] || fail "$f: parse_special"
done
cp "$FORMATS/ok.jsonl" C4.JSONL # the name does not matter
must "$KRONQ" eval "$HF" --ppl C4.JSONL $EVAL
[ "$(get must.out texts/0/tokens)" = 3702 ] || fail "C4.JSONL"

say "calibrate, imatrix and quantize read the same"
N=0
for f in "$FORMATS/c4-train.00000-of-01024.json" "$FORMATS/ok.jsonl.zst" "$SPECIALS/chat.txt" "$SPECIALS/messages.json"; do
    N=$((N + 1))
    must "$KRONQ" imatrix "$HF" -o i$N.gguf --text "$f" --tokens 128 --seq-len 64 --quiet --json
    [ "$(get must.out texts/0/tokens)" = "$(figure "$f" tokens)" ] || fail "imatrix: $f"
    must "$KRONQ" calibrate "$HF" -o f$N --method input-only --text "$f" --tokens 128 --seq-len 64 --quiet --json
    [ "$(get must.out texts/0/tokens)" = "$(figure "$f" tokens)" ] || fail "calibrate: $f"
done
must "$KRONQ" quantize --tune none "$HF" -o q --method input-only --bits 4 --text "$FORMATS/ok.jsonl.gz" --text "$SPECIALS/chat.jsonl" --tokens 128 --seq-len 64 --quiet --json
[ "$(get must.out texts/0/format) $(get must.out texts/0/packing) $(get must.out texts/0/tokens)" = "JSON lines gzip 3702" ] || fail "quantize: first text"
[ "$(get must.out texts/1/tokens) $(get must.out texts/1/special_tokens)" = "8324 216" ] || fail "quantize: second text" # one more: what joins it to the first
refuse "1|2" "8270 tokens make 129" "$KRONQ" calibrate "$HF" -o never --text "$SPECIALS/chat.txt" --tokens 1000k --seq-len 64 --quiet

say "special tokens spelled out"
for f in "$SPECIALS/chat.txt" "$SPECIALS/chat.jsonl"; do
    must "$KRONQ" eval "$HF" --ppl "$f" --no-parse-special $EVAL
    [ "$(get must.out texts/0/tokens) $(get must.out parse_special)" = "$(figure "$f" tokens_spelled) false" ] || fail "eval --no-parse-special: $f"
    must "$KRONQ" imatrix "$HF" -o s.gguf --text "$f" --no-parse-special --tokens 128 --seq-len 64 --quiet --json
    [ "$(get must.out texts/0/tokens)" = "$(figure "$f" tokens_spelled)" ] || fail "imatrix --no-parse-special: $f"
    [ "$(get must.out settings/calibration/parse_special)" = false ] || fail "the settings do not say it"
    rm s.gguf
done
must "$KRONQ" eval "$HF" --ppl "$SPECIALS/chat.txt" --parse-special $EVAL
[ "$(get must.out texts/0/tokens)" = 8270 ] || fail "--parse-special"
refuse "1|2" "line 1: is a conversation" "$KRONQ" eval "$HF" --ppl "$SPECIALS/messages.jsonl" --no-parse-special $EVAL
mkdir bare && cp "$HF"/* bare
sed -i 's/"chat_template"/"no_template"/' bare/tokenizer_config.json
refuse "1|2" "messages.jsonl: line 1: .*no chat template" "$KRONQ" eval bare --ppl "$SPECIALS/messages.jsonl" $EVAL
refuse "1|2" "no chat template" "$KRONQ" calibrate bare -o never --text "$SPECIALS/messages.jsonl" --tokens 128 --seq-len 64 --quiet
[ ! -e never.work ] || fail "a work folder is left"

say "pipes and standard input, read twice by the job"
must "$KRONQ" calibrate "$HF" -o want --method input-only --text "$FORMATS/ok.jsonl" --tokens 512 --seq-len 64 --quiet
for how in stdin pipe dev; do
    case $how in
    stdin) cat "$FORMATS/ok.jsonl.gz" | must "$KRONQ" calibrate "$HF" -o $how --method input-only --text - --tokens 512 --seq-len 64 --quiet ;;
    pipe) must "$KRONQ" calibrate "$HF" -o $how --method input-only --text <(gzip -dc "$FORMATS/ok.jsonl.gz") --tokens 512 --seq-len 64 --quiet ;;
    dev) must "$KRONQ" calibrate "$HF" -o $how --method input-only --text /dev/stdin --tokens 512 --seq-len 64 --quiet <"$FORMATS/ok.jsonl" ;;
    esac
    # the factors, which come last, are the same bytes; the names and hashes in the header differ
    cmp <(tail -c 4000 want) <(tail -c 4000 $how) || fail "$how: other factors"
done
cat "$FORMATS/ok.jsonl.gz" | must "$KRONQ" calibrate "$HF" -o stdin --method input-only --text - --tokens 512 --seq-len 64 --quiet --resume
cat "$FORMATS/array.json" | refuse 1 "other settings" "$KRONQ" calibrate "$HF" -o stdin --method input-only --text - --tokens 512 --seq-len 64 --quiet --resume
cat "$FORMATS/array.json" | refuse 1 "another text" "$KRONQ" quantize --tune none "$HF" -o never --factors stdin --text - --quiet
gzip -c "$FORMATS/ok.jsonl" | must "$KRONQ" eval "$HF" --ppl - $EVAL
near "$(get must.out ppl)" "$(figure ok.jsonl perplexity)" 1e-5 || fail "eval --ppl -"
cat "$FORMATS/ok.jsonl" | must "$KRONQ" compare "$HF" -o cmp --methods input-only,kfac --bits 4 --text - --ppl <(cat "$FORMATS/ok.jsonl") --tokens 128 --seq-len 64 --ctx 64 --chunks 2 --quiet
cat "$FORMATS/ok.jsonl" | must "$KRONQ" compare "$HF" -o cmp --methods input-only,kfac --bits 4 --text - --ppl <(cat "$FORMATS/ok.jsonl") --tokens 128 --seq-len 64 --ctx 64 --chunks 2 --quiet

say "an interrupted calibration continues with the same packed text, and with no other; a finished one is recognised by it"
CALIBRATE="$KRONQ calibrate $HF --method input-only --tokens 512 --seq-len 64 --quiet"
cp "$FORMATS/ok.jsonl.gz" t.jsonl.gz
must $CALIBRATE -o r1 --text t.jsonl.gz
(DIE_AT=12 LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} exec $CALIBRATE -o r2 --text t.jsonl.gz) >died.out 2>&1
ls r2.work/*.seal >/dev/null 2>&1 || fail "the interruption left nothing worth keeping"
gzip -c "$FORMATS/array.json" >t.jsonl.gz
refuse 1 "text_hash" $CALIBRATE -o r2 --text t.jsonl.gz --resume
refuse 1 "other settings" $CALIBRATE -o r1 --text t.jsonl.gz --resume
cp "$FORMATS/ok.jsonl.gz" t.jsonl.gz
must $CALIBRATE -o r2 --text t.jsonl.gz --resume
cmp r1 r2 || fail "the continued calibration differs"
must $CALIBRATE -o r1 --text t.jsonl.gz --resume

say "what is no text is refused by its name, before any work"
refuse 1 "is a Parquet file, no text" "$KRONQ" calibrate "$HF" -o never --text "$FORMATS/fake.parquet" --tokens 128 --seq-len 64 --quiet
refuse 1 "is a Parquet file, no text" "$KRONQ" eval "$HF" --ppl "$FORMATS/fake.parquet" $EVAL
refuse 1 "is a GGUF model" "$KRONQ" eval "$HF" --ppl "$GGUF" $EVAL
refuse 1 "is a safetensors file" "$KRONQ" quantize --tune none "$HF" -o never --text "$HF/model.safetensors" --tokens 128 --seq-len 64 --quiet
refuse 1 "program or library" "$KRONQ" eval "$HF" --ppl "$KRONQ" $EVAL
head -c 2000 "$FORMATS/ok.jsonl.gz" >cut.jsonl.gz
refuse 1 "cut.jsonl.gz: the gzip archive is cut short" "$KRONQ" imatrix "$HF" -o never --text cut.jsonl.gz --tokens 128 --seq-len 64 --quiet
head -c 2000 "$FORMATS/ok.jsonl.zst" >cut.jsonl.zst
refuse 1 "cut.jsonl.zst: the zstd archive is cut short" "$KRONQ" imatrix "$HF" -o never --text cut.jsonl.zst --tokens 128 --seq-len 64 --quiet
cp "$FORMATS/ok.jsonl.gz" bad.jsonl.gz && poke bad.jsonl.gz 1800
refuse 1 "bad.jsonl.gz: .*(damaged|line)" "$KRONQ" imatrix "$HF" -o never --text bad.jsonl.gz --tokens 128 --seq-len 64 --quiet
printf 'caf\351 cr\350me\n' >latin.txt
refuse 1 "line 1, byte 3: 0xE9 is no UTF-8, by its look Latin-1" "$KRONQ" eval "$HF" --ppl latin.txt $EVAL
printf 'one\ntwo\0' >nul.txt
refuse 1 "nul.txt: line 2, byte 7: a NUL byte" "$KRONQ" eval "$HF" --ppl nul.txt $EVAL
: >empty.txt
refuse 2 "empty.txt: holds no text" "$KRONQ" eval "$HF" --ppl empty.txt $EVAL
refuse 1 "is a folder" "$KRONQ" eval "$HF" --ppl . $EVAL
printf '{"text": "a"}\n\n{"text": "b\n' >broken.jsonl
refuse 1 "broken.jsonl: line 3" "$KRONQ" eval "$HF" --ppl broken.jsonl $EVAL
printf '[{"instruction": "a", "output": "b"}]' >alpaca.json
refuse 1 "alpaca.json: line 1 has no .*it has instruction, output" "$KRONQ" eval "$HF" --ppl alpaca.json $EVAL
printf '<html>busy</html>\n' >page.jsonl
refuse 1 "page.jsonl: is named as JSON" "$KRONQ" eval "$HF" --ppl page.jsonl $EVAL
refuse 2 "text-format xml" "$KRONQ" eval "$HF" --ppl "$TEXT" --text-format xml $EVAL
printf '{"messages": [{"role": "assistant", "content": null, "tool_calls": []}]}\n' >nothing_said.jsonl # the template adds to a content that is not there
for words in "calibrate $HF -o never --tokens 128 --seq-len 64 --text" "compare $HF -o never --methods none --ctx 64 --ppl"; do
    refuse 2 "nothing_said.jsonl: line 1: the chat template, line 1" "$KRONQ" $words nothing_said.jsonl --quiet
done
[ -z "$(ls -d never* 2>/dev/null)" ] || fail "something is left of what was refused"

say "taken for something else on demand, or with a word about it"
must "$KRONQ" eval "$HF" --ppl "$FORMATS/c4-train.00000-of-01024.json" --text-format text $EVAL
[ "$(get must.out texts/0/format)" = text ] || fail "--text-format text"
cp "$FORMATS/ok.jsonl" notes.txt
must "$KRONQ" eval "$HF" --ppl notes.txt $EVAL
grep -q "warning: notes.txt: holds JSON" must.err || fail "no word about notes.txt"
printf '{ int x; }\n[Music] "Go her", so two sound.\n' >prose.txt
must "$KRONQ" eval "$HF" --ppl prose.txt --ctx 4 --compute f32 --quiet --json
[ "$(get must.out texts/0/format)" = text ] && [ ! -s must.err ] || fail "prose.txt"

say "empty documents are joined like others, the first one too; a text that has the letters of an archive is a text"
printf '{"text": "Go her, so two sound."}\n' >full.jsonl
printf '{"text": ""}\n{"text": ""}\n' | cat - full.jsonl >empty_first.jsonl
must "$KRONQ" eval "$HF" --ppl full.jsonl --ctx 4 --compute f32 --quiet --json
full=$(get must.out texts/0/tokens)
must "$KRONQ" eval "$HF" --ppl empty_first.jsonl --ctx 4 --compute f32 --quiet --json
[ "$(get must.out texts/0/tokens)" = $((full + 2)) ] || fail "empty documents before a full one: $(get must.out texts/0/tokens) tokens, $full without"
(head -c 257 "$TEXT" | tr '\n' ' '; printf 'ustar '; head -c 2000 "$TEXT") >letters.txt
must "$KRONQ" eval "$HF" --ppl letters.txt $EVAL

say "a task's documents, packed"
gzip -c "$GOLDEN/tasks/piqa.jsonl" >piqa.gz
must "$KRONQ" eval "$HF" --task piqa=piqa.gz --compute f32 --quiet --json
mv must.out packed.json
must "$KRONQ" eval "$HF" --task piqa="$GOLDEN/tasks/piqa.jsonl" --compute f32 --quiet --json
[ "$(get packed.json results/piqa/acc,none)" = "$(get must.out results/piqa/acc,none)" ] || fail "piqa.gz"
echo ok
