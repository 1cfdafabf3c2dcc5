/* libFuzzer's entry: the bytes are a template, run over a fixed conversation. Any answer is right;
 * memory errors, and texts that are not UTF-8, are not. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "jinja/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" s\\u00e4y \"}, {\"role\": \"user\", \"content\": "
    "\"Hi <b>\"}, {\"role\": \"assistant\", \"content\": null,"
    "\"tool_calls\": [{\"id\": \"x\", \"function\": {\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, true, "
    "null, \"q\"]}}}]}, {\"role\": \"tool\", \"content\": \"\\ud83d\\ude00\"}],"
    "\"tools\": [{\"function\": {\"name\": \"f\", \"parameters\": {\"properties\": {\"a\": {\"type\": "
    "\"string\"}}}}}], \"add_generation_prompt\": true, \"bos_token\": \"<s>\","
    "\"eos_token\": \"</s>\", \"i\": 7, \"f\": 2.5, \"s\": \"Hello\", \"l\": [3, 1, 2], \"ls\": [\"b\", "
    "\"A\"], \"m\": {\"a\": 1, \"b\": {\"c\": [1]}}, \"n\": null}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *vars; /* for the life of the program */
    const struct tm now = {.tm_year = 125, .tm_mon = 6, .tm_mday = 26, .tm_wday = 6, .tm_yday = 206};
    kq_jinja *t = NULL;
    char *text = NULL, *source = malloc(size + 1); /* exactly sized, but for the empty one */
    size_t n = 0;
    kq_error err;
    if (!vars && !(vars = json_loads(variables, 0, NULL)))
        abort();
    memcpy(source, data, size);
    kq_status status = kq_jinja_parse(source, size, "fuzz", &t, &err);
    if (!status)
        status = kq_jinja_render(t, vars, &now, NULL, NULL, &text, &n, &err);
    if (status ? !*err.message : !text || text[n])
        abort();
    for (size_t at = 0; !status && at < n;) {
        utf8proc_int32_t cp;
        const utf8proc_ssize_t k =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &cp);
        if (k <= 0)
            abort();
        at += (size_t)k;
    }
    kq_free(text);
    kq_jinja_free(t);
    free(source);
    return 0;
}
