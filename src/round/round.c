/* One linear from W and its factors to a packed code, and back. */
#include "round/round.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "kern/gemm.h"
#include "round/matrix.h"

static size_t pad(size_t n)
{
    return (n + KQ_TILE - 1) / KQ_TILE * KQ_TILE;
}

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
    double mp = (double)pad(m), np = (double)pad(n), big = mp > np ? mp : np;
    /* f32: both factors; W', What', E and S, and a transposed copy before those exist; f64: one Cholesky
     * factor at a time. */
    double factors = 4 * (mp * mp + np * np) + 8 * big * big, ldlq = 4 * (mp * mp + np * np) + 12 * mp * np;
    double bytes = 4 * mp * np + (factors > ldlq ? factors : ldlq);
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}

/* X <- U_rows^T X U_cols, or back: U_rows X U_cols^T. X [rows, cols], the orders of the two transforms. */
static kq_status rotate_both(const kq_hadamard *u_rows, const kq_hadamard *u_cols, bool back, float *X,
                             int threads, kq_error *err)
{
    size_t m = kq_hadamard_order(u_rows), n = kq_hadamard_order(u_cols);
    float *Y;
    kq_status st = kq_alloc_for((void **)&Y, m * n, sizeof *Y, "rotation", err);
    if (st != KQ_OK)
        return st;
    if ((st = kq_hadamard_rows_mt(u_cols, back, X, m, n, threads, err)) == KQ_OK) {
        kq_transpose(X, m, n, Y, threads);
        if ((st = kq_hadamard_rows_mt(u_rows, back, Y, n, m, threads, err)) == KQ_OK)
            kq_transpose(Y, n, m, X, threads);
    }
    kq_free(Y);
    return st;
}

static kq_status signs(uint64_t seed, const char *name, const char *suffix, size_t n, int8_t **out,
                       kq_error *err)
{
    char *label = NULL;
    size_t len = strlen(name) + strlen(suffix) + 1;
    kq_status st = kq_alloc_for((void **)&label, len, 1, "label", err);
    if (st == KQ_OK && (st = kq_alloc_for((void **)out, n, 1, "signs", err)) == KQ_OK) {
        snprintf(label, len, "%s%s", name, suffix);
        kq_rng rng = kq_rng_stream(seed, label);
        kq_rng_signs(&rng, *out, n);
    }
    kq_free(label);
    return st;
}

/* One factor, shrunk, padded and rotated: *out [np, np]. */
static kq_status rotated(const kq_hadamard *u, const int8_t *s, const float *H, size_t n, const char *name,
                         const char *side, double shrink, int threads, float **out, kq_error *err)
{
    *out = NULL;
    size_t np = pad(n), bad = kq_first_nonfinite(H, n * n);
    if (bad < n * n)
        return kq_fail(err, KQ_E_NUMERIC, "%s: %s holds NaN or Inf at [%zu, %zu]", name, side, bad / n,
                       bad % n);
    float *A;
    kq_status st = kq_alloc_for((void **)&A, np * np, sizeof *A, "rotated factor", err);
    if (st != KQ_OK)
        return st;
    for (size_t i = 0; i < np; i++)
        for (size_t j = 0; j < np; j++)
            A[i * np + j] = i < n && j < n ? H[i * n + j] * (float)(s[i] * s[j]) : 0;
    kq_factor_shrink(A, np, shrink);
    kq_error why = {0};
    if ((st = kq_factor_rotate(u, NULL, A, np, threads, &why)) != KQ_OK) {
        kq_free(A);
        return kq_fail(err, st, "%s: %s: %s", name, side, why.message);
    }
    *out = A;
    return KQ_OK;
}

/* L - I of one factor, rotated and conditioned: *out [np, np], NULL when H is. */
static kq_status prepare(const kq_hadamard *u, const int8_t *s, const float *H, size_t n, const char *name,
                         const char *side, const kq_round_options *opt, int *extra, float **out,
                         kq_error *err)
{
    *out = NULL;
    *extra = 0;
    if (!H)
        return KQ_OK;
    const int threads = opt->threads < 1 ? 1 : opt->threads;
    kq_error why = {0};
    kq_status st = rotated(u, s, H, n, name, side, opt->shrink, threads, out, err);
    if (st == KQ_OK &&
        (st = kq_factor_condition_ldl(*out, pad(n), opt->sigma_reg, extra, *out, threads, &why)) != KQ_OK) {
        kq_free(*out);
        *out = NULL;
        kq_fail(err, st, "%s: %s: %s", name, side, why.message);
    }
    return st;
}

