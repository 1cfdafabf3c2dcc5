/* One step of tuning: forward, loss, backward, block by block over all sequences of the step (tuner.h). */
#include <omp.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/progress.h"
#include "tune/internal.h"

/* What one thread works with. */
typedef struct worker {
    void *scratch; /* of the loss */
    float *Gw;     /* some rows of the head's gradient, HEAD_ROWS * d; only where the head is trained */
    uint16_t *xb;  /* [KQ_DISTILL_TILE, d], bf16 and a trained head only */
    float *row;    /* [widest] */
} worker;

/* The decoded weights of a block, and beside each linear what else its trained numbers need. */
typedef struct decoded_block {
    kq_block b;                            /* its norms are not used */
    kq_trained_linear linear[KQ_N_LINEAR]; /* What is borrowed from b, offsets are owned */
} decoded_block;

struct kq_tuner {
    kq_tuner_options o;
    const kq_config *cfg;
    const kq_kern *kern;
    kq_model_ctx *mc; /* owned, as is everything below */
    kq_head *head, *teacher;
    kq_params params;
    kq_tuner_arrays s;
    float **norm;          /* [n_layer * KQ_N_NORM], the untuned weights; NULL where there is none */
    float *final_norm;     /* the untuned weights [d] */
    decoded_block *kept;   /* [n_layer] all of them; NULL: not kept */
    decoded_block decoded; /* the one at work, when they are not kept */
    kq_block tuned;        /* the block at work with its trained numbers; its linears are own's or What's */
    kq_linear own[KQ_N_LINEAR];
    kq_tuned_rows head_rows, embed_rows; /* head_rows is not used where the head is tied */
    float *x;             /* [n_layer + 1][at_once * T, d]: inputs of the blocks, final hidden states */
    float *teacher_x;     /* [at_once * T, d] */
    float *kl;            /* [at_once * T] */
    kq_segment *segments; /* [at_once] of a forward pass */
    void *scratch;        /* of a block's forward or backward pass */
    float *Gw;            /* [m, n] of the largest linear */
    float *columns;       /* what pieces of a linear's rows add to the gradient of its columns */
    uint16_t *xb, *gb;    /* [at_once * T, widest], bf16 only */
    size_t outside;       /* trained numbers behind the layers */
    float *unit_grad;     /* [most_units][outside] */
    worker *w;            /* [threads] */
};

/* ---- memory ---- */

static size_t widest(const kq_config *cfg)
{
    const size_t dq = cfg->n_head * cfg->head_dim, d = cfg->d_model > dq ? cfg->d_model : dq;
    return cfg->d_ff > d ? cfg->d_ff : d;
}

static size_t largest_linear(const kq_config *cfg)
{
    size_t most = 0, m, n;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        most = m * n > most ? m * n : most;
    }
    return most;
}

/* Rows of a linear whose gradient one thread takes at a time, and of the head's. */
enum { PIECE = 64, HEAD_ROWS = 1024 };

static size_t most_columns(const kq_config *cfg)
{
    size_t most = 0, m, n;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        most = (m + PIECE - 1) / PIECE * n > most ? (m + PIECE - 1) / PIECE * n : most;
    }
    return most;
}

static kq_rows rows_of(const kq_tuner_options *o, size_t n)
{
    return (kq_rows){.n_seq = n, .T = o->T, .threads = o->threads};
}

static size_t block_scratch(const kq_model_ctx *mc, const kq_tuner_options *o)
{
    const size_t a = kq_block_backward_bytes(mc, rows_of(o, o->at_once)),
                 b = kq_block_packed_scratch_bytes(mc, o->at_once * o->T, o->T, o->threads);
    return a > b ? a : b;
}

/* The loss and the gradient of what stands behind the layers are taken in units of tokens. They depend on the
 * step alone, so that sums over units have the same bits for every number of threads. */
enum { MOST_UNITS = 16 };
static size_t unit_tokens(size_t R)
{
    const size_t tiles = (R + KQ_DISTILL_TILE - 1) / KQ_DISTILL_TILE;
    return (tiles + MOST_UNITS - 1) / MOST_UNITS * KQ_DISTILL_TILE;
}
static size_t n_units(size_t R)
{
    return (R + unit_tokens(R) - 1) / unit_tokens(R);
}

