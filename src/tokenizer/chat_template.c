/* Which chat templates a model has, and the special tokens that they know by name, as transformers'
 * tokenizers have them. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "tokenizer/convert.h"
#include "tokenizer/internal.h"
#include "tokenizer_files/tokenizer_files.h"

enum { MAX_TEMPLATE = 1 << 24 }; /* bytes of a file */

static kq_status no_memory(const char *path, kq_error *err)
{
    return kq_fail(err, KQ_E_MEMORY, "%s: out of memory: chat templates", path);
}

/* Read "chat_template" of a tokenizer_config.json, which is one text or a list of {"name", "template"}. */
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
    if (!json_is_array(t) || json_array_size(t) > KQ_MAX_CHAT_TEMPLATES)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: chat_template is neither a text nor a list of {\"name\", \"template\"}", path);
    json_array_foreach((json_t *)t, i, item) {
        const json_t *name = json_object_get(item, "name"), *text = json_object_get(item, "template");
        if (!json_is_string(name) || !json_is_string(text))
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: entry %zu of chat_template has no \"name\" and \"template\"", path, i);
        if (json_object_set(tok->chat_templates, json_string_value(name), (json_t *)text))
            return no_memory(path, err);
    }
    return KQ_OK;
}

static bool role(const char *key)
{
    const size_t n = strlen(key);
    return n > 6 && !strcmp(key + n - 6, "_token");
}

kq_status kq_chat_templates_from_config(kq_tokenizer *tok, const json_t *config, const char *path,
                                        kq_error *err)
{
    /* two keys whose value is an object; transformers 5 writes the first */
    const char *const named[] = {"model_specific_special_tokens", "extra_special_tokens"};
    const char *key;
    json_t *v;
    kq_status status = from_config(tok, json_object_get(config, "chat_template"), path, err);
    if (status)
        return status;
    json_decref(tok->special_map);
    if (!(tok->special_map = json_object()))
        return no_memory(path, err);
    json_object_foreach((json_t *)config, key, v)
        if (role(key) && kq_token_text(v) &&
            json_object_set(tok->special_map, key, (json_t *)kq_token_text(v)))
            return no_memory(path, err);
    for (size_t i = 0; i < 2; i++)
        json_object_foreach(json_object_get(config, named[i]), key, v)
            if (kq_token_text(v) && json_object_set(tok->special_map, key, (json_t *)kq_token_text(v)))
                return no_memory(path, err);
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

/* Put the names of an open folder's templates into names [KQ_MAX_CHAT_TEMPLATES]. */
static kq_status list_files(DIR *d, const char *path, char **names, size_t *n, kq_error *err)
{
    for (const struct dirent *e; (e = readdir(d));) {
        if (!jinja_file(e->d_name))
            continue;
        if (*n == KQ_MAX_CHAT_TEMPLATES)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d chat templates", path,
                           KQ_MAX_CHAT_TEMPLATES);
        if (!(names[*n] = strdup(e->d_name)))
            return no_memory(path, err);
        ++*n;
    }
    return KQ_OK;
}

kq_status kq_chat_template_files(const char *dir, char ***names, size_t *n, kq_error *err)
{
    char *path;
    *names = NULL;
    *n = 0;
    kq_status status = kq_path_in(&path, err, dir, "additional_chat_templates");
    DIR *d = status ? NULL : opendir(path);
    if (d && !(*names = kq_calloc(KQ_MAX_CHAT_TEMPLATES, sizeof **names)))
        status = no_memory(path, err);
    else if (d)
        status = list_files(d, path, *names, n, err);
    if (d)
        closedir(d);
    kq_free(path);
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

/* Add DIR/FILE, if it exists, as the template `name`. */
static kq_status add_beside(json_t *all, const char *name, const char *dir, const char *file, kq_error *err)
{
    char *path;
    kq_status status = kq_path_in(&path, err, dir, "%s", file);
    if (!status && kq_path_exists(path))
        status = add_file(all, name, path, err);
    kq_free(path);
    return status;
}

kq_status kq_chat_templates_from_folder(kq_tokenizer *tok, const char *dir, kq_error *err)
{
    char **names = NULL, *more = NULL;
    size_t n = 0;
    json_t *all = json_object();
    kq_status status = all ? KQ_OK : no_memory(dir, err);
    if (!status && !(status = add_beside(all, "default", dir, "chat_template.jinja", err)) &&
        !(status = kq_path_in(&more, err, dir, "additional_chat_templates")))
        status = kq_chat_template_files(dir, &names, &n, err);
    for (size_t i = 0; i < n && !status; i++) {
        char name[256] = "";
        memcpy(name, names[i], strlen(names[i]) - 6);
        status = add_beside(all, name, more, names[i], err);
    }
    kq_chat_template_files_free(names, n);
    kq_free(more);
    if (!status && json_object_size(all)) { /* files take the place of tokenizer_config.json's templates */
        json_decref(tok->chat_templates);
        tok->chat_templates = json_incref(all);
    }
    json_decref(all);
    return status;
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
