/* f32 products on AVX-512 without BLAS: the samples are kept as panels of 32 columns, [panels][K][32], which is at once what stage 1 reads
 * and writes and what stage 2 reads, so nothing is packed twice, and triangles and symmetric results are cut at 8 and 32.
 * Both ways are one: with X_s = G_s (adjoint, K = m, dim = n) or G_s^T (K = n, dim = m): X_s <- C X_s or T_s = Y X_s, then sum X_s^T X_s. */
#ifndef KQ_FISHER_PANEL_H
#define KQ_FISHER_PANEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KQ_PANEL = 32, KQ_PANEL_STRIP = 6, KQ_PANEL_ROWS = 96, KQ_PANEL_OUT = KQ_PANEL_STRIP * KQ_PANEL_ROWS * KQ_PANEL };

/* Compiled in, and allowed by the processor, KRONQ_ISA and kq_kern_init. */
bool kq_panel_available(void);

/* The panels first..last-1 of one sample into X (the sample's base): g [m, n] bf16; transposed: X = G^T. Columns past the edge are zero. */
void kq_panel_load_avx512(const uint16_t *g, size_t m, size_t n, bool transposed, size_t first, size_t last, float *X);

/* Rows r0 .. r0+7 of mid [K, K], packed for stage 1: [K][8], rows past the edge zero; triangular: entries past the diagonal zero. */
void kq_panel_pack(const float *mid, size_t K, size_t r0, bool triangular, float *packed);

/* T = mid X for the panels first..last-1 (at most KQ_PANEL_STRIP); T may be X when triangular (rows are done from the last up).
 * packed: [ceil(K/8)][K][8]; out: KQ_PANEL_OUT floats of scratch. */
void kq_panel_middle_avx512(const float *packed, size_t K, bool triangular, size_t first, size_t last, const float *X, float *T, float *out);

/* acc [.., ld] += (T^T X) for row panels r0..r1-1 and column panels c0..c1-1, only panels on or below the diagonal. */
void kq_panel_gather_avx512(const float *T, const float *X, size_t K, size_t r0, size_t r1, size_t c0, size_t c1, float *acc, size_t ld);

#endif
