/* Rounding one weight matrix onto a block type of GGUF, in the original basis: two-sided LDLQ with one
 * element a step, where each block's scale is chosen when its turn comes, with the feedback already in
 * its target (docs/math.md, "Grids").
 *
 * A block is 32 or 256 weights of one row (of W's inputs). Its values are codes times a scale, plus an
 * offset in some types; the types of 256 split into groups of 16 or 32 whose own scales are small
 * integers. */
#ifndef KQ_GRID_GRID_H
#define KQ_GRID_GRID_H

#include "format/dequant.h"

typedef struct kq_grid_options {
    double sigma_in, sigma_out; /* added to each factor's unit mean diagonal (eq. 54) */
    double shrink;              /* of both factors towards their diagonals (eq. 63) */
    /* block descent over the whole matrix after the first pass: 0 or more */
    int sweeps;
    int threads;
    /* the report's objective and first: two or three more products mn(m + n) */
    bool measure;
} kq_grid_options;
kq_grid_options kq_grid_defaults(void);

typedef struct kq_grid_report {
    double relative_mse; /* ||W - What||^2 / ||W||^2; 0 when W is 0 */
    /* eq. 1 with the factors as given, nats a sample; NaN when `predicts` is false */
    double predicted_loss;
    /* tr(E H_in E^T H_out) with the conditioned factors: at the end, and after the first pass; NaN
     * unless asked for */
    double objective, first;
    int extra_in, extra_out; /* repeats of the conditioning */
} kq_grid_report;

/* Can kq_grid_round write this type? Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K. */
bool kq_grid_known(kq_dtype type);

/* W [m, n], n a multiple of the type's block; H_in [n, n], H_out [m, m] as estimated (unscaled, not
 * changed), NULL for the identity. blocks: m rows of n / elems blocks, in the type's bytes;
 * kq_dequantize gives What. The same bytes for any number of threads.
 * name is only for messages. KQ_E_SHAPE: n is no multiple; KQ_E_NUMERIC: NaN or Inf in W or a factor, a
 * factor that cannot be conditioned, a weight that the type's scales cannot reach (kq_type_holds).
 * Targets beyond that reach saturate. Where a scale would be below F16's least number it is that number. */
kq_status kq_grid_round(kq_dtype type, const char *name, const float *W, size_t m, size_t n,
                        const float *H_in, const float *H_out, bool predicts, const kq_grid_options *opt,
                        uint8_t *blocks, kq_grid_report *report, kq_error *err);
/* Peak of kq_grid_round without its arguments, for the memory plan. */
size_t kq_grid_bytes(size_t m, size_t n);

/* Rows without any factor (an embedding, a head): each block's scale searched for the least squared
 * error. Any rows, on several threads. */
kq_status kq_grid_nearest(kq_dtype type, const char *name, const float *W, size_t m, size_t n, int threads,
                          uint8_t *blocks, kq_error *err);

#endif
