/* Rounding one weight matrix with its curvature on both sides, and the way back.
 *
 * The steps for one linear y = W x, W [m, n] (docs/math.md, "Rounding", eq. 50-67):
 *   1. Incoherence: W' = U_m^T diag(s_out) W diag(s_in) U_n with orthonormal Hadamard matrices U and
 *      random signs s; the two Kronecker factors are rotated in the same way (eq. 50, 51).
 *   2. Conditioning of both factors (eq. 63, 54) and their block LDL factorisation (eq. 55).
 *   3. Two-sided LDLQ (eq. 56-60): 16 x 16 tiles from the bottom right to the top left, each one rounded to
 *      the trellis code after the errors of the finished tiles have been fed back into its target.
 *   4. The way back: What = diag(s_out) U_m What' U_n^T diag(s_in) (eq. 52).
 * Sources: incoherence and LDLQ: Chee et al. 2023, Tseng et al. 2024a; the two-sided feedback: Tseng et al.
 * 2025b (YAQA), printed as eq. 12 of the FastKron paper (Chekalina et al. 2026).
 * Matrices are f32, row-major. Every function gives the same bits for every number of threads. */
#ifndef KQ_ROUND_ROUND_H
#define KQ_ROUND_ROUND_H

#include "trellis/trellis.h"

/* ---- orthogonal transforms: hadamard.c ----------------------------------------------------------------- */

/* U_n of order n = 2^k b: U_n = (S (x) B)/sqrt(n), with S [2^k, 2^k] Sylvester's matrix (the outer factor)
 * and B [b, b] the base (the inner factor; eq. 53). Read-only after creation. */
typedef struct kq_hadamard kq_hadamard;
/* B comes from Paley's constructions I or II or, for b = 172, from Williamson's; b is 1 when n is a power of
 * two. An order without such a base gets the fall-back of docs/format.md, which is still an orthogonal
 * n x n matrix. *out is the caller's (kq_hadamard_free). KQ_E_ARG unless 1 <= n <= 2^31; KQ_E_MEMORY. */
kq_status kq_hadamard_new(size_t n, kq_hadamard **out, kq_error *err);
/* The block-diagonal transform of order n with Sylvester's matrix of order `block` over sqrt(block) in each
 * block: EXL3's. KQ_E_ARG: block is no power of two, or does not divide n; KQ_E_MEMORY. */
kq_status kq_hadamard_new_blocks(size_t n, size_t block, kq_hadamard **out, kq_error *err);
void kq_hadamard_free(kq_hadamard *h);          /* NULL is fine */
size_t kq_hadamard_order(const kq_hadamard *h); /* n */
size_t kq_hadamard_base(const kq_hadamard *h);  /* b */
/* B [b, b], B B^T = b I; borrowed, it lives as long as h. hadamard.c says how b and B are chosen. */
const float *kq_hadamard_base_matrix(const kq_hadamard *h);
/* True when no Hadamard matrix of this order is known to the library and another orthogonal one stands in. */
bool kq_hadamard_is_fallback(const kq_hadamard *h);
/* x <- x U for each row of x [rows, n] with row stride ld; x U^T when transpose is set. scratch: 2 n floats.
 * Runs on the calling thread. */
void kq_hadamard_rows(const kq_hadamard *h, bool transpose, float *x, size_t rows, size_t ld, float *scratch);

/* ---- factors before rounding: factor.c ----------------------------------------------------------------- */

/* Eq. 51: H <- U^T diag(s) H diag(s) U for a symmetric H [n, n]; u has order n; s [n] holds signs, NULL
 * stands for all +1. The result is exactly symmetric. KQ_E_ARG: u has another order; KQ_E_MEMORY. */
kq_status kq_factor_rotate(const kq_hadamard *u, const int8_t *s, float *H, size_t n, int threads,
                           kq_error *err);
/* Eq. 63: H <- (1 - shrink) H + shrink diag(H) for H [n, n], 0 <= shrink < 1. It belongs into the original
 * basis: signs do not change the result, the rotation does. */
