#include "decode/engine.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/first_error.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/threads.h"
#include "decode/matrix.h"
#include "decode/team.h"
#include "kern/kern.h"

enum { ROWS_MAX = KQ_ENGINE_ROWS, BLOCK = 32 /* rows of a matrix handed out at once */ };

typedef struct layer {
    kq_matrix lin[KQ_N_LINEAR];
    float *attn_norm, *mlp_norm, *q_norm, *k_norm; /* owned; the last two Qwen3 only */
} layer;

struct kq_engine {
    const kq_weights *weights;
    const kq_model_file *model; /* NULL: only weights */
    kq_engine_options opt;
    const kq_config *cfg;
    kq_model_ctx *mc;
    const kq_kern *kern;
    const kq_decode_kern *dk;
    size_t dq, dkv, group;
    float attn_scale;
    layer *layers; /* owned, as is the rest */
    float *norm;
    kq_matrix head;
    size_t *length;  /* [n_slots] */
    uint8_t *K, *V;  /* [n_layer][n_slots][n_kv_head][max_T][head_dim] in the kv type */
    size_t kv_width; /* bytes an element */
    /* Scratch of ROWS_MAX rows. */
    float *x, *xn, *q, *k, *v, *o, *g, *u;
    float *scores; /* [threads][group][max_T] */
    float *logits; /* [threads][ROWS_MAX][BLOCK] */
    /* Packed linears: rotations by order, integer codes by bits, and scratch of three matrices that
     * share an input. */
    kq_rotation *rotations[8];
    size_t n_rotations;
    kq_packed_code *codes[5];
    const kq_packed_kern *pk;
    size_t n_pad, m_pad, z_width; /* the largest orders; bytes an element of z */
    uint8_t *z;                   /* [3][ROWS_MAX][n_pad] rotated inputs, int16 or f32 */
    float *w, *steps;             /* [3][ROWS_MAX][m_pad] products, [3][ROWS_MAX] */
    /* [threads][18 n_pad + m_pad]: 16 rows of weights, and two vectors being rotated */
    float *panel;
    size_t scratch_bytes;
};

/* One row of a chunk: a token at a position of a slot, and where its logits go (NULL: nowhere). */
typedef struct row {
    int32_t id;
    size_t slot, pos;
    float *logits;
} row;

typedef struct pass {
    kq_engine *e;
    kq_team team;
    size_t n; /* rows */
    const row *rows;
    const size_t *wanted; /* rows whose logits are wanted */
    size_t n_wanted;
    atomic_int bad_layer; /* first layer with NaN or Inf, n_layer: none */
    kq_first_error embedding;
} pass;

static const char *const kv_names[] = {"bf16", "f16", "f32"};

const char *kq_kv_name(kq_kv_type kv)
{
    return kv_names[kv];
}

kq_status kq_kv_parse(const char *name, kq_kv_type *out, kq_error *err)
{
    for (int i = KQ_KV_BF16; name && i <= KQ_KV_F32; i++)
        if (!strcmp(name, kv_names[i])) {
            *out = (kq_kv_type)i;
            return KQ_OK;
        }
    return kq_fail(err, KQ_E_ARG, "a key/value cache in \"%s\" (one of bf16, f16, f32)", name ? name : "");
}

kq_status kq_engine_weights_parse(const char *name, kq_engine_weights *out, kq_error *err)
{
    static const char *const names[] = {"auto", "packed", "dense"};
    for (int i = KQ_WEIGHTS_AUTO; name && i <= KQ_WEIGHTS_DENSE; i++)
        if (!strcmp(name, names[i])) {
            *out = (kq_engine_weights)i;
            return KQ_OK;
        }
    return kq_fail(err, KQ_E_ARG, "weights \"%s\" (one of auto, packed, dense)", name ? name : "");
}

kq_engine_options kq_engine_defaults(void)
{
    return (kq_engine_options){.isa = kq_isa_best(), .compute = KQ_BF16, .n_slots = 1, .max_T = 2048};
}

const kq_config *kq_engine_config(const kq_engine *e)
{
    return e->cfg;
}
size_t kq_engine_n_slots(const kq_engine *e)
{
    return e->opt.n_slots;
}
size_t kq_engine_max_T(const kq_engine *e)
{
    return e->opt.max_T;
}
size_t kq_engine_length(const kq_engine *e, size_t slot)
{
    return slot < e->opt.n_slots ? e->length[slot] : 0;
}

