/* Rounding one weight matrix: incoherence, conditioning, block LDL, two-sided LDLQ with the trellis
 * code; and the way back.
 *
 *     W' = U_m^T diag(s_out) W diag(s_in) U_n          U the orthonormal Hadamard matrices, s random
 *       signs
 *     What = diag(s_out) U_m What' U_n^T diag(s_in)
 * docs/math.md, "Rounding" (eq. 50-67); YAQA (Tseng et al. 2025b) eq. 12 as printed in the FastKron
 * paper. */
#ifndef KQ_ROUND_ROUND_H
#define KQ_ROUND_ROUND_H

#include "trellis/trellis.h"

/* ---- orthogonal transforms: hadamard.c ---- */
typedef struct kq_hadamard kq_hadamard; /* read-only after creation */
/* U_n of order n = 2^k b, U_n = (S (x) B)/sqrt(n): S Sylvester of order 2^k (outer), B the base of order
 * b (inner; Paley I or II, Williamson's construction for 172, 1 when n is a power of two). Other n get
 * the documented fall-back (docs/format.md), still exactly n x n and orthogonal. 1 <= n <= 2^31, else
 * KQ_E_ARG. */
kq_status kq_hadamard_new(size_t n, kq_hadamard **out, kq_error *err);
void kq_hadamard_free(kq_hadamard *h);
size_t kq_hadamard_order(const kq_hadamard *h); /* n */
size_t kq_hadamard_base(const kq_hadamard *h);  /* b */
/* B [b, b], B B^T = b I; borrowed. How B and b are chosen: hadamard.c */
const float *kq_hadamard_base_matrix(const kq_hadamard *h);
/* true: n has no Hadamard matrix we know, another orthogonal factor is used */
bool kq_hadamard_is_fallback(const kq_hadamard *h);
/* x <- x U (each row a vector; U^T when transpose), x [rows, n] with row stride ld. scratch: 2 n floats.
 * One thread. */
void kq_hadamard_rows(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld, float *scratch);

/* ---- factors: factor.c ---- */
/* H <- U^T diag(s) H diag(s) U, H symmetric [n,n] f32, u of order n; s [n] or NULL for no signs. The
 * result is exactly symmetric. */
kq_status kq_factor_rotate(const kq_hadamard *u, const int8_t *s, float *H, size_t n, int threads,
                           kq_error *err);
/* Eq. 63: H <- (1 - shrink) H + shrink diag(H), [n,n], 0 <= shrink < 1. In the original basis: signs
 * before or after make no difference, the rotation does. */
void kq_factor_shrink(float *H, size_t n, double shrink);
/* Divide by the mean diagonal, add sigma_reg to the diagonal once, and again while Cholesky (in f64)
 * fails; *extra counts the repeats (at most 20, then KQ_E_NUMERIC). A factor of zeros (no gradient came)
 * is taken for the identity. KQ_E_NUMERIC: NaN or Inf, or a mean diagonal below zero. */
kq_status kq_factor_condition(float *H, size_t n, double sigma_reg, int *extra, kq_error *err);
/* H = L D L^T, block 16 (n a multiple of 16), computed in f64: L unit lower block-triangular; writes L -
 * I (strictly lower blocks) as f32 [n,n]. KQ_E_NUMERIC: H is not positive definite. */
kq_status kq_factor_block_ldl(const float *H, size_t n, float *L_minus_I, kq_error *err);

/* ---- two-sided LDLQ: ldlq.c ---- */
/* What rounds a batch of tiles: the trellis code, or another grid. Tiles that were asked for are
 * independent of each other, and the result for one must not depend on which others share the call.
 * index[i] is the tile's place, r (n/16) + c. */
typedef struct kq_tile_rounder {
    /* tiles [count, 256] divided by the scale -> packed [count, words], decoded [count, 256]; scratch:
     * scratch_bytes, one a thread */
    void (*round)(const void *ctx, const float *tiles, const size_t *index, size_t count, uint16_t *packed,
                  float *decoded, void *scratch);
    const void *ctx;
    size_t words, scratch_bytes;
    size_t batch; /* most tiles a call, 1 to 16 */
} kq_tile_rounder;
kq_tile_rounder kq_trellis_rounder(const kq_trellis *t); /* borrows t */
/* kq_ldlq with any rounder. */
kq_status kq_ldlq_with(const kq_tile_rounder *q, const float *Wp, size_t m, size_t n, const float *L_in,
                       const float *L_out, float scale, uint16_t *packed, float *What, int threads,
                       kq_error *err);
