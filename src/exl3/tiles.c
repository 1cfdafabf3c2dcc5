/* The quantizer of EXL3's tiles: kronq's search, in EXL3's order of weights, bits and words (format/exl3.h).
 * The walk that is best for the values of 3inst is best for the same values rounded to half floats, within
 * what that rounding changes, so that the feedback sees the rounded ones. */
#include "exl3/tiles.h"

#include "base/f16.h"
#include "format/exl3.h"

void kq_exl3_tiles_init(kq_exl3_tiles *tiles, const kq_trellis *t)
{
    tiles->t = t;
    kq_exl3_order(tiles->at);
}

/* Where walk position t of a tile stands in a tile of outputs by inputs. */
static size_t place(const kq_exl3_tiles *z, size_t t)
{
    return (size_t)z->at[t] % KQ_TILE * KQ_TILE + z->at[t] / KQ_TILE;
}

static void round_tiles(const void *ctx, const float *tiles, const size_t *index, size_t count,
                        uint16_t *packed, float *decoded, void *scratch)
{
    const kq_exl3_tiles *z = ctx;
    float x[KQ_TRELLIS_BATCH * KQ_TILE_SIZE], y[KQ_TRELLIS_BATCH * KQ_TILE_SIZE];
    uint16_t circle[KQ_TRELLIS_BATCH * 16 * KQ_TRELLIS_BITS_MAX];
    const size_t words = kq_trellis_words(z->t);
    (void)index;
    for (size_t i = 0; i < count; i++)
        for (size_t t = 0; t < KQ_TILE_SIZE; t++)
            x[i * KQ_TILE_SIZE + t] = tiles[i * KQ_TILE_SIZE + place(z, t)];
    kq_trellis_encode(z->t, x, count, circle, y, scratch);
    for (size_t i = 0; i < count; i++) {
        kq_exl3_from_circle(circle + i * words, kq_trellis_k(z->t), packed + i * words);
        for (size_t t = 0; t < KQ_TILE_SIZE; t++)
            decoded[i * KQ_TILE_SIZE + place(z, t)] = kq_f16_to_f32(kq_f32_to_f16(y[i * KQ_TILE_SIZE + t]));
    }
}

kq_tile_rounder kq_exl3_rounder(const kq_exl3_tiles *tiles)
{
    return (kq_tile_rounder){.round = round_tiles,
                             .ctx = tiles,
                             .words = kq_trellis_words(tiles->t),
                             .scratch_bytes = kq_trellis_scratch_bytes(tiles->t),
                             .batch = KQ_TRELLIS_BATCH};
}