void kq_engine_truncate(kq_engine *e, size_t slot, size_t length)
{
    if (slot < e->opt.n_slots && length < e->length[slot])
        e->length[slot] = length;
}

/* ---- making it ----------------------------------------------------------------------------------------- */

void kq_engine_free(kq_engine *e)
{
    if (!e)
        return;
    for (size_t l = 0; e->layers && l < e->cfg->n_layer; l++) {
        layer *b = &e->layers[l];
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_matrix_free(&b->lin[id]);
        kq_free(b->attn_norm), kq_free(b->mlp_norm), kq_free(b->q_norm), kq_free(b->k_norm);
    }
    kq_matrix_free(&e->head);
    void *const blocks[] = {e->layers, e->norm, e->length, e->K,     e->V,    e->x, e->xn,
                            e->q,      e->k,    e->v,      e->o,     e->g,    e->u, e->scores,
                            e->logits, e->z,    e->w,      e->steps, e->panel};
    for (size_t i = 0; i < e->n_rotations; i++)
        kq_rotation_free(e->rotations[i]);
    for (size_t k = 0; k < sizeof e->codes / sizeof *e->codes; k++)
        kq_packed_code_free(e->codes[k]);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        kq_free(blocks[i]);
    kq_model_ctx_free(e->mc);
    kq_free(e);
}

static kq_status load_vector(const kq_engine *e, const char *name, size_t n, float **out, kq_error *err)
{
    kq_status st = kq_alloc_for((void **)out, n, sizeof **out, name, err);
    return st ? st : e->weights->rows(e->weights->ctx, name, 0, n, *out, err);
}

/* f32 [m, n] in *f becomes the matrix, in the compute type. Takes *f. */
static kq_status keep_dense(const kq_engine *e, kq_matrix *M, float *f, kq_error *err)
{
    M->kind = KQ_MATRIX_F32;
    M->f32 = f;
    if (e->opt.compute == KQ_F32)
        return KQ_OK;
    kq_status st = kq_alloc_for((void **)&M->bf16, M->m * M->n, sizeof *M->bf16, "a linear's weights", err);
    if (st)
        return st;
    e->kern->to_bf16(f, M->bf16, M->m * M->n);
    M->kind = KQ_MATRIX_BF16;
    M->f32 = NULL;
    kq_free(f);
    return KQ_OK;
}

static kq_status rotation_of(kq_engine *e, size_t n, const kq_rotation **out, kq_error *err)
{
    for (size_t i = 0; i < e->n_rotations; i++)
        if (kq_rotation_order(e->rotations[i]) == n) {
            *out = e->rotations[i];
            return KQ_OK;
        }
    /* orders in a model: d_model, n_head head_dim, n_kv_head head_dim, d_ff */
    kq_status st = kq_rotation_new(n, &e->rotations[e->n_rotations], err);
    if (!st)
        *out = e->rotations[e->n_rotations++];
    return st;
}

static kq_status keep_packed(kq_engine *e, const kq_packed *p, const kq_trellis *t, kq_matrix *M,
                             kq_error *err)
{
    const int k = kq_trellis_k(t);
    kq_status st;
    M->kind = KQ_MATRIX_PACKED;
    M->m_pad = p->m_pad, M->n_pad = p->n_pad;
    M->trellis = t;
    if ((st = rotation_of(e, p->m_pad, &M->u_m, err)) || (st = rotation_of(e, p->n_pad, &M->u_n, err)) ||
        (st = kq_alloc_for((void **)&M->su, p->n, sizeof *M->su, "signs", err)) ||
        (st = kq_alloc_for((void **)&M->sv, p->m, sizeof *M->sv, "signs", err)))
        return st;
    if (e->opt.compute == KQ_BF16) {
        if (!e->codes[k] && (st = kq_packed_code_new(t, &e->codes[k], err)))
            return st;
        M->code = e->codes[k];
    }
    for (size_t i = 0; i < p->n; i++)
        M->su[i] = p->su[i];
    for (size_t i = 0; i < p->m; i++)
        M->sv[i] = (float)p->sv[i] * p->scale * (M->code ? M->code->unit : 1);
    M->words = p->trellis;
    if ((uintptr_t)p->trellis % 2) {
        const size_t n = p->m_pad / KQ_TILE * (p->n_pad / KQ_TILE) * kq_trellis_words(t);
        if ((st = kq_alloc_for((void **)&M->owned_words, n, sizeof *M->owned_words, "packed weights", err)))
            return st;
        memcpy(M->owned_words, p->trellis, n * sizeof *M->owned_words);
        M->words = M->owned_words;
    }
    if (p->n_pad > e->n_pad)
        e->n_pad = p->n_pad;
    if (p->m_pad > e->m_pad)
        e->m_pad = p->m_pad;
    return KQ_OK;
}

