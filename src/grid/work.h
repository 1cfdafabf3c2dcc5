/* Inside the room: one matrix while it is being rounded onto a grid, for the files that take part in it:
 * round.c (the order of the steps), order.c, first_pass.c, descent.c. */
#ifndef KQ_GRID_WORK_H
#define KQ_GRID_WORK_H

#include "grid/internal.h"

enum { KQ_GRID_ROWS = 16 }; /* outputs that a tile spans; its inputs are one block */

/* One factor, permuted into the order of rounding and conditioned (eq. 63, 54): H = L diag(D) L^T with L unit
 * lower triangular; the array L holds L - I. */
typedef struct kq_grid_side {
    uint32_t *order;  /* owned [n]: the original index of what stands at each position of the order */
    float *H, *L, *D; /* owned [n, n], [n, n], [n]; NULL for the identity */
    size_t n;
} kq_grid_side;

typedef struct kq_grid_work {
    kq_grid_search search;
    size_t m, n;
    size_t B, n_block, block_bytes; /* weights a block, blocks a row, bytes a block */
    kq_grid_side in, out;
    uint16_t *slot; /* owned [n]: where a weight of the order lies in its block */
    /* owned [m, n], in the order of rounding: the weights; E = W - What; F = (I + L_out)^T E, which is the
     * same array as E without H_out */
    float *W, *E, *F;
    uint8_t *blocks; /* borrowed: the result, in the original order */
    int threads;
} kq_grid_work;

static inline size_t kq_grid_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The bytes of block b (in the order of rounding) of row i. */
static inline uint8_t *kq_grid_block_at(const kq_grid_work *z, size_t i, size_t b)
{
    const size_t row = z->out.order[i], column = z->in.order[b * z->B] / z->B;
    return z->blocks + (row * z->n_block + column) * z->block_bytes;
}

/* How many neighbouring entries of a side stay together: those of a block, of a group in it, and of a
 * codeword and its signs in that. All 1: none do. */
typedef struct kq_grid_whole {
    size_t block, group, unit;
} kq_grid_whole;
/* The order of rounding of one side: *out [n] (the caller's), a permutation. H [n, n]; NULL leaves everything
 * where it is. */
kq_status kq_grid_order(const float *H, size_t n, kq_grid_whole whole, uint32_t **out, kq_error *err);
/* Every block once, with the feedback of all finished ones in its target (eq. 56 to 60 with tiles of 16 rows
 * and one block, eq. 92). */
kq_status kq_grid_first_pass(const kq_grid_work *z, kq_error *err);
/* Every block again, `sweeps` times, towards the best it could be given all the others (eq. 95). */
kq_status kq_grid_descend(const kq_grid_work *z, int sweeps, kq_error *err);

#endif