/* The largest offsets of a block, in bytes. */
static size_t most_offsets(const kq_config *cfg, const kq_tuner_options *o)
{
    size_t most = 0;
    for (size_t l = 0; l < cfg->n_layer; l++) {
        size_t sum = 0;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            const kq_trained_linear z = kq_trained_shape(o->student, l, (kq_linear_id)id);
            sum += z.scales.n == 2 ? z.What.m * (z.What.n / z.scales.group) * sizeof(float) : 0;
        }
        most = sum > most ? sum : most;
    }
    return most;
}

static kq_status context(const kq_tuner_options *o, kq_model_ctx **mc, kq_error *err)
{
    return kq_model_ctx_new(o->student->cfg, o->isa, o->compute, o->T, mc, err);
}

/* What a worker has in memory, and whether the head is trained. */
typedef struct worker_sizes {
    size_t scratch, Gw, xb, row; /* bytes */
} worker_sizes;
static worker_sizes sizes_of(const kq_model_ctx *mc, const kq_config *cfg, const kq_tuner_options *o)
{
    const bool head = o->head || o->embedding;
    return (worker_sizes){
        .scratch = kq_head_distill_bytes(mc),
        .Gw = head ? HEAD_ROWS * cfg->d_model * sizeof(float) : 1,
        .xb = head && o->compute == KQ_BF16 ? KQ_DISTILL_TILE * cfg->d_model * sizeof(uint16_t) : 1,
        .row = widest(cfg) * sizeof(float)};
}

/* The arrays of one step, in bytes. */
typedef struct step_sizes {
    size_t x, teacher_x, kl, segments, scratch, Gw, columns, half, unit_grad;
} step_sizes;
static step_sizes step_sizes_of(const kq_model_ctx *mc, const kq_config *cfg, const kq_tuner_options *o,
                                const kq_params *p)
{
    const size_t R = o->at_once * o->T, f = sizeof(float);
    return (step_sizes){.x = (cfg->n_layer + 1) * R * cfg->d_model * f,
                        .teacher_x = R * cfg->d_model * f,
                        .kl = R * f,
                        .segments = o->at_once * sizeof(kq_segment),
                        .scratch = block_scratch(mc, o),
                        .Gw = largest_linear(cfg) * f,
                        .columns = most_columns(cfg) * f,
                        .half = o->compute == KQ_BF16 ? R * widest(cfg) * sizeof(uint16_t) : 1,
                        .unit_grad = n_units(R) * (p->n - p->final_at) * f};
}

size_t kq_tuner_bytes(const kq_config *cfg, const kq_tuner_options *o)
{
    kq_model_ctx *mc;
    kq_params p;
    if (context(o, &mc, NULL))
        return SIZE_MAX;
    if (kq_params_make(cfg, o, &p, NULL)) {
        kq_model_ctx_free(mc);
        return SIZE_MAX;
    }
    const size_t offsets = most_offsets(cfg, o), block = kq_block_bytes(cfg, o->compute) + offsets,
                 load = kq_block_load_bytes(cfg, o->compute) + offsets - block, threads = (size_t)o->threads;
    const worker_sizes w = sizes_of(mc, cfg, o);
    const step_sizes z = step_sizes_of(mc, cfg, o, &p);
    size_t n = 2 * kq_head_bytes(cfg, o->compute) + block; /* both heads, the tuned block */
    n += p.head_at == SIZE_MAX ? 0 : kq_tuned_rows_bytes(cfg, o, false);
    n += p.embed_at == SIZE_MAX ? 0 : kq_tuned_rows_bytes(cfg, o, true);
    n += o->keep ? cfg->n_layer * block + threads * load : block + load;
    n += p.n * sizeof(float) * 6; /* theta, grad, m, v; the best theta; a record of the state's file */
    n += z.x + z.teacher_x + z.kl + z.segments + z.scratch + z.Gw + z.columns + 2 * z.half + z.unit_grad;
    n += threads * (w.scratch + w.Gw + w.xb + w.row);
    kq_params_free(&p);
    kq_model_ctx_free(mc);
    return n;
}

