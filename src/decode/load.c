/* Loading an engine: every linear as a matrix, packed, dense, or a view of the mapped file; the norms; the
 * head in the form in which it is stored; then caches and scratch, whose sizes depend on what was loaded. */
#include "decode/engine_state.h"

#include <stdio.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"

static kq_status load_vector(const kq_engine *e, const char *name, size_t n, float **out, kq_error *err)
{
    kq_status st = kq_alloc_for((void **)out, n, sizeof **out, name, err);
    return st ? st : e->weights->rows(e->weights->ctx, name, 0, n, *out, err);
}

/* Make M a view of the tensor as the mapped file holds it, where a product can read it so: in bf16, and in
 * f16 unless there are faster kernels for bf16 (AMX). No bit of a weight is lost. False, and nothing done:
 * other types, rows in another order, an odd address, NaN or Inf (reading the tensor names the place then).
 */
static bool borrow(const kq_engine *e, const char *name, kq_matrix *M)
{
    const kq_tensor *t = e->weights->stored ? e->weights->stored(e->weights->ctx, name) : NULL;
    if (!t || t->rank != 2 || t->shape[0] != M->m || t->shape[1] != M->n || t->permuted_qk || t->scale ||
        (uintptr_t)t->data % sizeof *M->half || (t->dtype != KQ_T_BF16 && t->dtype != KQ_T_F16) ||
        (t->dtype == KQ_T_F16 && e->mk.bf16))
        return false;
    const uint16_t *half = (const uint16_t *)(const void *)t->data,
                   exponent = t->dtype == KQ_T_BF16 ? 0x7f80 : 0x7c00;
    unsigned bad = 0;
    for (size_t i = 0; i < M->m * M->n; i++)
        bad |= (half[i] & exponent) == exponent;
    if (bad)
        return false;
    M->kind = t->dtype == KQ_T_BF16 ? KQ_MATRIX_BF16 : KQ_MATRIX_F16;
    M->half = half;
    return true;
}

/* f [m, n] becomes the matrix in the compute type; M owns it from here on, whatever is returned. */
static kq_status keep_dense(const kq_engine *e, kq_matrix *M, float *f, kq_error *err)
{
    M->kind = KQ_MATRIX_F32;
    M->f32 = f;
    if (e->opt.compute == KQ_F32)
        return KQ_OK;
    kq_status st =
        kq_alloc_for((void **)&M->owned_half, M->m * M->n, sizeof *M->owned_half, "a linear's weights", err);
    if (st)
        return st;
    e->kern->to_bf16(f, M->owned_half, M->m * M->n);
    M->half = M->owned_half;
    M->kind = KQ_MATRIX_BF16;
    M->f32 = NULL;
    kq_free(f);
    return KQ_OK;
}

/* *out = the rotation of order n, made once for all matrices. */
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
    if ((!p->one_sided && (st = rotation_of(e, p->m_pad, &M->u_m, err))) ||
        (st = rotation_of(e, p->n_pad, &M->u_n, err)) ||
        (st = kq_alloc_for((void **)&M->su, p->n, sizeof *M->su, "scales", err)) ||
        (st = kq_alloc_for((void **)&M->sv, p->m, sizeof *M->sv, "scales", err)))
        return st;
    if (e->opt.compute == KQ_BF16) {
        if (!e->codes[k] && (st = kq_packed_code_new(t, &e->codes[k], err)))
            return st;
        M->code = e->codes[k];
    }
    for (size_t i = 0; i < p->n; i++)
        M->su[i] = p->su[i];
    for (size_t i = 0; i < p->m; i++)
        M->sv[i] = p->sv[i] * p->scale * (M->code ? M->code->unit : 1);
    M->words = p->trellis;
    if ((uintptr_t)p->trellis % 2) {
        const size_t n = kq_packed_row_at(p, k, p->m_pad / KQ_TILE, &(int){0});
        if ((st = kq_alloc_for((void **)&M->owned_words, n, sizeof *M->owned_words, "packed weights", err)))
            return st;
        memcpy(M->owned_words, p->trellis, n * sizeof *M->owned_words);
        M->words = M->owned_words;
    }
    if (p->n_pad > e->n_pad)
        e->n_pad = p->n_pad;
    if (p->m_pad > e->m_pad && !p->one_sided) /* a head's product is never whole in w */
        e->m_pad = p->m_pad;
    return KQ_OK;
}

/* A head: its fine rows have a code of their own. The integers of both codes have the same unit, because a
 * state means the same at any number of bits. */
static kq_status keep_packed_rows(kq_engine *e, const kq_packed *p, const kq_row_codes *codes, kq_matrix *M,
                                  kq_error *err)
{
    kq_status st = keep_packed(e, p, codes->most, M, err);
    if (st || !codes->fine)
        return st;
    const int k = kq_trellis_k(codes->fine);
    M->fine_first = p->fine_first;
    M->fine_last = p->fine_last;
    M->fine = codes->fine;
    if (M->code && !e->codes[k] && (st = kq_packed_code_new(codes->fine, &e->codes[k], err)))
        return st;
    M->fine_code = M->code ? e->codes[k] : NULL;
    return KQ_OK;
}

