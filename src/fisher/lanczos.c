/* Golub-Kahan-Lanczos on the operator of eq. 2 (Golub & Kahan 1965; Chekalina et al. 2026), with full
 * reorthogonalisation: docs/math.md, eq. 40 to 43.
 *
 * A vector of the iteration is a symmetric matrix. It is kept as its packed lower triangle with the entries
 * off the diagonal times sqrt 2, so that the dot product of two such vectors is the Frobenius product of the
 * matrices, at half the storage. After k steps
 *     A V = U B,   A* U = V B^T + beta_k v_{k+1} e_k^T     (eq. 41)
 * with B upper bidiagonal (alpha on the diagonal, beta above it). Let B = P S Q^T be its singular value
 * decomposition, u = U p_1 and v = V q_1. Then ||A v - sigma u|| = 0 by construction, and
 * ||A* u - sigma v|| = beta_k |P_k1|. The iteration stops when that is small (eq. 42). */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "fisher/method.h"
#include "kern/lapack.h"

static size_t triangle(size_t n)
{
    return n * (n + 1) / 2;
}

static size_t small_doubles(size_t k)
{
    return 3 * k * k + 4 * k + 2 + (8 * k + 64); /* B, P, Q; alpha, beta, c, s; work */
}

/* The machine's state, at the front of its memory. Behind it: the small matrices, V (k + 1 vectors and the
 * result v), U (k vectors and the result u), one spare vector of the larger size. The check at the end reuses
 * V and all behind it. */
typedef struct lanczos {
    /* the product that comes next: A(v_k), A*(u_k); at the end A(v), A*(u) for eq. 43 */
    enum { FORWARD, BACK, CHECK_FORWARD, CHECK_BACK, END } stage;
    size_t k;         /* finished steps */
    double sigma, ru; /* the largest singular value so far; ||A(v) - sigma u|| */
    double *alpha, *beta, *c, *B, *P, *Q, *s, *work;
    float *V, *U, *v, *u, *spare;
} lanczos;
enum { HEAD = 192 };
static_assert(sizeof(lanczos) <= HEAD && HEAD % 64 == 0, "what lies behind it stays aligned");

static size_t lanczos_bytes(size_t m, size_t n, const kq_factor_options *opt)
{
    const int max_iter = opt->max_iter;
    size_t k = (size_t)max_iter, tn = triangle(n), tm = triangle(m), big = m > n ? m : n, v, u, floats,
           psd = kq_psd_work(big), bytes;
    if (max_iter > 4096 || !kq_mul_size(k + 2, tn, &v) || !kq_mul_size(k + 1, tm, &u) ||
        !kq_add_size(v, u, &floats) || !kq_add_size(floats, triangle(big) + 32, &floats))
        return 0;
    if (floats < psd)
        floats = psd;
    if (!kq_mul_size(floats, sizeof(float), &bytes) ||
        !kq_add_size(bytes, HEAD + small_doubles(k) * sizeof(double), &bytes))
        return 0;
    return bytes;
}

enum { STRIP = 1 << 16 }; /* values a task: the sums are added strip by strip, in order */

static void pack(const float *H, size_t n, float *v, int threads)
{
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++) {
        float *row = v + triangle(i);
        for (size_t j = 0; j < i; j++)
            row[j] = H[i * n + j] * 1.41421356237f;
        row[i] = H[i * n + i];
    }
}

static void unpack(const float *v, size_t n, double scale, float *H, int threads)
{
    float diagonal = (float)scale, other = (float)(scale * 0.70710678118654752);
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads) if (threads > 1)
    for (size_t i = 0; i < n; i++) {
        const float *row = v + triangle(i);
        for (size_t j = 0; j < i; j++)
            H[i * n + j] = H[j * n + i] = row[j] * other;
        H[i * n + i] = row[i] * diagonal;
    }
}

static double strip_dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    size_t i = 0;
    double lane[16] = {0};
    for (; i + 16 <= n; i += 16)
        for (size_t l = 0; l < 16; l++)
            lane[l] += (double)a[i + l] * b[i + l];
    for (; i < n; i++)
        sum += (double)a[i] * b[i];
    for (int l = 0; l < 16; l++)
        sum += lane[l];
    return sum;
}

static double dot(const float *a, const float *b, size_t n, int threads)
{
    enum { GROUP = 64 };
    double total = 0;
    size_t strips = (n + STRIP - 1) / STRIP;
    for (size_t first = 0; first < strips; first += GROUP) {
        double part[GROUP];
        size_t count = strips - first < GROUP ? strips - first : GROUP;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (size_t s = 0; s < count; s++) {
            size_t o = (first + s) * STRIP;
            part[s] = strip_dot(a + o, b + o, n - o < STRIP ? n - o : STRIP);
        }
        for (size_t s = 0; s < count; s++)
            total += part[s];
    }
    return total;
}