void kq_factor_shrink(float *H, size_t n, double shrink);
/* Eq. 54: divide H [n, n] by its mean diagonal and add sigma_reg to the diagonal, once, and again each time
 * that Cholesky's factorisation in f64 fails. *extra counts the repeats; after 20 of them KQ_E_NUMERIC. A
 * factor of zeros (no gradient reached its layer) becomes the identity. KQ_E_NUMERIC: NaN or Inf in H, or a
 * negative mean diagonal. KQ_E_ARG: n is not from 1 to 2^20, or sigma_reg is negative. */
kq_status kq_factor_condition(float *H, size_t n, double sigma_reg, int *extra, kq_error *err);
/* Eq. 55: H = L Dg L^T with blocks of 16, computed in f64. H [n, n] with n a multiple of 16 (KQ_E_ARG).
 * L_minus_I [n, n] receives L - I: its blocks above and on the diagonal are zero. KQ_E_NUMERIC: H is not
 * positive definite. */
kq_status kq_factor_block_ldl(const float *H, size_t n, float *L_minus_I, kq_error *err);

/* ---- two-sided LDLQ: ldlq.c ---------------------------------------------------------------------------- */

/* What one pass of LDLQ works on; all arrays are borrowed. */
typedef struct kq_ldlq_input {
    const float *Wp;    /* W' [m, n], the rotated weights */
    size_t m, n;        /* multiples of 16 */
    const float *L_in;  /* L - I of the input factor [n, n] (kq_factor_block_ldl); NULL: identity factor */
    const float *L_out; /* L - I of the output factor [m, m]; NULL: identity factor */
    float scale;        /* s of eq. 61: a tile's target is divided by it; 0 makes What 0 */
} kq_ldlq_input;

/* The quantizer of the tiles, Q of eq. 56: the trellis code, or any other grid of values. */
typedef struct kq_tile_rounder {
    /* tiles [count, 256], already divided by the scale -> packed [count, words] and decoded [count, 256].
     * The tiles of a call are independent of each other, and the result for one of them must not depend on
     * which others share the call. index[i] says which tile it is: r (n/16) + c for tile row r, tile column
     * c. scratch: scratch_bytes, one block a thread. */
    void (*round)(const void *ctx, const float *tiles, const size_t *index, size_t count, uint16_t *packed,
                  float *decoded, void *scratch);
    const void *ctx;
    size_t words;         /* 16-bit words that a packed tile takes */
    size_t scratch_bytes; /* of one thread */
    size_t batch;         /* most tiles a call, 1 to 16 */
} kq_tile_rounder;
/* The trellis code as a quantizer of tiles; it borrows t. */
kq_tile_rounder kq_trellis_rounder(const kq_trellis *t);

/* Round all tiles of in->Wp with the quantizer q, the feedback of eq. 60 included.
 *   packed [m/16, n/16, q->words]   the tiles' codes
 *   What [m, n]                     the decoded values times the scale
 * Tiles on one anti-diagonal are rounded at once, on `threads` threads. KQ_E_ARG: m or n is no multiple of
 * 16, the scale is negative or not finite, or q->batch is out of range; KQ_E_MEMORY: it allocates about
 * 8 m n bytes. */
kq_status kq_ldlq_with(const kq_tile_rounder *q, const kq_ldlq_input *in, uint16_t *packed, float *What,
                       int threads, kq_error *err);
/* kq_ldlq_with for the trellis code: packed [m/16, n/16, 16 k]. */
kq_status kq_ldlq(const kq_trellis *t, const kq_ldlq_input *in, uint16_t *packed, float *What, int threads,
                  kq_error *err);

/* ---- one linear: round.c, forecast.c ------------------------------------------------------------------- */

/* The linear to be rounded, with its factors as they were estimated: in the original basis, on any scale.
 * All arrays are borrowed and none is changed. */
typedef struct kq_round_input {
    const char
        *name;      /* the module's name: for messages, and the signs are drawn from streams named after it */
    const float *W; /* [m, n] */
    size_t m, n;
    const float *H_in;  /* [n, n], symmetric; NULL: the identity */
    const float *H_out; /* [m, m], symmetric; NULL: the identity */
    bool predicts;      /* the factors carry the scale of eq. 6, so that eq. 1 predicts the loss */
} kq_round_input;

