/* Rounding one weight matrix onto a block type of GGUF (docs/math.md, "Grids", eq. 90 to 98): two-sided LDLQ
 * in the original basis with one element a step, where each block's scale is chosen when its turn comes, with
 * the feedback already in its target.
 *
 * A block is 32 or 256 weights of one row (they share an output). Its values are codes times a scale, plus an
 * offset in some types (eq. 90); types of 256 weights split into groups of 16 or 32, whose own scales are
 * small integers. In some types eight or four weights are rounded together, to a codeword (eq. 96). There is
 * no rotation and no trellis, because the reader is llama.cpp. Sources: Frantar et al. 2023 (GPTQ: one side,
 * the heaviest first), Tseng et al. 2025b (two sides). */
#ifndef KQ_GRID_GRID_H
#define KQ_GRID_GRID_H

#include "format/dequant.h"
#include "round/round.h"

/* tr(E H_in E^T H_out) with the conditioned factors (eq. 91). */
typedef struct kq_grid_objective {
    double first, end; /* after the first pass; at the end */
} kq_grid_objective;

typedef struct kq_grid_options {
    double sigma_in, sigma_out; /* added to the unit mean diagonal of H_in, H_out (eq. 54) */
    double shrink;              /* of both factors towards their diagonals (eq. 63) */
    int sweeps;                 /* of block descent after the first pass (eq. 95): 0 or more */
    int threads;
    kq_grid_objective *objective; /* NULL, or filled in: two or three more products of mn(m + n) */
} kq_grid_options;
kq_grid_options kq_grid_defaults(void);

/* Can kq_grid_round write this type? Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K,
 * IQ4_XS, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S. */
bool kq_grid_known(kq_dtype type);

/* Round in->W [m, n], n a multiple of the type's block, with in's factors (in->name is used in messages
 * only). blocks: m rows of n / elems blocks, in the type's bytes; kq_dequantize gives What report may be
 * NULL. The same bytes for every number of threads. Targets beyond the reach of the type's F16 scales
 * saturate; a scale below F16's least number becomes that number. KQ_E_ARG: no such type, or the shape;
 * KQ_E_SHAPE: n is no multiple of the block; KQ_E_NUMERIC: NaN or Inf in W or in a factor, a factor that
 * cannot be conditioned, a weight that the type's scales cannot reach (kq_type_holds). */
kq_status kq_grid_round(kq_dtype type, const kq_round_input *in, const kq_grid_options *opt, uint8_t *blocks,
                        kq_round_report *report, kq_error *err);
/* Peak of the memory that kq_grid_round allocates, in bytes, for the memory plan. */
size_t kq_grid_bytes(size_t m, size_t n);

/* Rows W [m, n] without any factor (some rows of an embedding or a head): each block's scale is searched for
 * the least squared error. Errors as kq_grid_round's. */
kq_status kq_grid_nearest(kq_dtype type, const char *name, const float *W, size_t m, size_t n, int threads,
                          uint8_t *blocks, kq_error *err);

#endif
