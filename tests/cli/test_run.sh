# Conversations that keep their cache, stop strings, and `kronq bench` in its three forms.
. "$(dirname "$0")/common.sh"

say "the second message computes only what is new"
printf 'hello there\nand again\n' | "$KRONQ" run "$HF" --chat --temp 0 -n 5 >talk.out 2>talk.err || fail "a conversation"
grep -q '\[prompt: 20 of 20 tokens run' talk.err || { cat talk.err; fail "the first message's tokens"; }
grep -q '\[prompt: 26 of 50 tokens run' talk.err || { cat talk.err; fail "the beginning was not kept"; }

say "a stop string ends the answer and is not printed"
whole=$("$KRONQ" run "$HF" -p "hello" --temp 0 -n 12 --quiet) || fail "run"
stop=${whole:6:2}
cut=$("$KRONQ" run "$HF" -p "hello" --temp 0 -n 12 --quiet --stop "$stop") || fail "run --stop"
[ "$cut" = "${whole%%"$stop"*}" ] || fail "--stop $stop: \"$cut\" of \"$whole\""

say "the same by a pipe that stays open"
mkfifo talk
"$KRONQ" run "$HF" --chat --temp 0 -n 5 <talk >int.out 2>int.err &
pid=$!
exec 9>talk
echo "hello there" >&9
for _ in $(seq 100); do grep -q 'prompt: 20' int.err && break; sleep 0.1; done
echo "and again" >&9
for _ in $(seq 100); do grep -q 'prompt: 26 of 50' int.err && break; sleep 0.1; done
exec 9>&-
wait $pid || { cat int.err; fail "status of a conversation by pipe"; }
grep -q 'prompt: 26 of 50' int.err || { cat int.err; fail "the second answer"; }

say "bench: md, csv and json say the same runs; the paper's table"
must "$KRONQ" bench "$HF" --pp 8 --tg 4 --repetitions 2 --quiet
grep -q '| pp8 |' must.out && grep -q '| tg4 |' must.out || { cat must.out; fail "the Markdown table"; }
must "$KRONQ" bench "$HF" --pp 8 --tg 4 --repetitions 2 --quiet --format csv
[ "$(wc -l <must.out)" -eq 3 ] || { cat must.out; fail "two rows and a head of CSV"; }
must "$KRONQ" bench "$HF" --pp 8 --tg 4 --repetitions 2 --quiet --format json
[ "$(grep -c '"repetitions": 2' must.out)" = 2 ] && grep -q '"n": 4' must.out || { cat must.out; fail "the JSON"; }
refuse 2 "format" "$KRONQ" bench "$HF" --format xml

say "chat: template arguments; what the template does not know is refused before the answer"
cp -r "$HF" thinking && chmod -R u+w thinking
printf '%s' "{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}" >thinking/chat_template.jinja
must "$KRONQ" run thinking -p hello -n 1 --chat --temp 0 --json
plain=$(get must.out prompt_tokens)
must "$KRONQ" run thinking -p hello -n 1 --chat --temp 0 --json --template-arg enable_thinking=false
[ "$(get must.out prompt_tokens)" -gt "$plain" ] || fail "--template-arg changed nothing"
must "$KRONQ" run thinking -p hello -n 1 --chat --temp 0 --json --template-arg enable_thinkin=false
grep -q 'warning: the chat template reads no variable "enable_thinkin"' must.err || { cat must.err; fail "no warning of an argument that is not read"; }
refuse "1|2" "True" "$KRONQ" run thinking -p hello --chat --template-arg enable_thinking=True
refuse "1|2" "goes with --chat" "$KRONQ" run thinking -p hello --template-arg a=1
echo "{{ messages | pprint }}" >thinking/chat_template.jinja
refuse "1|2" "line 1: the filter 'pprint' is not supported" "$KRONQ" run thinking -p hello --chat
