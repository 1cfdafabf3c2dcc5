/* Checks weights and texts before the work begins. Every value of the model is read once, which takes as long
 * as reading the file; without this, a NaN in the last block would end a run of hours. */
#include "prepare/check.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/first_error.h"
#include "base/mem.h"
#include "base/warn.h"
#include "format/encode.h"
#include "generate/generate.h"
#include "prepare/sequences.h"

enum { SLAB = 1 << 18 }; /* values that are read at a time; a longer row is read as a whole */

static bool is_embedding(const kq_tensor *t)
{
    return !strcmp(t->name, "model.embed_tokens.weight");
}

static bool is_head(const kq_tensor *t)
{
    return !strcmp(t->name, "lm_head.weight");
}

/* The largest code (127) of a tensor whose rows a kronq checkpoint stores in 8 bits with scales in F16:
 * embedding or head. 0: the tensor is not stored so. */
static float packed_reach(const kq_prepared *p, bool packed, const kq_tensor *t)
{
    const int bits = !packed           ? 16
                     : is_embedding(t) ? p->opt->embed_bits
                     : is_head(t)      ? p->opt->head_bits
                                       : 16;
    return bits == 8 ? 127 : 0;
}

/* The number of the linear whose weights these are, layer * KQ_N_LINEAR + id; SIZE_MAX: of none. */
static size_t linear_of(const kq_prepared *p, const kq_tensor *t)
{
    kq_model_tensor found;
    const bool is_linear =
        kq_model_tensor_find(p->cfg, t->name, &found) && found.role == KQ_ROLE_LINEAR && t->rank == 2;
    return is_linear ? found.layer * KQ_N_LINEAR + (size_t)found.linear : SIZE_MAX;
}

/* The type that a tensor will be stored in. KQ_T_F32 stands for a tensor that stays as it is, or that is
 * packed with a scale of its own. */
static kq_dtype type_of(const kq_prepared *p, const kq_gguf_types *types, const kq_tensor *t)
{
    if (!types || t->rank != 2)
        return KQ_T_F32;
    if (is_embedding(t))
        return types->embed;
    if (is_head(t))
        return types->head;
    const size_t linear = linear_of(p, t);
    return linear == SIZE_MAX ? KQ_T_F32 : types->linear[linear];
}

/* Will kq_quantize store the tensor as a trellis, with one scale? */
static bool is_packed_linear(const kq_prepared *p, bool packed, const kq_tensor *t)
{
    if (packed && (is_embedding(t) || is_head(t)))
        return (is_head(t) ? p->opt->head_bits : p->opt->embed_bits) < 8;
    const size_t linear = packed ? linear_of(p, t) : SIZE_MAX;
    return linear != SIZE_MAX && p->selected[linear / KQ_N_LINEAR] >> linear % KQ_N_LINEAR & 1;
}

/* One piece of a tensor: whole rows. */
typedef struct piece {
    const kq_tensor *t;
    kq_dtype type;
    /* not 0: the largest code of scales in F16, which end at 65504; 0: the type's own limit counts */
    float reach;
    float most; /* no value may be larger */
    size_t row0, rows, row;
} piece;

/* Check one piece. *largest: the largest absolute value. */
static kq_status check_piece(const kq_prepared *p, const piece *c, float *x, float *largest, kq_error *err)
{
    kq_status status = kq_source_read_f32(p->src, c->t, c->row0, c->rows, x, err);
    const size_t n = c->rows * c->row;
    size_t at = n, elems = 1, bytes;
    kq_dtype_block(c->type, &elems, &bytes);
    *largest = 0;
    for (size_t i = 0; i < n && !status; i++) {
        const float a = x[i] < 0 ? -x[i] : x[i];
        *largest = a > *largest ? a : *largest;
        if (((c->reach > 0 && a > 65504 * c->reach) || a > c->most) && at == n)
            at = i;
    }
    if (!status && at < n && *largest > c->most)
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s: %s[%zu, %zu] is %g, beyond what a checkpoint's scale may be (%g); %s",
                       c->t->file, c->t->name, c->row0 + at / c->row, at % c->row, (double)x[at],
                       (double)c->most,
                       is_head(c->t)        ? "--head-bits 16 keeps it"
                       : is_embedding(c->t) ? "--embed-bits 16 keeps it"
                                            : "--only can leave this module out");
    if (!status && c->reach > 0 && at < n)
        return kq_fail(
            err, KQ_E_NUMERIC,
            "%s: %s[%zu, %zu] is %g, beyond what scales in F16 (to 65504) can hold; %s 16 keeps it",
            c->t->file, c->t->name, c->row0 + at / c->row, at % c->row, (double)x[at],
            is_head(c->t) ? "--head-bits" : "--embed-bits");
    if (!status && !(c->reach > 0) && c->row % elems == 0 && !kq_type_holds(c->type, x, n, &at))
        status = kq_fail(err, KQ_E_NUMERIC,
                         "%s: %s[%zu, %zu] is %g, beyond what the scales of %s can hold (half floats, which "
                         "end at 65504); choose another "
                         "type for it",
                         c->t->file, c->t->name, c->row0 + at / c->row, at % c->row, (double)x[at],
                         kq_dtype_name(c->type));
    return status;
}

