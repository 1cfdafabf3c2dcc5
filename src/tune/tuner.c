/* One step of tuning: forward, loss, backward, block by block over the sequences of the step (tuner.h). */
#include <omp.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/progress.h"
#include "tune/internal.h"

/* What one thread works with. */
typedef struct worker {
    void *scratch;     /* of a block's backward pass, or of the loss */
    float *teacher;    /* [T, d] */
    float *Gw;         /* [m, n] of the largest linear */
    uint16_t *xb, *gb; /* [T, widest], bf16 only */
    float *row;        /* [widest] */
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
    float *x;        /* [n_layer + 1][at_once][T, d]: inputs of the blocks, final hidden states */
    float *seq_grad; /* [at_once][widest]: of the layer at work, or of what stands behind the layers */
    size_t widest;
    double *seq_kl; /* [at_once] */
    worker *w;      /* [threads] */
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

static size_t scratch_bytes(const kq_model_ctx *mc, size_t T)
{
    const size_t a = kq_block_scratch_bytes(mc, T, true), b = kq_head_distill_bytes(mc);
    return a > b ? a : b;
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
    const size_t offsets = most_offsets(cfg, o), n_seq = kq_params_widest(cfg, &p);
    const size_t block = kq_block_bytes(cfg, o->compute) + offsets,
                 record = o->T * cfg->d_model * sizeof(float);
    const size_t load = kq_block_load_bytes(cfg, o->compute) + offsets - block;
    const size_t threads = (size_t)o->threads;
    size_t n = 2 * kq_head_bytes(cfg, o->compute) + block; /* both heads, the tuned block */
    n += p.head_at == SIZE_MAX ? 0 : kq_tuned_rows_bytes(cfg, o, false);
    n += p.embed_at == SIZE_MAX ? 0 : kq_tuned_rows_bytes(cfg, o, true);
    n += o->keep ? cfg->n_layer * block + threads * load : block + load;
    n += (cfg->n_layer + 1) * o->at_once * record;
    n += p.n * sizeof(float) * 6; /* theta, grad, m, v; the best theta; a record of the state's file */
    n += n_seq * sizeof(float) * o->at_once;
    n += threads * (scratch_bytes(mc, o->T) + record + largest_linear(cfg) * sizeof(float) +
                    widest(cfg) * (o->T * 4 + 4));
    kq_params_free(&p);
    kq_model_ctx_free(mc);
    return n;
}

static kq_status new_worker(const kq_tuner *t, worker *w, kq_error *err)
{
    const size_t T = t->o.T, wide = widest(t->cfg);
    const struct {
        void **to;
        size_t bytes;
    } parts[] = {{&w->scratch, scratch_bytes(t->mc, T)},
                 {(void **)&w->teacher, T * t->cfg->d_model * sizeof(float)},
                 {(void **)&w->Gw, largest_linear(t->cfg) * sizeof(float)},
                 {(void **)&w->row, wide * sizeof(float)},
                 {(void **)&w->xb, t->o.compute == KQ_BF16 ? T * wide * 2 : 1},
                 {(void **)&w->gb, t->o.compute == KQ_BF16 ? T * wide * 2 : 1}};
    kq_status st = KQ_OK;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !st; i++)
        st = kq_alloc_for(parts[i].to, parts[i].bytes, 1, "scratch of tuning", err);
    return st;
}

