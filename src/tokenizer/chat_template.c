/* Which chat templates a model has, and the special tokens that they know by name, as transformers'
 * tokenizers have them. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/gguf.h"
#include "format/gguf_write.h"
#include "tokenizer/convert.h"
#include "tokenizer/internal.h"

enum { MAX_TEMPLATE = 1 << 24, MAX_TEMPLATES = 64 };

static kq_status no_memory(const char *path, kq_error *err)
{
    return kq_fail(err, KQ_E_MEMORY, "%s: out of memory: chat templates", path);
}

/* "chat_template": one text, or a list of {"name", "template"}. */
static kq_status from_config(kq_tokenizer *tok, const json_t *t, const char *path, kq_error *err)
{
    const json_t *item;
    size_t i;
    if (!t || json_is_null(t))
        return KQ_OK;
    json_decref(tok->chat_templates);
    if (!(tok->chat_templates = json_object()))
        return no_memory(path, err);
    if (json_is_string(t))
        return json_object_set(tok->chat_templates, "default", (json_t *)t) ? no_memory(path, err) : KQ_OK;
    if (!json_is_array(t) || json_array_size(t) > MAX_TEMPLATES)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: chat_template is neither a text nor a list of {\"name\", \"template\"}", path);
    json_array_foreach((json_t *)t, i, item)
    {
        const json_t *name = json_object_get(item, "name"), *text = json_object_get(item, "template");
        if (!json_is_string(name) || !json_is_string(text))
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: entry %zu of chat_template has no \"name\" and \"template\"", path, i);
        if (json_object_set(tok->chat_templates, json_string_value(name), (json_t *)text))
            return no_memory(path, err);
    }
    return KQ_OK;
}

/* A token's text: a string, or {"content": ...}. */
static const json_t *token_text(const json_t *v)
{
    const json_t *text = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(text) ? text : NULL;
}

static bool role(const char *key)
{
    const size_t n = strlen(key);
    return n > 6 && !strcmp(key + n - 6, "_token");
}

kq_status kq_chat_templates_from_config(kq_tokenizer *tok, const json_t *config, const char *path,
                                        kq_error *err)
{
    /* objects: the first as transformers 5 writes it */
    const char *const named[] = {"model_specific_special_tokens", "extra_special_tokens"};
    const char *key;
    json_t *v;
    kq_status status = from_config(tok, json_object_get(config, "chat_template"), path, err);
    if (status)
        return status;
    json_decref(tok->special_map);
    if (!(tok->special_map = json_object()))
        return no_memory(path, err);
    json_object_foreach(
        (json_t *)config, key,
        v) if (role(key) && token_text(v) &&
               json_object_set(tok->special_map, key, (json_t *)token_text(v))) return no_memory(path, err);
    for (size_t i = 0; i < 2; i++)
        json_object_foreach(json_object_get(config, named[i]), key,
                            v) if (token_text(v) &&
                                   json_object_set(tok->special_map, key,
                                                   (json_t *)token_text(v))) return no_memory(path, err);
    return KQ_OK;
}

static kq_status add_file(json_t *all, const char *name, const char *path, kq_error *err)
{
    char *text = NULL;
    size_t size;
    kq_status status = kq_file_read(path, MAX_TEMPLATE, &text, &size, err);
    if (!status && kq_utf8_valid(text, size) < size)
        status = kq_fail(err, KQ_E_FORMAT, "%s: not UTF-8 text", path);
    if (!status && json_object_set_new(all, name, json_stringn_nocheck(text, size)))
        status = no_memory(path, err);
    kq_free(text);
    return status;
}

