/* Matrix-normal maximum likelihood by alternation (Dutilleul 1999): docs/math.md eq. 3. What the rounds
 * before the last find is only the weighting of the last one's sums, for which few samples will do. */
#include <assert.h>
#include <math.h>

#include "fisher/method.h"

/* State: which half round, the normalised factor, whose Cholesky factor replaces it, and that one's
 * inverse. */
typedef struct flipflop {
    int half;
} flipflop;
enum { HEAD = 64 };
static_assert(sizeof(flipflop) <= HEAD, "the matrices behind it stay aligned");

static float *factor_of(const kq_search *s)
{
    return (float *)((char *)s->state + HEAD);
}

static float *inverse_of(const kq_search *s)
{
    const size_t big = s->m > s->n ? s->m : s->n;
    return factor_of(s) + big * big;
}

static size_t flipflop_bytes(size_t m, size_t n, const kq_factor_options *opt)
{
    (void)opt;
    size_t big = m > n ? m : n, two = 2 * big * big, psd = kq_psd_work(big);
    return HEAD + (two > psd ? two : psd) * sizeof(float);
}

kq_status kq_regularised_inverse(const float *H, size_t n, double rho, float *L, float *C, int threads,
                                 int *regularised, kq_error *err)
{
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += H[i * n + i];
    if (!isfinite(trace) || trace <= 0)
        return kq_fail(err, KQ_E_NUMERIC,
                       "flipflop: a factor's trace is %g: the gradients over- or underflow f32 when squared",
                       trace);
    double scale = (double)n / trace;
    for (int tries = 1; tries <= 64; tries++) {
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++)
                L[i * n + j] = (float)(H[i * n + j] * scale);
        if (kq_cholesky(L, n, (float)(rho * tries), L, threads)) {
            kq_triangle_inverse(L, n, C, threads);
            return KQ_OK;
        }
        ++*regularised;
        if (rho <= 0)
            break;
    }
    return kq_fail(err, KQ_E_NUMERIC, "flipflop: a factor is singular even with rho = %g: raise --rho", rho);
}

static void flipflop_start(kq_search *s)
{
    *(flipflop *)s->state = (flipflop){0};
}

size_t kq_flipflop_samples(const kq_factor_options *opt, size_t D, int half)
{
    return half < 2 * (opt->rounds - 1) && opt->early && opt->early < D ? opt->early : D;
}

double kq_flipflop_passes(const kq_factor_options *opt, size_t D, int half)
{
    const int early = 2 * (opt->rounds - 1), of_them = half < early ? half : early;
    return of_them * ((double)kq_flipflop_samples(opt, D, 0) / (double)D) + half - of_them;
}

static kq_status flipflop_next(kq_search *s, kq_step *step, bool *more, kq_error *err)
{
    const flipflop *f = s->state;
    const bool in = f->half % 2 == 0;
    if (!(*more = f->half < 2 * s->opt->rounds))
        return KQ_OK;
    *step = (kq_step){.adjoint = in,
                      .kind = KQ_MID_IDENTITY,
                      .out = in ? s->H_in : s->H_out,
                      .samples = kq_flipflop_samples(s->opt, s->D, f->half)};
    if (!f->half ||
        kq_factor_is_tiny(in ? s->H_out : s->H_in,
                          in ? s->m : s->n)) /* the early samples may have no gradient: they weight nothing */
        return KQ_OK;
    step->kind = KQ_MID_TRIANGULAR;
    step->mid = inverse_of(s);
    const double d = (double)(in ? s->m : s->n);
    s->report->flop += 2.0 / 3.0 * d * d * d; /* Cholesky and inverse: n^3/3 multiply-adds each */
    return kq_regularised_inverse(in ? s->H_out : s->H_in, in ? s->m : s->n, s->opt->rho, factor_of(s),
                                  inverse_of(s), s->threads, &s->report->regularised, err);
}

static kq_status flipflop_absorb(kq_search *s, kq_error *err)
{
    (void)err;
    ((flipflop *)s->state)->half++;
    return KQ_OK;
}

static double flipflop_fraction(const kq_search *s)
{
    const int half = ((const flipflop *)s->state)->half;
    return kq_flipflop_passes(s->opt, s->D, half) / kq_flipflop_passes(s->opt, s->D, 2 * s->opt->rounds);
}

static bool all_finite(const float *H, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n * n; i++)
        sum += H[i] - H[i]; /* 0 or NaN */
    return sum == 0;
}

static kq_status flipflop_finish(kq_search *s, kq_error *err)
{
    s->report->converged = true;
    kq_status status = kq_search_psd(s, 1e-3, factor_of(s), err);
    if (status == KQ_E_NUMERIC && all_finite(s->H_in, s->n) && all_finite(s->H_out, s->m)) {
        /* Sums of squares in the metric of an inverse: that they come out below zero means that nothing
         * is left of them but rounding errors (a text that repeats one token: the queries' gradients are
         * what rounding makes of zero). */
        s->report->lack = KQ_LACK_ROUNDING;
        status = KQ_OK;
    }
    return status;
}

const kq_machine kq_flipflop = {flipflop_bytes,  flipflop_start,    flipflop_next,
                                flipflop_absorb, flipflop_fraction, flipflop_finish};
