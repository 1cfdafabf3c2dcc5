/* Kronecker factors of a linear layer's Fisher information, from the gradients of many samples.
 *
 * y = W x, W [m, n]; sample i's weight gradient G_i = sum_t g_t x_t^T [m, n], D samples (docs/math.md, eq. 1-3; Van Loan & Pitsianis 1992):
 *     A(Y)  = (1/D) sum_i G_i Y G_i^T   [n,n] -> [m,m]          A*(X) = (1/D) sum_i G_i^T X G_i   [m,m] -> [n,n]
 * Factors are full symmetric f32 matrices, row-major, H_in [n, n], H_out [m, m]. */
#ifndef KQ_FISHER_FISHER_H
#define KQ_FISHER_FISHER_H

#include "kern/gemm.h"

typedef enum kq_method { KQ_FLIPFLOP = 0, KQ_FASTKRON, KQ_INPUT_ONLY, KQ_NONE, KQ_N_METHOD } kq_method;
const char *kq_method_name(kq_method method);                               /* "flipflop", "fastkron", "input-only", "none" */
kq_status kq_method_parse(const char *name, kq_method *out, kq_error *err); /* KQ_E_ARG lists the names */
bool kq_method_needs_gradients(kq_method method);                           /* flipflop, fastkron */
bool kq_method_needs_inputs(kq_method method);                              /* input-only */

/* The gradients of all samples of one layer, bf16, [D, m, n]. g is borrowed (memory or a mapped spill file). */
typedef struct kq_gradients { size_t D, m, n; const uint16_t *g; } kq_gradients;

typedef struct kq_factor_options {
    kq_method method;
    kq_compute compute;   /* type of the matrix products */
    bool exact;           /* flipflop in f32. false (default): a processor with AVX512_VNNI (isa avx512 and up) multiplies in block
                             integers, twice as fast: 192 values in a row share a scale, chosen so that the rounding error is about 1e-4
                             of their root mean square. Measured after 3 rounds against f64 (SmolLM2's gradients, and synthetic ones
                             with heavy tails): H differs by 6e-6 to 2e-4 (Frobenius; taken with
                             blocks of 256, which round a little more coarsely), each diagonal entry by at most 1.2e-4; bf16: 1e-4
                             to 3e-3, 4e-3. true: f32 throughout, 3e-6. */
    int threads;
    double rho;           /* flipflop: added to each factor's unit mean diagonal before it is inverted (1e-2) */
    int rounds;           /* flipflop: full rounds (3) */
    double tol;           /* fastkron: stop at this residual (1e-3) */
    int max_iter;         /* fastkron: at most this many Lanczos steps (32) */
    bool start_random;    /* fastkron: random start on the v side instead of the identity */
    uint64_t seed;
} kq_factor_options;
kq_factor_options kq_factor_defaults(void);

typedef struct kq_factor_report {
    int products;         /* applications of A or A* */
    double sigma1, sigma2, sigma2_residual; /* fastkron (sigma2 a Ritz value: a lower bound), else 0 */
    double residual;      /* fastkron: max(||A*(u)-sigma v||, ||A(v)-sigma u||)_F / sigma, recomputed from the definition */
    bool converged;       /* residual <= tol; true for direct methods */
    int regularised;      /* flipflop: how often Cholesky failed and rho was added again */
    double trace_product; /* tr(H_in) tr(H_out) = (1/D) sum_i ||G_i||_F^2 */
    double seconds, flop; /* time of the factor step and the arithmetic it did */
} kq_factor_report;

/* Factors by opt->method (flipflop or fastkron) into H_in [n,n] and H_out [m,m] (caller's). Scaled so that tr(H_in) tr(H_out) =
 * (1/D) sum ||G_i||_F^2, with tr(H_in)/n = tr(H_out)/m. Symmetric and PSD (checked). KQ_E_NUMERIC: NaN/Inf in a gradient (names the sample), or all zero.
 * Deterministic: same bits for every number of threads. progress (may be NULL) is called between products; nonzero stops with KQ_E_INTERRUPTED. */
kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out, kq_factor_report *report,
                     int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err);

/* Bytes of scratch that kq_factors allocates for a layer (for the memory plan). */
size_t kq_factors_bytes(size_t m, size_t n, size_t D, const kq_factor_options *opt);

/* One product of eq. 2 (either way), the building block; Y symmetric [n,n], out [m,m] (adjoint: Y [m,m], out [n,n]). */
kq_status kq_fisher_product(const kq_gradients *G, bool adjoint, const float *Y, float *out, kq_compute compute, int threads, kq_error *err);

/* input-only statistics: H [n,n] += X^T X for X [T, n]; lower triangle only, kq_fisher_input_finish mirrors it and divides by D. One thread. */
void kq_fisher_input_add(const float *X, size_t T, size_t n, float *H);
kq_status kq_fisher_input_finish(float *H, size_t n, size_t D, kq_error *err);

/* Factor file: safetensors, `<module>.H_in`, `<module>.H_out`: lower triangle packed by rows, n(n+1)/2 values, f32 or bf16. */
void kq_factor_pack(const float *H, size_t n, float *packed);   /* [n,n] -> n(n+1)/2 */
void kq_factor_unpack(const float *packed, size_t n, float *H);

#endif
