#!/bin/bash
# kronq serve, with curl: every path, streams, stop strings, limits, malformed and slow clients, shutdown.
SELF=$(readlink -f "$0")
. "$(dirname "$0")/common.sh"
command -v curl >/dev/null || { echo "SKIP: no curl"; exit 77; }
unset KRONQ_API_KEY
get() { # get FILE KEY...: one value
    local file=$1 IFS=/
    shift
    "$JSON_GET" "$file" "$*"
}
J='Content-Type: application/json'

# serve OPTIONS...: start it; sets URL and PID.
serve() {
    rm -f ready
    "$KRONQ" serve "${MODEL:-$HF}" --port "${PORT:-0}" --json --compute f32 --kv f32 "$@" >ready 2>log &
    PID=$!
    for _ in $(seq 600); do
        [ -s ready ] && break
        kill -0 $PID 2>/dev/null || { cat log; fail "serve did not start"; }
        sleep 0.1
    done
    URL=$(get ready url) || fail "no url"
    HOSTPORT=${URL#http://}
}
# ends SIGNAL: the server finishes what runs and ends by the signal.
ends() {
    kill "-$1" $PID
    wait $PID
    [ $? -eq $((128 + $(kill -l "$1"))) ] || { cat log; fail "status $? after $1"; }
}
trap 'kill -9 $PID 2>/dev/null; rm -rf "$W"' EXIT

# ask STATUS PATH [BODY] [curl options]: the answer is in `answer`.
ask() {
    local want=$1 path=$2 body=${3-} got
    shift $(($# < 3 ? $# : 3))
    if [ -n "$body" ]; then
        got=$(curl -s -m 60 -o answer -w '%{http_code}' -H "$J" "$@" -d "$body" "$URL$path")
    else
        got=$(curl -s -m 60 -o answer -w '%{http_code}' "$@" "$URL$path")
    fi
    [ "$got" = "$want" ] || { cat answer log; fail "$path $body: status $got, expected $want"; }
}
# is PATH... VALUE: of the last answer.
is() {
    local want=${!#}
    [ "$(get answer "${@:1:$#-1}")" = "$want" ] || { cat answer; fail "$* : $(get answer "${@:1:$#-1}")"; }
}

serve --slots 3 --max-body 20k --queue 12

say "the simple paths"
ask 200 /health; is status ok
ask 200 /v1/models; is data 0 id hf
ask 200 /v1/models/hf; is id hf
ask 404 /v1/models/other; is error code model_not_found
ask 200 /tokenizer_info; is eos_token '<|im_end|>'
ask 200 /tokenize '{"prompt":"the cat","add_special_tokens":false}'; n=$(get answer count)
[ "$n" -ge 1 ] || fail "tokenize"
ask 200 /detokenize "{\"tokens\":$(sed 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/' answer)}"; is prompt 'the cat'
ask 200 /metrics
grep -q '^kronq_http_answers_total{path="/tokenize",status="2xx"} 1$' answer || { cat answer; fail "metrics"; }

say "errors"
ask 404 /nope; is error code unknown_url
ask 405 /v1/completions; is error code method_not_supported
ask 405 /health '{}'
[ "$(curl -s -m 60 -o answer -w '%{http_code}' -d '{}' "$URL/v1/completions")" = 415 ] || fail "a form is taken for JSON"; is error code unsupported_media_type
ask 400 /v1/completions '{'; is error code invalid_json
ask 400 /v1/completions '{"prompt":"a","frob":1}'; is error param frob
ask 400 /v1/completions '{"prompt":""}'; is error param prompt
ask 404 /v1/completions '{"prompt":"a","model":"gpt-4"}'; is error type invalid_request_error
many=$(seq -s, 3 514 | sed 's/[0-9]*/7/g') # as many tokens as the context has
ask 400 /v1/completions "{\"prompt\":[$many]}"; is error code context_length_exceeded
ask 400 /v1/completions "{\"prompt\":[$many,7],\"max_tokens\":0}"; is error code context_length_exceeded
ask 400 /v1/completions '{"prompt":[1,2,384]}'; is error param prompt
head -c 30000 /dev/zero | tr '\0' 'a' | sed 's/^/{"prompt":"/; s/$/"}/' >large
ask 413 /v1/completions @large; is error code request_too_large

say "completions"
ask 200 /v1/completions '{"model":"hf","prompt":"the cat sat","max_tokens":6,"temperature":0,"ignore_eos":true}'
is choices 0 finish_reason length; is usage completion_tokens 6; is object text_completion
text=$(get answer choices 0 text)
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":6,"temperature":0,"ignore_eos":true,"echo":true}'; is choices 0 text "the cat sat$text"
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":9,"seed":5,"n":2,"ignore_eos":true}'; cp answer first
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":9,"seed":5,"n":2,"ignore_eos":true}'
[ "$(get first choices 1 text)" = "$(get answer choices 1 text)" ] || fail "a seed does not repeat"
[ "$(get first choices 0 text)" != "$(get first choices 1 text)" ] || fail "two answers are the same"
"$KRONQ" run "$HF" -p "the cat sat" -n 6 --temp 0 --compute f32 --json >run.json 2>/dev/null || fail "run"
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":6,"temperature":0}'; is choices 0 text "$(get run.json text)"
# as many as fit: more than that, or -1, or nothing said in a chat
for n in 400 -1 99999999999; do
    ask 200 /v1/completions "{\"prompt\":[${many%,7,7,7}],\"max_tokens\":$n,\"temperature\":0,\"ignore_eos\":true}"
    is usage total_tokens 512; is choices 0 finish_reason length
done
ask 200 /v1/chat/completions '{"messages":[{"role":"user","content":"x"}],"max_completion_tokens":2,"max_tokens":300,"ignore_eos":true}'; is usage completion_tokens 2
# the penalty under both names, as kronq run has it
"$KRONQ" run "$HF" -p "the cat sat" -n 20 --temp 0 --repeat-penalty 1.5 --compute f32 --json >run.json 2>/dev/null || fail "run"
for name in repetition_penalty repeat_penalty; do
    ask 200 /v1/completions "{\"prompt\":\"the cat sat\",\"max_tokens\":20,\"temperature\":0,\"$name\":1.5}"; is choices 0 text "$(get run.json text)"
done
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":20,"temperature":0}'
[ "$(get answer choices 0 text)" != "$(get run.json text)" ] || fail "the penalty changes nothing"
# min_p 1 leaves the most likely token only
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":6,"temperature":1.5,"min_p":1,"ignore_eos":true}'; is choices 0 text "$text"
# a stop string that the answer holds
stop=$(printf %s "$text" | cut -c 3-4 | sed 's/[\\"]/\\&/g')
ask 200 /v1/completions "{\"prompt\":\"the cat sat\",\"max_tokens\":6,\"temperature\":0,\"ignore_eos\":true,\"stop\":[\"$stop\"]}"
is choices 0 finish_reason stop
case $(get answer choices 0 text) in *"$stop"*) fail "the stop string is in the answer" ;; esac

say "scores, as lm-evaluation-harness asks for them"
ask 200 /v1/completions '{"model":"hf","prompt":[[5,6,7,8],[5,6,9]],"temperature":0,"max_tokens":1,"logprobs":1,"seed":1234,"echo":true}'
is choices 0 logprobs token_logprobs 0 null
get answer choices 0 logprobs token_logprobs 4 >/dev/null || fail "length: prompt + 1"
get answer choices 0 logprobs token_logprobs 5 >/dev/null 2>&1 && fail "length: prompt + 1"
get answer choices 1 logprobs top_logprobs 3 >/dev/null || fail "second prompt"
# also when the next token is an end token, which has no text
ask 200 /v1/completions '{"prompt":[5,6,7,8],"temperature":0,"max_tokens":1,"logprobs":1,"echo":true,"logit_bias":{"2":100}}'
is choices 0 finish_reason stop; is choices 0 logprobs tokens 4 '<|im_end|>'
ask 200 /v1/completions '{"prompt":[5,6,7,8],"max_tokens":0,"logprobs":0,"echo":true}'
get answer choices 0 logprobs token_logprobs 3 >/dev/null || fail "max_tokens 0"
get answer choices 0 logprobs token_logprobs 4 >/dev/null 2>&1 && fail "max_tokens 0"

say "chat and streams"
C='{"messages":[{"role":"user","content":"hello"}],"max_tokens":7,"temperature":0,"ignore_eos":true'
ask 200 /v1/chat/completions "$C}"; is object chat.completion; is choices 0 message role assistant
text=$(get answer choices 0 message content)
ask 200 /v1/chat/completions "$C,\"logprobs\":true,\"top_logprobs\":2}"
get answer choices 0 logprobs content 6 top_logprobs 1 logprob >/dev/null || fail "chat logprobs"
ask 200 /v1/chat/completions "$C,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" -N
[ "$(grep -c '^data: ' answer)" -ge 3 ] && [ "$(grep '^data: ' answer | tail -1)" = 'data: [DONE]' ] || { cat answer; fail "events"; }
joined=
while read -r line; do
    printf %s "${line#data: }" >event
    [ "$line" = 'data: [DONE]' ] && break
    if grep -q '"content":' event; then
        joined=$joined$(get event choices 0 delta content; printf x)
        joined=${joined%x}; joined=${joined%$'\n'}
    fi
    grep -q '"usage":{' event && [ "$(get event usage completion_tokens)" = 7 ] && usage=seen
done < <(grep '^data: ' answer)
[ "$joined" = "$text" ] || fail "the events' text '$joined' is not '$text'"
[ "${usage-}" = seen ] || fail "no usage in the stream"
# Tokens that were made before the client could be told come in one event, but not hundreds of them. A busy
# machine may keep the server's thread waiting while this tiny model makes hundreds of tokens; a server that
# does not wake the stream would do so in each of ten answers.
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    ask 200 /v1/chat/completions '{"messages":[{"role":"user","content":"hello"}],"max_tokens":400,"ignore_eos":true,"stream":true}' -N
    [ "$(grep -c '^data: ' answer)" -lt 20 ] || break
done
[ "$(grep -c '^data: ' answer)" -ge 20 ] || { cat answer; fail "not a stream, in $attempt answers"; }

say "many at once, beside slow, broken and leaving clients"
exec 3<>"/dev/tcp/${HOSTPORT%:*}/${HOSTPORT##*:}"
printf 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le' >&3
exec 4<>"/dev/tcp/${HOSTPORT%:*}/${HOSTPORT##*:}"
printf 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"pro' >&4
exec 5<>"/dev/tcp/${HOSTPORT%:*}/${HOSTPORT##*:}"
printf '\x16\x03\x01\x02\x00garbage\r\n\r\n' >&5
curl -s -m 0.3 -N -H "$J" -d '{"prompt":"the","max_tokens":500,"ignore_eos":true,"stream":true}' "$URL/v1/completions" >/dev/null
curl -s -m 0.3 -H "$J" -d '{"prompt":"the","max_tokens":500,"ignore_eos":true}' "$URL/v1/completions" >/dev/null
seq 12 | xargs -P 4 -I{} curl -s -m 60 -o many.{} -H "$J" -d '{"prompt":"number {}","max_tokens":5,"temperature":0,"ignore_eos":true}' "$URL/v1/completions"
for i in $(seq 12); do [ "$(get many.$i usage completion_tokens)" = 5 ] || { cat many.$i; fail "answer $i"; }; done
exec 3>&- 4>&- 5>&-
for _ in $(seq 100); do
    ask 200 /metrics
    grep -q '^kronq_requests_active 0$' answer && break
    sleep 0.1
done
grep -q '^kronq_requests_active 0$' answer || { cat answer; fail "the answers of clients that left go on"; }

say "shutdown finishes what runs"
curl -s -m 60 -H "$J" -d '{"prompt":"the","max_tokens":200,"ignore_eos":true,"temperature":0}' "$URL/v1/completions" >last &
CURL=$!
for _ in $(seq 100); do
    ask 200 /metrics
    grep -q '^kronq_requests_active 1$' answer && break
    kill -0 $CURL 2>/dev/null || break
    sleep 0.02
done
ends TERM
wait $CURL
[ "$(get last usage completion_tokens)" = 200 ] || { cat last log; fail "the last answer was cut off"; }

say "a key, a receive limit, and Ctrl-C"
KRONQ_API_KEY=secret serve --timeout 1
ask 200 /health
ask 401 /v1/models; is error code invalid_api_key
ask 401 /v1/models '' -H 'Authorization: Bearer secre'
ask 401 /v1/models '' -H 'Authorization: Bearer secrets'
ask 200 /v1/models '' -H 'Authorization: Bearer secret'
ends INT

say "heads that are broken, idle connections, large bodies"
if command -v python3 >/dev/null; then
    HERE=$(dirname "$SELF")
    http() { python3 "$HERE/serve_http.py" "$1" "${HOSTPORT%:*}" "${HOSTPORT##*:}" || { tail -3 log; fail "serve_http.py $1"; }; }
    serve --timeout 3
    http heads
    http kept
    http idle
    http large
    ends TERM
else
    echo "SKIP: no python3"
fi

say "ports and hosts"
serve
P=${URL##*:}
refuse 1 "--port $P: another program listens on it" timeout 20 "$KRONQ" serve "$HF" --port "$P" --quiet
refuse 1 "--port $P: another program listens on it" timeout 20 "$KRONQ" serve "$HF" --port "$P" --host 0.0.0.0 --quiet
refuse 1 "--port $P: another program listens on it" timeout 20 "$KRONQ" serve "$HF" --port "$P" --host localhost --quiet
refuse 1 "--port $P: another program listens on it" timeout 20 "$KRONQ" serve no-such-model --port "$P" --quiet # before a model is looked for
exec 3<>"/dev/tcp/127.0.0.1/$P" # the server closes this one first: its port is then in TIME_WAIT
ask 200 /health
ends TERM
exec 3>&-
PORT=$P serve
ask 200 /health
ends TERM
for host in localhost 127.0.0.1 0.0.0.0 $(getent ahostsv6 ::1 >/dev/null && [ -e /proc/net/if_inet6 ] && [ -s /proc/net/if_inet6 ] && echo "::1 [::1] ::"); do
    serve --host "$host"
    ask 200 /health
    P=${URL##*:}
    case $host in
        localhost | 0.0.0.0 | ::) [ "$(curl -s -m 9 -o /dev/null -w '%{http_code}' "http://127.0.0.1:$P/health")" = 200 ] || fail "--host $host is not 127.0.0.1" ;;
    esac
    ends TERM
done

say "names of the server"
serve
for name in localhost LOCALHOST:1 127.0.0.1 '[::1]:80' 127.1.2.3; do ask 200 /health '' -H "Host: $name"; done
for name in evil.example 127.0.0.1.evil.example localhost.evil.example 10.0.0.1; do ask 403 /health '' -H "Host: $name"; is error code host_not_allowed; done
ends TERM
serve --allow-host box.example --allow-host 10.0.0.1
ask 200 /health '' -H "Host: box.example:8080"; ask 200 /health '' -H "Host: 10.0.0.1"; ask 403 /health '' -H "Host: evil.example"
ends TERM
serve --api-key secret # whoever knows the key may call it as he likes
ask 200 /v1/models '' -H "Host: evil.example" -H 'X-Api-Key: secret'
ask 200 /v1/models '' -H 'Authorization: Bearer wrong' -H 'x-api-key: secret'
ask 401 /v1/models '' -H 'X-Api-Key: Secret'; is error code invalid_api_key
ask 401 /v1/models '' -H 'X-Api-Key:'
ask 401 /v1/models '' -H 'Authorization: secret'
ends TERM

say "names of the model"
serve --alias big --model-name small
ask 200 /v1/models; is data 0 id big
for name in big small "$HF"; do ask 200 /v1/completions "{\"model\":\"$name\",\"prompt\":\"a\",\"max_tokens\":1}"; is model big; done
ask 200 /v1/models/small; is id big
ask 404 /v1/completions '{"model":"gpt-4","prompt":"a"}'; is error code model_not_found
ends TERM
serve --any-model
ask 200 /v1/completions '{"model":"gpt-4","prompt":"a","max_tokens":1}'; is model hf
ask 200 /v1/models/gpt-4; is id hf
ask 400 /v1/completions '{"model":4,"prompt":"a"}'
ends TERM

say "web pages of other origins"
headers() { curl -s -m 60 -o answer -D headers "$@"; }
serve
headers -H 'Origin: https://a.example' "$URL/v1/models"
grep -qi 'access-control' headers && fail "without --cors a page may read"
headers -X OPTIONS -H 'Origin: https://a.example' -H 'Access-Control-Request-Method: POST' "$URL/v1/completions"
grep -qi 'access-control' headers && fail "without --cors a page may post"
ends TERM
KRONQ_API_KEY=secret serve --cors https://a.example --cors http://localhost:3000
headers -X OPTIONS -H 'Origin: https://a.example' -H 'Access-Control-Request-Method: POST' -H 'Access-Control-Request-Headers: authorization,content-type,x-stainless-os' \
    -H 'Access-Control-Request-Private-Network: true' "$URL/v1/completions"
for line in 'HTTP/1.1 204' 'Access-Control-Allow-Origin: https://a.example' 'Access-Control-Allow-Methods: POST' 'Access-Control-Allow-Headers: authorization,content-type,x-stainless-os' \
    'Access-Control-Allow-Private-Network: true' 'Vary: Origin'; do
    grep -q "^$line" headers || { cat headers; fail "no '$line'"; }
done
headers -H 'Origin: http://localhost:3000' "$URL/v1/models"
grep -q '^Access-Control-Allow-Origin: http://localhost:3000' headers && grep -q '^HTTP/1.1 401' headers || { cat headers; fail "an error without its origin"; }
headers -N -H 'Origin: https://a.example' -H 'Authorization: Bearer secret' -H "$J" -d '{"prompt":"a","max_tokens":2,"stream":true}' "$URL/v1/completions"
grep -q '^Access-Control-Allow-Origin: https://a.example' headers && grep -q DONE answer || { cat headers; fail "a stream without its origin"; }
headers -H 'Origin: https://b.example' "$URL/health"
grep -qi 'access-control-allow' headers && fail "another page may read"
ends TERM
serve --cors '*'
headers -H 'Origin: null' "$URL/health"
grep -q '^Access-Control-Allow-Origin: \*' headers || fail "--cors '*'"
ends TERM

say "what the model's authors recommend"
cp -r "$HF" own && chmod -R u+w own
echo '{"temperature": 0.0001, "top_k": 3, "top_p": 0.5}' >own/generation_config.json
MODEL=own serve
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":12,"temperature":0}'; greedy=$(get answer choices 0 text)
for i in 1 2 3; do ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":12}'; is choices 0 text "$greedy"; done
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":12,"temperature":2,"top_k":0,"top_p":1,"seed":1}'
[ "$(get answer choices 0 text)" != "$greedy" ] || fail "a request cannot say otherwise"
ends TERM
"$KRONQ" run own -p "the cat sat" -n 12 --compute f32 --json >run.json 2>/dev/null || fail run
[ "$(get run.json text)" = "$greedy" ] || fail "kronq run does not take the recommended temperature"
"$KRONQ" run own -p "the cat sat" -n 12 --temp 2 --top-k 0 --top-p 1 --compute f32 --json >run.json 2>/dev/null || fail run
[ "$(get run.json text)" != "$greedy" ] || fail "an option of kronq run does not win"
# a penalty that is only recommended leaves the most likely token alone
echo '{"repetition_penalty": 1.8}' >own/generation_config.json
MODEL=own serve
ask 200 /v1/completions '{"prompt":"the cat sat","max_tokens":12,"temperature":0}'; is choices 0 text "$greedy"
ends TERM
"$KRONQ" run own -p "the cat sat" -n 12 --temp 0 --compute f32 --json >run.json 2>/dev/null || fail run
[ "$(get run.json text)" = "$greedy" ] || fail "--temp 0 is not the most likely token"

say "prompts of conversations"
# prompt BODY: the text that the model is given
prompt() {
    ask 200 /tokenize "$1"
    ask 200 /detokenize "{\"tokens\":$(sed 's/.*"tokens":\(\[[0-9,]*\]\).*/\1/' answer)}"
    get answer prompt
}
cp -r "$HF" talk && chmod -R u+w talk
cat >talk/chat_template.jinja <<'TEMPLATE'
{%- if tools %}T{{ tools[0].function.name }} {% endif %}{% if enable_thinking is defined %}E{{ enable_thinking }} {% endif %}
{%- for m in messages %}[{{ m.role }}|{{ m.name }}|{{ m.content }}|{{ m.reasoning_content }}|{% for c in m.tool_calls %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}|{{ m.tool_call_id }}]{% endfor %}
{%- if add_generation_prompt %}>{% endif %}
TEMPLATE
MODEL=talk serve
U='{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"n"}'
A='{"role":"assistant","content":null,"refusal":null,"annotations":[],"audio":null,"function_call":null,"reasoning_content":"r","tool_calls":[{"id":"i","type":"function","function":{"name":"f","arguments":"{\"x\":\"5\"}"}}]}'
T='{"role":"tool","tool_call_id":"i","content":"t"}'
[ "$(prompt "{\"messages\":[$U]}")" = $'[user|n|a\nb|||]>' ] || fail "parts: $(cat answer)"
[ "$(prompt "{\"messages\":[$U],\"add_generation_prompt\":false}")" = $'[user|n|a\nb|||]' ] || fail "no generation prompt: $(cat answer)"
[ "$(prompt "{\"messages\":[{\"role\":\"developer\",\"content\":\"d\"},$A,$T]}")" = '[developer||d|||][assistant|||r|f(5)|][tool||t|||i]>' ] || fail "tool calls: $(cat answer)"
[ "$(prompt "{\"messages\":[$T],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}],\"chat_template_kwargs\":{\"enable_thinking\":false}}")" = 'Tg EFalse [tool||t|||i]>' ] ||
    fail "tools and arguments: $(cat answer)"
[ "$(prompt "{\"messages\":[$U,{\"role\":\"assistant\",\"content\":\"so far\"}],\"continue_final_message\":true}")" = $'[user|n|a\nb|||][assistant||so far' ] || fail "prefill: $(cat answer)"
ask 200 /v1/chat/completions "{\"messages\":[$U,$A,$T],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}],\"max_tokens\":2}"
ends TERM
cat >talk/chat_template.jinja <<'TEMPLATE' # walks through parts, and knows strings of arguments
{%- for m in messages %}[{{ m.role }}|{% if m['content'] is string %}{{ m.content }}{% else %}{% for p in m['content'] %}{{ p.text | trim }}{% endfor %}{% endif %}
{%- for c in m.tool_calls %}{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}{% endfor %}]{% endfor %}
TEMPLATE
MODEL=talk serve
[ "$(prompt "{\"messages\":[$U,$A,$T]}")" = '[user|ab][assistant|{"x":"5"}][tool|t]' ] || fail "as the template knows it: $(cat answer)"
ends TERM
printf '{%% for m in messages %%}<{{ m.role + m.content }}>{%% endfor %%}' >talk/chat_template.jinja # fails over a content that is not there
MODEL=talk serve
[ "$(prompt "{\"messages\":[$U,$A,$T]}")" = $'<usera\nb><assistant><toolt>' ] || fail "an empty content: $(cat answer)"
ends TERM
MODEL=$HF serve
ask 400 /v1/chat/completions "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]}"
grep -q "no place for tools" answer || { cat answer; fail "tools"; }
ask 200 /v1/chat/completions "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}],\"tool_choice\":\"none\",\"max_tokens\":1}"
ends TERM

say "usage"
refuse 2 "MODEL is missing" "$KRONQ" serve
refuse 2 "port" "$KRONQ" serve "$HF" --port 99999
refuse 2 "ctx" "$KRONQ" serve "$HF" --ctx 600
refuse 2 "slots" "$KRONQ" serve "$HF" --slots 0
refuse 2 "key/value cache" "$KRONQ" serve "$HF" --kv f8
refuse 1 "--host '256.1.1.1'" "$KRONQ" serve "$HF" --host 256.1.1.1
refuse 1 "--host 'no.such.host.invalid'" "$KRONQ" serve "$HF" --host no.such.host.invalid
refuse 1 "--host 192.0.2.1 --port 0: cannot listen there" "$KRONQ" serve "$HF" --host 192.0.2.1 --port 0
refuse 2 "--cors 'a.example'" "$KRONQ" serve "$HF" --cors a.example
refuse 2 "--cors 'https://a.example/'" "$KRONQ" serve "$HF" --cors https://a.example/
refuse 2 "--allow-host" "$KRONQ" serve "$HF" --allow-host 'http://x'
refuse 2 "--alias ''" "$KRONQ" serve "$HF" --alias ''
refuse 2 "UTF-8 is expected" "$KRONQ" serve "$HF" --alias $'a\xff'
exit 0
