/* One linear from W and its factors to a packed code, and back. The rotation, the factorisations and the
 * feedback live in their own files; this file puts them in order, so that each intermediate matrix is freed
 * as soon as the next step no longer reads it (kq_round_bytes is the peak). */
#include "round/round.h"

#include <float.h>
#include <math.h>

#include "base/mem.h"
#include "round/matrix.h"
#include "round/side.h"

void kq_packed_free(kq_packed *p)
{
    if (!p)
        return;
    kq_free(p->trellis);
    kq_free(p->su);
    kq_free(p->sv);
    *p = (kq_packed){0};
}

size_t kq_round_bytes(size_t m, size_t n)
{
    double mp = (double)kq_padded(m), np = (double)kq_padded(n), big = mp > np ? mp : np;
    /* f32: both factors; W', What', E and S, and a transposed copy before those exist; f64: one Cholesky
     * factor at a time. */
    double factors = 4 * (mp * mp + np * np) + 8 * big * big, ldlq = 4 * (mp * mp + np * np) + 12 * mp * np;
    double bytes = 4 * mp * np + (factors > ldlq ? factors : ldlq);
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}

/* ---- kq_round_linear ----------------------------------------------------------------------------------- */

/* One linear while it is being rounded. Everything that is a pointer is owned, but for `in`. */
typedef struct rounding {
    const kq_round_input *in;
    kq_tile_rounder tiles;
    bool zero; /* blocks alone: there is nothing to round */
    int threads;
    kq_side inputs, outputs;
    float *L_in, *L_out; /* L - I of each side; NULL for an identity factor */
    float *Wp;           /* W' [m_pad, n_pad]; after the rounding, the error W' - What' */
    float *What;         /* What'; then the error in the original basis */
    double energy;       /* ||W'||_F^2 */
    kq_packed packed;
    kq_round_report report;
} rounding;

/* L - I of one side's factor: rotated, conditioned, factorised. *L is NULL for an identity factor. */
static kq_status side_ldl(const kq_side *side, const kq_round_options *opt, int *extra, float **L,
                          kq_error *err)
{
    const int threads = kq_at_least_one(opt->threads);
    kq_error why = {0};
    *L = NULL;
    *extra = 0;
    if (!side->H)
        return KQ_OK;
    kq_status st = kq_side_rotated_factor(side, opt->shrink, threads, L, err);
    if (st == KQ_OK && (st = kq_factor_condition_ldl(*L, kq_padded_to(side->n, side->block), opt->sigma_reg,
                                                     extra, *L, threads, &why)) != KQ_OK) {
        kq_free(*L);
        *L = NULL;
        kq_fail(err, st, "%s: %s: %s", side->module, side->factor, why.message);
    }
    return st;
}

/* Eq. 50: W' with its padding. */
static kq_status rotate_weight(rounding *z, kq_error *err)
{
    const size_t m = z->in->m, n = z->in->n, mp = z->packed.m_pad, np = z->packed.n_pad;
    const float *su = z->inputs.scales, *sv = z->outputs.scales;
    kq_status st = kq_alloc_for((void **)&z->Wp, mp * np, sizeof *z->Wp, "rotated weights", err);
    if (st != KQ_OK)
        return st;
    for (size_t i = 0; i < mp; i++)
        for (size_t j = 0; j < np; j++)
            z->Wp[i * np + j] = i < m && j < n ? z->in->W[i * n + j] / (sv[i] * su[j]) : 0;
    if ((st = kq_rotate_both(z->outputs.u, z->inputs.u, false, z->Wp, z->threads, err)) == KQ_OK)
        z->energy = kq_sum_squares(z->Wp, mp * np);
    return st;
}