/* The arrays of one step and of the training. */
static kq_status new_arrays(kq_tuner *t, kq_error *err)
{
    const kq_tuner_options *o = &t->o;
    const size_t n = t->params.n, record = o->T * t->cfg->d_model;
    float **const arrays[] = {&t->s.theta, &t->s.grad, &t->s.m, &t->s.v};
    kq_status st = KQ_OK;
    t->widest = kq_params_widest(t->cfg, &t->params);
    for (size_t i = 0; i < 4 && !st; i++)
        if (!(st = kq_alloc_for((void **)arrays[i], n, sizeof(float), "trained numbers", err)))
            memset(*arrays[i], 0, n * sizeof(float));
    for (size_t i = 0; i < n && !st; i++)
        t->s.theta[i] = 1;
    if (!st)
        st = kq_alloc_for((void **)&t->seq_grad, o->at_once * t->widest, sizeof(float), "gradients", err);
    if (!st)
        st = kq_alloc_for((void **)&t->seq_kl, o->at_once, sizeof(double), "losses", err);
    if (!st)
        st = kq_alloc_for((void **)&t->x, (t->cfg->n_layer + 1) * o->at_once * record, sizeof(float),
                          "the blocks' inputs", err);
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
        void *const parts[] = {t->w[i].scratch, t->w[i].teacher, t->w[i].Gw,
                               t->w[i].row,     t->w[i].xb,      t->w[i].gb};
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
    void *const arrays[] = {t->final_norm, t->s.theta, t->s.grad,   t->s.m,
                            t->s.v,        t->x,       t->seq_grad, t->seq_kl};
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

static float *input(const kq_tuner *t, size_t layer, size_t s)
{
    return t->x + (layer * t->o.at_once + s) * t->o.T * t->cfg->d_model;
}

/* Call fn(t, ctx, s) for every sequence s < n of the step, spread over the threads. */
typedef kq_status sequence_work(kq_tuner *t, const void *ctx, size_t s, kq_error *err);
static kq_status for_each_sequence(kq_tuner *t, size_t n, sequence_work *fn, const void *ctx, kq_error *err)
{
    kq_first_error failed = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic, 1) num_threads(t->o.threads)
    for (size_t s = 0; s < n; s++) {
        kq_error e;
        if (!kq_first_error_skip(&failed, s))
            kq_first_error_note(&failed, s, fn(t, ctx, s, &e), &e);
    }
    return kq_first_error_get(&failed, err);
}

/* One sequence through the block at work. ctx: the places of its input and output (input). */
static kq_status forward_one(kq_tuner *t, const void *ctx, size_t s, kq_error *err)
{
    const size_t *places = ctx;
    return kq_block_forward(t->mc, &t->tuned, input(t, places[0], s), t->o.T, input(t, places[1], s),
                            t->w[omp_get_thread_num()].scratch, 1, err);
}

/* The first blocks' inputs to the final hidden states of n sequences. keep: every block's input stays; else
 * all of them are in the place of the first. */
static kq_status forward(kq_tuner *t, const uint32_t *seq, size_t n, bool keep, kq_error *err)
{
    const size_t T = t->o.T;
    const decoded_block *What;
    kq_status st = tune_outside(t, err);
    for (size_t s = 0; s < n && !st; s++)
        st = kq_head_embed(t->head, t->o.ids + seq[s] * T, T, input(t, 0, s), err);
    for (size_t l = 0; l < t->cfg->n_layer && !st; l++) {
        const size_t places[] = {keep ? l : 0, keep ? l + 1 : 0};
        if (!(st = tune_block(t, l, &What, err)) && !(st = for_each_sequence(t, n, forward_one, places, err)))
            st = kq_progress_ask(t->o.common, "a block", err);
    }
    return st;
}

typedef struct loss_wanted {
    const uint32_t *seq; /* the sequences of the step */
    bool gradient;
} loss_wanted;

/* Where the loss hands what the head's gradient is made of. */
typedef struct head_sink {
    const kq_tuner *t;
    worker *w;
    float *grad; /* of the sequence, those behind the layers */
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
    size_t at;
    const kq_tuned_rows *rows = head_matrix(t, &at);
    if (Gb)
        t->kern->to_bf16(X, z->w->xb, n * t->cfg->d_model);
    return kq_tuned_rows_head_gradient(
        rows, t->kern, t->s.theta + at, &(kq_head_tile){.X = X, .G = G, .Xb = z->w->xb, .Gb = Gb, .n = n},
        z->w->Gw, largest_linear(t->cfg), z->grad + (at - t->params.final_at), err);
}

/* The loss of sequence s of the step into seq_kl, and with `gradient` dLoss/d(its final hidden states) in
 * their place. Losses are sums over the tokens. */