static kq_status load_linear(kq_engine *e, size_t l, kq_linear_id id, kq_matrix *M, kq_error *err)
{
    float *f = NULL;
    size_t n;
    kq_linear_shape(e->cfg, id, &M->m, &M->n);
    if (!kq_mul_size(M->m, M->n, &n))
        return kq_fail(err, KQ_E_MEMORY, "layer %zu: a linear of %zu x %zu is too large", l, M->m, M->n);
    kq_status st;
    if (e->model && (e->opt.weights == KQ_WEIGHTS_PACKED ||
                     (e->opt.weights == KQ_WEIGHTS_AUTO && e->opt.compute == KQ_BF16))) {
        kq_packed p;
        const kq_trellis *t;
        if ((st = kq_model_file_packed(e->model, l, id, &p, &t, err)))
            return st;
        if (t)
            return keep_packed(e, &p, t, M, err);
    }
    st = kq_alloc_for((void **)&f, n, sizeof *f, "a linear's weights", err);
    if (!st && (st = e->weights->linear(e->weights->ctx, l, id, f, err)))
        kq_free(f);
    return st ? st : keep_dense(e, M, f, err);
}

static const char *head_name(const kq_engine *e)
{
    return e->cfg->tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

static kq_status load_head(kq_engine *e, kq_error *err)
{
    kq_matrix *M = &e->head;
    const size_t V = e->cfg->vocab_size, d = e->cfg->d_model;
    size_t n;
    M->m = V, M->n = d;
    if (!kq_mul_size(V, d, &n))
        return kq_fail(err, KQ_E_MEMORY, "a head of %zu x %zu is too large", V, d);
    kq_status st;
    kq_packed_rows stored = {0};
    if (e->model && e->opt.weights != KQ_WEIGHTS_DENSE &&
        (st = kq_model_file_rows(e->model, head_name(e), &stored, err)))
        return st;
    if (stored.bits) {
        uint16_t *half = NULL;
        const size_t n_groups = stored.n / stored.group;
        M->kind = stored.bits == 8 ? KQ_MATRIX_Q8 : KQ_MATRIX_Q4;
        M->q = stored.q, M->group = stored.group;
        if (!(st = kq_alloc_for((void **)&M->scales, V * n_groups, sizeof *M->scales, "the head's scales",
                                err)))
            st = kq_alloc_for((void **)&half, n_groups, sizeof *half, "the head's scales", err);
        for (size_t i = 0; i < V && !st; i++)
            if (!(st = kq_packed_rows_scales(&stored, i, half, err)))
                kq_f16_to_f32_n(half, M->scales + i * n_groups, n_groups);
        kq_free(half);
        return st;
    }
    if (e->opt.compute == KQ_F32) {
        M->kind = KQ_MATRIX_F32;
        if (!(st = kq_alloc_for((void **)&M->f32, n, sizeof *M->f32, "the head", err)))
            st = e->weights->rows(e->weights->ctx, head_name(e), 0, V, M->f32, err);
        return st;
    }
    enum { PIECE = 256 };
    float *piece = NULL;
    M->kind = KQ_MATRIX_BF16;
    if (!(st = kq_alloc_for((void **)&M->bf16, n, sizeof *M->bf16, "the head", err)))
        st = kq_alloc_for((void **)&piece, PIECE * d, sizeof *piece, "the head", err);
    for (size_t r = 0; r < V && !st; r += PIECE) {
        const size_t k = V - r < PIECE ? V - r : PIECE;
        if (!(st = e->weights->rows(e->weights->ctx, head_name(e), r, k, piece, err)))
            e->kern->to_bf16(piece, M->bf16 + r * d, k * d);
    }
    kq_free(piece);
    return st;
}

static kq_status load_layer(kq_engine *e, size_t l, layer *b, kq_error *err)
{
    const kq_config *c = e->cfg;
    float **const norms[KQ_N_NORM] = {&b->attn_norm, &b->mlp_norm, &b->q_norm, &b->k_norm};
    kq_status st = KQ_OK;
    for (kq_norm_id id = KQ_NORM_ATTN; id < kq_model_n_norms(c) && !st; id++) {
        const kq_model_tensor t = kq_model_norm(c, l, id);
        st = load_vector(e, t.name, t.rows, norms[id], err);
    }
    for (int id = 0; id < KQ_N_LINEAR && !st; id++)
        st = load_linear(e, l, (kq_linear_id)id, &b->lin[id], err);
    return st;
}

/* Floats a thread needs for packed linears. */
static size_t panel_size(const kq_engine *e)
{
    return e->n_pad ? (18 * e->n_pad + e->m_pad + 15) / 16 * 16 : 0;
}

static kq_status make_scratch(kq_engine *e, kq_error *err)
{
    const kq_config *c = e->cfg;
    const size_t R = ROWS_MAX, threads = (size_t)e->opt.threads,
                 wide = c->d_model > e->dq ? c->d_model : e->dq;
    size_t kv, scores;
    if (!kq_mul_size(e->dkv * e->kv_width, e->opt.max_T, &kv) || !kq_mul_size(kv, e->opt.n_slots, &kv) ||
        !kq_mul_size(kv, c->n_layer, &kv) || !kq_mul_size(threads * e->group, e->opt.max_T, &scores))
        return kq_fail(err, KQ_E_MEMORY, "a cache of %zu sequences of %zu tokens is too large",
                       e->opt.n_slots, e->opt.max_T);
    const struct {
        void **p;
        size_t n, size;
        const char *what;
    } arrays[] = {
        {(void **)&e->length, e->opt.n_slots, sizeof *e->length, "slots"},
        {(void **)&e->K, kv, 1, "the key/value cache"},
        {(void **)&e->V, kv, 1, "the key/value cache"},
        {(void **)&e->x, R * c->d_model, 4, "scratch"},
        {(void **)&e->xn, R * wide, 4, "scratch"},
        {(void **)&e->q, R * e->dq, 4, "scratch"},
        {(void **)&e->k, R * e->dkv, 4, "scratch"},
        {(void **)&e->v, R * e->dkv, 4, "scratch"},
        {(void **)&e->o, R * e->dq, 4, "scratch"},
        {(void **)&e->g, R * c->d_ff, 4, "scratch"},
        {(void **)&e->u, R * c->d_ff, 4, "scratch"},
        {(void **)&e->scores, scores, 4, "scratch"},
        {(void **)&e->logits, threads * R * BLOCK, 4, "scratch"},
        {(void **)&e->z, 3 * R * e->n_pad, e->z_width, "scratch"},
        {(void **)&e->w, 3 * R * e->m_pad, 4, "scratch"},
        {(void **)&e->steps, e->n_pad ? 3 * R : 0, 4, "scratch"},
        {(void **)&e->panel, threads * panel_size(e), 4, "scratch"},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        if (!arrays[i].n)
            continue;
        kq_status st = kq_alloc_for(arrays[i].p, arrays[i].n, arrays[i].size, arrays[i].what, err);
        if (st)
            return st;
        e->scratch_bytes += arrays[i].n * arrays[i].size;
    }
    memset(e->length, 0, e->opt.n_slots * sizeof *e->length);
    return KQ_OK;
}

int kq_engine_threads(const kq_config *c, int asked)
{
    /* weights of a block a thread: some 20 us, against a few us of the eight barriers */
    enum { SHARE = 1 << 16 };
    size_t weights = 0, m, n;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(c, (kq_linear_id)id, &m, &n);
        weights += m * n;
    }
    const int processors = kq_processors(), most = asked > 0 && asked < processors ? asked : processors;
    return weights / SHARE >= (size_t)most ? most : weights < 2 * SHARE ? 1 : (int)(weights / SHARE);
}