static kq_status new_worker(const kq_tuner *t, worker *w, kq_error *err)
{
    const worker_sizes z = sizes_of(t->mc, t->cfg, &t->o);
    const struct {
        void **to;
        size_t bytes;
    } parts[] = {{&w->scratch, z.scratch},
                 {(void **)&w->Gw, z.Gw},
                 {(void **)&w->xb, z.xb},
                 {(void **)&w->row, z.row}};
    kq_status st = KQ_OK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !st; i++)
        st = kq_alloc_for(parts[i].to, parts[i].bytes, 1, "scratch of tuning", err);
    return st;
}

static kq_status new_step(kq_tuner *t, kq_error *err)
{
    const step_sizes z = step_sizes_of(t->mc, t->cfg, &t->o, &t->params);
    const struct {
        void **to;
        size_t bytes;
        const char *what;
    } parts[] = {{(void **)&t->x, z.x, "the blocks' inputs"},
                 {(void **)&t->teacher_x, z.teacher_x, "the teacher's hidden states"},
                 {(void **)&t->kl, z.kl, "losses"},
                 {(void **)&t->segments, z.segments, "sequences"},
                 {&t->scratch, z.scratch, "scratch of tuning"},
                 {(void **)&t->Gw, z.Gw, "gradients"},
                 {(void **)&t->columns, z.columns, "gradients"},
                 {(void **)&t->xb, z.half, "scratch of tuning"},
                 {(void **)&t->gb, z.half, "scratch of tuning"},
                 {(void **)&t->unit_grad, z.unit_grad, "gradients"}};
    kq_status st = KQ_OK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !st; i++)
        st = kq_alloc_for(parts[i].to, parts[i].bytes, 1, parts[i].what, err);
    for (size_t s = 0; s < t->o.at_once && !st; s++)
        t->segments[s] = (kq_segment){.row = s * t->o.T, .n = t->o.T};
    return st;
}

/* The arrays of one step and of the training. */
static kq_status new_arrays(kq_tuner *t, kq_error *err)
{
    const kq_tuner_options *o = &t->o;
    const size_t n = t->params.n;
    float **const arrays[] = {&t->s.theta, &t->s.grad, &t->s.m, &t->s.v};
    kq_status st = KQ_OK;
    t->outside = n - t->params.final_at;
    for (size_t i = 0; i < 4 && !st; i++)
        if (!(st = kq_alloc_for((void **)arrays[i], n, sizeof(float), "trained numbers", err)))
            memset(*arrays[i], 0, n * sizeof(float));
    for (size_t i = 0; i < n && !st; i++)
        t->s.theta[i] = 1;
    if (!st)
        st = new_step(t, err);
    if (!st && !(t->w = kq_calloc((size_t)o->threads, sizeof *t->w)))
        st = kq_fail(err, KQ_E_MEMORY, "out of memory: scratch of tuning");
    for (int i = 0; i < o->threads && !st; i++)
        st = new_worker(t, &t->w[i], err);
    return st;
}

/* Places for the tuned weights of one block. */
static kq_status new_tuned(kq_tuner *t, kq_error *err)
{
    kq_status st = KQ_OK;
    for (int id = 0; id < KQ_N_LINEAR && !st; id++) {
        kq_linear *l = &t->own[id];
        kq_linear_shape(t->cfg, (kq_linear_id)id, &l->m, &l->n);
        st = t->o.compute == KQ_BF16
                 ? kq_alloc_for((void **)&l->bf16, l->m * l->n, 2, "a block's weights", err)
                 : kq_alloc_for((void **)&l->f32, l->m * l->n, 4, "a block's weights", err);
    }
    float **const norms[KQ_N_NORM] = {&t->tuned.attn_norm, &t->tuned.mlp_norm, &t->tuned.q_norm,
                                      &t->tuned.k_norm};
    for (kq_norm_id id = KQ_NORM_ATTN; id < kq_model_n_norms(t->cfg) && !st; id++)
        st = kq_alloc_for((void **)norms[id], kq_model_norm(t->cfg, 0, id).rows, sizeof(float), "norms", err);
    return st;
}

