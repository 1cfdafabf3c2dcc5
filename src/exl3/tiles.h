/* Inside the room: the quantizer of EXL3's tiles. */
#ifndef KQ_EXL3_TILES_H
#define KQ_EXL3_TILES_H

#include "round/round.h"

/* A trellis code that gives EXL3's words and values. */
typedef struct kq_exl3_tiles {
    const kq_trellis *t; /* borrowed */
    uint8_t at[KQ_TILE_SIZE];
} kq_exl3_tiles;

void kq_exl3_tiles_init(kq_exl3_tiles *tiles, const kq_trellis *t);
/* The quantizer for kq_round_options.tiles; it borrows *tiles. */
kq_tile_rounder kq_exl3_rounder(const kq_exl3_tiles *tiles);

#endif
