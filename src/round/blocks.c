/* The scales of EXL3's basis (docs/math.md, "Blocks"). Its transforms mix 128 rows and 128 columns each, so
 * that blocks of the rotated matrix keep energies of their own, while the code has one size for all of them.
 * A block with less than its share would get the same error as the others, and one with more would be cut
 * off. So scales of whole blocks of rows and of columns bring all blocks to about one rms. They commute with
 * the transforms, and a factor that is the identity stays diagonal. */
#include "round/side.h"

#include <math.h>

#include "base/f16.h"
#include "base/mem.h"
#include "round/matrix.h"

/* Rows and columns are settled in turn. */
enum { ROUNDS = 4 };

/* Where su would be below SMALL, it gives a power of two to sv, not more than SHIFT. */
#define SMALL 0x1p-9
#define SHIFT 0x1p-11
/* A half float's normal numbers. */
#define LEAST 0x1p-14
#define MOST 60000.0

double kq_fill_scale(size_t n, size_t block, size_t i)
{
    const size_t first = block ? i / block * block : 0;
    return block && n - first < block ? sqrt((double)(n - first) / (double)block) : 1;
}

/* Sums of squares of W over its scales, by blocks: E [rows of blocks, columns of blocks]. */
static void block_energies(const kq_round_input *in, const kq_side *inputs, const kq_side *outputs, double *E)
{
    const size_t B = inputs->block, across = kq_padded_to(in->n, B) / B;
    for (size_t i = 0; i < in->m; i++)
        for (size_t j = 0; j < in->n; j++) {
            const double w = in->W[i * in->n + j] / (outputs->scales[i] * inputs->scales[j]);
            E[i / B * across + j / B] += w * w;
        }
}

/* s [n] = what brings the blocks of one side to rms 1, the other side's being `other` [k]. E(i, j) stands at
 * i step + j stride. A block of zeros gets 0. */
static void settle(const double *E, size_t n, size_t step, const double *other, size_t k, size_t stride,
                   size_t block, double *s)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < k; j++)
            sum += E[i * step + j * stride] > 0 ? E[i * step + j * stride] / (other[j] * other[j]) : 0;
        s[i] = sqrt(sum / ((double)block * (double)block * (double)k));
    }
}

/* The scales of a side, times that of each block, as half floats. */
static kq_status store(kq_side *side, const double *of_block, double factor, kq_error *err)
{
    for (size_t i = 0; i < side->n; i++) {
        const double x = side->scales[i] * of_block[i / side->block] * factor;
        if (!(fabs(x) <= MOST))
            return kq_fail(err, KQ_E_NUMERIC, "%s: %s[%zu] would be %g, a half float ends at 65504",
                           side->module, side->suffix, i, x);
        side->scales[i] =
            kq_f16_to_f32(kq_f32_to_f16((float)copysign(fmax(fabs(x), LEAST), side->scales[i])));
    }
    return KQ_OK;
}

/* The mean of the scales' magnitudes, each times that of its block. */
static double mean_size(const kq_side *side, const double *of_block)
{
    double sum = 0;
    for (size_t i = 0; i < side->n; i++)
        sum += fabs(side->scales[i]) * of_block[i / side->block];
    return sum / (double)side->n;
}

kq_status kq_sides_settle(const kq_round_input *in, double weight_rms, kq_side *inputs, kq_side *outputs,
                          bool *zero, kq_error *err)
{
    const size_t B = inputs->block, down = kq_padded_to(in->m, B) / B, across = kq_padded_to(in->n, B) / B;
    double *E = NULL, *a = NULL, *b = NULL;
    kq_status st;
    *zero = !(kq_sum_squares(in->W, in->m * in->n) >= 1e-60);
    if (*zero)
        return KQ_OK;
    if ((st = kq_alloc_for((void **)&E, down * across, sizeof *E, "channel scales", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&a, down, sizeof *a, "channel scales", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&b, across, sizeof *b, "channel scales", err)) != KQ_OK)
        goto out;
    for (size_t i = 0; i < down * across; i++)
        E[i] = 0;
    for (size_t j = 0; j < across; j++)
        b[j] = 1;
    block_energies(in, inputs, outputs, E);
    for (int round = 0; round < ROUNDS; round++) {
        settle(E, down, across, b, across, 1, B, a);
        settle(E, across, 1, a, down, across, B, b);
    }
    /* the rows' scales stay near 1, the columns' take the size of the weights: exllamav3 multiplies the
     * inputs in half floats by them, before they can grow */
    const double rows = mean_size(outputs, a), columns = mean_size(inputs, b) * rows / weight_rms,
                 shift = columns < SMALL ? fmax(ldexp(1, ilogb(columns / SMALL)), SHIFT) : 1;
    if ((st = store(outputs, a, shift / rows, err)) == KQ_OK)
        st = store(inputs, b, rows / weight_rms / shift, err);
out:
    kq_free(E);
    kq_free(a);
    kq_free(b);
    return st;
}