/* How scales of rows and columns are chosen before the rotation (eq. 68): not at all, by their rms, or by
 * their rms and their curvature. */
typedef enum kq_channel_scales {
    KQ_CHANNEL_SCALES_NONE = 0,
    KQ_CHANNEL_SCALES_RMS,
    KQ_CHANNEL_SCALES_CURVATURE
} kq_channel_scales;
/* KQ_E_ARG: the name is none of "none", "rms", "curvature". */
kq_status kq_channel_scales_parse(const char *name, kq_channel_scales *out, kq_error *err);

typedef struct kq_round_options {
    double sigma_reg; /* eq. 54 */
    uint64_t seed;    /* of the random signs */
    int threads;
    double shrink; /* eq. 63, for both factors */
    kq_channel_scales channel_scales;
    /* 0: transforms of the whole order, padding to a tile. Else EXL3's basis: block-diagonal transforms with
     * blocks of this order, padding to multiples of it; the blocks are brought to one rms, and the scale
     * goes into su and sv, which are rounded to half floats before anything is rounded to them (docs/math.md,
     * "Blocks"). kq_packed.scale is 1 then, and one_sided false. */
    size_t block;
    const struct kq_tile_rounder *tiles; /* the quantizer of the tiles, borrowed; NULL: the trellis itself */
} kq_round_options;

/* The largest scale that is written or read: decoded weights and sums of them have to stay within f32. */
#define KQ_PACKED_SCALE_MAX 1e30f

/* One quantized linear as a checkpoint holds it. The arrays are owned (kq_packed_free). */
typedef struct kq_packed {
    size_t m, n; /* logical shape */
    /* Both padded to multiples of 16 by zero rows and columns, which are appended after the signs and before
     * the Hadamard transforms; these have the orders m_pad and n_pad. */
    size_t m_pad, n_pad;
    uint16_t *trellis; /* [m_pad/16, n_pad/16, 16 k] */
    /* true: an embedding or a head; there is no U_m, so that a row can be read without the others (eq. 144)
     */
    bool one_sided;
    /* one_sided: rows of tiles at the beginning and at the end that have KQ_FINE_BITS bits, when the others
     * have fewer; all rows stand one after another in `trellis` then (kq_packed_row_at) */
    size_t fine_first, fine_last;
    /* scales with a random sign, of the inputs [n] and of the outputs [m]; a half float holds each exactly */
    float *su, *sv;
    float scale;
} kq_packed;
void kq_packed_free(kq_packed *p); /* a zeroed one and NULL are fine */
enum { KQ_FINE_BITS = 4 };
/* Where row r of tiles begins in p->trellis, in words, when the rows that are not fine have k bits; r =
 * m_pad/16 gives the number of all words. *bits: those of row r. */
size_t kq_packed_row_at(const kq_packed *p, int k, size_t r, int *bits);

/* What the rounding of one matrix gave; onto a grid (grid/grid.h) too. */
typedef struct kq_round_report {
    /* ||W' - What'||_F^2 / ||W'||_F^2 (eq. 62), on a grid of W and What themselves; 0 when W is 0 */
    double relative_mse;
    /* eq. 1, 1/2 tr(E H_in E^T H_out), in nats a sample, with the factors as given and the error in the
     * original basis, over the logical m x n; NaN when the input's `predicts` is false */
    double predicted_loss;
    int extra_in, extra_out; /* how often sigma_reg was added again (eq. 54) */
} kq_round_report;

/* Round one linear to the trellis code t. The signs come from kq_rng_stream(seed, name + ".su") and
 * kq_rng_stream(seed, name + ".sv"). *out is the caller's (kq_packed_free) and zeroed on failure; report may
 * be NULL. KQ_E_NUMERIC (NaN or Inf in W or in a factor, a factor that cannot be conditioned, a scale above
 * KQ_PACKED_SCALE_MAX, feedback without bound), KQ_E_ARG (the shape) and KQ_E_MEMORY name the module. */