kq_status kq_predicted_loss(const float *E, size_t m, size_t n, const float *H_in, const float *H_out,
                            int threads, double *out, kq_error *err)
{
    float *P = NULL, *Q = NULL;
    kq_status st = KQ_OK;
    const float *left = E, *right = E;
    if (H_in) {
        if ((st = kq_alloc_for((void **)&P, m * n, sizeof *P, "predicted loss", err)) != KQ_OK)
            goto out;
        kq_gemm_f32_tiled(false, false, m, n, n, 1, E, n, H_in, n, 0, P, n, threads);
        right = P;
    }
    if (H_out) {
        if ((st = kq_alloc_for((void **)&Q, m * n, sizeof *Q, "predicted loss", err)) != KQ_OK)
            goto out;
        kq_gemm_f32_tiled(false, false, m, n, m, 1, H_out, m, E, n, 0, Q, n, threads);
        left = Q;
    }
    double sum = 0;
    for (size_t i = 0; i < m * n; i++)
        sum += (double)left[i] * right[i];
    *out = 0.5 * sum;
out:
    kq_free(P);
    kq_free(Q);
    return st;
}

static double sum_squares(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)x[i] * x[i];
    return s;
}

static kq_status check_weight(const char *name, const float *W, size_t m, size_t n, kq_error *err)
{
    size_t mn, bytes;
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || !kq_mul_size(pad(m), pad(n), &mn) ||
        !kq_mul_size(mn, sizeof(float), &bytes))
        return kq_fail(err, KQ_E_ARG, "%s: a weight matrix of %zu x %zu", name, m, n);
    const size_t bad = kq_first_nonfinite(W, m * n);
    if (bad < m * n)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the weight holds NaN or Inf at [%zu, %zu]", name, bad / n,
                       bad % n);
    return KQ_OK;
}

kq_status kq_round_linear(const kq_trellis *t, const char *name, const float *W, size_t m, size_t n,
                          const float *H_in, const float *H_out, bool predicts, const kq_round_options *opt,
                          kq_packed *out, kq_round_report *report, kq_error *err)
{
    double start = kq_now_s();
    *out = (kq_packed){0};
    kq_status st = check_weight(name, W, m, n, err);
    if (st != KQ_OK)
        return st;
    const int threads = opt->threads < 1 ? 1 : opt->threads;
    kq_round_report rep = {.predicted_loss = NAN};
    kq_packed p = {.m = m, .n = n, .m_pad = pad(m), .n_pad = pad(n)};
    const size_t mp = p.m_pad, np = p.n_pad, mn = mp * np;
    kq_hadamard *u_m = NULL, *u_n = NULL;
    float *Wp = NULL, *What = NULL, *L_in = NULL, *L_out = NULL;
    const size_t words = mn / KQ_TILE_SIZE * kq_trellis_words(t);
    if ((st = kq_hadamard_new(mp, &u_m, err)) != KQ_OK || (st = kq_hadamard_new(np, &u_n, err)) != KQ_OK ||
        (st = signs(opt->seed, name, ".su", n, &p.su, err)) != KQ_OK ||
        (st = signs(opt->seed, name, ".sv", m, &p.sv, err)) != KQ_OK ||
        (st = prepare(u_n, p.su, H_in, n, name, "H_in", opt, &rep.extra_in, &L_in, err)) != KQ_OK ||
        (st = prepare(u_m, p.sv, H_out, m, name, "H_out", opt, &rep.extra_out, &L_out, err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&Wp, mn, sizeof *Wp, "rotated weights", err)) != KQ_OK)
        goto out;
    for (size_t i = 0; i < mp; i++)
        for (size_t j = 0; j < np; j++)
            Wp[i * np + j] = i < m && j < n ? W[i * n + j] * (float)(p.sv[i] * p.su[j]) : 0;
    if ((st = rotate_both(u_m, u_n, false, Wp, threads, err)) != KQ_OK)
        goto out;

    double energy = sum_squares(Wp, mn), scale = sqrt(energy / (double)mn) / (kq_trellis_rms(t) * 0.9);
    if (!(scale <= KQ_PACKED_SCALE_MAX)) {
        st = kq_fail(err, KQ_E_NUMERIC, "%s: its weights need a scale of %g, at most %g is possible", name,
                     scale, (double)KQ_PACKED_SCALE_MAX);
        goto out;
    }
    p.scale = scale < FLT_MIN ? 0 : (float)scale; /* 0: all the weights become 0 */
    if ((st = kq_alloc_for((void **)&What, mn, sizeof *What, "rounded weights", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&p.trellis, words, sizeof *p.trellis, "packed weights", err)) != KQ_OK ||
        (st = kq_ldlq(t, Wp, mp, np, L_in, L_out, p.scale, p.trellis, What, threads, err)) != KQ_OK)
        goto out;

    kq_free(L_in);
    kq_free(L_out);
    L_in = L_out = NULL;
    for (size_t i = 0; i < mn; i++)
        Wp[i] -= What[i];
    double error = sum_squares(Wp, mn);
    rep.relative_mse = energy > 0 ? error / energy : 0;
    if (!isfinite(error)) {
        st = kq_fail(err, KQ_E_NUMERIC,
                     "%s: rounding diverged (the factors feed errors back without bound; raise sigma_reg)",
                     name);
        goto out;
    }
    if (predicts) { /* eq. 1 with the factors as given, the error rotated back to them and cropped to the
                       logical shape */
        if ((st = rotate_both(u_m, u_n, true, Wp, threads, err)) != KQ_OK)
            goto out;
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                What[i * n + j] = Wp[i * np + j] * (float)(p.sv[i] * p.su[j]);
        if ((st = kq_predicted_loss(What, m, n, H_in, H_out, threads, &rep.predicted_loss, err)) != KQ_OK)
            goto out;
    }
    rep.seconds = kq_now_s() - start;
    if (report)
        *report = rep;
    *out = p;
    p = (kq_packed){0};
out:
    kq_packed_free(&p);
    kq_hadamard_free(u_m);
    kq_hadamard_free(u_n);
    kq_free(Wp);
    kq_free(What);
    kq_free(L_in);
    kq_free(L_out);
    return st;
}

