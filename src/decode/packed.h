/* Products straight from the packed trellis, in integers, so that every order of summation and every
 * instruction set gives the same bits (docs/math.md, "Decoding").
 *
 * A code's values are rounded once to integers of 13 bits: value ~ w * unit, |w| <= 4095 (1mad's values are
 * integers by nature: exact; mul1's are 4 sum - 2041 but for their rounding to half). A rotated vector is
 * rounded to |x| <= x_max, x_max = floor((2^31 - 1) / (128 |w|_max)), so that 128 products cannot overflow 32
 * bits; after every 128 columns the sum is added to a float. The relative error of a product, about 4e-4 for
 * hyb, is a quarter of what rounding weights and inputs to bf16 would make (bench_decode prints both).
 *
 * A panel is 16 rows of the matrix (one row of tiles) in the order in which the kernels read it: [n/16
 * tiles][8][16 rows][2], entry (c, j, r, h) = column 16 c + j + 8 h of row r. A vector x has the order
 * [n/16][8][2]. */
#ifndef KQ_DECODE_PACKED_H
#define KQ_DECODE_PACKED_H

#include "trellis/trellis.h"

enum { KQ_PANEL_TILE = 256, KQ_PACKED_FLUSH = 8 /* tiles, 128 columns */, KQ_PACKED_W_MAX = 4095 };

/* The integers of one code at k bits. Read-only after creation. */
typedef struct kq_packed_code kq_packed_code;
struct kq_packed_code {
    kq_code code;
    int k;
    size_t words;        /* 16-bit words a tile */
    float unit, inverse; /* value = w * unit; w = round(value * inverse) */
    int x_max;
    int16_t *w; /* owned [65536, V] */
    /* owned, hyb: [4][512]: low and high bytes of the table's first and second integers, 64-byte aligned */
    uint8_t *plane;
    /* owned, hyb: [1024]: by bits 6..15 of h, both values, the first in the low half and with its sign */
    uint32_t *pair;
    /* owned [8][3][32]: for vector j and lane i = 2 r + h: word of the state's first bit, the next word,
     * its bit */
    uint16_t *lane;
};
/* t is read during the call only. KQ_E_MEMORY. */
kq_status kq_packed_code_new(const kq_trellis *t, kq_packed_code **out, kq_error *err);
void kq_packed_code_free(kq_packed_code *c);

typedef struct kq_packed_kern {
    const char *name;
    /* A row of n_tiles tiles to a panel. */
    void (*decode)(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, int16_t *panel);
    /* y[r] = sum over the columns of w x for the 16 rows of a row of tiles. */
    void (*dot)(const kq_packed_code *c, const uint16_t *words, size_t n_tiles, const int16_t *x,
                float y[16]);
    /* dot from a panel, for T vectors ldx apart: y[t * ldy + r]. */
    void (*dots)(const int16_t *panel, size_t n_tiles, const int16_t *x, size_t ldx, size_t T, float *y,
                 size_t ldy);
    /* x [n] (n a multiple of 16) to integers in the order of a vector; returns the step: x ~ q * step. */
    float (*quantize)(const float *x, size_t n, int x_max, int16_t *q);
} kq_packed_kern;
/* `dot` made of a kernel's own decode and dots, eight tiles at a time, for kernels without a faster one. */
void kq_packed_dot_by_panel(const kq_packed_kern *kern, const kq_packed_code *c, const uint16_t *words,
                            size_t n_tiles, const int16_t *x, float y[16]);
/* The best for this processor at or below isa. That for AVX-512 also needs VBMI, VBMI2 and VNNI. */
const kq_packed_kern *kq_packed_kern_pick(kq_isa isa);
extern const kq_packed_kern kq_packed_kern_ref;
#if defined(__x86_64__)
extern const kq_packed_kern kq_packed_kern_avx2, kq_packed_kern_vbmi;
#endif

#endif
