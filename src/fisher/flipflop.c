/* Matrix-normal maximum likelihood by alternation (Dutilleul 1999; docs/math.md, eq. 3):
 *     H_in  <- 1/(D m) sum_i G_i^T Ho^-1 G_i,     H_out <- 1/(D n) sum_i G_i Hi^-1 G_i^T
 * in turn, from H_out = I. Each half round is one product of eq. 2 with a triangular middle: with Ho = L L^T
 * and C = L^-1, G^T Ho^-1 G = (C G)^T (C G). The constants 1/m and 1/n are left out, because eq. 6 sets the
 * scale. What the rounds before the last find is only the weighting of the last one's sums, for which a few
 * samples are enough. */
#include <assert.h>
#include <math.h>

#include "fisher/method.h"

/* The machine's state; behind it two square matrices of the larger order: the Cholesky factor of the
 * regularised factor, and its inverse. */
typedef struct flipflop {
    int half; /* half rounds done; an even one makes H_in */
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
    const int early = 2 * (opt->rounds - 1), early_done = half < early ? half : early;
    return early_done * ((double)kq_flipflop_samples(opt, D, 0) / (double)D) + half - early_done;
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
    /* The first half round has H_out = I. The early samples may have no gradient: then they weight nothing
     * either. */
    if (!f->half || kq_factor_is_tiny(in ? s->H_out : s->H_in, in ? s->m : s->n))
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
