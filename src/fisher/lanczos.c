/* Golub-Kahan-Lanczos on the operator of eq. 2, with full reorthogonalisation.
 *
 * Vectors are symmetric matrices, kept as their packed lower triangle with the off-diagonal times sqrt 2: the dot product of two such
 * vectors is the Frobenius product of the matrices, at half the storage. After k steps A V = U B and A* U = V B^T + beta_k v_{k+1} e_k^T,
 * B upper bidiagonal (alpha on the diagonal, beta above it). With B = P S Q^T: u = U p_1, v = V q_1, ||A v - sigma u|| = 0 and
 * ||A* u - sigma v|| = beta_k |P_k1|. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "fisher/product.h"
#include "kern/lapack.h"


static size_t triangle(size_t n)
{
    return n * (n + 1) / 2;
}

static size_t small_doubles(size_t k)
{
    return 3 * k * k + 4 * k + 2 + (8 * k + 64); /* B, P, Q; alpha, beta, c, s; work */
}

size_t kq_lanczos_bytes(const kq_product_plan *plan, const kq_factor_options *opt)
{
    const int max_iter = opt->max_iter;
    size_t k = (size_t)max_iter, tn = triangle(plan->n), tm = triangle(plan->m), big = plan->m > plan->n ? plan->m : plan->n;
    size_t v, u, floats, psd = kq_psd_work(big), bytes, doubles;
    /* V: k + 1 and the result; U: k and the result; one spare of the larger. The PSD check reuses them all. */
    if (max_iter > 4096 || !kq_mul_size(k + 2, tn, &v) || !kq_mul_size(k + 1, tm, &u) || !kq_add_size(v, u, &floats) ||
        !kq_add_size(floats, triangle(big) + 32, &floats))
        return 0;
    doubles = small_doubles(k) * sizeof(double);
    if (floats < psd)
        floats = psd;
    if (!kq_mul_size(floats, sizeof(float), &bytes) || !kq_add_size(bytes, doubles, &bytes) || !kq_add_size(bytes, plan->bytes, &bytes))
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

/* y = x_scale * y + sum_k c[k] X[k], the vectors ld apart. */
static void combine(float *y, double y_scale, const double *c, const float *X, size_t count, size_t n, int threads)
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

/* Normalise; returns the length, or 0 (and a zero vector) when it is below floor. */
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

kq_status kq_lanczos_run(const kq_product_plan *plan, const uint16_t *g, const kq_factor_options *opt, void *block, float *H_in,
                         float *H_out, kq_factor_report *report, kq_progress progress, kq_error *err)
{
    size_t m = plan->m, n = plan->n, tm = triangle(m), tn = triangle(n), most = (size_t)opt->max_iter, k = 0;
    int threads = plan->threads, info = 0;
    double *numbers = (double *)((char *)block + plan->bytes);
    double *alpha = numbers, *beta = alpha + most, *c = beta + most + 1;
    double *B = c + most + 1, *P = B + most * most, *Q = P + most * most, *s = Q + most * most, *work = s + most;
    float *V = (float *)(numbers + small_doubles(most)), *U = V + (most + 1) * tn, *v = U + most * tm, *u = v + tn, *spare = u + tm;
    double sigma = 0;
    kq_product p;
    kq_status status = KQ_OK;

    kq_product_init(&p, plan, g, block);
    start(V, n, opt);
    normalise(V, tn, 0, threads);
    for (;;) {
        if (progress.fn && progress.fn(progress.ctx, (double)k / (double)most))
            return kq_fail(err, KQ_E_INTERRUPTED, "interrupted after %zu Lanczos steps", k);
        float *Uk = U + k * tm, *Vn = V + (k + 1) * tn;
        bool identity = k == 0 && !opt->start_random;
        unpack(V + k * tn, n, 1, H_in, threads);
        status = kq_product_apply(&p, false, identity ? KQ_MID_IDENTITY : KQ_MID_SYMMETRIC, H_in, H_out, err);
        if (status)
            return status;
        pack(H_out, m, Uk, threads);
        if (identity)
            combine(Uk, 1 / sqrt((double)n), NULL, NULL, 0, tm, threads);
        orthogonalise(Uk, U, k, tm, c, threads);
        /* Below 1e-6 sigma a remainder is rounding: the Krylov space is complete. */
        alpha[k] = normalise(Uk, tm, 1e-6 * sigma, threads);
        unpack(Uk, m, 1, H_out, threads);
        status = kq_product_apply(&p, true, KQ_MID_SYMMETRIC, H_out, H_in, err);
        if (status)
            return status;
        pack(H_in, n, Vn, threads);
        orthogonalise(Vn, V, k + 1, tn, c, threads);
        report->products += 2;
        beta[k] = normalise(Vn, tn, 1e-6 * (sigma > alpha[k] ? sigma : alpha[k]), threads);
        if (!isfinite(alpha[k]) || !isfinite(beta[k]) || alpha[0] <= 0)
            return kq_fail(err, KQ_E_NUMERIC, "fastkron: step %zu gave alpha %g, beta %g: the gradients over- or underflow f32 when squared",
                           k + 1, alpha[k], beta[k]);
        k++;

        memset(B, 0, k * k * sizeof *B); /* column-major k x k */
        for (size_t i = 0; i < k; i++) {
            B[i * k + i] = alpha[i];
            if (i + 1 < k)
                B[(i + 1) * k + i] = beta[i];
        }
        int K = (int)k, lwork = (int)(8 * k + 64);
        dgesvd_("A", "A", &K, &K, B, &K, s, P, &K, Q, &K, work, &lwork, &info, 1, 1);
        if (info)
            return kq_fail(err, KQ_E_NUMERIC, "fastkron: the small singular value decomposition failed (%d)", info);
        sigma = s[0];
        if (beta[k - 1] * fabs(P[k - 1]) <= opt->tol * sigma || beta[k - 1] <= 0 || k == most)
            break;
    }

    report->sigma1 = sigma;
    if (k > 1 && s[1] > 0) {
        report->sigma2 = s[1];
        report->sigma2_residual = beta[k - 1] * fabs(P[k + k - 1]) / s[1];
    }
    memcpy(c, P, k * sizeof *c);
    combine(u, 0, c, U, k, tm, threads);
    for (size_t i = 0; i < k; i++)
        c[i] = Q[i * k]; /* row 0 of VT */
    combine(v, 0, c, V, k, tn, threads);
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += v[triangle(i) + i];
    double sign = trace < 0 ? -1 : 1;
    normalise(u, tm, 0, threads);
    normalise(v, tn, 0, threads);
    combine(u, sign, NULL, NULL, 0, tm, threads);
    combine(v, sign, NULL, NULL, 0, tn, threads);

    /* Both residuals by their definition. */
    unpack(v, n, 1, H_in, threads);
    status = kq_product_apply(&p, false, KQ_MID_SYMMETRIC, H_in, H_out, err);
    if (status)
        return status;
    pack(H_out, m, spare, threads);
    double ru = distance(spare, sigma, u, tm);
    unpack(u, m, 1, H_out, threads);
    status = kq_product_apply(&p, true, KQ_MID_SYMMETRIC, H_out, H_in, err);
    if (status)
        return status;
    pack(H_in, n, spare, threads);
    double rv = distance(spare, sigma, v, tn);
    unpack(v, n, 1, H_in, threads);
    report->products += 2;
    report->residual = (ru > rv ? ru : rv) / sigma;
    report->converged = report->residual <= opt->tol;
    report->flop = p.flop;

    /* The leading triplet is PSD; an iterate is off by about its residual over the gap. */
    double allowed = 1e-3 + 10 * report->residual;
    status = kq_psd_check(H_in, n, allowed, V, threads, "H_in", err);
    if (!status)
        status = kq_psd_check(H_out, m, allowed, V, threads, "H_out", err);
    return status;
}
