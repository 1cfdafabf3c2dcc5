/* What rounding a linear will cost, known before a tile is rounded (docs/math.md, eq. 64 to 66). Mixed
 * allocations (--bits 2.5) share bits out by it. The two sides of the matrix are independent, so that the
 * forecast is a product of one number for each side. */
#include "round/round.h"

#include <math.h>

#include "base/mem.h"
#include "round/matrix.h"
#include "round/side.h"

/* Eq. 64 and 65 of one side, whose scales are settled. An identity factor feeds nothing back: the weights are
 * its orders. */
static kq_status side_weight(const kq_side *side, const kq_round_options *opt, kq_side_weight *out,
                             kq_error *err)
{
    const size_t np = kq_padded(side->n);
    const int threads = kq_at_least_one(opt->threads);
    float *measured = NULL, *shrunk = NULL;
    kq_error why = {0};
    kq_status st;
    *out = (kq_side_weight){.loss = (double)side->n, .spread = (double)np};
    if (!side->H)
        return KQ_OK;
    if ((st = kq_side_rotated_factor(side, 0, threads, &measured, err)) != KQ_OK ||
        (st = kq_side_rotated_factor(side, opt->shrink, threads, &shrunk, err)) != KQ_OK)
        goto out;
    if ((st = kq_factor_side_weight(shrunk, measured, np, opt->sigma_reg, threads, out, &why)) != KQ_OK)
        kq_fail(err, st, "%s: %s: %s", side->module, side->factor, why.message);
out:
    kq_free(measured);
    kq_free(shrunk);
    return st;
}

/* ||diag(s_out)^-1 W diag(s_in)^-1||_F^2 */
static double scaled_energy(const kq_round_input *in, const kq_side *inputs, const kq_side *outputs)
{
    double sum = 0;
    for (size_t i = 0; i < in->m; i++)
        for (size_t j = 0; j < in->n; j++) {
            const double w = in->W[i * in->n + j] / (outputs->scales[i] * inputs->scales[j]);
            sum += w * w;
        }
    return sum;
}

kq_status kq_forecast_linear(const kq_round_input *in, const kq_round_options *opt, kq_forecast *out,
                             kq_error *err)
{
    kq_side inputs = kq_side_in(in, 0), outputs = kq_side_out(in, 0);
    kq_side_weight w_in, w_out;
    *out = (kq_forecast){0};
    double energy = 0;
    kq_status st = kq_round_check_weight(in, err);
    if (st == KQ_OK && (st = kq_side_begin(&inputs, opt->seed, err)) == KQ_OK &&
        (st = kq_side_begin(&outputs, opt->seed, err)) == KQ_OK &&
        (st = kq_sides_scale(in, opt->channel_scales, &inputs, &outputs, err)) == KQ_OK &&
        (st = side_weight(&inputs, opt, &w_in, err)) == KQ_OK &&
        (st = side_weight(&outputs, opt, &w_out, err)) == KQ_OK)
        energy = scaled_energy(in, &inputs, &outputs);
    kq_side_free(&inputs);
    kq_side_free(&outputs);
    if (st != KQ_OK)
        return st;
    /* rms(W')^2 over the padded matrix: the rotation keeps the norm */
    const double count = (double)kq_padded(in->m) * (double)kq_padded(in->n), mean_square = energy / count;
    *out = (kq_forecast){.loss = 0.5 * mean_square * w_in.loss * w_out.loss,
                         .spread = w_in.spread * w_out.spread / count};
    if (!isfinite(out->loss) || !isfinite(out->spread) || out->loss < 0)
        return kq_fail(err, KQ_E_NUMERIC, "%s: the forecast of its loss is %g", in->name, out->loss);
    return KQ_OK;
}

double kq_forecast_loss(const kq_forecast *f, double e)
{
    return f->loss * e * (1 + e * (f->spread - 1));
}

size_t kq_forecast_bytes(size_t m, size_t n, int threads)
{
    /* f64 Cholesky factor and two f32 factors of the larger order; for each thread 128 rows of an inverse in
     * f64 and twice in f32 */
    const double big = (double)kq_padded(m > n ? m : n),
                 bytes = 16 * big * big + 16.0 * 128 * big * kq_at_least_one(threads);
    return bytes < (double)SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX;
}
