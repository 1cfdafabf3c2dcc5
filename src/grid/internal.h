/* Inside the room: what a block type is, one block of a row, and the kernel that tries sixteen scales at
 * once. */
#ifndef KQ_GRID_INTERNAL_H
#define KQ_GRID_INTERNAL_H

#include "base/isa.h"
#include "grid/grid.h"

enum { KQ_GRID_BLOCK = 256, KQ_GRID_GROUPS = 16, KQ_GRID_LANES = 16 };

typedef struct kq_grid {
    kq_dtype type;
    /* weights a block; weights that share one scale (the block, where there are no groups) */
    int elems, group;
    int q_min, q_max;                  /* codes; IQ4_NL's codes are its levels */
    bool offset;                       /* value = scale * code + offset */
    bool nonlinear;                    /* IQ4_NL: codes are the sixteen levels of its table */
    int scale_min, scale_max, min_max; /* types with groups: integer scales, and minima 0..min_max */
} kq_grid;
const kq_grid *kq_grid_of(kq_dtype type); /* NULL: not a grid that can be rounded onto */

/* A block's content before it is packed. Types without groups: value = d * q + m. With groups: d * scale
 * * q - m * min. */
typedef struct kq_grid_code {
    uint16_t d, m; /* f16 */
    int16_t scale[KQ_GRID_GROUPS], min[KQ_GRID_GROUPS];
    int8_t q[KQ_GRID_BLOCK];
} kq_grid_code;
void kq_grid_pack(const kq_grid *g, const kq_grid_code *c, uint8_t *bytes);

/* Sixteen (scale, offset) pairs tried on one group of n <= 32 weights, each with the feedback inside the
 * group, from the last weight to the first:  t_j = v_j + sum_{j'>j} (w_j' - what_j') L[j'][j],  what_j =
 * scale q_j + offset the level nearest to t_j,
 *         cost = sum_j D_j (t_j - what_j)^2.
 * L has row stride ld and is read below its diagonal only; NULL: none. q [n][16] codes as floats. */
typedef struct kq_grid_lanes {
    float scale[KQ_GRID_LANES], offset[KQ_GRID_LANES]; /* in */
    float cost[KQ_GRID_LANES], q[32][KQ_GRID_LANES];   /* out */
} kq_grid_lanes;
typedef void kq_grid_lanes_fn(const kq_grid *g, size_t n, const float *w, const float *v, const float *L,
                              size_t ld, const float *D, kq_grid_lanes *x);
/* the fastest at or below it; all give the same bits */
kq_grid_lanes_fn *kq_grid_lanes_for(kq_isa isa);

/* One block of a row, in the order of rounding (the last weight first). */
typedef struct kq_grid_row {
    const float *w; /* [elems]: the weights */
    const float *v; /* [elems]: their targets before the feedback inside the block (eq. 92) */
    const float *L; /* [elems, elems], row stride ld, read below its diagonal; NULL: no feedback */
    const float *D; /* [elems], weights of the squared errors; NULL: 1 */
    size_t ld;
    /* slot[i]: where weight i of the order lies in the block. Whole groups may be reordered, and weights
     * within their group. */
    const uint16_t *slot;
} kq_grid_row;
/* Choose scales and codes. Returns eq. 92's cost, sum_i D_i (t_i - what_i)^2; fills c and bytes (the packed
 * block), and what [elems] with the values in the order of rounding. what is NaN when the weights are too
 * large for the type's F16 scales. */
double kq_grid_row_round(const kq_grid *g, kq_grid_lanes_fn *lanes, const kq_grid_row *row, kq_grid_code *c,
                         uint8_t *bytes, float *what);

#endif
