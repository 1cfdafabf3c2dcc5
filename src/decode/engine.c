/* The engine as its users see it: options, slots and their lengths, and a call's pieces cut into passes of at
 * most KQ_ENGINE_ROWS rows. load.c makes it, pass.c runs it. */
#include "decode/engine_state.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

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
        kq_engine_layer *b = &e->layers[l];
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_matrix_free(&b->lin[id]);
        kq_free(b->attn_norm), kq_free(b->mlp_norm), kq_free(b->q_norm), kq_free(b->k_norm);
    }
    kq_matrix_free(&e->head);
    void *const blocks[] = {e->layers, e->norm, e->length, e->K,     e->V,     e->x,      e->xn,
                            e->q,      e->k,    e->v,      e->o,     e->g,     e->u,      e->scores,
                            e->logits, e->z,    e->w,      e->steps, e->panel, e->packed, e->query};
    for (size_t i = 0; i < e->n_rotations; i++)
        kq_rotation_free(e->rotations[i]);
    for (size_t k = 0; k < sizeof e->codes / sizeof *e->codes; k++)
        kq_packed_code_free(e->codes[k]);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        kq_free(blocks[i]);
    kq_model_ctx_free(e->mc);
    kq_free(e);
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
    if (opt->n_slots < 1 || opt->n_slots > KQ_ENGINE_SLOTS)
        return kq_fail(err, KQ_E_ARG, "an engine of %zu sequences (1 to %d)", opt->n_slots, KQ_ENGINE_SLOTS);
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
        e->mk = (kq_matrix_kern){kq_decode_kern_pick(opt->isa), kq_packed_kern_pick(opt->isa),
                                 opt->compute == KQ_BF16 ? kq_bf16_kern_pick(opt->isa) : NULL};
        e->z_width = opt->compute == KQ_BF16 ? sizeof(int16_t) : sizeof(float);
        st = kq_engine_load(e, err);
    }
    if (st) {
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

/* ---- slots --------------------------------------------------------------------------------------------- */

kq_status kq_engine_copy(kq_engine *e, size_t from, size_t to, size_t length, kq_error *err)
{
    if (from >= e->opt.n_slots || to >= e->opt.n_slots || from == to)
        return kq_fail(err, KQ_E_ARG, "copy of slot %zu to %zu of %zu", from, to, e->opt.n_slots);
    if (length > e->length[from])
        return kq_fail(err, KQ_E_ARG, "copy of %zu tokens of a slot that holds %zu", length, e->length[from]);
    for (size_t l = 0; l < e->cfg->n_layer; l++)
        for (size_t j = 0; j < e->cfg->n_kv_head; j++) {
            const size_t a = kq_cache_at(e, l, from, j), b = kq_cache_at(e, l, to, j),
                         n = length * e->cfg->head_dim * e->kv_width;
            memcpy(e->K + b, e->K + a, n);
            memcpy(e->V + b, e->V + a, n);
        }
    e->length[to] = length;
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
    kq_engine_row rows[KQ_ENGINE_ROWS];
    size_t n = 0;
    kq_status st = check_pieces(e, pieces, n_pieces, err);
    for (size_t i = 0; i < n_pieces && !st; i++) {
        const kq_engine_piece *a = &pieces[i];
        for (size_t t = 0; t < a->n && !st; t++) {
            const size_t after = a->n - t; /* tokens left, this one included */
            float *logits =
                after <= a->n_logits ? a->logits + (a->n_logits - after) * e->cfg->vocab_size : NULL;
            rows[n++] = (kq_engine_row){a->ids[t], a->slot, e->length[a->slot] + t, logits};
            if (n == KQ_ENGINE_ROWS) {
                st = kq_engine_pass(e, rows, n, err);
                n = 0;
            }
        }
    }
    if (!st && n)
        st = kq_engine_pass(e, rows, n, err);
    for (size_t i = 0; i < n_pieces && !st; i++)
        e->length[pieces[i].slot] += pieces[i].n;
    return st;
}
