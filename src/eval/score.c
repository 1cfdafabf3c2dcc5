#include "eval/score.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

/* exp(x) for -87 <= x <= 0: x = k ln 2 + r, |r| <= ln(2)/2, a polynomial in r, k into the exponent. The coefficients are the
 * Taylor series' up to r^7: the first term left out is below 6e-9 relative. Branch-free, so that compilers vectorise it; no table, no
 * library call. NaN stays NaN. */
static inline float exp_neg(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
    float t = x * 1.44269504f + magic;
    float k = t - magic;
    float r = (x - k * 0.693359375f) - k * -2.12194440e-4f; /* ln 2 in two parts, the first exact in 9 bits */
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, 4);
    bits = (bits + 127u) << 23; /* magic's own bits are shifted out; k is in [-126, 0] */
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

static float row_max(const float *x, size_t n)
{
    float lane[LANES];
    for (int j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] = x[i + (size_t)j] > lane[j] ? x[i + (size_t)j] : lane[j];
    float max = -INFINITY;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int j = 0; j < LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    return max;
}

static double lanes_sum(const double *lane)
{
    double s = 0;
    for (int j = 0; j < LANES; j++)
        s += lane[j];
    return s;
}

kq_row_stats kq_row_score(const float *logits, size_t n, float *restrict exp)
{
    kq_row_stats st = {0};
    float max = row_max(logits, n);
    for (size_t i = 0; i < n; i++) { /* a pass of its own: inside exp_neg the compiler makes a branch of it, 8 times slower */
        float x = logits[i] - max;
        exp[i] = x < -87.0f ? -87.0f : x; /* exp(-87) is 1.6e-38: nothing beside the sum, which is at least 1. NaN stays */
    }
    for (size_t i = 0; i < n; i++)
        exp[i] = exp_neg(exp[i]);
    double lane[LANES] = {0};
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += (double)exp[i + (size_t)j];
    for (int j = 0; i < n; i++, j++)
        lane[j] += (double)exp[i];
    st.lse = (double)max + log(lanes_sum(lane));
    size_t top = 0;
    while (top + 1 < n && !(logits[top] == max))
        top++;
    st.top = (int32_t)top;
    return st;
}

double kq_row_kl(const float *lp, const float *exp, const kq_row_stats *p, const float *lq, const kq_row_stats *q, size_t n)
{
    double num[LANES] = {0}, den[LANES] = {0};
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        for (int j = 0; j < LANES; j++) {
            double e = (double)exp[i + (size_t)j];
            num[j] += e * ((double)lp[i + (size_t)j] - (double)lq[i + (size_t)j]);
            den[j] += e;
        }
    for (int j = 0; i < n; i++, j++) {
        double e = (double)exp[i];
        num[j] += e * ((double)lp[i] - (double)lq[i]);
        den[j] += e;
    }
    return lanes_sum(num) / lanes_sum(den) - (p->lse - q->lse);
}

/* Mean and standard error of m values, value i being the mean of x's `cluster` values from i * cluster on. */
static double stderr_of(const double *x, size_t m, size_t cluster, double mean)
{
    double ss = 0;
    for (size_t i = 0; i < m; i++) {
        double s = 0;
        for (size_t j = 0; j < cluster; j++)
            s += x[i * cluster + j];
        double d = s / (double)cluster - mean;
        ss += d * d;
    }
    return m < 2 ? (double)NAN : sqrt(ss / (double)(m - 1) / (double)m);
}

void kq_mean_stderr(const double *x, size_t n, size_t cluster, double *mean, double *se, double *se_cluster)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += x[i];
    *mean = s / (double)n;
    *se = stderr_of(x, n, 1, *mean);
    *se_cluster = stderr_of(x, n / cluster, cluster, *mean);
}
