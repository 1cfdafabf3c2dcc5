/* One factor, or the pair of them, whatever method found it: the scale of eq. 6, the packed triangle of
 * factor files, and whether anything is left of it in f32. */
#include "fisher/fisher.h"

#include <math.h>
#include <string.h>

kq_status kq_factors_scale(float *H_in, size_t n, float *H_out, size_t m, double target, kq_error *err)
{
    double in = 0, out = 0;
    for (size_t i = 0; i < n; i++)
        in += H_in[i * n + i];
    for (size_t i = 0; i < m; i++)
        out += H_out[i * m + i];
    double mean = sqrt(target / ((double)m * (double)n)), a = mean * (double)n / in,
           b = mean * (double)m / out;
    if (!(in > 0) || !(out > 0) || !isfinite(a) || !isfinite(b))
        return kq_fail(err, KQ_E_NUMERIC, "the factors' traces are %g and %g", in, out);
    for (size_t i = 0; i < n * n; i++)
        H_in[i] = (float)(H_in[i] * a);
    for (size_t i = 0; i < m * m; i++)
        H_out[i] = (float)(H_out[i] * b);
    return KQ_OK;
}

bool kq_factor_is_tiny(const float *H, size_t n)
{
    double trace = 0;
    for (size_t i = 0; i < n; i++)
        trace += H[i * n + i];
    return trace / (double)n < 1e-35; /* f32 ends at 1e-38 */
}

void kq_factor_pack(const float *H, size_t n, float *packed)
{
    for (size_t i = 0; i < n; packed += ++i)
        memcpy(packed, H + i * n, (i + 1) * sizeof *packed);
}

void kq_factor_unpack(const float *packed, size_t n, float *H)
{
    for (size_t i = 0; i < n; packed += ++i)
        for (size_t j = 0; j <= i; j++)
            H[i * n + j] = H[j * n + i] = packed[j];
}
