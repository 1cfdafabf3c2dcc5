/* The losses of the embedding and the head are measured, not predicted: eq. 1 speaks of linears with factors,
 * and these two have none. A measurement of one choice is one forward pass over a little text, which costs
 * less than a hundredth of a calibration, and it holds for any way of rounding. rows_choices.h. */
#include "quant/rows_choices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "eval/eval.h"
#include "generate/self_text.h"
#include "prepare/sequences.h"
#include "quant/bits.h"
#include "sweep/seal.h"
#include "text/windows.h"

/* Tokens of the measurement; of a sequence of text that the model writes for it. */
enum { TOKENS = 2048, OWN_LENGTH = 128 };

static const char *const tensor_name[KQ_N_ROWS] = {"model.embed_tokens.weight", "lm_head.weight"};
static const char *const what[KQ_N_ROWS] = {"embedding", "head"};

/* ---- the choices ---- */

static kq_status bytes_at(const kq_output *o, int embed_bits, int head_bits, size_t *bytes, kq_error *err)
{
    kq_save_options save = {
        .src = o->p.src, .embed_bits = embed_bits, .head_bits = head_bits, .shard_size = o->opt.shard_size};
    kq_status status = kq_code_parse(o->opt.code, &save.code, err);
    return status ? status : kq_checkpoint_bytes(&save, kq_bits_of, o->bits, bytes, err);
}

kq_status kq_rows_choices(const kq_output *o, kq_item rows[KQ_N_ROWS], size_t *n, kq_error *err)
{
    static const int all[] = {4, 8, 16};
    const bool keep[] = {o->opt.keep_embed_bits, o->opt.keep_head_bits};
    const int kept[] = {o->opt.embed_bits, o->opt.head_bits};
    size_t least = 0;
    *n = o->p.cfg->tie_embeddings ? 1 : 2;
    kq_status status = bytes_at(o, all[0], all[0], &least, err);
    for (size_t r = 0; r < *n && !status; r++) {
        rows[r] = (kq_item){.n = 0};
        for (size_t i = 0; i < sizeof all / sizeof *all && !status; i++) {
            size_t bytes = 0;
            if (keep[r] && all[i] != kept[r])
                continue;
            status = bytes_at(o, r == KQ_ROWS_EMBED ? all[i] : all[0], r == KQ_ROWS_HEAD ? all[i] : all[0],
                              &bytes, err);
            rows[r].choice[rows[r].n++] = (kq_choice){.bits = all[i], .cost = (double)(bytes - least)};
        }
    }
    return status;
}

/* ---- the model with one tensor rounded ---- */

typedef struct rounded {
    const kq_weights *of;
    const char *tensor;
    int bits;
} rounded;

static kq_status rounded_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const rounded *r = ctx;
    return r->of->linear(r->of->ctx, layer, id, W, err);
}

static kq_status rounded_rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst,
                              kq_error *err)
{
    const rounded *r = ctx;
    const size_t n = r->of->cfg->d_model;
    kq_status status = r->of->rows(r->of->ctx, name, row0, n_rows, dst, err);
    if (status || strcmp(name, r->tensor))
        return status;
    uint8_t *q = kq_alloc(n, 1);
    uint16_t *scales = kq_alloc(n, sizeof *scales);
    if (!q || !scales)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: %s", name);
    for (size_t i = 0; i < n_rows && !status; i++) {
        kq_rows_encode(dst + i * n, n, r->bits, q, scales);
        kq_rows_decode(q, scales, n, r->bits, dst + i * n);
    }
    kq_free(q);
    kq_free(scales);
    return status;
}

/* ---- the text ---- */

static kq_eval_options eval_options(const kq_output *o, size_t ctx)
{
    kq_eval_options e = kq_eval_defaults();
    e.ctx = ctx;
    e.threads = o->p.threads;
    e.isa = o->p.isa;
    e.compute = o->p.compute;
    e.memory = o->opt.memory;
    return e;
}

/* Tokens of a window of the measurement. */
static size_t window_length(const kq_output *o)
{
    const kq_calibration *c = &o->opt.calibration;
    const size_t most = o->p.cfg->max_position ? o->p.cfg->max_position : SIZE_MAX,
                 asked = o->opt.factors && !c->n_text ? OWN_LENGTH : c->seq_len;
    return asked < most ? asked : most;
}

static int writing(void *ctx, const char *stage, double fraction)
{
    (void)stage;
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, "sampling text", fraction, NULL) : 0;
}

/* n windows of ctx ids into ids [n, ctx]: of --text, or written by the model. */
static kq_status make_ids(const kq_output *o, size_t n, size_t ctx, int32_t *ids, kq_error *err)
{
    const kq_calibration *c = &o->opt.calibration;
    kq_tokenizer *tok;
    kq_windows windows = {0};
    kq_status status = kq_tokenizer_open(o->p.src, &tok, err);
    if (status)
        return status;
    if (c->n_text) {
        status = kq_text_windows(&(kq_text_how){.options = c->reading, .tok = tok, .common = &o->opt.common},
                                 c->text, c->n_text, &n, 1, ctx, &windows, err);
        for (size_t i = 0; i < n * ctx && !status; i++)
            ids[i] = windows.ids[i];
    } else {
        kq_eval_options e = eval_options(o, ctx);
        e.progress = writing;
        e.progress_ctx = (void *)&o->opt.common;
        status =
            kq_self_text(kq_model_file_weights(o->p.model), tok, n, ctx, &e, o->opt.common.seed, ids, err);
    }
    kq_windows_free(&windows);
    kq_tokenizer_close(tok);
    return status;
}