static kq_status loss_one(kq_tuner *t, const void *ctx, size_t s, kq_error *err)
{
    const loss_wanted *z = ctx;
    const bool gradient = z->gradient;
    worker *w = &t->w[omp_get_thread_num()];
    const size_t T = t->o.T;
    size_t at;
    float *x = input(t, gradient ? t->cfg->n_layer : 0, s), *kl = NULL;
    head_sink sink_of_head = {t, w, t->seq_grad + s * t->widest};
    kq_status st = kq_alloc_for((void **)&kl, T, sizeof *kl, "losses", err);
    if (st)
        return st;
    if (!(st = t->o.hidden(t->o.ctx, z->seq[s], w->teacher, err)))
        st = kq_head_distill(&(kq_distill){.h = t->head,
                                           .teacher = t->teacher,
                                           .x = x,
                                           .teacher_x = w->teacher,
                                           .T = T,
                                           .kl = kl,
                                           .dx = gradient ? x : NULL,
                                           .dnorm = gradient ? sink_of_head.grad : NULL,
                                           .give = gradient && head_matrix(t, &at)->o ? take_head : NULL,
                                           .ctx = &sink_of_head},
                             w->scratch, err);
    t->seq_kl[s] = 0;
    for (size_t i = 0; i < T && !st; i++)
        t->seq_kl[s] += kl[i];
    kq_free(kl);
    return st;
}

kq_status kq_tuner_loss(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err)
{
    double sum = 0;
    kq_status st = KQ_OK;
    for (size_t at = 0; at < n && !st; at += t->o.at_once) {
        const size_t k = n - at < t->o.at_once ? n - at : t->o.at_once;
        if (!(st = forward(t, seq + at, k, false, err)))
            st = for_each_sequence(t, k, loss_one, &(loss_wanted){seq + at, false}, err);
        for (size_t s = 0; s < k && !st; s++)
            sum += t->seq_kl[s];
    }
    *kl = sum / (double)(n * t->o.T);
    return st;
}

/* ---- backward ---- */

/* The sink of one sequence: where a block hands the inputs and gradients of its linears. */
typedef struct sink {
    const kq_tuner *t;
    const decoded_block *What;
    worker *w;
    float *grad; /* of the sequence, those of the layer */
} sink;

/* Gw = G^T X (eq. 22), and from it the gradient of the linear's trained numbers. */
static kq_status take_linear(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T,
                             kq_error *err)
{
    const sink *z = ctx;
    const kq_tuner *t = z->t;
    worker *w = z->w;
    const kq_trained_linear *l = &z->What->linear[id];
    const kq_linear *What = &l->What;
    const size_t m = What->m, n = What->n, layer = z->What->b.layer,
                 at = t->params.linear_at[layer * KQ_N_LINEAR + (size_t)id];
    if (What->bf16) {
        t->kern->to_bf16(X, w->xb, T * n);
        t->kern->to_bf16(G, w->gb, T * m);
        kq_status st = kq_gemm_bf16(true, false, m, n, T, w->gb, m, w->xb, n, false, w->Gw, n, err);
        if (st)
            return st;
    } else {
        kq_gemm_f32(true, false, m, n, T, 1.0f, G, m, X, n, 0.0f, w->Gw, n);
    }
    t->o.trained->gradient(t->kern, l, t->s.theta + at, w->Gw, z->grad + (at - t->params.layer_at[layer]));
    return KQ_OK;
}

/* Back through one block for sequence s: dx in the place of the gradient at its output. */
static kq_status back_one(kq_tuner *t, const void *ctx, size_t s, kq_error *err)
{
    const decoded_block *What = ctx;
    const kq_params *p = &t->params;
    const size_t layer = What->b.layer;
    worker *w = &t->w[omp_get_thread_num()];
    sink z = {t, What, w, t->seq_grad + s * t->widest};
    kq_linear_sink to = {.give = take_linear, .ctx = &z, .selected = t->o.packed[layer]};
    for (size_t i = 0; i < (size_t)kq_model_n_norms(t->cfg); i++)
        to.dnorm[i] = z.grad + (p->norm_at[layer * KQ_N_NORM + i] - p->layer_at[layer]);
    float *dy = input(t, t->cfg->n_layer, s);
    return kq_block_backward(t->mc, &t->tuned, input(t, layer, s), dy, t->o.T, dy, &to, w->scratch, err);
}

