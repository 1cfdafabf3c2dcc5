/* kq_imatrix: the receiver that keeps the squares of every linear's inputs and writes them as llama.cpp's
 * importance matrix. One forward pass; the method is input-only, of whose sums only the diagonal is needed.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/options.h"
#include "base/time.h"
#include "factors/imatrix.h"
#include "format/gguf.h"
#include "format/safetensors_write.h"
#include "prepare/sequences.h"
#include "quant/work.h"

typedef struct collector {
    float *sum[KQ_N_LINEAR]; /* of the block at work, owned; NULL: not selected */
} collector;

static size_t inputs(const kq_output *o, int id)
{
    size_t m, n;
    kq_linear_shape(o->p.cfg, (kq_linear_id)id, &m, &n);
    return n;
}

static void drop_block(kq_output *o)
{
    collector *c = o->ctx;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(c->sum[id]);
        c->sum[id] = NULL;
    }
}

static kq_status check_complete(const kq_output *o, kq_error *err)
{
    kq_gguf *g;
    kq_status status = kq_gguf_open(o->done_path, &g, err);
    if (status)
        return status;
    if (!kq_gguf_str_is(kq_gguf_find(g, "kronq.imatrix"), 0, o->identity))
        status =
            kq_fail(err, KQ_E_MISMATCH,
                    "%s: the imatrix there was made with other settings; choose another output or remove it",
                    o->done_path);
    kq_gguf_close(g);
    return status;
}

/* llama-imatrix puts the beginning token in place of each chunk's first, where the tokenizer adds one to
 * a text. */
static kq_status put_beginning_tokens(kq_output *o, kq_error *err)
{
    int32_t *ids;
    size_t n;
    kq_status status = kq_tokenizer_encode(o->p.tok, "", 0, true, false, &ids, &n, err);
    if (status)
        return status;
    if (n && ids[0] == kq_tokenizer_bos(o->p.tok))
        for (size_t i = 0; i < o->p.n_seq; i++)
            o->p.windows.ids[i * o->opt.calibration.seq_len] = ids[0];
    kq_free(ids);
    return KQ_OK;
}

/* f->H_in is the diagonal, the sums of squares. */
static kq_status keep_squares(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    collector *c = o->ctx;
    for (size_t i = 0; i < f->n; i++)
        if (!isfinite(f->H_in[i]))
            return kq_fail(err, KQ_E_NUMERIC, "%s: the sum of squares of input %zu is %g", f->name, i,
                           (double)f->H_in[i]);
    kq_status status = kq_alloc_for((void **)&c->sum[f->id], f->n, sizeof(float), f->name, err);
    if (!status)
        memcpy(c->sum[f->id], f->H_in, f->n * sizeof(float));
    return status;
}

static kq_status write_block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    const collector *c = o->ctx;
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (int data = 0; data < 2; data++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            const size_t n = inputs(o, id);
            char name[128];
            kq_linear_name(name, sizeof name, layer, (kq_linear_id)id);
            if (c->sum[id])
                status = data ? kq_st_writer_data(w, c->sum[id], n * sizeof(float), err)
                              : kq_st_writer_declare(w, name, KQ_T_F32, 1, &n, err);
        }
    drop_block(o);
    if (!status)
        return kq_st_writer_finish(w, err);
    kq_st_writer_abort(w);
    return status;
}

/* The entries of one part file, appended to `entries` [p.n_selected]. */
static kq_status list_entries(const kq_output *o, const kq_st_file *part, const char *path,
                              kq_imatrix_entry *entries, size_t *n, kq_error *err)
{
    for (size_t i = 0; i < kq_st_n_tensors(part); i++) {
        const kq_tensor *t = kq_st_tensor(part, i);
        if (*n == o->p.n_selected || (uintptr_t)t->data % _Alignof(float))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: is not what this run wrote; --fresh discards the unfinished work and starts anew", path);
        entries[(*n)++] = (kq_imatrix_entry){
            .module = t->name, .n = t->n_elem, .sum = (const float *)(const void *)t->data};
    }
    return KQ_OK;
}

static kq_status write_imatrix(const kq_output *o, const kq_imatrix_entry *entries, size_t n, kq_error *err)
{
    const kq_calibration *cal = &o->opt.calibration;
    const char **texts;
    kq_status status = kq_alloc_for((void **)&texts, cal->n_text + 1, sizeof *texts, o->name, err);
    if (status)
        return status;
    texts[0] = "sampled from the model";
    for (size_t i = 0; i < cal->n_text; i++)
        texts[i] = kq_text_name(cal->text[i]);
    status = kq_imatrix_write(o->done_path, entries, n, o->p.n_seq, cal->seq_len, texts,
                              cal->n_text ? cal->n_text : 1, o->identity, err);
    kq_free(texts);
    return status;
}

/* The part files stay open until the imatrix is written: the entries point into them. */
static kq_status finish(kq_output *o, kq_error *err)
{
    char **paths = NULL;
    size_t n_parts = 0, n = 0;
    kq_st_file **parts = kq_calloc(o->p.cfg->n_layer, sizeof *parts);
    kq_imatrix_entry *entries = kq_calloc(o->p.n_selected, sizeof *entries);
    kq_status status = parts && entries ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", o->name);
    if (!status)
        status = kq_prepared_parts(&o->p, &o->job, "imatrix", &paths, &n_parts, err);
    for (size_t i = 0; i < n_parts && !status; i++)
        if (!(status = kq_st_open(paths[i], &parts[i], err)))
            status = list_entries(o, parts[i], paths[i], entries, &n, err);
    if (!status)
        status = write_imatrix(o, entries, n, err);
    for (size_t i = 0; parts && i < n_parts; i++)
        kq_st_close(parts[i]);
    kq_prepared_free_parts(paths, n_parts);
    kq_free(parts);
    kq_free(entries);
    return status;
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    const kq_output *o = w->outputs;
    (void)err;
    *out = json_pack("{s:I, s:I, s:I, s:{s:f, s:f}, s:I, s:I, s:O}", "entries", (json_int_t)o->p.n_selected,
                     "chunks", (json_int_t)o->p.n_seq, "chunk_size", (json_int_t)o->opt.calibration.seq_len,
                     "seconds", "forward", w->swept.forward_s, "total", kq_now_s() - w->start,
                     "peak_rss_bytes", (json_int_t)kq_peak_rss_bytes(), "planned_bytes",
                     (json_int_t)w->memory, "settings", o->settings);
    kq_report_texts(&o->p, *out);
    return KQ_OK;
}

static const kq_receiver imatrix_receiver = {
    .result = "a file",
    .complete = "the imatrix is complete already",
    .stage = {.stem = "imatrix",
              .suffix = "safetensors",
              .diagonal = true,
              .linear = keep_squares,
              .block = write_block},
    .identify = kq_identify_by_settings,
    .check_complete = check_complete,
    .sequences = put_beginning_tokens,
    .finish = finish,
    .report = report,
    .close = drop_block,
};

kq_status kq_imatrix(const char *model, const char *out_file, const kq_quantize_options *opt,
                     char **report_json, kq_error *err)
{
    collector c = {{0}};
    kq_output o = {.name = out_file, .ctx = &c};
    if (report_json)
        *report_json = NULL;
    const kq_status status = KQ_OPTIONS_READ(kq_quantize_options, &o.opt, opt, err);
    if (status)
        return status;
    o.opt.calibration.method = "input-only";
    o.opt.calibration.batch = o.opt.calibration.draws = 1;
    o.opt.calibration.sampled_labels = false;
    return kq_work_run(model, &imatrix_receiver, &o, 1, report_json, err);
}