static void free_decoded(decoded_block *d)
{
    kq_block_free(&d->b);
    for (int id = 0; id < KQ_N_LINEAR; id++)
        kq_free(d->linear[id].offsets);
    *d = (decoded_block){0};
}

/* Decode a block. After a failure free_decoded frees what there is. */
static kq_status load_decoded(const kq_tuner *t, size_t layer, decoded_block *out, kq_error *err)
{
    const kq_weights *w = t->o.student;
    kq_status st = kq_block_load(t->mc, w, layer, &out->b, err);
    for (int id = 0; id < KQ_N_LINEAR && !st; id++) {
        kq_trained_linear *l = &out->linear[id];
        *l = kq_trained_shape(w, layer, (kq_linear_id)id);
        l->What = out->b.lin[id];
        if (t->o.packed[layer] >> id & 1)
            st = kq_trained_offsets(l, err);
    }
    return st;
}

/* The weights of all norms, and the decoded blocks where they are kept. */
static kq_status load_blocks(kq_tuner *t, kq_error *err)
{
    const kq_config *cfg = t->cfg;
    kq_first_error failed = KQ_FIRST_ERROR;
    kq_status st = KQ_OK;
    t->norm = kq_calloc(cfg->n_layer * KQ_N_NORM, sizeof *t->norm);
    t->kept = t->o.keep ? kq_calloc(cfg->n_layer, sizeof *t->kept) : NULL;
    if (!t->norm || (t->o.keep && !t->kept))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: blocks");
    for (size_t i = 0; i < cfg->n_layer * KQ_N_NORM && !st; i++) {
        if (i % KQ_N_NORM >= (size_t)kq_model_n_norms(cfg))
            continue;
        const kq_model_tensor n = kq_model_norm(cfg, i / KQ_N_NORM, (kq_norm_id)(i % KQ_N_NORM));
        if (!(st = kq_alloc_for((void **)&t->norm[i], n.rows, sizeof(float), n.name, err)))
            st = t->o.student->rows(t->o.student->ctx, n.name, 0, n.rows, t->norm[i], err);
    }
    if (st || !t->kept)
        return st;
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->o.threads)
    for (size_t l = 0; l < cfg->n_layer; l++) {
        kq_error e;
        if (!kq_first_error_skip(&failed, l))
            kq_first_error_note(&failed, l, load_decoded(t, l, &t->kept[l], &e), &e);
    }
    return kq_first_error_get(&failed, err);
}

kq_status kq_tuner_new(const kq_tuner_options *o, kq_tuner **out, kq_error *err)
{
    *out = NULL;
    kq_tuner *t = kq_calloc(1, sizeof *t);
    if (!t)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: tuning");
    t->o = *o;
    t->cfg = o->student->cfg;
    t->kern = kq_kern_pick(o->isa);
    kq_status st = context(o, &t->mc, err);
    if (!st)
        st = kq_params_make(t->cfg, o, &t->params, err);
    if (!st && !(st = kq_head_load(t->mc, o->student, &t->head, err)))
        st = kq_head_load(t->mc, o->teacher, &t->teacher, err);
    if (!st && t->params.head_at != SIZE_MAX)
        st = kq_tuned_rows_new(&t->o, t->head, false, &t->head_rows, err);
    if (!st && t->params.embed_at != SIZE_MAX)
        st = kq_tuned_rows_new(&t->o, t->head, true, &t->embed_rows, err);
    if (!st && !(st = new_arrays(t, err)) && !(st = new_tuned(t, err)) && !(st = load_blocks(t, err)))
        st = kq_alloc_for((void **)&t->final_norm, t->cfg->d_model, sizeof(float), "norms", err);
    if (st) {
        kq_tuner_free(t);
        return st;
    }
    memcpy(t->final_norm, kq_head_norm_weights(t->head), t->cfg->d_model * sizeof(float));
    *out = t;
    return KQ_OK;
}

