/* Scores of one position (eq. 19, 82, 83) and the statistics of many (eq. 84, 85). Sums are in double over
 * fixed lanes, so that equal logits give a KL of exactly 0 and every number of threads gives the
 * same bits. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16 };

static double lanes_sum(const double *lane)
{
    double s = 0;
    for (int j = 0; j < LANES; j++)
        s += lane[j];
    return s;
}

kq_row_stats kq_row_score(const kq_kern *kern, const float *logits, size_t n)
{
    float max = kern->max(logits, n);
    kq_row_stats st = {.lse = (double)max + log(kern->sum_exp(logits, n, max)), .max = max};
    size_t top = 0;
    while (top + 1 < n && !(logits[top] == max))
        top++;
    st.top = (int32_t)top;
    return st;
}

double kq_row_kl(const kq_kern *kern, const float *lp, const kq_row_stats *p, const float *lq,
                 const kq_row_stats *q, size_t n, float *exp)
{
    memcpy(exp, lp, n * sizeof *exp);
    kern->exp_sum(exp, n, p->max);
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

/* The standard error of m values around their mean. Value i is the mean of the `cluster` values of x from
 * i * cluster on. */
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

const double kq_quantile[KQ_N_QUANTILE] = {0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1};

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void kq_quantiles(double *x, size_t n, double *out)
{
    qsort(x, n, sizeof *x, ascending);
    for (size_t i = 0; i < KQ_N_QUANTILE; i++) {
        const double at = kq_quantile[i] * (double)(n - 1);
        const size_t low = (size_t)at, high = low + 1 < n ? low + 1 : low;
        out[i] = x[low] + (at - (double)low) * (x[high] - x[low]);
    }
}
