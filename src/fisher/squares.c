/* Squared norms of the gradients. A factored sample's norm comes from the Gram matrices of its tokens (eq.
 * 7), since G_i itself is never formed. Sums go sample by sample in order, so that every number of threads
 * gives the same bits. */
#include "fisher/squares.h"

#include <math.h>
#include <omp.h>

#include "base/f16.h"
#include "kern/gemm.h"

enum { TOKENS = 64 }; /* of a factored sample that are multiplied at a time */

/* Nonzero: g [n] holds a NaN or an infinity (all exponent bits set). */
static unsigned broken_values(const uint16_t *g, size_t n)
{
    unsigned broken = 0;
    for (size_t i = 0; i < n; i++)
        broken |= (g[i] & 0x7f80u) == 0x7f80u;
    return broken;
}

static size_t square_floats(size_t m, size_t n)
{
    return (2 * TOKENS * (m + n + TOKENS) + 15) / 16 * 16;
}

/* Eq. 7: ||g^T x||_F^2 = sum_{s,t} (g_s . g_t)(x_s . x_t), lower tiles of TOKENS x TOKENS; *terms: the sum of
 * the terms' magnitudes. scratch: square_floats. */
static double factored_square(const uint16_t *sample, size_t T, size_t m, size_t n, float *scratch,
                              double *terms)
{
    const size_t width[2] = {m, n};
    const uint16_t *from[2] = {sample, sample + T * m};
    float *K[2] = {scratch, scratch + TOKENS * TOKENS}, *rows = K[1] + TOKENS * TOKENS,
          *columns = rows + TOKENS * (m > n ? m : n);
    double sum = 0;
    *terms = 0;
    for (size_t r = 0; r < T; r += TOKENS)
        for (size_t c = 0; c <= r; c += TOKENS) {
            const size_t h = T - r < TOKENS ? T - r : TOKENS, w = T - c < TOKENS ? T - c : TOKENS;
            for (int k = 0; k < 2; k++) {
                kq_bf16_to_f32_n(from[k] + r * width[k], rows, h * width[k]);
                kq_bf16_to_f32_n(from[k] + c * width[k], columns, w * width[k]);
                kq_gemm_f32(false, true, h, w, width[k], 1, rows, width[k], columns, width[k], 0, K[k], w);
            }
            double part = 0, size = 0;
            for (size_t i = 0; i < h * w; i++) {
                part += (double)K[0][i] * K[1][i];
                size += fabs((double)K[0][i] * K[1][i]);
            }
            sum += r == c ? part : 2 * part;
            *terms += r == c ? size : 2 * size;
        }
    return sum > 0 || !isfinite(sum) ? sum : 0;
}

static double whole_square(const uint16_t *g, size_t m, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < m; i++) {
        float lane[32] = {0};
        const uint16_t *row = g + i * n;
        size_t j = 0;
        for (; j + 32 <= n; j += 32)
            for (int l = 0; l < 32; l++) {
                const float x = kq_bf16_to_f32(row[j + (size_t)l]);
                lane[l] += x * x;
            }
        for (; j < n; j++) {
            const float x = kq_bf16_to_f32(row[j]);
            lane[j % 32] += x * x;
        }
        for (int l = 0; l < 32; l++)
            sum += lane[l];
    }
    return sum;
}

size_t kq_squares_scratch_bytes(const kq_product_plan *plan)
{
    return plan->T ? (size_t)plan->threads * square_floats(plan->m, plan->n) * sizeof(float) : 0;
}

kq_status kq_squares_add(const kq_product_plan *plan, const uint16_t *g, size_t first, size_t all,
                         float *scratch, kq_squares *sum, kq_error *err)
{
    const size_t m = plan->m, n = plan->n;
    size_t bad = SIZE_MAX;
    enum { GROUP = 64 }; /* samples at a time: bounded storage, sums in order */
    for (size_t done = 0; done < all; done += GROUP) {
        double part[GROUP], terms[GROUP];
        size_t count = all - done < GROUP ? all - done : GROUP;
#pragma omp parallel for schedule(dynamic) num_threads(plan->threads) if (plan->threads > 1) \
    reduction(min                                                                            \
              : bad)
        for (size_t s = 0; s < count; s++) {
            const uint16_t *sample = g + (done + s) * plan->sample;
            part[s] = terms[s] = 0;
            if (broken_values(sample, plan->sample))
                bad = first + done + s < bad ? first + done + s : bad;
            else if (plan->T)
                part[s] =
                    factored_square(sample, plan->T, m, n,
                                    scratch + (size_t)omp_get_thread_num() * square_floats(m, n), &terms[s]);
            else
                part[s] = terms[s] = whole_square(sample, m, n);
        }
        if (bad != SIZE_MAX)
            return kq_fail(err, KQ_E_NUMERIC,
                           "gradient of sample %zu (of %zu, [%zu, %zu]) holds a NaN or an infinity", bad,
                           plan->D, m, n);
        for (size_t s = 0; s < count; s++) {
            sum->total += part[s];
            sum->terms += terms[s];
        }
    }
    return KQ_OK;
}

kq_status kq_squares_check(const kq_squares *sum, const kq_product_plan *plan, size_t D, kq_error *err)
{
    return isfinite(sum->total)
               ? KQ_OK
               : kq_fail(err, KQ_E_NUMERIC, "the gradients [%zu, %zu, %zu] overflow f32 when squared", D,
                         plan->m, plan->n);
}