void kq_tuner_free(kq_tuner *t)
{
    if (!t)
        return;
    const size_t n_layer = t->cfg->n_layer;
    for (int i = 0; t->w && i < t->o.threads; i++) {
        void *const parts[] = {t->w[i].scratch, t->w[i].Gw, t->w[i].row, t->w[i].xb};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            kq_free(parts[k]);
    }
    kq_free(t->w);
    for (size_t i = 0; t->norm && i < n_layer * KQ_N_NORM; i++)
        kq_free(t->norm[i]);
    kq_free(t->norm);
    for (size_t l = 0; t->kept && l < n_layer; l++)
        free_decoded(&t->kept[l]);
    kq_free(t->kept);
    free_decoded(&t->decoded);
    memset(t->tuned.lin, 0, sizeof t->tuned.lin); /* they are own's */
    kq_block_free(&t->tuned);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(t->own[id].f32);
        kq_free(t->own[id].bf16);
    }
    void *const arrays[] = {t->final_norm, t->s.theta,   t->s.grad, t->s.m,      t->s.v,
                            t->x,          t->teacher_x, t->kl,     t->segments, t->scratch,
                            t->Gw,         t->columns,   t->xb,     t->gb,       t->unit_grad};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        kq_free(arrays[i]);
    kq_tuned_rows_free(&t->head_rows);
    kq_tuned_rows_free(&t->embed_rows);
    kq_params_free(&t->params);
    kq_head_free(t->head);
    kq_head_free(t->teacher);
    kq_model_ctx_free(t->mc);
    kq_free(t);
}

const kq_params *kq_tuner_params(const kq_tuner *t)
{
    return &t->params;
}

kq_tuner_arrays kq_tuner_state(kq_tuner *t)
{
    return t->s;
}

void kq_tuner_update(kq_tuner *t, double lr, size_t step)
{
    kq_adam(&t->s, t->params.n, lr, step, t->o.threads);
}

/* ---- a block with its trained numbers ---- */

/* Make t->tuned the block of this layer. *What: its decoded weights. */
static kq_status tune_block(kq_tuner *t, size_t layer, const decoded_block **What, kq_error *err)
{
    enum { ROWS = 64 };
    const kq_params *p = &t->params;
    if (!t->kept && (t->decoded.b.layer != layer || !t->decoded.b.attn_norm)) {
        free_decoded(&t->decoded);
        kq_status st = load_decoded(t, layer, &t->decoded, err);
        if (st)
            return st;
    }
    const decoded_block *from = *What = t->kept ? &t->kept[layer] : &t->decoded;
    t->tuned.layer = layer;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        const size_t at = p->linear_at[layer * KQ_N_LINEAR + (size_t)id];
        t->tuned.lin[id] = at == SIZE_MAX ? from->b.lin[id] : t->own[id];
        if (at == SIZE_MAX)
            continue;
        const size_t m = t->own[id].m, n_piece = (m + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(t->o.threads)
        for (size_t i = 0; i < n_piece; i++)
            t->o.trained->apply(t->kern, &from->linear[id], t->s.theta + at, i * ROWS,
                                m - i * ROWS < ROWS ? m - i * ROWS : ROWS, &t->own[id],
                                t->w[omp_get_thread_num()].row);
        kq_trained_release(&from->linear[id]);
    }
    float *const norms[KQ_N_NORM] = {t->tuned.attn_norm, t->tuned.mlp_norm, t->tuned.q_norm, t->tuned.k_norm};
    for (kq_norm_id id = KQ_NORM_ATTN; id < kq_model_n_norms(t->cfg); id++) {
        const size_t i = layer * KQ_N_NORM + id, n = kq_model_norm(t->cfg, layer, id).rows;
        for (size_t j = 0; j < n; j++)
            norms[id][j] = t->norm[i][j] * t->s.theta[p->norm_at[i] + j];
    }
    return KQ_OK;
}