static bool jinja_file(const char *name)
{
    const size_t n = strlen(name);
    return n > 6 && n < 200 && !strcmp(name + n - 6, ".jinja");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

kq_status kq_chat_template_files(const char *dir, char ***names, size_t *n, kq_error *err)
{
    char path[4096];
    *names = NULL;
    *n = 0;
    kq_status status = kq_path_join(path, sizeof path, dir, "additional_chat_templates", err);
    DIR *d = status ? NULL : opendir(path);
    if (!d)
        return status;
    if (!(*names = kq_calloc(MAX_TEMPLATES, sizeof **names)))
        status = no_memory(path, err);
    for (const struct dirent *e; !status && (e = readdir(d));) {
        if (!jinja_file(e->d_name))
            continue;
        if (*n == MAX_TEMPLATES)
            status = kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d chat templates", path, MAX_TEMPLATES);
        else if (!((*names)[*n] = strdup(e->d_name)))
            status = no_memory(path, err);
        else
            ++*n;
    }
    closedir(d);
    if (status) {
        kq_chat_template_files_free(*names, *n);
        *names = NULL;
        *n = 0;
    } else if (*n)
        qsort(*names, *n, sizeof **names, by_name);
    return status;
}

void kq_chat_template_files_free(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    kq_free(names);
}

kq_status kq_chat_templates_from_folder(kq_tokenizer *tok, const char *dir, kq_error *err)
{
    char path[4096], more[4096], file[4096];
    char **names = NULL;
    size_t n = 0;
    json_t *all = json_object();
    kq_status status = all ? KQ_OK : no_memory(dir, err);
    if (!status)
        status = kq_path_join(path, sizeof path, dir, "chat_template.jinja", err);
    if (!status && kq_path_exists(path))
        status = add_file(all, "default", path, err);
    if (!status && !(status = kq_path_join(more, sizeof more, dir, "additional_chat_templates", err)))
        status = kq_chat_template_files(dir, &names, &n, err);
    for (size_t i = 0; i < n && !status; i++) {
        char name[256] = "";
        memcpy(name, names[i], strlen(names[i]) - 6);
        if (!(status = kq_path_join(file, sizeof file, more, names[i], err)))
            status = add_file(all, name, file, err);
    }
    kq_chat_template_files_free(names, n);
    if (!status && json_object_size(all)) { /* files win over tokenizer_config.json */
        json_decref(tok->chat_templates);
        tok->chat_templates = json_incref(all);
    }
    json_decref(all);
    return status;
}

/* ---- GGUF ---- */

/* One text; *out NULL: the key is not there. */
static kq_status gguf_text(const kq_gguf *g, const char *key, const char *path, json_t **out, kq_error *err)
{
    const char *s;
    size_t size;
    *out = NULL;
    if (!kq_gguf_str(kq_gguf_find(g, key), 0, &s, &size))
        return KQ_OK;
    if (kq_utf8_valid(s, size) < size || memchr(s, 0, size))
        return kq_fail(err, KQ_E_FORMAT, "%s: %.80s is not UTF-8 text", path, key);
    return (*out = json_stringn_nocheck(s, size)) ? KQ_OK : no_memory(path, err);
}

kq_status kq_chat_templates_of_gguf(const kq_gguf *g, const char *path, json_t **out, kq_error *err)
{
    const kq_gguf_kv *names = kq_gguf_find(g, "tokenizer.chat_templates");
    json_t *one = NULL, *list;
    const char *s;
    size_t size;
    kq_status status = gguf_text(g, "tokenizer.chat_template", path, out, err);
    if (status || !kq_gguf_str(names, 0, &s, &size))
        return status;
    list = json_array();
    if (!list ||
        (*out && json_array_append_new(list, json_pack("{s:s,s:O}", "name", "default", "template", *out))))
        status = no_memory(path, err);
    for (size_t i = 0; !status && i < MAX_TEMPLATES && kq_gguf_str(names, i, &s, &size); i++) {
        char key[200];
        if (size > 100 || kq_utf8_valid(s, size) < size || memchr(s, 0, size))
            status =
                kq_fail(err, KQ_E_FORMAT, "%s: entry %zu of tokenizer.chat_templates is not a name", path, i);
        snprintf(key, sizeof key, "tokenizer.chat_template.%.*s", size > 100 ? 100 : (int)size, s);
        if (status || (status = gguf_text(g, key, path, &one, err)) || !one)
            continue;
        if (json_array_append_new(list, json_pack("{s:s%,s:o}", "name", s, size, "template", one)))
            status = no_memory(path, err);
    }
    json_decref(*out);
    *out = list;
    return status;
}

/* As llama.cpp's converter writes them: names with '_' for what is neither letter nor digit. */
kq_status kq_chat_templates_to_gguf(struct kq_gguf_writer *w, const kq_tokenizer *tok, kq_error *err)
{
    char name[MAX_TEMPLATES][120];
    const char *list[MAX_TEMPLATES], *key;
    size_t n = 0;
    json_t *text;
    kq_status status = KQ_OK;
    json_object_foreach(tok->chat_templates, key, text)
    {
        char full[200];
        if (!strcmp(key, "default")) {
            status = kq_gguf_writer_str(w, "tokenizer.chat_template", json_string_value(text), err);
        } else if (n < MAX_TEMPLATES) {
            snprintf(name[n], sizeof name[n], "%s", key);
            for (char *c = name[n]; *c; c++)
                if (!((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z')))
                    *c = '_';
            snprintf(full, sizeof full, "tokenizer.chat_template.%s", name[n]);
            list[n] = name[n];
            n++;
            status = kq_gguf_writer_str(w, full, json_string_value(text), err);
        }
        if (status)
            return status;
    }
    return n ? kq_gguf_writer_strings(w, "tokenizer.chat_templates", list, n, err) : KQ_OK;
}

const char *kq_tokenizer_chat_template(const kq_tokenizer *tok)
{
    return json_string_value(json_object_get(tok->chat_templates, "default"));
}

const json_t *kq_tokenizer_chat_templates(const kq_tokenizer *tok)
{
    return tok->chat_templates;
}

const json_t *kq_tokenizer_special_tokens(const kq_tokenizer *tok)
{
    return tok->special_map;
}