static kq_status engine_new(const kq_weights *w, const kq_model_file *model, const kq_engine_options *opt,
                            kq_engine **out, kq_error *err)
{
    *out = NULL;
    if (opt->n_slots < 1 || opt->n_slots > 65536)
        return kq_fail(err, KQ_E_ARG, "an engine of %zu sequences (1 to 65536)", opt->n_slots);
    if (opt->kv < KQ_KV_BF16 || opt->kv > KQ_KV_F32)
        return kq_fail(err, KQ_E_ARG, "unknown type %d of the key/value cache", (int)opt->kv);
    kq_engine *e = kq_calloc(1, sizeof *e);
    if (!e)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: engine");
    const kq_config *c = e->cfg = w->cfg;
    e->weights = w;
    e->model = model;
    e->opt = *opt;
    if (e->opt.threads < 1)
        e->opt.threads = kq_engine_threads(c, 0);
    e->dq = c->n_head * c->head_dim, e->dkv = c->n_kv_head * c->head_dim, e->group = c->n_head / c->n_kv_head;
    e->attn_scale = 1.0f / sqrtf((float)c->head_dim);
    e->kv_width = opt->kv == KQ_KV_F32 ? 4 : 2;
    kq_status st = kq_model_ctx_new(c, opt->isa, opt->compute, opt->max_T, &e->mc, err);
    if (!st) {
        e->kern = kq_kern_pick(opt->isa);
        e->dk = kq_decode_kern_pick(opt->isa);
        e->pk = kq_packed_kern_pick(opt->isa);
        e->z_width = opt->compute == KQ_BF16 ? sizeof(int16_t) : sizeof(float);
        e->layers = kq_calloc(c->n_layer, sizeof *e->layers);
        st = e->layers ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: engine");
    }
    for (size_t l = 0; l < c->n_layer && !st; l++)
        st = load_layer(e, l, &e->layers[l], err);
    if (!st)
        st = load_vector(e, "model.norm.weight", c->d_model, &e->norm, err);
    if (st || (st = load_head(e, err)) || (st = make_scratch(e, err))) {
        kq_engine_free(e);
        return st;
    }
    *out = e;
    return KQ_OK;
}

