#include "quant/tokens.h"

#include <jansson.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

typedef struct id_list {
    int32_t *ids; /* owned */
    size_t n, cap;
} id_list;

static kq_status append(id_list *list, const int32_t *ids, size_t n, kq_error *err)
{
    if (n > list->cap - list->n) {
        size_t cap = 2 * (list->n + n) + 1024;
        int32_t *grown = kq_alloc(cap, sizeof *grown);
        if (!grown)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: %zu token ids", cap);
        if (list->n)
            memcpy(grown, list->ids, list->n * sizeof *grown);
        kq_free(list->ids);
        list->ids = grown;
        list->cap = cap;
    }
    if (n)
        memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return KQ_OK;
}

static kq_status add_document(const kq_tokenizer *tok, const char *text, size_t size, id_list *list, kq_error *err)
{
    int32_t *ids = NULL;
    size_t n;
    const int32_t end = kq_tokenizer_document_end(tok);
    kq_status status = KQ_OK;
    if (list->n && end >= 0)
        status = append(list, &end, 1, err);
    if (!status && !(status = kq_tokenizer_encode(tok, text, size, false, false, &ids, &n, err)))
        status = append(list, ids, n, err);
    kq_free(ids);
    return status;
}

static kq_status add_jsonl(const kq_tokenizer *tok, const char *path, const char *data, size_t size, id_list *list, kq_error *err)
{
    kq_status status = KQ_OK;
    size_t line = 0;
    for (const char *p = data, *end = data + size; p < end && !status; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        const size_t n = (size_t)((nl ? nl : end) - p);
        if (n && !(n == 1 && *p == '\r')) {
            json_error_t je;
            json_t *o = json_loadb(p, n, JSON_ALLOW_NUL, &je);
            const json_t *text = json_object_get(o, "text");
            if (!o)
                status = kq_fail(err, KQ_E_FORMAT, "%s: line %zu: %s", path, line + 1, je.text);
            else if (!json_is_string(text))
                status = kq_fail(err, KQ_E_FORMAT, "%s: line %zu has no \"text\" string", path, line + 1);
            else
                status = add_document(tok, json_string_value(text), json_string_length(text), list, err);
            json_decref(o);
        }
        p += n + 1;
    }
    return status;
}

static bool is_jsonl(const char *path)
{
    size_t n = strlen(path);
    return n > 6 && !strcmp(path + n - 6, ".jsonl");
}

void kq_windows_free(kq_windows *w)
{
    kq_free(w->ids);
    kq_free(w->number);
    *w = (kq_windows){0};
}

void kq_windows_pick(const kq_windows *w, size_t count, uint32_t *seq)
{
    const size_t step = w->of ? w->of / count : 1;
    for (size_t i = 0, at = 0; i < count; i++) {
        while (w->number[at] != i * step)
            at++;
        seq[i] = (uint32_t)at;
    }
}

/* The windows that some count takes, out of the text's ids. */
static kq_status take_windows(const id_list *list, const size_t *counts, size_t n_counts, size_t seq_len, kq_windows *out, kq_error *err)
{
    uint8_t *taken = kq_calloc(out->of, 1);
    if (!taken)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: %zu windows of text", out->of);
    for (size_t c = 0; c < n_counts; c++)
        for (size_t i = 0; i < counts[c]; i++)
            taken[i * (out->of / counts[c])] = 1;
    for (size_t i = 0; i < out->of; i++)
        out->n += taken[i];
    kq_status status = kq_alloc_for((void **)&out->ids, out->n * seq_len, sizeof *out->ids, "token ids", err);
    if (!status)
        status = kq_alloc_for((void **)&out->number, out->n, sizeof *out->number, "windows", err);
    for (size_t i = 0, at = 0; i < out->of && !status; i++) {
        if (!taken[i])
            continue;
        memcpy(out->ids + at * seq_len, list->ids + i * seq_len, seq_len * sizeof *out->ids);
        out->number[at++] = (uint32_t)i;
    }
    kq_free(taken);
    return status;
}

kq_status kq_text_windows(const kq_tokenizer *tok, const char *const *files, size_t n_files, const size_t *counts, size_t n_counts, size_t seq_len,
                          kq_windows *out, kq_error *err)
{
    *out = (kq_windows){0};
    id_list list = {0};
    kq_status status = KQ_OK;
    size_t most = 0;
    for (size_t i = 0; i < n_files && !status; i++) {
        kq_map map;
        if ((status = kq_map_open(files[i], &map, err)))
            break;
        const size_t before = list.n;
        status = is_jsonl(files[i]) ? add_jsonl(tok, files[i], (const char *)map.data, map.size, &list, err)
                                    : add_document(tok, (const char *)map.data, map.size, &list, err);
        const bool empty = map.size == 0 || list.n == before;
        kq_map_close(&map);
        if (!status && empty)
            status = kq_fail(err, KQ_E_ARG, "%s: holds no text", files[i]);
    }
    for (size_t c = 0; c < n_counts; c++)
        most = counts[c] > most ? counts[c] : most;
    out->of = list.n / seq_len;
    if (!status && (out->of < most || out->of > UINT32_MAX))
        status = kq_fail(err, KQ_E_ARG, "%s%s: %zu tokens make %zu whole sequences of %zu, %zu are asked for; give more --text or fewer --tokens",
                         files[0], n_files > 1 ? " and the other texts" : "", list.n, out->of, seq_len, most);
    if (!status)
        status = take_windows(&list, counts, n_counts, seq_len, out, err);
    if (status)
        kq_windows_free(out);
    kq_free(list.ids);
    return status;
}
