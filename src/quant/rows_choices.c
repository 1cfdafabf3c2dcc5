/* The losses of the embedding and the head are measured, not predicted: eq. 1 speaks of linears with factors,
 * and not these rows. A measurement of one choice is one forward pass over a little text, which costs
 * less than a hundredth of a calibration, and it holds for any way of rounding. rows_choices.h. */
#include "quant/rows_choices.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "quant/bits.h"
#include "quant/rows.h"

/* The items, in their order. */
enum { EMBEDDING = 0, HEAD = 1 };
static const char *const tensor_name[] = {"model.embed_tokens.weight", "lm_head.weight"};
static const char *const what[] = {"embedding", "head"};

/* ---- the choices ---- */

static kq_status bytes_at(const kq_output *o, int embed_bits, int head_bits, size_t *bytes, kq_error *err)
{
    kq_save_options save = {.src = o->p.src,
                            .embed_bits = embed_bits,
                            .head_bits = head_bits,
                            .frequent_rows = o->opt.frequent_rows,
                            .shard_size = o->opt.shard_size};
    kq_status status = kq_code_parse(o->opt.code, &save.code, err);
    return status ? status : kq_checkpoint_bytes(&save, kq_bits_of, o->bits, bytes, err);
}

kq_status kq_rows_choices(const kq_output *o, kq_item rows[KQ_N_ROWS], size_t *n, kq_error *err)
{
    static const int all[] = {2, 3, 4, 8, 16};
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
            status = bytes_at(o, r == EMBEDDING ? all[i] : all[0], r == HEAD ? all[i] : all[0], &bytes, err);
            rows[r].choice[rows[r].n++] = (kq_choice){.bits = all[i], .cost = (double)(bytes - least)};
        }
    }
    return status;
}

/* ---- the model with one tensor rounded ---- */

typedef struct rounded {
    const kq_weights *of;
    const char *tensor;
    int bits;                   /* 8: rows in groups; less: a trellis, */
    kq_trellis *trellis, *fine; /* owned, as are the next two */
    kq_packed packed;
    kq_hadamard *u;
} rounded;

static void free_rounded(rounded *r)
{
    kq_packed_free(&r->packed);
    kq_trellis_free(r->trellis);
    kq_trellis_free(r->fine);
    kq_hadamard_free(r->u);
}

/* Round the rows, where they are to be a trellis. */
static kq_status pack_rows(const kq_output *o, bool head, rounded *r, kq_error *err)
{
    kq_code code;
    kq_status status = kq_code_parse(o->opt.code, &code, err);
    if (status || !kq_rows_in_trellis(r->bits))
        return status;
    if (!(status = kq_trellis_new(code, r->bits, o->p.isa, NULL, &r->trellis, err)) &&
        !(status = kq_rows_pack(o, head, r->trellis, &r->packed, err)))
        status = kq_hadamard_new(r->packed.n_pad, &r->u, err);
    if (!status && (r->packed.fine_first || r->packed.fine_last))
        status = kq_trellis_new(code, KQ_FINE_BITS, o->p.isa, NULL, &r->fine, err);
    return status;
}

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
    if (r->trellis && !strcmp(name, r->tensor))
        return kq_unround_rows(&(kq_row_codes){r->trellis, r->fine}, &r->packed, r->u, row0, n_rows, dst,
                               err);
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

/* ---- measuring ---- */

static kq_status measure_one(const kq_output *o, const kq_measure *m, size_t row, kq_choice *c, kq_error *err)
{
    const kq_weights *weights = kq_model_file_weights(m->p->model);
    rounded r = {.of = weights, .tensor = tensor_name[row], .bits = (int)c->bits};
    const kq_weights model = {.cfg = weights->cfg, .ctx = &r, .linear = rounded_linear, .rows = rounded_rows};
    char stage[64];
    snprintf(stage, sizeof stage, "measuring the %s at %g bits", what[row], c->bits);
    kq_status status = pack_rows(o, row == HEAD, &r, err);
    const size_t held = r.trellis ? r.packed.m_pad * r.packed.n_pad / 8 * (size_t)r.bits : 0;
    if (!status)
        status = kq_measure_kld(m, &model, held, stage, &c->loss, err);
    free_rounded(&r);
    return status;
}

/* The choices lose less the more bits they have, though a measurement of very little may say otherwise. */
static void make_monotone(kq_item *row)
{
    for (size_t c = row->n - 1; c-- > 0;)
        if (row->choice[c].loss < row->choice[c + 1].loss)
            row->choice[c].loss = row->choice[c + 1].loss;
}

kq_status kq_rows_measure(const kq_output *o, const kq_measure *m, kq_item *rows, size_t n, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t r = 0; r < n && !status; r++) {
        for (size_t i = 0; i < rows[r].n && !status; i++)
            if (rows[r].choice[i].bits < 16)
                status = measure_one(o, m, r, &rows[r].choice[i], err);
        make_monotone(&rows[r]);
    }
    return status;
}
