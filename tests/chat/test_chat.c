/* Chat templates against transformers' apply_chat_template (golden files: scripts/make_chat_cases.py). */
#include <time.h>
#include <unistd.h>

#include "chat/chat.h"
#include "tokenizer/tokenizer_check.h"
#include "base/mem.h"
#include "tokenizer/convert.h"

/* A tokenizer whose vocabulary is a few special tokens, with the given tokenizer_config.json
 * ("chat_template" in it, or set here). */
static kq_tokenizer *make(json_t *config, const char *chat_template)
{
    kq_error err;
    kq_tokenizer *tok;
    json_t *root = json_pack("{s:{s:s,s:{s:i,s:i,s:i,s:i},s:[]}}", "model", "type", "BPE", "vocab", "<s>", 0,
                             "</s>", 1, "<unk>", 2, "<pad>", 3, "merges");
    if (chat_template)
        json_object_set_new(config, "chat_template", json_string(chat_template));
    check_ok(kq_tokenizer_from_json(root, "test", &tok, &err));
    check_ok(kq_tokenizer_apply_config(tok, config, "test", &err));
    json_decref(root);
    json_decref(config);
    return tok;
}

static kq_tokenizer *with_template(const char *text)
{
    return make(json_pack("{s:s,s:s}", "bos_token", "<s>", "eos_token", "</s>"), text);
}

static void against_transformers(void **state)
{
    (void)state;
    json_t *all = golden_json("chat/cases.json"), *rows, *row;
    const char *name;
    size_t n = 0, templates = 0, errors = 0, i;
    json_object_foreach(json_object_get(all, "results"), name, rows) {
        char path[100];
        size_t size;
        snprintf(path, sizeof path, "chat/%s.jinja", name);
        char *source = golden_read(path, &size);
        kq_tokenizer *tok = make(json_deep_copy(json_object_get(all, "special")), source);
        templates++;
        json_array_foreach(rows, i, row) {
            const json_int_t talk = json_integer_value(json_array_get(row, 0)),
                             mode = json_integer_value(json_array_get(row, 1));
            const char *want = json_string_value(json_array_get(row, 2));
            const json_t *c = json_array_get(json_object_get(all, "conversations"), (size_t)talk);
            const kq_chat chat = {.messages = json_object_get(c, "messages"),
                                  .tools = json_object_get(c, "tools"),
                                  .arguments = json_object_get(c, "arguments"),
                                  .add_generation_prompt = mode == 1,
                                  .continue_final_message = mode == 2};
            char *text = NULL, key[120], hash[17] = "";
            kq_error err;
            const kq_status status = kq_chat_render(tok, &chat, &text, &err);
            snprintf(key, sizeof key, "%s/%lld/%lld", name, (long long)talk, (long long)mode);
            if (text)
                snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv1a(text, strlen(text)));
            const char *full = json_string_value(json_object_get(json_object_get(all, "texts"), key));
            if (full && (!text || strcmp(text, full)))
                fail_msg("%s (%s):\n%s\nwant\n%s", key, json_string_value(json_object_get(c, "name")),
                         text ? text : err.message, full);
            if (want ? strcmp(hash, want) != 0 : status != KQ_E_ARG)
                fail_msg("%s (%s): %s\n%s", key, json_string_value(json_object_get(c, "name")),
                         want ? "another text than transformers'" : "transformers refuses these messages",
                         text ? text : err.message);
            n++;
            errors += !want;
            kq_free(text);
        }
        kq_tokenizer_close(tok);
        kq_free(source);
    }
    print_message("%zu templates, %zu renderings, %zu of them refused by the template\n", templates, n,
                  errors);
    assert_true(templates >= 40 && n > 2000);
    json_decref(all);
}

static char *render(const kq_tokenizer *tok, const kq_chat *chat)
{
    kq_error err;
    char *text = NULL;
    check_ok(kq_chat_render(tok, chat, &text, &err));
    return text;
}

static bool at_once(void *ctx)
{
    return !ctx;
}

