/* Inside the room: what a block type is, one block of a row, and the kernel that tries sixteen scales at
 * once. */
#ifndef KQ_GRID_INTERNAL_H
#define KQ_GRID_INTERNAL_H

#include "grid/lanes.h"
#include "grid/words.h"

enum { KQ_GRID_BLOCK = 256, KQ_GRID_GROUPS = 16 };

/* A block's content before it is packed. Types without groups: value = d * q + m. With groups: d * scale
 * * q - m * min. */
typedef struct kq_grid_code {
    uint16_t d, m; /* f16 */
    int16_t scale[KQ_GRID_GROUPS], min[KQ_GRID_GROUPS];
    int8_t q[KQ_GRID_BLOCK];
} kq_grid_code;
void kq_grid_pack(const kq_grid *g, const kq_grid_code *c, uint8_t *bytes);
/* Weights that are chosen at once: 1, or the 8 that share their signs. */
static inline size_t kq_grid_unit(const kq_grid *g)
{
    return g->codewords ? KQ_OCTET : 1;
}

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
/* out_j = x_j + sum_{j'>j} x_j' L[j'][j], for n weights; L NULL: out = x. */
void kq_grid_times_unit_l(const float *x, const float *L, size_t ld, size_t n, float *out);
/* A scale as F16, with 65504, F16's largest number, for all that is larger (targets may lie beyond the
 * weights, which kq_type_holds has checked). It becomes zero only if it is zero: weights below F16's least
 * number are rounded to multiples of that number, not all to zero. */
uint16_t kq_grid_scale_f16(double x);

/* A type and what its search needs, for a whole matrix. */
typedef struct kq_grid_search {
    const kq_grid *g;
    kq_grid_lanes_fn *lanes;
    kq_words words; /* types with codewords only */
} kq_grid_search;
void kq_grid_search_begin(kq_grid_search *s, kq_dtype type);

/* Choose scales and codes. Returns eq. 92's cost, sum_i D_i (t_i - what_i)^2; fills bytes (the packed block),
 * and what [elems] with the values in the order of rounding. what is NaN when the weights are too large for
 * the type's F16 scales. */
double kq_grid_row_round(const kq_grid_search *s, const kq_grid_row *row, uint8_t *bytes, float *what);
/* The same for a type with codewords, without the bytes and the values. The eight weights that share their
 * signs are neighbours in the order of rounding too. */
double kq_words_round(const kq_words *t, const kq_grid_row *row, kq_codebook_block *c);

#endif