/* Check a tensor, its pieces in parallel. trellis: the tensor gets one scale, which must be a normal number
 * of at most KQ_PACKED_SCALE_MAX. */
static kq_status check_tensor(const kq_prepared *p, const kq_tensor *t, kq_dtype type, float reach,
                              bool trellis, kq_error *err)
{
    const size_t rows = t->rank == 2 ? t->shape[0] : t->n_elem, row = t->rank == 2 ? t->shape[1] : 1,
                 step = row < SLAB ? SLAB / row : 1;
    const size_t n = (rows + step - 1) / step;
    const int threads = n < (size_t)p->threads ? (int)n : p->threads;
    float *x, *most, largest = 0;
    kq_status status = kq_alloc_for((void **)&x, (size_t)threads * step, row * sizeof *x, t->name, err);
    if (!status && (status = kq_alloc_for((void **)&most, n, sizeof *most, t->name, err)))
        kq_free(x);
    if (status)
        return status;
    kq_first_error f = KQ_FIRST_ERROR;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++) {
        const piece c = {t,        type,
                         reach,    trellis ? KQ_PACKED_SCALE_MAX : INFINITY,
                         i * step, rows - i * step < step ? rows - i * step : step,
                         row};
        kq_error e;
        if (!kq_first_error_skip(&f, i))
            kq_first_error_note(
                &f, i, check_piece(p, &c, x + (size_t)omp_get_thread_num() * step * row, &most[i], &e), &e);
    }
    status = kq_first_error_get(&f, err);
    for (size_t i = 0; i < n && !status; i++)
        largest = most[i] > largest ? most[i] : largest;
    if (!status && largest > 0 && largest < (reach > 0 ? 4 * 0x1p-24f * reach : kq_type_floor(type)))
        kq_warn(
            "%s: the largest weight of %s is %g, which scales in F16 hardly hold: they are multiples of 6e-8",
            t->file, t->name, (double)largest);
    else if (!status && trellis && largest > 0 && largest < FLT_MIN)
        kq_warn("%s: the largest weight of %s is %g, less than a scale can be: all its weights become 0",
                t->file, t->name, (double)largest);
    kq_free(x);
    kq_free(most);
    return status;
}

static bool is_number(kq_dtype t)
{
    return t != KQ_T_OTHER && !(t >= KQ_T_I8 && t <= KQ_T_BOOL);
}

kq_status kq_check_weights(const kq_prepared *p, const kq_gguf_types *types, bool packed, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < kq_source_n_tensors(p->src) && !status; i++) {
        const kq_tensor *t = kq_source_tensor(p->src, i);
        if ((t->rank == 1 || t->rank == 2) && t->n_elem && is_number(t->dtype) &&
            !(p->cfg->tie_embeddings && !strcmp(t->name, "lm_head.weight")))
            status = check_tensor(p, t, type_of(p, types, t), packed_reach(p, packed, t),
                                  is_packed_linear(p, packed, t), err);
    }
    return status;
}

kq_status kq_check_texts(kq_prepared *p, const size_t *counts, size_t n_counts, kq_error *err)
{
    int32_t start;
    if (!p->tok || !p->n_seq)
        return KQ_OK;
    if (p->opt->calibration.n_text)
        return kq_prepare_sequences(p, NULL, counts, n_counts, err);
    kq_status status = kq_text_start(p->tok, &start, err);
    if (!status && (start < 0 || (size_t)start >= p->cfg->vocab_size))
        status = kq_fail(
            err, KQ_E_ARG,
            "the tokenizer names no beginning or end-of-text token to start a text from: give a --text file");
    return status;
}