kq_status kq_engine_new(const kq_model_file *model, const kq_engine_options *opt, kq_engine **out,
                        kq_error *err)
{
    return engine_new(kq_model_file_weights(model), model, opt, out, err);
}

kq_status kq_engine_new_dense(const kq_weights *w, const kq_engine_options *opt, kq_engine **out,
                              kq_error *err)
{
    return engine_new(w, NULL, opt, out, err);
}

size_t kq_engine_bytes_per_token(const kq_engine *e)
{
    size_t n = kq_matrix_bytes(&e->head);
    for (size_t l = 0; l < e->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++)
            n += kq_matrix_bytes(&e->layers[l].lin[id]);
    return n;
}

size_t kq_engine_bytes(const kq_engine *e)
{
    return kq_engine_bytes_per_token(e) + e->scratch_bytes;
}

/* ---- the cache ----------------------------------------------------------------------------------------- */

/* Bytes before key head j of a slot in layer l. */
static size_t cache_at(const kq_engine *e, size_t l, size_t slot, size_t j)
{
    return ((l * e->opt.n_slots + slot) * e->cfg->n_kv_head + j) * e->opt.max_T * e->cfg->head_dim *
           e->kv_width;
}

kq_status kq_engine_copy(kq_engine *e, size_t from, size_t to, size_t length, kq_error *err)
{
    if (from >= e->opt.n_slots || to >= e->opt.n_slots || from == to)
        return kq_fail(err, KQ_E_ARG, "copy of slot %zu to %zu of %zu", from, to, e->opt.n_slots);
    if (length > e->length[from])
        return kq_fail(err, KQ_E_ARG, "copy of %zu tokens of a slot that holds %zu", length, e->length[from]);
    for (size_t l = 0; l < e->cfg->n_layer; l++)
        for (size_t j = 0; j < e->cfg->n_kv_head; j++) {
            const size_t a = cache_at(e, l, from, j), b = cache_at(e, l, to, j),
                         n = length * e->cfg->head_dim * e->kv_width;
            memcpy(e->K + b, e->K + a, n);
            memcpy(e->V + b, e->V + a, n);
        }
    e->length[to] = length;
    return KQ_OK;
}

