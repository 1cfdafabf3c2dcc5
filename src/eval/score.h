/* Comparing distributions of the next token, one position at a time. All rooms that measure use it, so that
 * their figures agree. */
#ifndef KQ_EVAL_SCORE_H
#define KQ_EVAL_SCORE_H

#include "kern/kern.h"

typedef struct kq_row_stats {
    double lse; /* log sum_j exp(logit_j), nats; not finite when a logit is NaN or +Inf */
    float max;
    int32_t top; /* the most likely token, ties to the lowest id */
} kq_row_stats;

/* log-sum-exp and most likely token of one row of n >= 1 logits. */
kq_row_stats kq_row_score(const kq_kern *kern, const float *logits, size_t n);

/* KL(p || q) in nats of two rows of n logits with their stats (docs/math.md, eq. 82); exp [n] is scratch.
 *     KL = sum_j p_j (lp_j - lq_j) - (lse_p - lse_q),   p_j = exp(lp_j) / sum_j exp(lp_j).
 * The sums are in double over 16 fixed lanes. Equal rows give exactly 0; rounding alone can make it
 * negative, by about 1e-7 times the spread of lp - lq. */
double kq_row_kl(const kq_kern *kern, const float *lp, const kq_row_stats *p, const float *lq,
                 const kq_row_stats *q, size_t n, float *exp);

/* Mean of x [n] and the two standard errors of docs/math.md, eq. 84 and 85: *se takes the n values as
 * independent, *se_cluster takes the means of consecutive clusters of `cluster` values as independent
 * (NaN with fewer than two clusters; n is a multiple of cluster). */
void kq_mean_stderr(const double *x, size_t n, size_t cluster, double *mean, double *se, double *se_cluster);

/* out [KQ_N_QUANTILE] = the quantiles q of kq_quantile (eval.h) of x [n], n >= 1: linear between the two
 * values around position q (n - 1). x is sorted in place. */
void kq_quantiles(double *x, size_t n, double *out);

#endif
