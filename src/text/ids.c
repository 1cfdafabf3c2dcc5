/* Documents -> token ids, joined. How much text gives enough tokens is not known beforehand: files are read
 * up to a length that is doubled until the tokens are there, so that a calibration never reads more than
 * twice what it uses. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "text/text.h"

typedef struct gathering {
    kq_text_ids *out;
    size_t cap;
    const kq_text_how *how;
    size_t n_tokens;          /* after which an early reading ends */
    size_t special, bytes;    /* of the file's documents: special tokens that they spell out; their text */
    bool early, first, began; /* began: there was a document */
    int32_t end;              /* joins documents, -1: none */
} gathering;

static bool stop(void *ctx)
{
    const kq_common *c = ctx;
    return c && c->progress && c->progress(c->ctx, "reading text", 0, NULL);
}

static kq_status append(gathering *g, const int32_t *ids, size_t n, kq_error *err)
{
    kq_text_ids *list = g->out;
    void *block = list->ids;
    kq_status status = kq_grow(&block, &g->cap, list->n, list->n + n, sizeof *ids, "token ids", err);
    list->ids = block;
    if (status)
        return status;
    if (n)
        memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return KQ_OK;
}

static kq_status add_document(void *ctx, const kq_text_document *doc, bool *enough, kq_error *err)
{
    gathering *g = ctx;
    const kq_tokenizer *tok = g->how->tok;
    const bool specials = doc->conversation || !g->how->options.spell_special,
               first = g->first && !g->began && !doc->conversation;
    const kq_encode_options o = {
        .add_special = first, .parse_special = specials, .stop = stop, .ctx = (void *)g->how->common};
    int32_t *ids = NULL;
    size_t n;
    kq_status status = KQ_OK;
    if (g->began && g->end >= 0)
        status = append(g, &g->end, 1, err);
    g->began = true;
    if (!status && !(status = kq_tokenizer_encode_with(tok, doc->text, doc->size, &o, &ids, &n, err)))
        status = append(g, ids, n, err);
    g->bytes += doc->size;
    for (size_t i = first && n && ids[0] == kq_tokenizer_bos(tok); specials && i < n && !status; i++)
        g->special += kq_tokenizer_is_special(tok, ids[i]);
    kq_free(ids);
    *enough = *enough || (g->early && g->out->n >= g->n_tokens);
    return status;
}

static kq_status add_file(gathering *g, const char *path, bool *whole, kq_error *err)
{
    kq_text_info info;
    const size_t before = g->out->n;
    g->special = g->bytes = 0;
    kq_status status = kq_text_read(path, g->how, add_document, g, &info, err);
    if (!status && !g->bytes)
        status = kq_fail(err, KQ_E_ARG, "%s: holds no text", kq_text_shown(path));
    if (status)
        return status;
    *whole = *whole && info.whole;
    json_t *o =
        json_pack("{s:s, s:s, s:s*, s:s, s:I, s:I, s:I, s:b, s:I, s:I}", "file", kq_text_name(path), "format",
                  info.format, "packing", info.packing, "encoding", info.encoding, "documents",
                  (json_int_t)info.documents, "conversations", (json_int_t)info.conversations, "bytes",
                  (json_int_t)info.bytes, "whole", info.whole, "tokens", (json_int_t)(g->out->n - before),
                  "special_tokens", (json_int_t)g->special);
    return json_array_append_new(g->out->report, o) ? kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path)
                                                    : KQ_OK;
}

/* What each file was taken for, as a line. */
static kq_status note_files(const kq_common *c, const json_t *report, kq_error *err)
{
    const json_t *o;
    size_t i;
    kq_status status = KQ_OK;
    json_array_foreach((json_t *)report, i, o) {
        char line[400], specials[60] = "";
        const char *packing = json_string_value(json_object_get(o, "packing")),
                   *encoding = json_string_value(json_object_get(o, "encoding"));
        const json_int_t n = json_integer_value(json_object_get(o, "documents")),
                         special = json_integer_value(json_object_get(o, "special_tokens"));
        const bool talks = json_integer_value(json_object_get(o, "conversations")) > 0,
                   whole = json_is_true(json_object_get(o, "whole"));
        if (special)
            snprintf(specials, sizeof specials, ", %lld of them special", special);
        const bool utf8 = !strcmp(encoding, "UTF-8");
        snprintf(line, sizeof line, "%.100s: %s%s%s%s%s, %s%lld %s%s, %lld tokens%s",
                 json_string_value(json_object_get(o, "file")),
                 json_string_value(json_object_get(o, "format")), packing ? " in " : "",
                 packing ? packing : "", utf8 ? "" : ", ", utf8 ? "" : encoding, whole ? "" : "the first ", n,
                 talks ? "conversation" : "document", n == 1 ? "" : "s",
                 json_integer_value(json_object_get(o, "tokens")), specials);
        if (!status && c->progress(c->ctx, "reading text", 0, line))
            status = kq_fail(err, KQ_E_INTERRUPTED, "stopped after reading %s", line);
    }
    return status;
}

static kq_status encode(const char *const *files, size_t n_files, const kq_text_how *how, size_t n_tokens,
                        bool early, bool first, kq_text_ids *out, kq_error *err)
{
    kq_text_how h = *how;
    *out = (kq_text_ids){0};
    for (;;) {
        gathering g = {.out = out,
                       .how = &h,
                       .n_tokens = n_tokens,
                       .early = early,
                       .first = first,
                       .end = kq_tokenizer_document_end(how->tok)};
        bool whole = true;
        if (!(out->report = json_array()))
            return kq_fail(err, KQ_E_MEMORY, "out of memory: texts");
        kq_status status = KQ_OK;
        for (size_t i = 0; i < n_files && !status && !(early && out->n >= n_tokens); i++)
            status = add_file(&g, files[i], &whole, err);
        if (!status && (whole || out->n >= n_tokens)) {
            if (how->common && how->common->progress && (status = note_files(how->common, out->report, err)))
                kq_text_ids_free(out);
            return status;
        }
        kq_text_ids_free(out);
        if (status)
            return status;
        h.reach = h.reach > SIZE_MAX / 2 ? SIZE_MAX : 2 * h.reach;
    }
}

kq_status kq_text_encode(const char *const *files, size_t n_files, const kq_text_how *how, size_t n_tokens,
                         bool early, bool first, kq_text_ids *out, kq_error *err)
{
    kq_text_keep(); /* a pipe may have to be read again, further */
    const kq_status status = encode(files, n_files, how, n_tokens, early, first, out, err);
    kq_text_forget();
    return status;
}

void kq_text_ids_free(kq_text_ids *t)
{
    kq_free(t->ids);
    json_decref(t->report);
    *t = (kq_text_ids){0};
}