static void store(const kq_engine *e, const float *x, uint8_t *dst)
{
    const size_t n = e->cfg->head_dim;
    if (e->opt.kv == KQ_KV_F32)
        memcpy(dst, x, n * sizeof *x);
    else if (e->opt.kv == KQ_KV_BF16)
        e->kern->to_bf16(x, (uint16_t *)(void *)dst, n);
    else
        e->dk->to_f16(x, (uint16_t *)(void *)dst, n);
}

/* ---- one pass: every thread runs through these --------------------------------------------------------- */

/* for (size_t i; (i = kq_team_next(team)) < total;) and then the barrier. */
#define EACH(i, total) for (size_t i; (i = kq_team_next(&p->team)) < (total);)

static size_t blocks_of(const kq_matrix *M)
{
    return (M->m + BLOCK - 1) / BLOCK;
}

/* y[j] = M[j] x for up to three matrices that share their input x [n, ldx]. A packed one goes through z
 * and w. */
static void linears(pass *p, const kq_matrix *M, size_t count, const float *x, size_t ldx, float *const *y)
{
    const kq_engine *e = p->e;
    const size_t n = p->n;
    float *panel = e->panel + (size_t)omp_get_thread_num() * panel_size(e), *rotating = panel + 16 * e->n_pad;
    size_t total = 0, packed = 0;
    for (size_t j = 0; j < count; j++) {
        total += blocks_of(&M[j]);
        packed += M[j].kind == KQ_MATRIX_PACKED;
    }
    if (packed) {
        EACH(i, count * n)
        {
            const size_t j = i % count, t = i / count, at = j * ROWS_MAX + t;
            if (M[j].kind == KQ_MATRIX_PACKED)
                kq_matrix_rotate_in(&M[j], e->dk, e->pk, x + t * ldx, e->z + at * e->n_pad * e->z_width,
                                    e->steps + at, rotating);
        }
        kq_team_barrier(&p->team);
    }
    EACH(i, total)
    {
        size_t j = 0;
        for (; i >= blocks_of(&M[j]); j++)
            i -= blocks_of(&M[j]);
        const kq_matrix *A = &M[j];
        const size_t r0 = i * BLOCK, r1 = A->m - r0 < BLOCK ? A->m : r0 + BLOCK;
        if (A->kind != KQ_MATRIX_PACKED)
            kq_matrix_rows(A, e->dk, r0, r1, x, ldx, n, y[j] + r0, A->m);
        else
            for (size_t tile = r0 / 16; tile * 16 < r1; tile++)
                kq_matrix_tile(A, e->dk, e->pk, tile, e->z + j * ROWS_MAX * e->n_pad * e->z_width, e->n_pad,
                               n, e->w + j * ROWS_MAX * e->m_pad + tile * 16, e->m_pad, panel);
    }
    kq_team_barrier(&p->team);
    if (packed) {
        EACH(i, count * n)
        {
            const size_t j = i % count, t = i / count, at = j * ROWS_MAX + t;
            if (M[j].kind == KQ_MATRIX_PACKED)
                kq_matrix_rotate_out(&M[j], e->dk, e->w + at * e->m_pad, e->steps[at], y[j] + t * M[j].m,
                                     rotating);
        }
        kq_team_barrier(&p->team);
    }
}

static void attend(const kq_engine *e, size_t l, const row *r, const float *q, float *o, size_t j,
                   float *scores)
{
    const size_t hd = e->cfg->head_dim, at = cache_at(e, l, r->slot, j), keys = r->pos + 1, G = e->group,
                 ld = e->opt.max_T;
    const void *K = e->K + at, *V = e->V + at;
    q += j * G * hd, o += j * G * hd;
    if (e->opt.kv == KQ_KV_F32)
        e->dk->dots_f32(K, hd, keys, hd, q, hd, G, scores, ld);
    else if (e->opt.kv == KQ_KV_BF16)
        e->dk->dots_bf16(K, hd, keys, hd, q, hd, G, scores, ld);
    else
        e->dk->dots_f16(K, hd, keys, hd, q, hd, G, scores, ld);
    for (size_t g = 0; g < G; g++)
        e->kern->softmax(scores + g * ld, keys, e->attn_scale);
    if (e->opt.kv == KQ_KV_F32)
        e->dk->mix_f32(V, hd, keys, hd, scores, ld, G, o, hd);
    else if (e->opt.kv == KQ_KV_BF16)
        e->dk->mix_bf16(V, hd, keys, hd, scores, ld, G, o, hd);
    else
        e->dk->mix_f16(V, hd, keys, hd, scores, ld, G, o, hd);
}

