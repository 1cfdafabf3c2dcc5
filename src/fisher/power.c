/* Power iteration on the operator of eq. 2 (Tseng et al. 2025b, method B; docs/math.md, "yaqa-b"): v <-
 * A*(A(v)) over its norm, from the identity or a random positive semidefinite start. It reaches fastkron's
 * fixed point; each step costs two products, as a step of Lanczos does, and the error falls by q^2. */
#include <assert.h>
#include <math.h>

#include "base/rng.h"
#include "fisher/method.h"

/* The machine's state; behind it the next iterate [n,n], whose memory the check at the end reuses. v is kept
 * in H_in, u in H_out. */
typedef struct power {
    int steps; /* finished */
    bool half; /* u = A(v) / sigma is known, A*(u) comes next */
    double sigma;
} power;
enum { HEAD = 64 };
static_assert(sizeof(power) <= HEAD, "the matrix behind it stays aligned");

static float *iterate_of(const kq_search *s)
{
    return (float *)((char *)s->state + HEAD);
}

static size_t power_bytes(size_t m, size_t n, const kq_factor_options *opt)
{
    (void)opt;
    const size_t psd = kq_psd_work(m > n ? m : n), next = n * n;
    return HEAD + (next > psd ? next : psd) * sizeof(float);
}

static double norm(const float *H, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double row = 0;
        for (size_t j = 0; j < n; j++)
            row += (double)H[i * n + j] * H[i * n + j];
        sum += row;
    }
    return sqrt(sum);
}

static void scale(float *H, size_t n, double by)
{
    for (size_t i = 0; i < n * n; i++)
        H[i] = (float)(H[i] * by);
}

static void start(float *v, size_t n, const kq_factor_options *opt)
{
    kq_rng rng = kq_rng_stream(opt->seed, "power");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            v[i * n + j] = i != j ? 0 : opt->start_random ? (float)(0.1 + kq_rng_uniform(&rng)) : 1;
}

static void power_start(kq_search *s)
{
    *(power *)s->state = (power){0};
    start(s->H_in, s->n, s->opt);
    scale(s->H_in, s->n, 1 / norm(s->H_in, s->n));
}

static kq_status power_next(kq_search *s, kq_step *step, bool *more, kq_error *err)
{
    (void)err;
    const power *p = s->state;
    *more = p->steps < s->opt->max_iter && !s->report->converged;
    *step = p->half
                ? (kq_step){.adjoint = true, .kind = KQ_MID_SYMMETRIC, .mid = s->H_out, .out = iterate_of(s)}
                : (kq_step){.kind = KQ_MID_SYMMETRIC, .mid = s->H_in, .out = s->H_out};
    return KQ_OK;
}

static kq_status power_absorb(kq_search *s, kq_error *err)
{
    power *p = s->state;
    const size_t n = s->n;
    float *v = s->H_in, *next = iterate_of(s);
    kq_factor_report *report = s->report;
    p->half = !p->half;
    if (p->half) {
        p->sigma = norm(s->H_out, s->m);
        if (!(p->sigma > 0) || !isfinite(p->sigma))
            return kq_fail(err, KQ_E_NUMERIC, "power iteration: the operator's norm is %g", p->sigma);
        scale(s->H_out, s->m, 1 / p->sigma);
        return KQ_OK;
    }
    p->steps++;
    /* ||A*(u) - sigma v|| / sigma; A(v) = sigma u holds by construction */
    double gap = 0;
    for (size_t i = 0; i < n * n; i++) {
        const double e = next[i] - p->sigma * v[i];
        gap += e * e;
    }
    const double residual = sqrt(gap) / p->sigma;
    report->sigma1 = p->sigma;
    if (residual > 1e-5 && p->steps > 1) { /* the residual falls by q^2 a step; below 1e-5 it is rounding */
        const double sigma2 = p->sigma * fmin(1, sqrt(residual / report->residual));
        report->sigma2_residual = fabs(report->sigma2 / sigma2 - 1);
        report->sigma2 = sigma2;
    }
    report->residual = residual;
    kq_search_trace(s, residual);
    report->converged = report->residual <= s->opt->tol;
    if (!report->converged) { /* a converged v stays as it is: the residual was measured with it */
        const double length = norm(next, n);
        for (size_t i = 0; i < n * n; i++)
            v[i] = (float)(next[i] / length);
    }
    return KQ_OK;
}

static double power_fraction(const kq_search *s)
{
    const power *p = s->state;
    return (p->steps + 0.5 * p->half) / s->opt->max_iter;
}

static kq_status power_finish(kq_search *s, kq_error *err)
{
    return kq_search_psd(s, 1e-3, iterate_of(s), err);
}

const kq_machine kq_power = {power_bytes,  power_start,    power_next,
                             power_absorb, power_fraction, power_finish};