/* The same of embedding, head and final norm. */
static kq_status tune_outside(kq_tuner *t, kq_error *err)
{
    const kq_params *p = &t->params;
    kq_status st = KQ_OK;
    for (size_t j = 0; j < t->cfg->d_model; j++)
        kq_head_norm_weights(t->head)[j] = t->final_norm[j] * t->s.theta[p->final_at + j];
    if (t->head_rows.o)
        st = kq_tuned_rows_apply(&t->head_rows, t->kern, t->s.theta + p->head_at,
                                 kq_head_matrix(t->head, false), err);
    if (!st && t->embed_rows.o)
        st = kq_tuned_rows_apply(&t->embed_rows, t->kern, t->s.theta + p->embed_at,
                                 kq_head_matrix(t->head, true), err);
    return st;
}

/* ---- forward ---- */

/* The inputs of a layer, of all sequences of the step. */
static float *input(const kq_tuner *t, size_t layer)
{
    return t->x + layer * t->o.at_once * t->o.T * t->cfg->d_model;
}

/* The first blocks' inputs to the final hidden states of n sequences. keep: every block's input stays; else
 * all of them are in the place of the first. */
static kq_status forward(kq_tuner *t, const uint32_t *seq, size_t n, bool keep, kq_error *err)
{
    const size_t T = t->o.T, d = t->cfg->d_model;
    const kq_packing all = {.T = n * T, .seg = t->segments, .n_seg = n, .longest = T};
    const decoded_block *What;
    kq_status st = tune_outside(t, err);
    for (size_t s = 0; s < n && !st; s++)
        st = kq_head_embed(t->head, t->o.ids + seq[s] * T, T, input(t, 0) + s * T * d, err);
    for (size_t l = 0; l < t->cfg->n_layer && !st; l++) {
        float *x = input(t, keep ? l + 1 : 0);
        if (keep)
            memcpy(x, input(t, l), n * T * d * sizeof *x);
        if (!(st = tune_block(t, l, &What, err)) &&
            !(st = kq_block_forward_packed(t->mc, &t->tuned, x, &all, t->scratch, t->o.threads, err)))
            st = kq_progress_ask(t->o.common, "a block", err);
    }
    return st;
}

/* ---- loss ---- */

/* Where the loss hands what the head's gradient is made of. */
typedef struct head_sink {
    const kq_tuner *t;
    worker *w;
    float *grad; /* of the unit, [outside] */
} head_sink;

static const kq_tuned_rows *head_matrix(const kq_tuner *t, size_t *at)
{
    const bool tied = t->cfg->tie_embeddings;
    *at = tied ? t->params.embed_at : t->params.head_at;
    return tied ? &t->embed_rows : &t->head_rows;
}

static kq_status take_head(void *ctx, const float *X, const float *G, const uint16_t *Gb, size_t n,
                           kq_error *err)
{
    const head_sink *z = ctx;
    const kq_tuner *t = z->t;
    const size_t d = t->cfg->d_model;
    size_t at;
    const kq_tuned_rows *rows = head_matrix(t, &at);
    if (Gb)
        t->kern->to_bf16(X, z->w->xb, n * d);
    return kq_tuned_rows_head_gradient(rows, t->kern, t->s.theta + at,
                                       &(kq_head_tile){.X = X, .G = G, .Xb = z->w->xb, .Gb = Gb, .n = n},
                                       z->w->Gw, HEAD_ROWS * d, z->grad + (at - t->params.final_at), err);
}

/* The loss of one unit of tokens into kl, and with `gradient` dLoss/d(their final hidden states) in their
 * place. Losses are sums over the tokens. */
static kq_status loss_of_unit(kq_tuner *t, size_t unit, size_t R, bool gradient, kq_error *err)
{
    const size_t d = t->cfg->d_model, row = unit * unit_tokens(R);
    worker *w = &t->w[omp_get_thread_num()];
    size_t at;
    float *x = input(t, gradient ? t->cfg->n_layer : 0) + row * d;
    head_sink to = {t, w, t->unit_grad + unit * t->outside};
    return kq_head_distill(&(kq_distill){.h = t->head,
                                         .teacher = t->teacher,
                                         .x = x,
                                         .teacher_x = t->teacher_x + row * d,
                                         .T = R - row < unit_tokens(R) ? R - row : unit_tokens(R),
                                         .kl = t->kl + row,
                                         .dx = gradient ? x : NULL,
                                         .dnorm = gradient ? to.grad : NULL,
                                         .give = gradient && head_matrix(t, &at)->o ? take_head : NULL,
                                         .ctx = &to},
                           w->scratch, err);
}