/* q rotated in place; k and v into the cache. */
static void enter(const kq_engine *e, size_t l, const row *r, float *q, float *k, const float *v)
{
    const size_t hd = e->cfg->head_dim;
    const layer *b = &e->layers[l];
    for (size_t h = 0; h < e->cfg->n_head; h++)
        kq_head_rotate(e->mc, b->q_norm, q + h * hd, r->pos, q + h * hd, NULL);
    for (size_t j = 0; j < e->cfg->n_kv_head; j++) {
        const size_t at = cache_at(e, l, r->slot, j) + r->pos * hd * e->kv_width;
        kq_head_rotate(e->mc, b->k_norm, k + j * hd, r->pos, k + j * hd, NULL);
        store(e, k + j * hd, e->K + at);
        store(e, v + j * hd, e->V + at);
    }
}

static void run_layer(pass *p, size_t l)
{
    kq_engine *e = p->e;
    const kq_config *c = e->cfg;
    const layer *b = &e->layers[l];
    const size_t d = c->d_model, ff = c->d_ff, n = p->n;
    const float *next_norm = l + 1 < c->n_layer ? e->layers[l + 1].attn_norm : e->norm;

    linears(p, &b->lin[KQ_Q], 3, e->xn, d, (float *const[]){e->q, e->k, e->v});
    EACH(i, n)
    enter(e, l, &p->rows[i], e->q + i * e->dq, e->k + i * e->dkv, e->v + i * e->dkv);
    kq_team_barrier(&p->team);
    float *scores = e->scores + (size_t)omp_get_thread_num() * e->group * e->opt.max_T;
    EACH(i, n * c->n_kv_head)
    {
        const size_t r = i / c->n_kv_head;
        attend(e, l, &p->rows[r], e->q + r * e->dq, e->o + r * e->dq, i % c->n_kv_head, scores);
    }
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_O], 1, e->o, e->dq, (float *const[]){e->xn});
    EACH(i, n)
    {
        float *x = e->x + i * d;
        e->kern->add(x, e->xn + i * d, x, d);
        e->kern->rms_norm(x, b->mlp_norm, e->xn + i * d, d, c->rms_eps);
    }
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_GATE], 2, e->xn, d, (float *const[]){e->g, e->u});
    EACH(i, n)
    e->kern->swiglu(e->g + i * ff, e->u + i * ff, e->g + i * ff, ff);
    kq_team_barrier(&p->team);
    linears(p, &b->lin[KQ_DOWN], 1, e->g, ff, (float *const[]){e->xn});
    EACH(i, n)
    {
        float *x = e->x + i * d;
        e->kern->add(x, e->xn + i * d, x, d);
        int none = (int)c->n_layer;
        if (!e->kern->all_finite(x, d))
            atomic_compare_exchange_strong(&p->bad_layer, &none, (int)l);
        e->kern->rms_norm(x, next_norm, e->xn + i * d, d, c->rms_eps);
    }
    kq_team_barrier(&p->team);
}

/* Rows that want logits are brought to the front of x (they come in ascending order). */
static void run_head(pass *p)
{
    const kq_engine *e = p->e;
    const size_t d = e->cfg->d_model, V = e->head.m, T = p->n_wanted;
    EACH(i, T)
    memcpy(e->x + i * d, e->xn + p->wanted[i] * d, d * sizeof *e->x);
    kq_team_barrier(&p->team);
    float *part = e->logits + (size_t)omp_get_thread_num() * ROWS_MAX * BLOCK;
    EACH(i, (V + BLOCK - 1) / BLOCK)
    {
        const size_t r0 = i * BLOCK, r1 = V - r0 < BLOCK ? V : r0 + BLOCK;
        kq_matrix_rows(&e->head, e->dk, r0, r1, e->x, d, T, part, BLOCK);
        for (size_t t = 0; t < T; t++)
            memcpy(p->rows[p->wanted[t]].logits + r0, part + t * BLOCK, (r1 - r0) * sizeof *part);
    }
    kq_team_barrier(&p->team);
}

