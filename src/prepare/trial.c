/* The blocks of the trial stay packed in memory, and a linear is decoded when the evaluation asks for it, so
 * that the trial takes 2 bits a weight and not 32. trial.h. */
#include "prepare/trial.h"

#include <math.h>

#include "base/mem.h"

/* Blocks that are tried, evenly over the model; fewer where it has fewer. */
enum { BLOCKS = 3, BITS = 2 };

typedef struct trial {
    const kq_prepared *p;
    const kq_round_options *round;
    const kq_weights *of;
    kq_trellis *code; /* owned */
    size_t layer[BLOCKS], n;
    kq_packed packed[BLOCKS][KQ_N_LINEAR]; /* owned; m is 0 where the linear is not selected */
    double predicted;                      /* sum, nats a sample */
} trial;

/* The blocks at 1/6, 3/6 and 5/6 of those with a selected linear. */
static void choose_blocks(trial *t)
{
    const kq_prepared *p = t->p;
    size_t n = 0, at = 0;
    for (size_t l = 0; l < p->cfg->n_layer; l++)
        n += p->selected[l] != 0;
    for (size_t l = 0; l < p->cfg->n_layer && t->n < BLOCKS; l++) {
        if (!p->selected[l])
            continue;
        if (n <= BLOCKS || at == (2 * t->n + 1) * n / (2 * BLOCKS))
            t->layer[t->n++] = l;
        at++;
    }
}

/* Which of the trial's blocks is this layer? t->n: none. */
static size_t block_of(const trial *t, size_t layer)
{
    size_t i = 0;
    while (i < t->n && t->layer[i] != layer)
        i++;
    return i;
}

/* ---- rounding; what kq_from_factors_run calls ---- */

static bool is_no_trial(void *ctx, size_t layer)
{
    const trial *t = ctx;
    return block_of(t, layer) == t->n;
}

static kq_status round_one(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                           const kq_factor_report *factor, kq_error *err)
{
    trial *t = ctx;
    kq_round_report report;
    char name[128];
    kq_round_input in = {.name = name, .H_in = H_in, .H_out = H_out, .predicts = !factor->lack};
    float *W;
    kq_linear_name(name, sizeof name, layer, id);
    kq_linear_shape(t->p->cfg, id, &in.m, &in.n);
    kq_status status = kq_alloc_for((void **)&W, in.m * in.n, sizeof *W, name, err);
    if (!status)
        status = t->of->linear(t->of->ctx, layer, id, W, err);
    in.W = W;
    if (!status)
        status = kq_round_linear(t->code, &in, t->round, &t->packed[block_of(t, layer)][id], &report, err);
    if (!status && !factor->lack)
        t->predicted += report.predicted_loss;
    kq_free(W);
    return status;
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    (void)ctx;
    (void)layer;
    (void)err;
    return KQ_OK;
}

static kq_status round_blocks(trial *t, const kq_factor_file *file, kq_error *err)
{
    const kq_sweep_estimate only = {.ctx = t};
    kq_sweep s = {.ctx = t,
                  .done = is_no_trial,
                  .linear = round_one,
                  .block = finish_block,
                  .estimates = &only,
                  .n_estimates = 1,
                  .common = &t->p->opt->common};
    return kq_from_factors_run(t->p, file, &s, "trial", err);
}

/* ---- the model with these blocks ---- */

static kq_status linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const trial *t = ctx;
    const size_t i = block_of(t, layer);
    return i < t->n && t->packed[i][id].m ? kq_unround_linear(t->code, &t->packed[i][id], W, 1, err)
                                          : t->of->linear(t->of->ctx, layer, id, W, err);
}

static kq_status rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst, kq_error *err)
{
    const trial *t = ctx;
    return t->of->rows(t->of->ctx, name, row0, n_rows, dst, err);
}

size_t kq_trial_bytes(const kq_config *cfg)
{
    size_t bytes = 0;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        bytes += (m + 15) / 16 * ((n + 15) / 16) * 32 * BITS + 4 * (m + n);
    }
    return BLOCKS * bytes;
}

kq_status kq_trial(const kq_measure *m, const kq_factor_file *file, const kq_round_options *round,
                   size_t seq_len, double *kld_per_loss, kq_error *err)
{
    const kq_prepared *p = m->p;
    trial t = {.p = p, .round = round, .of = kq_model_file_weights(p->model)};
    const kq_weights model = {.cfg = t.of->cfg, .ctx = &t, .linear = linear, .rows = rows};
    kq_code code;
    double kld = 0;
    *kld_per_loss = 1;
    choose_blocks(&t);
    kq_status status = kq_code_parse(p->opt->code, &code, err);
    if (!status)
        status = kq_trellis_new(code, BITS, p->isa, NULL, &t.code, err);
    if (!status)
        status = round_blocks(&t, file, err);
    if (!status)
        status = kq_measure_kld(m, &model, kq_trial_bytes(p->cfg), "measuring the trial", &kld, err);
    const double predicted = t.predicted / (double)seq_len;
    if (!status && predicted > 0 && kld > 0)
        *kld_per_loss = kld / predicted;
    for (size_t i = 0; i < t.n; i++)
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_packed_free(&t.packed[i][id]);
    kq_trellis_free(t.code);
    return status;
}
