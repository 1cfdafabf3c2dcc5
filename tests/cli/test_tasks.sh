#!/bin/bash
# eval --task: several tasks in one run, the table, JSON, samples, resuming, and what is refused.
. "$(dirname "$0")/common.sh"
D=$GOLDEN/tasks

say "table and JSON"
must "$KRONQ" eval "$HF" --task arc_easy="$D/arc_easy.jsonl" --task boolq="$D/boolq.jsonl" --compute f32 --quiet
[ ! -s must.err ] || fail "something on stderr"
cat >want <<'END'
|Tasks   |Version|Filter|n-shot| Metric |   |Value |   |Stderr|
|--------|------:|------|-----:|--------|---|-----:|---|-----:|
|arc_easy|      1|none  |     0|acc     |↑  |0.0769|±  |0.0769|
|        |       |none  |     0|acc_norm|↑  |0.1538|±  |0.1042|
|boolq   |      2|none  |     0|acc     |↑  |0.5385|±  |0.1439|
END
diff want must.out || fail "the table"
must "$KRONQ" eval "$HF" --task arc_easy="$D/arc_easy.jsonl" --limit 5 --compute f32 --json --quiet --log-samples s.jsonl
has must.out "results/arc_easy/acc,none" "results/arc_easy/acc_norm_stderr,none" versions/arc_easy n-shot/arc_easy higher_is_better/arc_easy/acc n-samples/arc_easy/original
[ "$(get must.out n-samples/arc_easy/effective)" = 5 ] && [ "$(wc -l <s.jsonl)" = 5 ] || fail "--limit"
head -1 s.jsonl >first.json && has first.json doc_id doc/question target arguments/gen_args_3/arg_1 filtered_resps/3/1 acc acc_norm
[ ! -e s.jsonl.partial ] || fail "the journal is left"

say "refused"
refuse 2 "NAME=FILE.jsonl is expected" "$KRONQ" eval "$HF" --task arc_easy
refuse 2 "NAME=FILE.jsonl is expected" "$KRONQ" eval "$HF" --task =x
refuse 2 "task mmlu: unknown; there are arc_easy, " "$KRONQ" eval "$HF" --task mmlu=x --quiet
refuse 2 "task piqa: given twice" "$KRONQ" eval "$HF" --task piqa=x --task piqa=y --quiet
refuse 2 "two measurements" "$KRONQ" eval "$HF" --task piqa="$D/piqa.jsonl" --ppl "$TEXT"
refuse 2 "resume needs the --log-samples" "$KRONQ" eval "$HF" --task piqa="$D/piqa.jsonl" --resume --quiet
refuse 1 "none.jsonl: No such file" "$KRONQ" eval "$HF" --task piqa=none.jsonl --quiet
refuse 1 "piqa.jsonl: line 1: field \"passage\" is missing" "$KRONQ" eval "$HF" --task boolq="$D/piqa.jsonl" --quiet
refuse 1 "s.jsonl" "$KRONQ" eval "$HF" --task piqa="$D/piqa.jsonl" --log-samples none/s.jsonl --quiet
touch t.jsonl.partial
refuse 2 "t.jsonl.partial: an interrupted run left this" "$KRONQ" eval "$HF" --task piqa="$D/piqa.jsonl" --log-samples t.jsonl --quiet
must "$KRONQ" eval "$HF" --task piqa="$D/piqa.jsonl" --log-samples t.jsonl --resume --quiet
[ "$(wc -l <t.jsonl)" = 14 ] && [ ! -e t.jsonl.partial ] || fail "an empty journal is no start"
exit 0
