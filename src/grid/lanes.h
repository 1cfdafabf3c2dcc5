/* What a block type is, and the kernel of its search, which tries sixteen scales at once. For this room and
 * for selfcheck, which compares the instruction sets. */
#ifndef KQ_GRID_LANES_H
#define KQ_GRID_LANES_H

#include "base/isa.h"
#include "grid/grid.h"

enum { KQ_GRID_LANES = 16 };

typedef struct kq_grid {
    kq_dtype type;
    /* weights a block; weights that share one scale (the block, where there are no groups) */
    int elems, group;
    int q_min, q_max;                  /* codes; IQ4_NL's codes are its levels */
    bool offset;                       /* value = scale * code + offset */
    bool nonlinear;                    /* IQ4_NL, IQ4_XS: codes are the sixteen levels of their table */
    int scale_min, scale_max, min_max; /* types with groups: integer scales, and minima 0..min_max */
    /* IQ2_*, IQ3_*: eight weights are chosen at once (format/codebook.h); of the numbers above only elems and
     * group count */
    bool codewords;
} kq_grid;
const kq_grid *kq_grid_of(kq_dtype type); /* NULL: not a grid that can be rounded onto */

/* Sixteen (scale, offset) pairs tried on one group of n <= 32 weights, each with the feedback inside the
 * group, from the last weight to the first:
 *     t_j = v_j + sum_{j'>j} (w_j' - what_j') L[j'][j],
 *     what_j = scale q_j + offset, the level nearest to t_j,
 *     cost = sum_j D_j (t_j - what_j)^2.
 * L has row stride ld and is read below its diagonal only; NULL: no feedback. q [n][16]: codes as floats. */
typedef struct kq_grid_lanes {
    float scale[KQ_GRID_LANES], offset[KQ_GRID_LANES]; /* in */
    float cost[KQ_GRID_LANES], q[32][KQ_GRID_LANES];   /* out */
} kq_grid_lanes;
typedef void kq_grid_lanes_fn(const kq_grid *g, size_t n, const float *w, const float *v, const float *L,
                              size_t ld, const float *D, kq_grid_lanes *x);
/* The fastest at or below isa. All give the same bits. */
kq_grid_lanes_fn *kq_grid_lanes_for(kq_isa isa);

#endif