static void refusals(void **state)
{
    (void)state;
    kq_error err;
    char *text;
    json_t *hi = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi"), *empty = json_array(),
           *number = json_pack("[i]", 1);
    json_t *taken = json_pack("{s:[]}", "messages"),
           *null = json_pack("[{s:s,s:n}]", "role", "assistant", "content");
    const kq_chat user = {.messages = hi, .add_generation_prompt = true},
                  both = {.messages = hi, .add_generation_prompt = true, .continue_final_message = true},
                  none = {.messages = empty}, bad = {.messages = number},
                  bad_tools = {.messages = hi, .tools = number},
                  bad_args = {.messages = hi, .arguments = taken},
                  nothing = {.messages = null, .continue_final_message = true};
    kq_tokenizer *tok = make(json_object(), NULL);
    check_fails(kq_chat_render(tok, &user, &text, &err), KQ_E_UNSUPPORTED, "no chat template");
    check_fails(kq_chat_check(tok, &err), KQ_E_UNSUPPORTED, "no chat template");
    kq_tokenizer_close(tok);
    tok = with_template("{% for m in messages %}\n{{ m.content | pprint }}{% endfor %}");
    check_fails(kq_chat_render(tok, &user, &text, &err), KQ_E_UNSUPPORTED,
                "the chat template, line 2: the filter 'pprint'");
    check_fails(kq_chat_check(tok, &err), KQ_E_UNSUPPORTED, "pprint");
    kq_tokenizer_close(tok);
    tok = with_template("{{ messages[0].content }}");
    check_ok(kq_chat_check(tok, &err));
    check_fails(kq_chat_render(tok, &both, &text, &err), KQ_E_ARG, "not both");
    check_fails(kq_chat_render(tok, &none, &text, &err), KQ_E_ARG, "without messages");
    check_fails(kq_chat_render(tok, &bad, &text, &err), KQ_E_ARG, "message 0");
    check_fails(kq_chat_render(tok, &bad_tools, &text, &err), KQ_E_ARG, "tool 0");
    check_fails(kq_chat_render(tok, &bad_args, &text, &err), KQ_E_ARG, "not free");
    check_fails(kq_chat_render(tok, &nothing, &text, &err), KQ_E_ARG, "no content");
    kq_tokenizer_close(tok);
    tok = with_template("content: fixed");
    const kq_chat prefill = {.messages = hi, .continue_final_message = true};
    check_fails(kq_chat_render(tok, &prefill, &text, &err), KQ_E_ARG, "leaves out");
    kq_tokenizer_close(tok);
    tok = with_template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
    const kq_chat stopped = {.messages = hi, .stop = at_once};
    check_fails(kq_chat_render(tok, &stopped, &text, &err), KQ_E_INTERRUPTED, "stopped");
    kq_tokenizer_close(tok);
    tok = with_template("{{ 'a\\x00b' }}");
    check_fails(kq_chat_render(tok, &user, &text, &err), KQ_E_ARG, "NUL");
    kq_tokenizer_close(tok);
    json_decref(hi);
    json_decref(empty);
    json_decref(number);
    json_decref(taken);
    json_decref(null);
}

/* Several templates: by name, "tool_use" with tools; a list without "default" is refused as in
 * transformers. */
static void several(void **state)
{
    (void)state;
    kq_error err;
    char *text;
    json_t *hi = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi"), *tools = json_pack("[{}]");
    const kq_chat plain = {.messages = hi}, with_tools = {.messages = hi, .tools = tools};
    kq_tokenizer *tok =
        make(json_pack("{s:[{s:s,s:s},{s:s,s:s}]}", "chat_template", "name", "tool_use", "template",
                       "T{{ tools | length }}", "name", "default", "template", "D"),
             NULL);
    assert_string_equal(text = render(tok, &plain), "D");
    kq_free(text);
    assert_string_equal(text = render(tok, &with_tools), "T1");
    kq_free(text);
    assert_true(kq_chat_takes_tools(tok));
    assert_string_equal(kq_tokenizer_chat_template(tok), "D");
    kq_tokenizer_close(tok);
    tok = make(json_pack("{s:[{s:s,s:s}]}", "chat_template", "name", "rag", "template", "R"), NULL);
    check_fails(kq_chat_render(tok, &plain, &text, &err), KQ_E_UNSUPPORTED, "\"rag\"");
    kq_tokenizer_close(tok);
    tok = with_template("D");
    assert_false(kq_chat_takes_tools(tok));
    kq_tokenizer_close(tok);
    json_decref(hi);
    json_decref(tools);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[200];
    kq_error err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    check_ok(kq_file_write(path, text, strlen(text), &err));
}

/* Files win over tokenizer_config.json, and all of them come along with a checkpoint. */
static void files(void **state)
{
    (void)state;
    kq_error err;
    char dir[64], path[200], *text;
    size_t size;
    kq_tokenizer *tok;
    json_t *hi = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi"), *tools = json_pack("[{}]");
    const kq_chat plain = {.messages = hi}, with_tools = {.messages = hi, .tools = tools};
    snprintf(dir, sizeof dir, "chat_%d", (int)getpid());
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    check_ok(kq_mkdirs(path, &err));
    char *golden = golden_read("tokenizer_llama3.json", &size);
    write_file(dir, "tokenizer.json", golden);
    kq_free(golden);
    write_file(
        dir, "tokenizer_config.json",
        "{\"chat_template\": \"config\", \"bos_token\": {\"content\": \"<B>\"}, \"image_token\": \"<I>\", "
        "\"model_specific_special_tokens\": {\"video_token\": \"<W>\", \"audio_token\": {\"content\": "
        "\"<A>\"}}, "
        "\"extra_special_tokens\": {\"video_token\": \"<V>\"}}");
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    assert_string_equal(text = render(tok, &plain), "config");
    kq_free(text);
    kq_tokenizer_close(tok);
    write_file(dir, "chat_template.jinja",
               "file{{ bos_token }}{{ eos_token }}{{ image_token }}{{ video_token }}{{ audio_token }}\n");
    write_file(dir, "additional_chat_templates/tool_use.jinja", "tools");
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    assert_string_equal(text = render(tok, &plain), "file<B><I><V><A>");
    kq_free(text);
    assert_string_equal(text = render(tok, &with_tools), "tools");
    kq_free(text);
    kq_tokenizer_close(tok);
    check_ok(kq_remove_tree(dir, &err));
    json_decref(hi);
    json_decref(tools);
}