/* What the sink adds up is the gradient of a norm's weights; theta multiplies them. */
static void norms_to_factors(kq_tuner *t)
{
    const kq_params *p = &t->params;
    for (size_t i = 0; i < t->cfg->n_layer * KQ_N_NORM; i++)
        for (size_t j = 0; t->norm[i] && j < kq_model_norm(t->cfg, 0, (kq_norm_id)(i % KQ_N_NORM)).rows; j++)
            t->s.grad[p->norm_at[i] + j] *= t->norm[i][j];
    for (size_t j = 0; j < t->cfg->d_model; j++)
        t->s.grad[p->final_at + j] *= t->final_norm[j];
}

/* Back through the embedding of sequence s, whose tokens' gradient is where that of the last block's output
 * was. */
static kq_status embed_one(kq_tuner *t, const void *ctx, size_t s, kq_error *err)
{
    const uint32_t *seq = ctx;
    const size_t T = t->o.T, at = t->params.embed_at;
    (void)err;
    kq_tuned_rows_embed_gradient(&t->embed_rows, t->kern, t->s.theta + at, t->o.ids + seq[s] * T, T,
                                 input(t, t->cfg->n_layer, s),
                                 t->seq_grad + s * t->widest + (at - t->params.final_at));
    return KQ_OK;
}

/* The gradients of the sequences, which begin at `first` of seq_grad, summed in their order and divided by
 * the tokens: added to those of the n numbers from `at` on, which are 0 at the beginning of a step. */
static void sum_sequences(kq_tuner *t, size_t n_seq, size_t first, size_t at, size_t n)
{
    const double share = 1 / (double)(n_seq * t->o.T);
#pragma omp parallel for num_threads(t->o.threads)
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t s = 0; s < n_seq; s++)
            sum += t->seq_grad[s * t->widest + first + i];
        t->s.grad[at + i] += (float)(sum * share);
    }
}

/* Back through all blocks, from the top one down. */
static kq_status back_blocks(kq_tuner *t, size_t n, kq_error *err)
{
    const size_t *layer_at = t->params.layer_at;
    const decoded_block *What;
    kq_status st = KQ_OK;
    for (size_t l = t->cfg->n_layer; l-- > 0 && !st;) {
        memset(t->seq_grad, 0, n * t->widest * sizeof(float));
        if ((st = tune_block(t, l, &What, err)) || (st = for_each_sequence(t, n, back_one, What, err)))
            break;
        sum_sequences(t, n, 0, layer_at[l], layer_at[l + 1] - layer_at[l]);
        st = kq_progress_ask(t->o.common, "a block", err);
    }
    return st;
}

kq_status kq_tuner_gradient(kq_tuner *t, const uint32_t *seq, size_t n, double *kl, kq_error *err)
{
    const kq_params *p = &t->params;
    const size_t bytes = n * t->widest * sizeof(float);
    const double share = 1 / (double)(n * t->o.T);
    kq_status st = forward(t, seq, n, true, err);
    memset(t->s.grad, 0, p->n * sizeof(float));
    memset(t->seq_grad, 0, bytes);
    if (!st)
        st = for_each_sequence(t, n, loss_one, &(loss_wanted){seq, true}, err);
    if (st)
        return st;
    sum_sequences(t, n, 0, p->final_at, p->n - p->final_at);
    if ((st = back_blocks(t, n, err)))
        return st;
    memset(t->seq_grad, 0, bytes);
    if (t->embed_rows.o && !(st = for_each_sequence(t, n, embed_one, seq, err)))
        sum_sequences(t, n, p->embed_at - p->final_at, p->embed_at, p->n - p->embed_at);
    *kl = 0;
    for (size_t s = 0; s < n; s++)
        *kl += t->seq_kl[s] * share;
    norms_to_factors(t);
    return st;
}
