#include "fisher/fisher.h"

#include <math.h>

#include "kern/lapack.h"

/* Tokens a call of ssyrk: keeps its int sizes far from overflow and its sums short. */
enum { ROWS = 65536 };

void kq_fisher_input_add(const float *X, size_t T, size_t n, float *H)
{
    const float one = 1;
    for (size_t t = 0; t < T; t += ROWS) {
        int N = (int)n, K = (int)(T - t < ROWS ? T - t : ROWS);
        ssyrk_("U", "N", &N, &K, &one, X + t * n, &N, &one, H, &N, 1, 1);
    }
}

kq_status kq_fisher_input_finish(float *H, size_t n, size_t D, kq_error *err)
{
    double trace = 0, sum = 0;
    if (!n || !D)
        return kq_fail(err, KQ_E_ARG, "input statistics: %zu inputs, %zu samples", n, D);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++)
            sum += H[i * n + j];
        trace += H[i * n + i];
    }
    if (!isfinite(sum) || !isfinite(trace))
        return kq_fail(err, KQ_E_NUMERIC, "input statistics hold a NaN or an infinity");
    if (trace <= 0)
        return kq_fail(err, KQ_E_NUMERIC, "input statistics are all zero");
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            H[i * n + j] = H[j * n + i] = (float)(H[i * n + j] / (double)D);
    return KQ_OK;
}
