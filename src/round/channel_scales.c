/* Scales of rows and columns, chosen before the rotation: docs/math.md, "Channel scales", eq. 68.
 *
 * The rotation spreads every weight over all others, so that all of them are rounded with the same error.
 * Dividing rows and columns by a scale first, and multiplying by it afterwards, gives each of them an error
 * of its own. Two limits are known exactly. With feedback that removes every coupling, only the geometric
 * mean of the scales counts, and the best scale of a column is its rms. With no feedback, the best square of
 * the scale is the column's rms over the root of its curvature. Feedback from regularised factors is between
 * the two, and the geometric mean of both limits was better than either (docs/evidence/channel-scales.md). */
#include "round/side.h"

#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "base/mem.h"

/* Every scale stays within this factor of the others' geometric mean, far inside a half float's normal
 * numbers. */
#define MOST 1024.0

/* Rows and columns are settled in turn. A third round changes the predicted loss by less than 0.1%. */
enum { ROUNDS = 2 };

/* A scale is (sum of squares)^(square / 2) / curvature^(curvature / 2). */
typedef struct exponents {
    double square, curvature;
} exponents;

/* Sums of squares of the rows (or columns) of W [m, n], whose other index is divided by `other`. */
static void sums_of_squares(const kq_round_input *in, bool rows, const double *other, double *sum)
{
    memset(sum, 0, (rows ? in->m : in->n) * sizeof *sum);
    for (size_t i = 0; i < in->m; i++)
        for (size_t j = 0; j < in->n; j++) {
            const double w = in->W[i * in->n + j] / other[rows ? j : i];
            sum[rows ? i : j] += w * w;
        }
}

/* scale [n] of one side from its sums of squares and its factor's diagonal. A row of zeros, and one that no
 * curvature reaches, has the mean scale, 1. */
static void choose(const kq_side *side, exponents e, const double *sum, double *scale)
{
    double log_mean = 0;
    size_t known = 0;
    for (size_t i = 0; i < side->n; i++) {
        const double h = side->H[i * (side->n + 1)];
        scale[i] = sum[i] > 0 && h > 0 ? (e.square * log(sum[i]) - e.curvature * log(h)) / 2 : NAN;
        if (isfinite(scale[i])) {
            log_mean += scale[i];
            known++;
        }
    }
    log_mean /= known ? (double)known : 1;
    for (size_t i = 0; i < side->n; i++)
        scale[i] = isfinite(scale[i]) ? fmin(fmax(exp(scale[i] - log_mean), 1 / MOST), MOST) : 1;
}

static void multiply(kq_side *side, const double *scale)
{
    for (size_t i = 0; i < side->n; i++)
        side->scales[i] *= kq_f16_to_f32(kq_f32_to_f16((float)scale[i]));
}

kq_status kq_sides_scale(const kq_round_input *in, kq_channel_scales how, kq_side *inputs, kq_side *outputs,
                         kq_error *err)
{
    static const exponents by[] = {
        [KQ_CHANNEL_SCALES_RMS] = {1, 0}, [KQ_CHANNEL_SCALES_CURVATURE] = {0.75, 0.25}};
    if (how == KQ_CHANNEL_SCALES_NONE || (!inputs->H && !outputs->H))
        return KQ_OK;
    double *a = NULL, *b = NULL, *sum = NULL;
    kq_status st;
    if ((st = kq_alloc_for((void **)&a, in->m, sizeof *a, "channel scales", err)) == KQ_OK &&
        (st = kq_alloc_for((void **)&b, in->n, sizeof *b, "channel scales", err)) == KQ_OK &&
        (st = kq_alloc_for((void **)&sum, in->m > in->n ? in->m : in->n, sizeof *sum, "channel scales",
                           err)) == KQ_OK) {
        for (size_t i = 0; i < in->m; i++)
            a[i] = 1;
        for (size_t j = 0; j < in->n; j++)
            b[j] = 1;
        for (int round = 0; round < ROUNDS; round++) {
            if (outputs->H) {
                sums_of_squares(in, true, b, sum);
                choose(outputs, by[how], sum, a);
            }
            if (inputs->H) {
                sums_of_squares(in, false, a, sum);
                choose(inputs, by[how], sum, b);
            }
        }
        multiply(outputs, a);
        multiply(inputs, b);
    }
    kq_free(a);
    kq_free(b);
    kq_free(sum);
    return st;
}

kq_status kq_channel_scales_parse(const char *name, kq_channel_scales *out, kq_error *err)
{
    static const char *const names[] = {[KQ_CHANNEL_SCALES_NONE] = "none",
                                        [KQ_CHANNEL_SCALES_RMS] = "rms",
                                        [KQ_CHANNEL_SCALES_CURVATURE] = "curvature"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) {
            *out = (kq_channel_scales)i;
            return KQ_OK;
        }
    return kq_fail(err, KQ_E_ARG, "--channel-scales %s: expected none, rms or curvature", name);
}