/* The loss of n sequences whose final hidden states forward has left: *sum over their tokens, and with
 * `gradient` what loss_of_unit says, and the gradient of what stands behind the layers. */
static kq_status loss(kq_tuner *t, const uint32_t *seq, size_t n, bool gradient, double *sum, kq_error *err)
{
    const size_t T = t->o.T, R = n * T, units = n_units(R), from = t->params.final_at;
    kq_first_error failed = KQ_FIRST_ERROR;
    if (gradient)
        memset(t->unit_grad, 0, units * t->outside * sizeof(float));
#pragma omp parallel num_threads(t->o.threads)
    {
        kq_error e;
#pragma omp for schedule(dynamic, 1)
        for (size_t s = 0; s < n; s++)
            if (!kq_first_error_skip(&failed, s))
                kq_first_error_note(&failed, s,
                                    t->o.hidden(t->o.ctx, seq[s], t->teacher_x + s * T * t->cfg->d_model, &e),
                                    &e);
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < units; i++)
            if (!kq_first_error_skip(&failed, n + i))
                kq_first_error_note(&failed, n + i, loss_of_unit(t, i, R, gradient, &e), &e);
    }
    for (size_t i = 0; gradient && i < t->outside; i++)
        for (size_t u = 0; u < units; u++)
            t->s.grad[from + i] += t->unit_grad[u * t->outside + i];
    *sum = 0;
    for (size_t i = 0; i < R; i++)
        *sum += t->kl[i];
    return kq_first_error_get(&failed, err);
}

kq_status kq_tuner_loss(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err)
{
    double sum = 0, some = 0;
    kq_status st = KQ_OK;
    for (size_t at = 0; at < n && !st; at += t->o.at_once) {
        const size_t k = n - at < t->o.at_once ? n - at : t->o.at_once;
        if (!(st = forward(t, seq + at, k, false, err)))
            st = loss(t, seq + at, k, false, &some, err);
        sum += some;
    }
    *kl = sum / (double)(n * t->o.T);
    return st;
}

/* ---- backward ---- */

/* Where a block hands the inputs and gradients of its linears. */
typedef struct sink {
    kq_tuner *t;
    const decoded_block *What;
    const float *narrowed; /* the inputs that xb has; several linears share theirs */
} sink;

static void narrow(const kq_tuner *t, const float *x, size_t n, uint16_t *to)
{
    enum { AT_ONCE = 1 << 15 };
#pragma omp parallel for num_threads(t->o.threads)
    for (size_t i = 0; i < n; i += AT_ONCE)
        t->kern->to_bf16(x + i, to + i, n - i < AT_ONCE ? n - i : AT_ONCE);
}

/* From Gw the gradient of a linear's trained numbers, which begin at `at`. */
static void trained_gradient(kq_tuner *t, const kq_trained_linear *l, size_t at)
{
    const size_t m = l->What.m, n = l->What.n, pieces = (m + PIECE - 1) / PIECE;
    const kq_trained *kind = t->o.trained;
    float *grad = t->s.grad + at;
#pragma omp parallel num_threads(t->o.threads)
    {
#pragma omp for
        for (size_t i = 0; i < pieces; i++) {
            float *columns = kind->columns ? t->columns + i * n : NULL;
            if (columns)
                memset(columns, 0, n * sizeof *columns);
            kind->gradient(t->kern, l, t->s.theta + at, t->Gw, i * PIECE,
                           m - i * PIECE < PIECE ? m - i * PIECE : PIECE, grad, columns);
        }
#pragma omp for
        for (size_t j = 0; j < (kind->columns ? n : 0); j++)
            for (size_t i = 0; i < pieces; i++)
                grad[m + j] += t->columns[i * n + j];
    }
}