/* The windows [*n, *ctx] of the measurement; the caller's (kq_free). */
static kq_status open_ids(const kq_output *o, int32_t **ids, size_t *n, size_t *ctx, kq_error *err)
{
    const kq_windows *w = &o->p.windows;
    *ctx = w->n ? o->opt.calibration.seq_len : window_length(o);
    *n = *ctx < TOKENS ? TOKENS / *ctx : 1;
    if (w->n && w->n < *n)
        *n = w->n;
    kq_status status = kq_alloc_for((void **)ids, *n * *ctx, sizeof **ids, "token ids", err);
    if (status)
        return status;
    if (!w->n)
        return make_ids(o, *n, *ctx, *ids, err);
    memcpy(*ids, w->ids, *n * *ctx * sizeof **ids);
    return KQ_OK;
}

kq_status kq_rows_check(const kq_output *o, kq_error *err)
{
    const size_t ctx = window_length(o);
    kq_eval_options e = eval_options(o, ctx);
    e.chunks = ctx < TOKENS ? TOKENS / ctx : 1;
    kq_error why = {0};
    kq_status status = kq_evaluate_fits(o->p.cfg, o->p.cfg, &e, &why);
    if (status)
        return kq_fail(err, status, "measuring the embedding and the head: %s", why.message);
    const size_t writes = kq_self_text_bytes(o->p.cfg, ctx, o->p.compute);
    if (o->opt.factors && !o->opt.calibration.n_text && o->opt.memory && writes > o->opt.memory)
        return kq_fail(
            err, KQ_E_MEMORY,
            "--memory %zuM is too little: the embedding and the head are measured on text that the "
            "model writes itself, which takes %zuM; with --text FILE, the text of the factors, it "
            "writes none",
            o->opt.memory >> 20, (writes >> 20) + 1);
    return KQ_OK;
}

/* ---- measuring ---- */

typedef struct measuring {
    const kq_common *common;
    char stage[64];
} measuring;

static int progress(void *ctx, const char *stage, double fraction)
{
    const measuring *m = ctx;
    (void)stage;
    return m->common->progress ? m->common->progress(m->common->ctx, m->stage, fraction, NULL) : 0;
}

static kq_status measure_one(const kq_output *o, size_t row, kq_choice *c, const int32_t *ids, size_t n,
                             size_t ctx, kq_error *err)
{
    const kq_weights *weights = kq_model_file_weights(o->p.model);
    rounded r = {weights, tensor_name[row], (int)c->bits};
    const kq_weights model = {weights->cfg, &r, rounded_linear, rounded_rows};
    measuring m = {.common = &o->opt.common};
    kq_eval_options e = eval_options(o, ctx);
    kq_eval_figures figures;
    snprintf(m.stage, sizeof m.stage, "measuring the %s at %g bits", what[row], c->bits);
    e.progress = progress;
    e.progress_ctx = &m;
    kq_status status = kq_evaluate(&model, weights, ids, n * ctx, &e, &figures, err);
    if (!status)
        c->loss = figures.kld > 0 ? figures.kld : 0;
    return status;
}

/* The choices lose less the more bits they have, though a measurement of very little may say otherwise. */
static void make_monotone(kq_item *row)
{
    for (size_t c = row->n - 1; c-- > 0;)
        if (row->choice[c].loss < row->choice[c + 1].loss)
            row->choice[c].loss = row->choice[c + 1].loss;
}

static kq_status measure_all(const kq_output *o, kq_item *rows, size_t n, kq_error *err)
{
    int32_t *ids = NULL;
    size_t n_windows, ctx;
    kq_status status = open_ids(o, &ids, &n_windows, &ctx, err);
    for (size_t r = 0; r < n && !status; r++) {
        for (size_t i = 0; i < rows[r].n && !status; i++)
            if (rows[r].choice[i].bits < 16)
                status = measure_one(o, r, &rows[r].choice[i], ids, n_windows, ctx, err);
        make_monotone(&rows[r]);
    }
    kq_free(ids);
    return status;
}

/* ---- what an interrupted run has measured ---- */

static kq_status write_losses(const kq_item *rows, size_t n, const char *path, kq_error *err)
{
    json_t *list = json_array();
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < rows[r].n; i++)
            json_array_append_new(list, json_real(rows[r].choice[i].loss));
    char *text = list ? json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    kq_status status = text ? kq_file_write(path, text, strlen(text), err)
                            : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    json_decref(list);
    return status ? status : kq_seal_write(path, err);
}

static kq_status read_losses(kq_item *rows, size_t n, const char *path, kq_error *err)
{
    char *text = NULL;
    size_t size, at = 0;
    kq_status status = kq_seal_check(path, err);
    if (status || (status = kq_file_read(path, 1 << 16, &text, &size, err)))
        return status;
    json_t *list = json_loadb(text, size, 0, NULL);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < rows[r].n && !status; i++) {
            const json_t *loss = json_array_get(list, at++);
            if (!json_is_number(loss))
                status =
                    kq_fail(err, KQ_E_FORMAT,
                            "%s: holds no loss of the %s at %g bits; --fresh discards the unfinished work "
                            "and starts anew",
                            path, what[r], rows[r].choice[i].bits);
            rows[r].choice[i].loss = json_number_value(loss);
        }
    json_decref(list);
    kq_free(text);
    return status;
}

kq_status kq_rows_measure(kq_output *o, kq_item *rows, size_t n, kq_error *err)
{
    char *path;
    if (o->work->planning)
        return measure_all(o, rows, n, err);
    kq_status status = kq_job_path(&o->job, "rows", 0, "json", &path, err);
    if (!status && kq_job_part_done(&o->job, "rows", 0, "json"))
        status = read_losses(rows, n, path, err);
    else if (!status && !(status = measure_all(o, rows, n, err)))
        status = write_losses(rows, n, path, err);
    kq_free(path);
    return status;
}