static void run_embedding(pass *p)
{
    kq_engine *e = p->e;
    const size_t d = e->cfg->d_model;
    EACH(i, p->n)
    {
        kq_error err;
        float *x = e->x + i * d;
        if (e->weights->rows(e->weights->ctx, "model.embed_tokens.weight", (size_t)p->rows[i].id, 1, x,
                             &err)) {
            memset(x, 0, d * sizeof *x);
            kq_first_error_note(&p->embedding, i, err.status, &err);
        }
        e->kern->rms_norm(x, e->layers[0].attn_norm, e->xn + i * d, d, e->cfg->rms_eps);
    }
    kq_team_barrier(&p->team);
}

static kq_status run_rows(kq_engine *e, const row *rows, size_t n, kq_error *err)
{
    size_t wanted[ROWS_MAX], n_wanted = 0;
    for (size_t i = 0; i < n; i++)
        if (rows[i].logits)
            wanted[n_wanted++] = i;
    pass p = {.e = e,
              .n = n,
              .rows = rows,
              .wanted = wanted,
              .n_wanted = n_wanted,
              .bad_layer = (int)e->cfg->n_layer,
              .embedding = KQ_FIRST_ERROR};
#pragma omp parallel num_threads(e->opt.threads)
    {
#pragma omp single
        p.team.n = omp_get_num_threads();
        run_embedding(&p);
        for (size_t l = 0; l < e->cfg->n_layer; l++)
            run_layer(&p, l);
        if (n_wanted)
            run_head(&p);
    }
    const kq_status st = kq_first_error_get(&p.embedding, err);
    if (st)
        return st;
    if (atomic_load(&p.bad_layer) < (int)e->cfg->n_layer)
        return kq_fail(err, KQ_E_NUMERIC, "model.layers.%d: NaN or Inf in the block's output",
                       atomic_load(&p.bad_layer));
    return KQ_OK;
}

static kq_status check_pieces(const kq_engine *e, const kq_engine_piece *pieces, size_t n_pieces,
                              kq_error *err)
{
    const size_t vocab = e->cfg->vocab_size;
    for (size_t i = 0; i < n_pieces; i++) {
        const kq_engine_piece *a = &pieces[i];
        if (a->slot >= e->opt.n_slots)
            return kq_fail(err, KQ_E_ARG, "slot %zu of %zu", a->slot, e->opt.n_slots);
        for (size_t j = 0; j < i; j++)
            if (pieces[j].slot == a->slot)
                return kq_fail(err, KQ_E_ARG, "slot %zu has two pieces in one call", a->slot);
        if (a->n < 1 || a->n_logits > a->n || (a->n_logits && !a->logits))
            return kq_fail(err, KQ_E_ARG, "slot %zu: logits of %zu of %zu tokens", a->slot, a->n_logits,
                           a->n);
        if (a->n > e->opt.max_T - e->length[a->slot])
            return kq_fail(err, KQ_E_ARG, "slot %zu: %zu tokens and %zu more do not fit the cache of %zu",
                           a->slot, e->length[a->slot], a->n, e->opt.max_T);
        for (size_t t = 0; t < a->n; t++)
            if (a->ids[t] < 0 || (size_t)a->ids[t] >= vocab)
                return kq_fail(err, KQ_E_ARG, "token %zu is %d, but the vocabulary has %zu", t,
                               (int)a->ids[t], vocab);
    }
    return KQ_OK;
}

kq_status kq_engine_run(kq_engine *e, const kq_engine_piece *pieces, size_t n_pieces, kq_error *err)
{
    row rows[ROWS_MAX];
    size_t n = 0;
    kq_status st = check_pieces(e, pieces, n_pieces, err);
    for (size_t i = 0; i < n_pieces && !st; i++) {
        const kq_engine_piece *a = &pieces[i];
        for (size_t t = 0; t < a->n && !st; t++) {
            const size_t after = a->n - t; /* tokens left, this one included */
            float *logits =
                after <= a->n_logits ? a->logits + (a->n_logits - after) * e->cfg->vocab_size : NULL;
            rows[n++] = (row){a->ids[t], a->slot, e->length[a->slot] + t, logits};
            if (n == ROWS_MAX) {
                st = run_rows(e, rows, n, err);
                n = 0;
            }
        }
    }
    if (!st && n)
        st = run_rows(e, rows, n, err);
    for (size_t i = 0; i < n_pieces && !st; i++)
        e->length[pieces[i].slot] += pieces[i].n;
    return st;
}
