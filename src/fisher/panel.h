/* Flip-flop's products in block integers, on AVX-512 with VNNI: 16-bit values, of whose products pairs are
 * summed exactly in 32 bits, at twice the rate of f32.
 *
 * Layout. Both half rounds of eq. 3 are one computation. With X_s = G_s (adjoint: K = m, dim = n) or G_s^T (K
 * = n, dim = m): X_s <- C X_s, then sum X_s^T X_s. A sample is kept as panels of 48 columns,
 * [panels][(K+1)/2][48] pairs (two neighbours along k, 16 bits each). Stage 1 reads and writes this layout,
 * stage 2 reads it. Along k a panel is cut into blocks of 192: two such blocks (18 KB each) share a
 * first-level cache of 48 KB with the sums. Every column of every block has a scale of its own,
 * [panels][blocks][48].
 *
 * No overflow. The scale makes the Euclidean norm of a block's integers q at most 46300 (and |q| <= 32766).
 * Rounding adds sqrt(192)/2 < 7 to a norm, so by Cauchy and Schwarz every dot product of two blocks is below
 * 46308^2 < 2^31.
 *
 * Error. A block of equal values has 46300 / sqrt(192) = 3341 steps to its root mean square, a block with a
 * single value 2357. Rounding's error is 1/sqrt(12) of a step, 0.9e-4 to 1.2e-4 of the root mean square; that
 * of bf16 is 1e-3. */
#ifndef KQ_FISHER_PANEL_H
#define KQ_FISHER_PANEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KQ_PANEL = 48, KQ_PANEL_BLOCK = 192, KQ_PANEL_OUT = KQ_PANEL_BLOCK * KQ_PANEL };

/* Compiled in, and allowed by the processor, KRONQ_ISA and kq_kern_init. */
bool kq_panel_available(void);

static inline size_t kq_panel_blocks(size_t K)
{
    return (K + KQ_PANEL_BLOCK - 1) / KQ_PANEL_BLOCK;
}

/* C's columns are large where the gradients' rows are small. e [K]: for each k the power of two next to the
 * norm of column k of C. Row k of X is multiplied by it and column k of C divided, both exactly, so that
 * neither loses bits to the other's range. */
void kq_panel_balance(const float *C, size_t K, float *e);

/* Rows r0 .. r0+7 of C / e for stage 1: packed [(K+1)/2][8] pairs, scales [blocks][8]. They are zero beyond
 * C's diagonal and beyond its last row. */
void kq_panel_pack(const float *C, size_t K, size_t r0, const float *e, int32_t *packed, float *scales);

/* Panel p of one sample g [m, n] (bf16), of G^T when transposed is set, into X [(K+1)/2][48] and scales
 * [blocks][48], which are the panel's own. e [K]: factors of the rows, or NULL. Columns past the edge are
 * zero. out: KQ_PANEL_OUT floats of scratch, 64-byte aligned. */
void kq_panel_load_vnni(const uint16_t *g, size_t m, size_t n, bool transposed, size_t p, const float *e,
                        int32_t *X, float *scales, float *out);

/* X <- C X for one panel. packed and row_scales: what kq_panel_pack made of all ceil(K/8) groups of rows, one
 * after the other. X and scales are replaced. */
void kq_panel_middle_vnni(const int32_t *packed, const float *row_scales, size_t K, int32_t *X, float *scales,
                          float *out);

/* acc [dim, ld] += X^T X for row panels r0..r1-1 and column panels c0..c1-1, as far as its tiles touch the
 * lower triangle. X, scales: the whole sample's. */
void kq_panel_gather_vnni(const int32_t *X, const float *scales, size_t K, size_t r0, size_t r1, size_t c0,
                          size_t c1, float *acc, size_t ld);

#endif
