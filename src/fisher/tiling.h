/* Inside the room: how a product of eq. 2 is cut into tasks. A task is one panel of one sample (stage 1) or
 * one tile of the result over a fixed group of samples (stage 2). Neither depends on the number of threads,
 * so neither do the bits. product_plan.c sizes the workspace by these numbers, the stages cut the work by
 * them. */
#ifndef KQ_FISHER_TILING_H
#define KQ_FISHER_TILING_H

#include "fisher/panel.h"
#include "fisher/product.h"

enum {
    KQ_STAGE_PANEL = 192, /* rows (columns) of C or Y that a stage-1 task takes */
    KQ_STRIP = 6 /* block integers: panels that a tile of the result spans, 288 columns, whose blocks and
                    sums stay in a second-level cache */
};

static inline size_t kq_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edge of a tile of the result [dim, dim]. */
size_t kq_tile_edge(size_t dim, kq_compute compute);
/* Groups into which a chunk's samples are split for stage 2: few tiles are cut further along the samples.
 * Each group has partial sums of its own. */
size_t kq_split_count(size_t dim, size_t chunk, kq_compute compute);

/* Panels of dim columns, and the groups of samples, for products in block integers. */
size_t kq_panel_count(size_t dim);
size_t kq_panel_splits(size_t dim, size_t chunk);

/* The row and column of tile number `tile` of a lower triangle of `edge` tiles a side: the full tiles first,
 * the cheaper diagonal ones last. */
static inline void kq_lower_tile(size_t tile, size_t edge, size_t *row, size_t *column)
{
    const size_t off_diagonal = edge * (edge - 1) / 2;
    if (tile >= off_diagonal) {
        *row = *column = tile - off_diagonal;
        return;
    }
    for (*row = 1; tile >= *row; ++*row)
        tile -= *row;
    *column = tile;
}

#endif