/* Wp [m,n] rotated weights, m and n multiples of 16; L_in [n,n], L_out [m,m] from kq_factor_block_ldl or
 * NULL for an identity factor; scale s.
 * packed [m/16, n/16, 16 k] words; What [m,n] decoded times s (0 is fine: What is 0). Anti-diagonals of
 * tiles
 * in parallel; the same bits for every number of threads. KQ_E_ARG: sizes, scale < 0 or not finite.
 * Allocates 8 m n bytes. */
kq_status kq_ldlq(const kq_trellis *t, const float *Wp, size_t m, size_t n, const float *L_in,
                  const float *L_out, float scale, uint16_t *packed, float *What, int threads, kq_error *err);

/* ---- the whole of one linear: round.c ---- */
typedef struct kq_round_options {
    double sigma_reg; /* eq. 54 */
    uint64_t seed;
    int threads;
    double shrink; /* of both factors towards their diagonals (eq. 63) */
} kq_round_options;

/* A larger scale is not written and not read: decoded weights and their sums have to stay within f32. */
#define KQ_PACKED_SCALE_MAX 1e30f

typedef struct kq_packed { /* one quantized linear; arrays owned, free with kq_packed_free */
    size_t m, n;           /* logical shape */
    /* multiples of 16; zero rows and columns are appended after the signs and before the Hadamard
     * transforms, whose orders are m_pad and n_pad */
    size_t m_pad, n_pad;
    uint16_t *trellis; /* [m_pad/16, n_pad/16, 16 k] */
    int8_t *su, *sv;   /* [n] input signs, [m] output signs */
    float scale;
} kq_packed;
void kq_packed_free(kq_packed *p); /* zeroed is fine */

typedef struct kq_round_report {
    double relative_mse; /* ||W' - What'||^2 / ||W'||^2; 0 when W is 0 */
    /* eq. 1, 1/2 tr(E H_in E^T H_out), nats a sample, with the factors as given; NaN when `predicts` is
     * false */
    double predicted_loss;
    int extra_in, extra_out; /* repeats of the conditioning */
    double seconds;
} kq_round_report;

/* W [m,n]; H_in [n,n], H_out [m,m] symmetric, in the original basis, unscaled, NULL for the identity;
 * none is changed. name is the module's: su and sv come from kq_rng_stream(seed, name + ".su") and
 * (seed, name + ".sv"). The predicted loss is taken in the original basis (the same number as in the
 * rotated one), over the logical m x n. The caller frees *out (zeroed
 * on failure). report may be NULL. KQ_E_NUMERIC (NaN or Inf in W or a factor, a factor that cannot be
 * conditioned) names the module. */
kq_status kq_round_linear(const kq_trellis *t, const char *name, const float *W, size_t m, size_t n,
                          const float *H_in, const float *H_out, bool predicts, const kq_round_options *opt,
                          kq_packed *out, kq_round_report *report, kq_error *err);
/* What is known of rounding a linear before it is done (eq. 64 to 66). */
typedef struct kq_forecast {
    double loss;   /* eq. 1 for an error of the code of 1, nats a sample */
    double spread; /* ||E||^2 over the squared error of the targets' rounding */
} kq_forecast;
/* Arguments as of kq_round_linear. No tile is rounded: the cost is that of conditioning the factors,
 * twice or thrice. */
kq_status kq_forecast_linear(const char *name, const float *W, size_t m, size_t n, const float *H_in,
                             const float *H_out, const kq_round_options *opt, kq_forecast *out,
                             kq_error *err);
/* Eq. 66: the predicted_loss that kq_round_linear will report, with a code of relative error e
 * (kq_trellis_error). */
double kq_forecast_loss(const kq_forecast *f, double e);
/* peak of kq_forecast_linear without its arguments */
size_t kq_forecast_bytes(size_t m, size_t n, int threads);

/* Dense weights of a packed linear: What [m,n] f32. KQ_E_SHAPE: padded sizes that do not belong to m, n. */
kq_status kq_unround_linear(const kq_trellis *t, const kq_packed *p, float *What, int threads, kq_error *err);
/* peak of kq_round_linear without its arguments, for the memory plan */
size_t kq_round_bytes(size_t m, size_t n);

#endif