kq_status kq_round_linear(const kq_trellis *t, const kq_round_input *in, const kq_round_options *opt,
                          kq_packed *out, kq_round_report *report, kq_error *err);
/* Peak of the memory that kq_round_linear allocates, in bytes, for the memory plan. */
size_t kq_round_bytes(size_t m, size_t n);

/* What is known of rounding a linear before any tile is rounded (eq. 64 to 66). */
typedef struct kq_forecast {
    double loss;   /* eq. 64 for a code of relative error 1: 1/2 rms(W')^2 w_in w_out, nats a sample */
    double spread; /* a of eq. 65: ||E||^2 over the squared error of the targets' rounding */
} kq_forecast;
/* The same input and options as kq_round_linear takes; `predicts` is not read. The cost is that of
 * conditioning the factors two or three times. Errors as kq_round_linear's. */
kq_status kq_forecast_linear(const kq_round_input *in, const kq_round_options *opt, kq_forecast *out,
                             kq_error *err);
/* Eq. 66: the predicted_loss that kq_round_linear will report, for a code of relative error e
 * (kq_trellis_error). */
double kq_forecast_loss(const kq_forecast *f, double e);
/* Peak of the memory that kq_forecast_linear allocates, in bytes. */
size_t kq_forecast_bytes(size_t m, size_t n, int threads);

/* ---- an embedding or a head: rows.c -------------------------------------------------------------------- */

/* The matrix to be rounded, one row a token. All arrays are borrowed. */
typedef struct kq_rows_input {
    const char *name; /* the module's name: for messages and for the stream of the signs */
    size_t rows, n;
    const float *H_in; /* [n, n], symmetric, on any scale; NULL: the identity */
    const kq_trellis
        *fine; /* of KQ_FINE_BITS bits, for kq_packed.fine_first and fine_last; NULL: none are fine */
    size_t fine_first, fine_last;
    size_t band; /* rows that are rounded at once, a multiple of 128; 0: about 4 million weights */
    /* W [count, n] = the rows from row0 on. Every row is asked for twice. */
    kq_status (*read)(void *ctx, size_t row0, size_t count, float *W, kq_error *err);
    /* Called after every band of rows; an error ends the work. NULL: nobody listens. */
    kq_status (*progress)(void *ctx, kq_error *err);
    void *ctx;
} kq_rows_input;

/* Round the rows to the trellis code t with the feedback of H_in along the columns (eq. 144, 145);
 * out->one_sided is set, su holds signs, sv the rows' rms over that of all rows. The signs come from
 * kq_rng_stream(seed, name
 * + ".su"). *out is the caller's (kq_packed_free) and zeroed on failure. report->relative_mse is over the
 * original weights; predicted_loss is NaN. Errors as kq_round_linear's, and those of in->read. */
kq_status kq_round_rows(const kq_trellis *t, const kq_rows_input *in, const kq_round_options *opt,
                        kq_packed *out, kq_round_report *report, kq_error *err);
/* Peak of the memory that kq_round_rows allocates at k bits (KQ_FINE_BITS where some rows are fine), in
 * bytes. */
size_t kq_round_rows_bytes(size_t rows, size_t n, int k);
/* The code of most rows, and that of the fine ones (NULL: there are none). Borrowed. */
typedef struct kq_row_codes {
    const kq_trellis *most, *fine;
} kq_row_codes;
/* dst [count, n] = the dense rows from row0 on. u has order p->n_pad; p->trellis may be at an odd address. A
 * row of tiles is decoded for any of its 16 rows. Runs on the calling thread. KQ_E_ARG: rows that are not
 * there; KQ_E_MEMORY. */
kq_status kq_unround_rows(const kq_row_codes *t, const kq_packed *p, const kq_hadamard *u, size_t row0,
                          size_t count, float *dst, kq_error *err);

/* Eq. 52: the dense weights What [m, n] of a packed linear. KQ_E_SHAPE: padded sizes that do not belong to m
 * and n; KQ_E_NUMERIC: the scale is not finite; KQ_E_MEMORY. */
kq_status kq_unround_linear(const kq_trellis *t, const kq_packed *p, float *What, int threads, kq_error *err);

#endif