/* Eq. 61: the scale. Weights so small that it would be below f32's normal numbers are all rounded to 0. */
static kq_status choose_scale(rounding *z, const kq_trellis *t, kq_error *err)
{
    const size_t count = z->packed.m_pad * z->packed.n_pad;
    if (z->inputs.block) { /* it is in the scales of the sides */
        z->packed.scale = z->zero ? 0 : 1;
        return KQ_OK;
    }
    const double scale = sqrt(z->energy / (double)count) / kq_trellis_weight_rms(t);
    if (!(scale <= KQ_PACKED_SCALE_MAX))
        return kq_fail(err, KQ_E_NUMERIC, "%s: its weights need a scale of %g, at most %g is possible",
                       z->in->name, scale, (double)KQ_PACKED_SCALE_MAX);
    z->packed.scale = scale < FLT_MIN ? 0 : (float)scale;
    return KQ_OK;
}

/* Eq. 56 to 60. Afterwards Wp holds the error and the factors' L are freed. */
static kq_status round_tiles(rounding *z, kq_error *err)
{
    const size_t mp = z->packed.m_pad, np = z->packed.n_pad, mn = mp * np,
                 words = mn / KQ_TILE_SIZE * z->tiles.words;
    const kq_ldlq_input in = {
        .Wp = z->Wp, .m = mp, .n = np, .L_in = z->L_in, .L_out = z->L_out, .scale = z->packed.scale};
    kq_status st;
    if ((st = kq_alloc_for((void **)&z->What, mn, sizeof *z->What, "rounded weights", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&z->packed.trellis, words, sizeof *z->packed.trellis, "packed weights",
                           err)) != KQ_OK ||
        (st = kq_ldlq_with(&z->tiles, &in, z->packed.trellis, z->What, z->threads, err)) != KQ_OK)
        return st;
    kq_free(z->L_in);
    kq_free(z->L_out);
    z->L_in = z->L_out = NULL;
    for (size_t i = 0; i < mn; i++)
        z->Wp[i] -= z->What[i];
    const double error = kq_sum_squares(z->Wp, mn);
    z->report.relative_mse = z->energy > 0 ? error / z->energy : 0;
    if (!isfinite(error))
        return kq_fail(err, KQ_E_NUMERIC,
                       "%s: rounding diverged (the factors feed errors back without bound; raise sigma_reg)",
                       z->in->name);
    return KQ_OK;
}

/* Eq. 1 with the factors as given: the error is rotated back to them and cropped to the logical shape. */
static kq_status predict_loss(rounding *z, kq_error *err)
{
    const kq_round_input *in = z->in;
    const float *su = z->inputs.scales, *sv = z->outputs.scales;
    kq_status st = kq_rotate_both(z->outputs.u, z->inputs.u, true, z->Wp, z->threads, err);
    if (st != KQ_OK)
        return st;
    for (size_t i = 0; i < in->m; i++)
        for (size_t j = 0; j < in->n; j++)
            z->What[i * in->n + j] = z->Wp[i * z->packed.n_pad + j] * (sv[i] * su[j]);
    return kq_predicted_loss(z->What, in->m, in->n, in->H_in, in->H_out, z->threads,
                             &z->report.predicted_loss, err);
}

