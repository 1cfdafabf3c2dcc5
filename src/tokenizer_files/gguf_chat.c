/* Reads the chat templates in a GGUF's metadata into the form that tokenizer_config.json has. */
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "tokenizer_files/internal.h"

/* *out = the text with this key; NULL: there is none. */
static kq_status gguf_text(const kq_gguf *g, const char *key, const char *path, json_t **out, kq_error *err)
{
    const char *s;
    size_t size;
    *out = NULL;
    if (!kq_gguf_str(kq_gguf_find(g, key), 0, &s, &size))
        return KQ_OK;
    if (kq_utf8_valid(s, size) < size || memchr(s, 0, size))
        return kq_fail(err, KQ_E_FORMAT, "%s: %.80s is not UTF-8 text", path, key);
    return (*out = json_stringn_nocheck(s, size))
               ? KQ_OK
               : kq_fail(err, KQ_E_MEMORY, "%s: out of memory: chat templates", path);
}

kq_status kq_chat_templates_of_gguf(const kq_gguf *g, const char *path, json_t **out, kq_error *err)
{
    const kq_gguf_kv *names = kq_gguf_find(g, "tokenizer.chat_templates");
    json_t *template = NULL, *list;
    const char *s;
    size_t size;
    kq_status status = gguf_text(g, "tokenizer.chat_template", path, out, err);
    if (status || !kq_gguf_str(names, 0, &s, &size))
        return status;
    list = json_array();
    if (!list ||
        (*out && json_array_append_new(list, json_pack("{s:s,s:O}", "name", "default", "template", *out))))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory: chat templates", path);
    for (size_t i = 0; !status && i < KQ_MAX_CHAT_TEMPLATES && kq_gguf_str(names, i, &s, &size); i++) {
        char key[200];
        if (size > 100 || kq_utf8_valid(s, size) < size || memchr(s, 0, size))
            status =
                kq_fail(err, KQ_E_FORMAT, "%s: entry %zu of tokenizer.chat_templates is not a name", path, i);
        snprintf(key, sizeof key, "tokenizer.chat_template.%.*s", size > 100 ? 100 : (int)size, s);
        if (status || (status = gguf_text(g, key, path, &template, err)) || !template)
            continue;
        if (json_array_append_new(list, json_pack("{s:s%,s:o}", "name", s, size, "template", template)))
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory: chat templates", path);
    }
    json_decref(*out);
    *out = list;
    return status;
}