/* One side of eq. 64: what of an error in the targets reaches the loss, and the weights. */
static kq_status through(const char *name, const char *side, const char *suffix, const float *H, size_t n,
                         const kq_round_options *opt, double *measured, double *plain, kq_error *err)
{
    const size_t np = pad(n);
    const int threads = opt->threads < 1 ? 1 : opt->threads;
    kq_hadamard *u = NULL;
    int8_t *s = NULL;
    float *M = NULL, *A = NULL;
    kq_error why = {0};
    kq_status st;
    *measured = (double)n;
    *plain = (double)np;
    if (!H)
        return KQ_OK;
    if ((st = kq_hadamard_new(np, &u, err)) != KQ_OK ||
        (st = signs(opt->seed, name, suffix, n, &s, err)) != KQ_OK ||
        (st = rotated(u, s, H, n, name, side, 0, threads, &M, err)) != KQ_OK ||
        (st = rotated(u, s, H, n, name, side, opt->shrink, threads, &A, err)) != KQ_OK)
        goto out;
    if ((st = kq_factor_through(A, M, np, opt->sigma_reg, measured, plain, threads, &why)) != KQ_OK)
        kq_fail(err, st, "%s: %s: %s", name, side, why.message);
out:
    kq_hadamard_free(u);
    kq_free(s);
    kq_free(M);
    kq_free(A);
    return st;
}

kq_status kq_forecast_linear(const char *name, const float *W, size_t m, size_t n, const float *H_in,
                             const float *H_out, const kq_round_options *opt, kq_forecast *out, kq_error *err)
{
    double in, out_side, plain_in, plain_out;
    *out = (kq_forecast){0};
    kq_status st = check_weight(name, W, m, n, err);
    if (st != KQ_OK || (st = through(name, "H_in", ".su", H_in, n, opt, &in, &plain_in, err)) != KQ_OK ||
        (st = through(name, "H_out", ".sv", H_out, m, opt, &out_side, &plain_out, err)) != KQ_OK)
        return st;
    /* of W': the rotation keeps the norm */
    const double count = (double)pad(m) * (double)pad(n), square = sum_squares(W, m * n) / count;
    *out = (kq_forecast){.loss = 0.5 * square * in * out_side, .spread = plain_in * plain_out / count};
    if (!isfinite(out->loss) || !isfinite(out->spread) || out->loss < 0)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the forecast of its loss is %g", name, out->loss);
    return KQ_OK;
}

double kq_forecast_loss(const kq_forecast *f, double e)
{
    return f->loss * e * (1 + e * (f->spread - 1));
}

size_t kq_forecast_bytes(size_t m, size_t n, int threads)
{
    const double big = (double)pad(m > n ? m : n),
                 bytes = 16 * big * big + 16.0 * 128 * big * (threads < 1 ? 1 : threads);
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}

kq_status kq_unround_linear(const kq_trellis *t, const kq_packed *p, float *What, int threads, kq_error *err)
{
    const size_t m = p->m, n = p->n, mp = p->m_pad, np = p->n_pad;
    size_t mn;
    if (m == 0 || n == 0 || m > 1u << 20 || n > 1u << 20 || mp != pad(m) || np != pad(n) ||
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
    const size_t nc = np / KQ_TILE, words = kq_trellis_words(t);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t r = 0; r < mp / KQ_TILE; r++)
        for (size_t c = 0; c < nc; c++) {
            float v[KQ_TILE_SIZE];
            kq_trellis_decode(t, p->trellis + (r * nc + c) * words, 1, v);
            for (size_t i = 0; i < KQ_TILE; i++)
                for (size_t j = 0; j < KQ_TILE; j++)
                    X[(r * KQ_TILE + i) * np + c * KQ_TILE + j] = p->scale * v[i * KQ_TILE + j];
        }
    if ((st = rotate_both(u_m, u_n, true, X, threads, err)) != KQ_OK)
        goto out;
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            What[i * n + j] = X[i * np + j] * (float)(p->sv[i] * p->su[j]);
out:
    kq_free(X);
    kq_hadamard_free(u_m);
    kq_hadamard_free(u_n);
    return st;
}