kq_status kq_round_linear(const kq_trellis *t, const kq_round_input *in, const kq_round_options *opt,
                          kq_packed *out, kq_round_report *report, kq_error *err)
{
    *out = (kq_packed){0};
    kq_status st = kq_round_check_weight(in, err);
    if (st != KQ_OK)
        return st;
    rounding z = {.in = in,
                  .tiles = opt->tiles ? *opt->tiles : kq_trellis_rounder(t),
                  .threads = kq_at_least_one(opt->threads),
                  .inputs = kq_side_in(in, opt->block),
                  .outputs = kq_side_out(in, opt->block),
                  .packed = {.m = in->m,
                             .n = in->n,
                             .m_pad = kq_padded_to(in->m, opt->block),
                             .n_pad = kq_padded_to(in->n, opt->block)},
                  .report = {.predicted_loss = NAN}};
    if ((st = kq_side_begin(&z.inputs, opt->seed, err)) == KQ_OK &&
        (st = kq_side_begin(&z.outputs, opt->seed, err)) == KQ_OK &&
        (st = kq_sides_scale(in, opt->channel_scales, &z.inputs, &z.outputs, err)) == KQ_OK &&
        (!opt->block || (st = kq_sides_settle(in, kq_trellis_weight_rms(t), &z.inputs, &z.outputs, &z.zero,
                                              err)) == KQ_OK) &&
        (st = side_ldl(&z.inputs, opt, &z.report.extra_in, &z.L_in, err)) == KQ_OK &&
        (st = side_ldl(&z.outputs, opt, &z.report.extra_out, &z.L_out, err)) == KQ_OK &&
        (st = rotate_weight(&z, err)) == KQ_OK && (st = choose_scale(&z, t, err)) == KQ_OK)
        st = round_tiles(&z, err);
    if (st == KQ_OK && in->predicts)
        st = predict_loss(&z, err);
    for (size_t j = 0; st == KQ_OK && z.zero && j < in->n; j++)
        z.inputs.scales[j] = 0;
    if (st == KQ_OK && opt->block)
        z.packed.scale = 1;
    if (st == KQ_OK) {
        z.packed.su = z.inputs.scales; /* the scales move into the result */
        z.packed.sv = z.outputs.scales;
        z.inputs.scales = z.outputs.scales = NULL;
        if (report)
            *report = z.report;
        *out = z.packed;
        z.packed = (kq_packed){0};
    }
    kq_packed_free(&z.packed);
    kq_side_free(&z.inputs);
    kq_side_free(&z.outputs);
    kq_free(z.Wp);
    kq_free(z.What);
    kq_free(z.L_in);
    kq_free(z.L_out);
    return st;
}

/* ---- kq_unround_linear --------------------------------------------------------------------------------- */

/* X [m_pad, n_pad] = the decoded tiles times the scale, What' of eq. 52. */
static void decode_tiles(const kq_trellis *t, const kq_packed *p, float *X, int threads)
{
    const size_t np = p->n_pad, nc = np / KQ_TILE, words = kq_trellis_words(t);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t r = 0; r < p->m_pad / KQ_TILE; r++)
        for (size_t c = 0; c < nc; c++) {
            float v[KQ_TILE_SIZE];
            kq_trellis_decode(t, p->trellis + (r * nc + c) * words, 1, v);
            for (size_t i = 0; i < KQ_TILE; i++)
                for (size_t j = 0; j < KQ_TILE; j++)
                    X[(r * KQ_TILE + i) * np + c * KQ_TILE + j] = p->scale * v[i * KQ_TILE + j];
        }
}

kq_status kq_unround_linear(const kq_trellis *t, const kq_packed *p, float *What, int threads, kq_error *err)
{
    const size_t m = p->m, n = p->n, mp = p->m_pad, np = p->n_pad;
    size_t mn;
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || mp != kq_padded(m) || np != kq_padded(n) ||
        !kq_mul_size(mp, np, &mn))
        return kq_fail(err, KQ_E_SHAPE, "a packed linear of %zu x %zu, padded to %zu x %zu", m, n, mp, np);
    if (!isfinite(p->scale))
        return kq_fail(err, KQ_E_NUMERIC, "a packed linear with scale %g", (double)p->scale);
    kq_hadamard *u_m = NULL, *u_n = NULL;
    float *X = NULL;
    kq_status st;
    if ((st = kq_hadamard_new(mp, &u_m, err)) != KQ_OK || (st = kq_hadamard_new(np, &u_n, err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&X, mn, sizeof *X, "unpacked weights", err)) != KQ_OK)
        goto out;
    decode_tiles(t, p, X, threads);
    if ((st = kq_rotate_both(u_m, u_n, true, X, threads, err)) != KQ_OK)
        goto out;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            What[i * n + j] = X[i * np + j] * (p->sv[i] * p->su[j]);
out:
    kq_free(X);
    kq_hadamard_free(u_m);
    kq_hadamard_free(u_n);
    return st;
}
