/* Writes the dequantized weights as an ordinary Hugging Face folder in bf16, which other programs load
 * without any code of kronq's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "checkpoint/card.h"
#include "export/rows.h"
#include "format/encode.h"
#include "format/json.h"
#include "tokenizer/tokenizer.h"
#include "checkpoint/side_files.h"

typedef struct hf_writer {
    kq_export_job *x;
    kq_gguf_slot *slots; /* owned; the tensors of a GGUF without rope_freqs, in Hugging Face's shapes */
    size_t n;
    kq_st_writer *w;  /* of the shard at work; borrowed */
    const char *name; /* of the tensor at work */
    size_t cols;
    uint8_t *buf;
    size_t cap; /* owned */
} hf_writer;

static kq_status put_rows(void *ctx, const float *rows, size_t n, kq_error *err)
{
    hf_writer *h = ctx;
    kq_status status = kq_grow((void **)&h->buf, &h->cap, 0, n * h->cols, 2, h->name, err);
    if (status)
        return status;
    size_t at;
    if (!kq_type_holds(KQ_T_BF16, rows, n * h->cols, &at))
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s: %s: a value of %g is beyond what BF16 can hold (3.39e38 at most)",
                       kq_source_path(h->x->src), h->name, (double)rows[at]);
    status = kq_encode(KQ_T_BF16, rows, n * h->cols, h->buf, NULL, err);
    return status ? kq_fail_within(err, status, h->name)
                  : kq_st_writer_data(h->w, h->buf, 2 * n * h->cols, err);
}

static kq_status put_tensor(void *ctx, size_t i, kq_st_writer *w, kq_error *err)
{
    hf_writer *h = ctx;
    const kq_gguf_slot *s = &h->slots[i];
    h->w = w;
    h->name = s->hf_name;
    h->cols = s->ne[0];
    kq_status status = kq_export_rows(h->x, s, 0, put_rows, h, err);
    return status ? status : kq_export_progress(h->x, i, h->n, err);
}

static kq_status write_config(const kq_export_job *x, kq_error *err)
{
    char *path = NULL, *text = NULL;
    kq_status status = kq_path_in(&path, err, x->out, "config.json");
    if (status || (status = kq_config_json(x->src, &text, err))) {
        kq_free(path);
        return status;
    }
    json_t *config = kq_json_again(text);
    kq_free(text);
    /* transformers 5 writes dtype, and 4 wrote torch_dtype; both versions read both */
    if (!config || json_object_set_new(config, json_object_get(config, "dtype") ? "dtype" : "torch_dtype",
                                       json_string("bfloat16")))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    char *out = status ? NULL : json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    if (!status)
        status = out ? kq_file_write(path, out, strlen(out), err)
                     : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(out);
    json_decref(config);
    kq_free(path);
    return status;
}

kq_status kq_export_hf(kq_export_job *x, kq_error *err)
{
    hf_writer h = {.x = x};
    kq_st_decl *decl = NULL;
    size_t n_all = 0;
    kq_status status = kq_gguf_layout(kq_source_config(x->src), &h.slots, &n_all, err);
    if (status || (status = kq_alloc_for((void **)&decl, n_all, sizeof *decl, "the list of tensors", err)))
        goto out;
    for (size_t i = 0; i < n_all; i++)
        if (*h.slots[i].hf_name)
            h.slots[h.n++] = h.slots[i];
    for (size_t i = 0; i < h.n; i++) {
        const kq_gguf_slot *s = &h.slots[i];
        decl[i] = (kq_st_decl){.name = s->hf_name,
                               .dtype = KQ_T_BF16,
                               .rank = s->rank,
                               .shape = {s->rank == 1 ? s->ne[0] : s->ne[1], s->ne[0]}};
    }
    if ((status = kq_st_write_shards(x->out, x->opt->shard_size, decl, h.n, put_tensor, &h, &x->file_bytes,
                                     err)) ||
        (status = kq_write_hf_side_files(x->src, x->out, err)) ||
        (status = kq_card_exported(x->src, x->out, x->file_bytes, err)))
        goto out;
    x->n_tensors = h.n;
    status = write_config(x, err);
out:
    kq_free(h.slots);
    kq_free(h.buf);
    kq_free(decl);
    return status;
}