/* y = y_scale y + sum_k c[k] X[k], y and each X[k] of n values. */
static void combine(float *y, double y_scale, const double *c, const float *X, size_t count, size_t n,
                    int threads)
{
    size_t strips = (n + STRIP / 16 - 1) / (STRIP / 16);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (size_t s = 0; s < strips; s++) {
        size_t o = s * (STRIP / 16), end = n - o < STRIP / 16 ? n : o + STRIP / 16;
        for (size_t i = o; i < end; i++)
            y[i] = (float)(y_scale == 0 ? 0 : y[i] * y_scale);
        for (size_t k = 0; k < count; k++) {
            const float *x = X + k * n;
            float f = (float)c[k];
            for (size_t i = o; i < end; i++)
                y[i] += f * x[i];
        }
    }
}

/* y -= X (X^T y), twice ("twice is enough": Parlett 1980); c: scratch of count doubles. */
static void orthogonalise(float *y, const float *X, size_t count, size_t n, double *c, int threads)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < count; k++)
            c[k] = -dot(X + k * n, y, n, threads);
        combine(y, 1, c, X, count, n, threads);
    }
}

/* y <- y / ||y||; returns the length, or 0 with a zero vector where the length is at most floor_. */
static double normalise(float *y, size_t n, double floor_, int threads)
{
    double length = sqrt(dot(y, y, n, threads));
    double zero = !(length > floor_) && isfinite(length) ? 1 : 0;
    combine(y, zero ? 0 : 1 / length, NULL, NULL, 0, n, threads);
    return zero ? 0 : length;
}

/* ||a - s b||. */
static double distance(const float *a, double s, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = a[i] - s * b[i];
        sum += d * d;
    }
    return sqrt(sum);
}

static void start(float *v, size_t n, const kq_factor_options *opt)
{
    kq_rng rng = kq_rng_stream(opt->seed, "fastkron start");
    for (size_t i = 0, at = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++, at++)
            v[at] = opt->start_random ? (float)kq_rng_normal(&rng) : (float)(i == j);
}

static void lanczos_start(kq_search *s)
{
    lanczos *l = s->state;
    const size_t tm = triangle(s->m), tn = triangle(s->n), most = (size_t)s->opt->max_iter;
    double *numbers = (double *)((char *)s->state + HEAD);
    *l = (lanczos){.alpha = numbers};
    l->beta = l->alpha + most;
    l->c = l->beta + most + 1;
    l->B = l->c + most + 1;
    l->P = l->B + most * most;
    l->Q = l->P + most * most;
    l->s = l->Q + most * most;
    l->work = l->s + most;
    l->V = (float *)(numbers + small_doubles(most));
    l->U = l->V + (most + 1) * tn;
    l->v = l->U + most * tm;
    l->u = l->v + tn;
    l->spare = l->u + tm;
    start(l->V, s->n, s->opt);
    normalise(l->V, tn, 0, s->threads);
}

static bool from_identity(const kq_search *s)
{
    return ((const lanczos *)s->state)->k == 0 && !s->opt->start_random;
}

static kq_status lanczos_next(kq_search *s, kq_step *step, bool *more, kq_error *err)
{
    (void)err;
    const lanczos *l = s->state;
    *more = l->stage != END;
    if (l->stage == FORWARD || l->stage == CHECK_FORWARD) {
        unpack(l->stage == FORWARD ? l->V + l->k * triangle(s->n) : l->v, s->n, 1, s->H_in, s->threads);
        *step = (kq_step){.kind = KQ_MID_SYMMETRIC, .mid = s->H_in, .out = s->H_out};
        if (l->stage == FORWARD && from_identity(s))
            *step = (kq_step){.kind = KQ_MID_IDENTITY, .out = s->H_out};
    } else if (*more) {
        unpack(l->stage == BACK ? l->U + l->k * triangle(s->m) : l->u, s->m, 1, s->H_out, s->threads);
        *step = (kq_step){.adjoint = true, .kind = KQ_MID_SYMMETRIC, .mid = s->H_out, .out = s->H_in};
    }
    return KQ_OK;
}

/* u = U p_1 and v = V q_1, made norm 1 again; the sign is that of v's trace. */
static void combine_vectors(kq_search *s)
{
    lanczos *l = s->state;
    const size_t tm = triangle(s->m), tn = triangle(s->n);
    memcpy(l->c, l->P, l->k * sizeof *l->c);
    combine(l->u, 0, l->c, l->U, l->k, tm, s->threads);
    for (size_t i = 0; i < l->k; i++)
        l->c[i] = l->Q[i * l->k]; /* row 0 of VT */
    combine(l->v, 0, l->c, l->V, l->k, tn, s->threads);
    double trace = 0;
    for (size_t i = 0; i < s->n; i++)
        trace += l->v[triangle(i) + i];
    double sign = trace < 0 ? -1 : 1;
    normalise(l->u, tm, 0, s->threads);
    normalise(l->v, tn, 0, s->threads);
    combine(l->u, sign, NULL, NULL, 0, tm, s->threads);
    combine(l->v, sign, NULL, NULL, 0, tn, s->threads);
}