/* Gw = G^T X (eq. 22) over the R rows of the step, and from it the gradient of the linear's trained
 * numbers. */
static kq_status take_linear(void *ctx, kq_linear_id id, const float *X, const float *G, size_t R,
                             kq_error *err)
{
    sink *z = ctx;
    kq_tuner *t = z->t;
    const kq_trained_linear *l = &z->What->linear[id];
    const size_t m = l->What.m, n = l->What.n;
    if (l->What.bf16) {
        if (X != z->narrowed)
            narrow(t, z->narrowed = X, R * n, t->xb);
        narrow(t, G, R * m, t->gb);
        kq_status st =
            kq_gemm_bf16_tiled(true, false, m, n, R, t->gb, m, t->xb, n, false, t->Gw, n, t->o.threads, err);
        if (st)
            return st;
    } else {
        kq_gemm_f32_tiled(true, false, m, n, R, 1.0f, G, m, X, n, 0.0f, t->Gw, n, t->o.threads);
    }
    trained_gradient(t, l, t->params.linear_at[z->What->b.layer * KQ_N_LINEAR + (size_t)id]);
    return KQ_OK;
}

/* Back through all blocks for n sequences, from the top one down. The gradient at the top stands in the place
 * of the final hidden states, and so does that at the bottom in the end. */
static kq_status back_blocks(kq_tuner *t, size_t n, kq_error *err)
{
    const kq_params *p = &t->params;
    float *dy = input(t, t->cfg->n_layer);
    const decoded_block *What;
    kq_status st = KQ_OK;
    for (size_t l = t->cfg->n_layer; l-- > 0 && !st;) {
        if ((st = tune_block(t, l, &What, err)))
            break;
        sink z = {t, What, NULL};
        kq_linear_sink to = {.give = take_linear, .ctx = &z, .selected = t->o.packed[l]};
        for (size_t i = 0; i < (size_t)kq_model_n_norms(t->cfg); i++)
            to.dnorm[i] = t->s.grad + p->norm_at[l * KQ_N_NORM + i];
        if (!(st = kq_block_backward(t->mc, &t->tuned, input(t, l), dy, rows_of(&t->o, n), dy, &to,
                                     t->scratch, err)))
            st = kq_progress_ask(t->o.common, "a block", err);
    }
    return st;
}

/* Until here grad is a sum over tokens, and of norms the gradient of their weights, which theta multiplies.
 */
static void finish_gradient(kq_tuner *t, double share)
{
    const kq_params *p = &t->params;
    for (size_t i = 0; i < t->cfg->n_layer * KQ_N_NORM; i++)
        for (size_t j = 0; t->norm[i] && j < kq_model_norm(t->cfg, 0, (kq_norm_id)(i % KQ_N_NORM)).rows; j++)
            t->s.grad[p->norm_at[i] + j] *= t->norm[i][j];
    for (size_t j = 0; j < t->cfg->d_model; j++)
        t->s.grad[p->final_at + j] *= t->final_norm[j];
#pragma omp parallel for num_threads(t->o.threads)
    for (size_t i = 0; i < p->n; i++)
        t->s.grad[i] = (float)(t->s.grad[i] * share);
}

kq_status kq_tuner_gradient(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err)
{
    const size_t T = t->o.T, at = t->params.embed_at;
    const double share = 1 / (double)(n * T);
    double sum;
    memset(t->s.grad, 0, t->params.n * sizeof(float));
    kq_status st = forward(t, seq, n, true, err);
    if (st || (st = loss(t, seq, n, true, &sum, err)) || (st = back_blocks(t, n, err)))
        return st;
    for (size_t s = 0; s < n && t->embed_rows.o; s++)
        kq_tuned_rows_embed_gradient(&t->embed_rows, t->kern, t->s.theta + at, t->o.ids + seq[s] * T, T,
                                     input(t, t->cfg->n_layer) + s * T * t->cfg->d_model, t->s.grad + at);
    *kl = sum * share;
    finish_gradient(t, share);
    return KQ_OK;
}