/* Do matrices that are packed in the file stay so in memory? */
static bool holds_packed(const kq_engine *e)
{
    return e->model && (e->opt.weights == KQ_WEIGHTS_PACKED ||
                        (e->opt.weights == KQ_WEIGHTS_AUTO && e->opt.compute == KQ_BF16));
}

static kq_status load_linear(kq_engine *e, size_t l, kq_linear_id id, kq_matrix *M, kq_error *err)
{
    float *f = NULL;
    size_t n;
    kq_linear_shape(e->cfg, id, &M->m, &M->n);
    if (!kq_mul_size(M->m, M->n, &n))
        return kq_fail(err, KQ_E_MEMORY, "layer %zu: a linear of %zu x %zu is too large", l, M->m, M->n);
    kq_status st;
    if (holds_packed(e)) {
        kq_packed p;
        const kq_trellis *t;
        if ((st = kq_model_file_packed(e->model, l, id, &p, &t, err)))
            return st;
        if (t)
            return keep_packed(e, &p, t, M, err);
    }
    char module[128], name[160];
    kq_linear_name(module, sizeof module, l, id);
    snprintf(name, sizeof name, "%s.weight", module);
    if (borrow(e, name, M))
        return KQ_OK;
    st = kq_alloc_for((void **)&f, n, sizeof *f, "a linear's weights", err);
    if (!st && (st = e->weights->linear(e->weights->ctx, l, id, f, err)))
        kq_free(f);
    return st ? st : keep_dense(e, M, f, err);
}

static const char *head_name(const kq_engine *e)
{
    return e->cfg->tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

/* The head as the checkpoint stores it, or in the compute type. */
static kq_status load_head(kq_engine *e, kq_error *err)
{
    kq_matrix *M = &e->head;
    const size_t V = e->cfg->vocab_size, d = e->cfg->d_model;
    size_t n;
    M->m = V, M->n = d;
    if (!kq_mul_size(V, d, &n))
        return kq_fail(err, KQ_E_MEMORY, "a head of %zu x %zu is too large", V, d);
    kq_status st;
    if (holds_packed(e)) {
        kq_packed p;
        kq_row_codes codes;
        if ((st = kq_model_file_packed_rows(e->model, head_name(e), &p, &codes, err)))
            return st;
        if (codes.most)
            return keep_packed_rows(e, &p, &codes, M, err);
    }
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
    if (borrow(e, head_name(e), M))
        return KQ_OK;
    if (e->opt.compute == KQ_F32) {
        M->kind = KQ_MATRIX_F32;
        if (!(st = kq_alloc_for((void **)&M->f32, n, sizeof *M->f32, "the head", err)))
            st = e->weights->rows(e->weights->ctx, head_name(e), 0, V, M->f32, err);
        return st;
    }
    enum { PIECE = 256 };
    float *piece = NULL;
    M->kind = KQ_MATRIX_BF16;
    if (!(st = kq_alloc_for((void **)&M->owned_half, n, sizeof *M->owned_half, "the head", err)))
        st = kq_alloc_for((void **)&piece, PIECE * d, sizeof *piece, "the head", err);
    for (size_t r = 0; r < V && !st; r += PIECE) {
        const size_t k = V - r < PIECE ? V - r : PIECE;
        if (!(st = e->weights->rows(e->weights->ctx, head_name(e), r, k, piece, err)))
            e->kern->to_bf16(piece, M->owned_half + r * d, k * d);
    }
    M->half = M->owned_half;
    kq_free(piece);
    return st;
}

static kq_status load_layer(kq_engine *e, size_t l, kq_engine_layer *b, kq_error *err)
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

static kq_status make_scratch(kq_engine *e, kq_error *err)
{
    const kq_config *c = e->cfg;
    const size_t R = KQ_ENGINE_ROWS, threads = (size_t)e->opt.threads,
                 wide = c->d_model > e->dq ? c->d_model : e->dq, widest = c->d_ff > wide ? c->d_ff : wide;
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
        {(void **)&e->logits, threads * R * KQ_ROW_BLOCK, 4, "scratch"},
        {(void **)&e->packed, e->mk.bf16 ? kq_bf16_packed_size(widest, R) : 0, 4, "scratch"},
        {(void **)&e->query, e->mk.bf16 ? threads * kq_bf16_packed_size(c->head_dim, e->group) : 0, 4,
         "scratch"},
        {(void **)&e->z, 3 * R * e->n_pad, e->z_width, "scratch"},
        {(void **)&e->w, 3 * R * e->m_pad, 4, "scratch"},
        {(void **)&e->steps, e->n_pad ? 3 * R : 0, 4, "scratch"},
        {(void **)&e->panel, threads * kq_engine_panel_size(e), 4, "scratch"},
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

kq_status kq_engine_load(kq_engine *e, kq_error *err)
{
    const kq_config *c = e->cfg;
    kq_status st = KQ_OK;
    e->layers = kq_calloc(c->n_layer, sizeof *e->layers);
    if (!e->layers)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: engine");
    for (size_t l = 0; l < c->n_layer && !st; l++)
        st = load_layer(e, l, &e->layers[l], err);
    if (!st)
        st = load_vector(e, "model.norm.weight", c->d_model, &e->norm, err);
    if (!st)
        st = load_head(e, err);
    return st ? st : make_scratch(e, err);
}