/* After a complete step: the singular values of B, the residual of eq. 42, and whether to stop. */
static kq_status solve_small(kq_search *s, kq_error *err)
{
    lanczos *l = s->state;
    kq_factor_report *report = s->report;
    const size_t k = ++l->k;
    memset(l->B, 0, k * k * sizeof *l->B); /* column-major k x k */
    for (size_t i = 0; i < k; i++) {
        l->B[i * k + i] = l->alpha[i];
        if (i + 1 < k)
            l->B[(i + 1) * k + i] = l->beta[i];
    }
    int K = (int)k, lwork = (int)(8 * k + 64), info;
    dgesvd_("A", "A", &K, &K, l->B, &K, l->s, l->P, &K, l->Q, &K, l->work, &lwork, &info, 1, 1);
    if (info)
        return kq_fail(err, KQ_E_NUMERIC, "fastkron: the small singular value decomposition failed (%d)",
                       info);
    l->sigma = report->sigma1 = l->s[0];
    const double last = l->beta[k - 1], gap = last * fabs(l->P[k - 1]);
    kq_search_trace(s, gap / l->sigma);
    if (!(gap <= s->opt->tol * l->sigma || last <= 0 || k == (size_t)s->opt->max_iter)) {
        l->stage = FORWARD;
        return KQ_OK;
    }
    if (k > 1 && l->s[1] > 0) {
        report->sigma2 = l->s[1];
        report->sigma2_residual = last * fabs(l->P[k + k - 1]) / l->s[1];
    }
    combine_vectors(s);
    l->stage = CHECK_FORWARD; /* both residuals by their definition */
    return KQ_OK;
}

static kq_status lanczos_absorb(kq_search *s, kq_error *err)
{
    lanczos *l = s->state;
    const size_t m = s->m, n = s->n, tm = triangle(m), tn = triangle(n), k = l->k;
    const int threads = s->threads;
    float *Uk = l->U + k * tm, *Vn = l->V + (k + 1) * tn;
    switch (l->stage) {
    case FORWARD:
        pack(s->H_out, m, Uk, threads);
        if (from_identity(s))
            combine(Uk, 1 / sqrt((double)n), NULL, NULL, 0, tm, threads);
        orthogonalise(Uk, l->U, k, tm, l->c, threads);
        /* Below 1e-6 sigma a remainder is rounding: the Krylov space is complete. */
        l->alpha[k] = normalise(Uk, tm, 1e-6 * l->sigma, threads);
        l->stage = BACK;
        return KQ_OK;
    case BACK:
        pack(s->H_in, n, Vn, threads);
        orthogonalise(Vn, l->V, k + 1, tn, l->c, threads);
        l->beta[k] = normalise(Vn, tn, 1e-6 * (l->sigma > l->alpha[k] ? l->sigma : l->alpha[k]), threads);
        if (!isfinite(l->alpha[k]) || !isfinite(l->beta[k]) || l->alpha[0] <= 0)
            return kq_fail(err, KQ_E_NUMERIC,
                           "fastkron: step %zu gave alpha %g, beta %g: the gradients over- or underflow f32 "
                           "when squared",
                           k + 1, l->alpha[k], l->beta[k]);
        return solve_small(s, err);
    case CHECK_FORWARD:
        pack(s->H_out, m, l->spare, threads);
        l->ru = distance(l->spare, l->sigma, l->u, tm);
        l->stage = CHECK_BACK;
        return KQ_OK;
    default:
        pack(s->H_in, n, l->spare, threads);
        const double rv = distance(l->spare, l->sigma, l->v, tn);
        unpack(l->v, n, 1, s->H_in, threads);
        s->report->residual = (l->ru > rv ? l->ru : rv) / l->sigma;
        s->report->converged = s->report->residual <= s->opt->tol;
        l->stage = END;
        return KQ_OK;
    }
}

static double lanczos_fraction(const kq_search *s)
{
    const lanczos *l = s->state;
    const double most = s->opt->max_iter + 1;
    return ((double)l->k + 0.5 * (l->stage == BACK || l->stage == CHECK_BACK)) / most;
}

static kq_status lanczos_finish(kq_search *s, kq_error *err)
{
    /* The leading triplet is PSD; an iterate is off by about its residual over the gap. */
    return kq_search_psd(s, 1e-3 + 10 * s->report->residual, ((lanczos *)s->state)->V, err);
}

const kq_machine kq_lanczos = {lanczos_bytes,  lanczos_start,    lanczos_next,
                               lanczos_absorb, lanczos_fraction, lanczos_finish};