static void arguments(void **state)
{
    (void)state;
    static const struct {
        const char *text, *json;
    } good[] = {
        {"enable_thinking=false", "{\"enable_thinking\":false}"},
        {"a=1", "{\"a\":1}"},
        {"a=[1,{\"b\":null}]", "{\"a\":[1,{\"b\":null}]}"},
        {"a=plain text", "{\"a\":\"plain text\"}"},
        {"a=\"1\"", "{\"a\":\"1\"}"},
        {"a=", "{\"a\":\"\"}"},
        {"a=b=c", "{\"a\":\"b=c\"}"},
    };
    static const char *const bad[] = {
        "x",      "=1",         "messages=[]", "tools=[]", "a=True", "a=None", "add_generation_prompt=false",
        "a=\xff", "documents=1"};
    kq_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *v = NULL;
        check_ok(kq_chat_argument(&v, good[i].text, &err));
        char *text = json_dumps(v, JSON_COMPACT);
        assert_string_equal(text, good[i].json);
        free(text);
        json_decref(v);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *v = NULL;
        check_fails(kq_chat_argument(&v, bad[i], &err), KQ_E_ARG, "template argument");
        json_decref(v);
    }
}

/* How templates in use write loops over parts, and ask for the type of arguments. */
static void ways(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        bool parts, strings;
    } cases[] = {
        {"{% for m in messages %}{{ m.content }}{% endfor %}", false, false},
        {"{%- for item in message['content'] %}", true, false},
        {"{% for part in message[\"content\"] | selectattr('type', 'equalto', 'text') %}", true, false},
        {"{%- for block in messages[-1].content -%}", true, false},
        {"{%- macro render(content) %}{%- for item in content -%}{% endfor %}{% endmacro %}", true, false},
        {"{% if '</think>' in content %}{% set x = content.split('</think>')[-1] %}{% endif %}{% for line in "
         "content.split('\\n') %}",
         false, false},
        {"{% if message.content is string %}{% for x in contents %}{% for y in content_list %}", false,
         false},
        {"{% if tool_call.arguments is string %}", false, true},
        {"{% if tool_call['arguments'] is not mapping %}", false, true},
        {"{% if tool_call.arguments is defined and arguments %}", false, false},
        {"{% set c = m.get('content') %}{% for x in c %}{% if x['type'] == 'image' %}", true, false},
        {"{% if tool.type == \"function\" %}{% if x.type is defined and x.type in ['text'] %}", false, false},
        {"content", false, false},
        {"in content", false, false},
        {"for in content", false, false},
        {"arguments is", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_tokenizer *tok = with_template(cases[i].source);
        const kq_chat_ways w = kq_chat_ways_of(tok, NULL);
        if (w.parts != cases[i].parts || w.strings != cases[i].strings)
            fail_msg("%s: %d %d", cases[i].source, w.parts, w.strings);
        kq_tokenizer_close(tok);
    }
}

/* Today's date, in the local time zone: 26 Jul 2025, 03:20 in UTC is still the 25th in New York. */
static void date(void **state)
{
    (void)state;
    json_t *hi = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi");
    const kq_chat plain = {.messages = hi};
    kq_tokenizer *tok = with_template("{{ strftime_now('%d %b %Y') }}");
    char *text, today[40];
    setenv("TZ", "EST5EDT", 1);
    tzset();
    assert_string_equal(text = render(tok, &plain), "25 Jul 2025");
    kq_free(text);
    unsetenv("SOURCE_DATE_EPOCH");
    time_t t = time(NULL);
    strftime(today, sizeof today, "%d %b %Y", localtime(&t));
    assert_string_equal(text = render(tok, &plain), today);
    kq_free(text);
    setenv("TZ", "UTC", 1);
    setenv("SOURCE_DATE_EPOCH", "1753500000", 1);
    tzset();
    kq_tokenizer_close(tok);
    json_decref(hi);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    setenv("SOURCE_DATE_EPOCH", "1753500000", 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_transformers),
                                       cmocka_unit_test(refusals),
                                       cmocka_unit_test(several),
                                       cmocka_unit_test(files),
                                       cmocka_unit_test(arguments),
                                       cmocka_unit_test(ways),
                                       cmocka_unit_test(date)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
