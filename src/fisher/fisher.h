/* Kronecker factors of a linear layer's Fisher information, from the gradients of many samples.
 *
 * y = W x, W [m, n]; sample i's weight gradient G_i = sum_t g_t x_t^T [m, n], D samples (docs/math.md,
 * eq. 1-3; Van Loan & Pitsianis 1992):
 *     A(Y)  = (1/D) sum_i G_i Y G_i^T   [n,n] -> [m,m]          A*(X) = (1/D) sum_i G_i^T X G_i   [m,m]
 *       -> [n,n]
 * Factors are full symmetric f32 matrices, row-major, H_in [n, n], H_out [m, m]. */
#ifndef KQ_FISHER_FISHER_H
#define KQ_FISHER_FISHER_H

#include "kern/gemm.h"

typedef enum kq_method {
    KQ_FLIPFLOP = 0,    /* maximum likelihood over samples (eq. 3) */
    KQ_FASTKRON,        /* Frobenius-optimal, Lanczos (the paper) */
    KQ_YAQA_A,          /* over tokens, alternating: YAQA's method A */
    KQ_YAQA_B,          /* Frobenius-optimal, power iteration: YAQA's method B */
    KQ_KFAC,            /* sum x x^T and sum g g^T over tokens */
    KQ_FLIPFLOP_TOKENS, /* maximum likelihood with every token's g x^T a sample */
    KQ_INPUT_ONLY,      /* sum x x^T, H_out = I (QTIP) */
    KQ_DIAG,            /* the diagonals of fastkron's factors (the paper's OnlyDiag) */
    KQ_NONE,            /* both I (the paper's NoHess) */
    KQ_N_METHOD
} kq_method;
/* "flipflop", "yaqa-a", ... */
const char *kq_method_name(kq_method method);
/* KQ_E_ARG lists the names */
kq_status kq_method_parse(const char *name, kq_method *out, kq_error *err);

typedef enum kq_needs {
    KQ_NEEDS_NOTHING,
    KQ_NEEDS_INPUTS,   /* x of every token: one forward pass */
    KQ_NEEDS_TOKENS,   /* x and g = dLoss/dy of every token, and one pass over them a half step */
    KQ_NEEDS_GRADIENTS /* G_i of every sample: kq_factors */
} kq_needs;
kq_needs kq_method_needs(kq_method method);
/* of the loss: KQ_NEEDS_TOKENS or KQ_NEEDS_GRADIENTS; then eq. 1 predicts the loss's rise */
bool kq_method_needs_gradients(kq_method method);
/* until --tol: its report has sigma1 and a residual (fastkron, yaqa-b, diag) */
bool kq_method_iterates(kq_method method);

/* The gradients of all samples of one layer, bf16: in memory, or read (or made again) piece by piece,
 * once for every product. A sample is whole, G_i [m, n]; or factored, G_i = g_i^T x_i with g_i [T, m]
 * and x_i [T, n] behind it. */
typedef struct kq_gradients {
    size_t D, m, n;
    size_t T;          /* 0: whole; else factored. See kq_factored_pays */
    const uint16_t *g; /* [D, kq_sample_size], borrowed; NULL: read gives them */
    /* Samples first .. first + count - 1 into g [count, kq_sample_size]; the pieces are in order and
     * count is bounded whatever D is. */
    kq_status (*read)(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *err);
    void *ctx;
} kq_gradients;
static inline size_t kq_sample_size(size_t m, size_t n, size_t T) /* values of a sample */
{
    return T ? T * (m + n) : m * n;
}

typedef struct kq_factor_options {
    kq_method method;
    kq_compute compute; /* type of the matrix products */
    /* flipflop in f32. false (default): a processor with AVX512_VNNI (isa avx512 and up) multiplies in
     * block integers, twice as fast: 192 values in a row share a scale, chosen so that the rounding
     * error is about 1e-4 of their root mean square. Measured after 3 rounds against f64 (SmolLM2's
     * gradients, and synthetic ones with heavy tails): H differs by 6e-6 to 2e-4 (Frobenius; taken with
     * blocks of 256, which round a little more coarsely), each diagonal entry by at most 1.2e-4; bf16:
     * 1e-4 to 3e-3, 4e-3. true: f32 throughout, 3e-6. */
    bool exact;
    int threads;
    /* flipflop: added to each factor's unit mean diagonal before it is inverted (1e-2) */
    double rho;
    int rounds; /* flipflop, flipflop-tokens: full rounds (3) */
    /* flipflop: samples that the rounds before the last take, the first ones of D (16); 0: all */
    size_t early;
    int passes;        /* yaqa-a: passes over the tokens (2) */
    double tol;        /* fastkron, yaqa-b, diag: stop at this residual (1e-3) */
    int max_iter;      /* likewise: at most this many steps (32) */
    bool start_random; /* fastkron: random start on the v side instead of the identity */
    uint64_t seed;
    /* scratch that the samples multiplied at a time aim at; 0: 96 MB. Fewer samples at a time are summed
     * in another order: the same factors to rounding, not to the bit */
    size_t chunk_bytes;
} kq_factor_options;
kq_factor_options kq_factor_defaults(void);

/* Why a linear is rounded with identity factors although its method has others: nothing tells its
 * directions apart. */
typedef enum kq_lack {
    KQ_LACK_NOTHING = 0,
    /* all gradients are zero, or so small (KQ_TINY_SQUARE) that f32 holds no products of them */
    KQ_LACK_GRADIENT,
    KQ_LACK_ROUNDING, /* the gradients cancel: nothing is left of their sums but rounding errors */
    KQ_LACK_INPUT,    /* input-only: the same of the inputs */
    KQ_LACK_ENTRY,    /* the imatrix has no entry for it */
    KQ_LACK_COUNT,    /* the imatrix's entry was never counted */
    KQ_LACK_VALUES,   /* the imatrix's entry is zero throughout */
    KQ_N_LACK
} kq_lack;
/* "no gradient", ...: as reports and factor files have it; "" for KQ_LACK_NOTHING */
const char *kq_lack_name(kq_lack lack);
kq_lack kq_lack_of(const char *name); /* KQ_LACK_NOTHING for NULL and any other text */

/* Below this mean square of its entries a gradient counts as none: a factor's entries are sums of such
 * squares, and f32 ends at 1e-38. */
#define KQ_TINY_SQUARE 1e-30

enum { KQ_TRACE = 256 }; /* steps whose residual is kept; of more, the first ones */

typedef struct kq_factor_report {
    /* not KQ_LACK_NOTHING: there are no factors (H_in and H_out are zero), the identity stands for them */
    kq_lack lack;
    int products;  /* applications of A or A* */
    double sigma1; /* methods that iterate, as all up to the trace; else 0 */
    /* fastkron: a Ritz value, a lower bound; yaqa-b: sigma1 times the square root of what the residual
     * fell by in a step */
    double sigma2;
    /* fastkron: ||A*(u2) - sigma2 v2||_F / sigma2; yaqa-b: how far sigma2 moved in the last step, of
     * itself */
    double sigma2_residual;
    /* fastkron: max(||A*(u)-sigma v||, ||A(v)-sigma u||)_F / sigma, recomputed from the definition;
     * yaqa-b: the former */
    double residual;
    int n_trace; /* steps in the trace */
    /* products so far, ||A*(u) - sigma v||_F / sigma (eq. 42) */
    struct {
        int products;
        double residual;
    } trace[KQ_TRACE];
    bool converged;       /* residual <= tol; true for direct methods */
    int regularised;      /* flipflop: how often Cholesky failed and rho was added again */
    double trace_product; /* tr(H_in) tr(H_out) = (1/D) sum_i ||G_i||_F^2 */
    double seconds, flop; /* time of the factor step and the arithmetic it did */
} kq_factor_report;

/* Is a sample of T tokens better kept factored: no more to store, T(m+n) values against mn, and less to
 * multiply? Multiply-adds a sample, the mean of A and A* (triangular and symmetric work counted once; c
 * = 1/2 for flipflop's triangular middles, 1 for the symmetric ones of the others):
 *     whole     mn(m+n)(c + 1/2)/2 (half of it in block integers)     factored     T(m^2+n^2)(c + 1/2)/2
 *       + T^2(m+n) 3/4
 * The factors differ as bf16 rounds G_i in the one case, g_i and x_i in the other. */
bool kq_factored_pays(size_t m, size_t n, size_t T, const kq_factor_options *opt);

/* Factors by opt->method (one that needs gradients) into H_in [n,n] and H_out [m,m] (caller's). Scaled
 * so that tr(H_in) tr(H_out) = (1/D) sum ||G_i||_F^2, with tr(H_in)/n = tr(H_out)/m. Symmetric and PSD
 * (checked). KQ_E_NUMERIC: NaN/Inf in a gradient (names the sample). Without any gradient (report->lack)
 * both factors are zero.
 * Deterministic: same bits for every number of threads. progress (may be NULL) is called between
 * products; nonzero stops with KQ_E_INTERRUPTED. */
kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out,
                     kq_factor_report *report, int (*progress)(void *ctx, double fraction), void *ctx,
                     kq_error *err);

/* Bytes of scratch that kq_factors allocates for a layer (for the memory plan); of G only the sizes and
 * whether read is set count. */
size_t kq_factors_bytes(const kq_gradients *G, const kq_factor_options *opt);

/* Products that an estimate takes: flipflop's are known beforehand; of a method that iterates, the most
 * to expect at a residual of 1e-3 (SmolLM2: 8 to 18). And the arithmetic of that many, as the report
 * counts it. Of G only the sizes count. */
int kq_factors_products(const kq_factor_options *opt);
/* the same in passes over all D samples: early rounds are parts of one */
double kq_factors_passes(const kq_factor_options *opt, size_t D);
double kq_factors_flop(const kq_gradients *G, const kq_factor_options *opt, int products);

/* ---- gradients that are kept nowhere: several estimates side by side, one product of each a pass over the
 * samples  */

/* Where a pass hands its samples: those of each source (a linear of the block) in order, any number at a
 * time. `wanted` shrinks while it goes on: a source that nobody wants any more samples of may be left
 * out, and once there is none the pass may end. Not to be called by two threads at once; it uses the
 * threads of the options itself. */
typedef struct kq_gradient_sink kq_gradient_sink;
struct kq_gradient_sink {
    /* g [count, kq_sample_size] */
    kq_status (*add)(kq_gradient_sink *to, size_t source, const uint16_t *g, size_t count, kq_error *err);
    uint64_t wanted; /* bit of each source; add may clear its own */
};
/* Goes over the samples of the wanted sources once. The same samples, bit by bit, every time. */
typedef kq_status kq_gradient_pass(void *ctx, kq_gradient_sink *to, kq_error *err);

typedef struct kq_stream_linear { /* one estimate of one linear */
    /* D samples; estimates may share a source, up to 64 of these. T as in kq_gradients */
    size_t source, D, m, n, T;
    const kq_factor_options *opt; /* borrowed */
    float *H_in, *H_out;          /* [n,n], [m,m]: the caller's */
    kq_factor_report report;      /* its seconds: the arithmetic alone, without the passes */
} kq_stream_linear;

/* As kq_factors for each of them; the same bytes, too. As many passes as the longest of them takes
 * products. */
kq_status kq_factors_stream(kq_stream_linear *linears, size_t count, kq_gradient_pass *pass, void *pass_ctx,
                            int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err);
size_t kq_factors_stream_bytes(const kq_stream_linear *linears, size_t count);

/* One product of eq. 2 (either way), the building block; Y symmetric [n,n], out [m,m] (adjoint: Y [m,m],
 * out [n,n]). */
kq_status kq_fisher_product(const kq_gradients *G, bool adjoint, const float *Y, float *out,
                            kq_compute compute, int threads, kq_error *err);

/* ---- statistics over tokens: tokens.c (docs/math.md, "Token-level estimators") ---- */

/* Which sums a pass over the tokens takes, H_in = sum_t w_t x_t x_t^T and H_out = sum_t w_t g_t g_t^T,
 * and with what weights. */
typedef enum kq_token_weighting {
    KQ_WEIGHT_ONE,
    /* w_t = g_t^T H_out g_t / ||H_out||_F^2 for H_in; x_t^T H_in x_t / ||H_in||_F^2 for H_out: the other
     * side as it stands */
    KQ_WEIGHT_FACTOR,
    KQ_WEIGHT_INVERSE /* the same with the inverse of (the other factor over its mean diagonal + rho I) */
} kq_token_weighting;
typedef struct kq_token_pass {
    bool in, out;
    kq_token_weighting weight;
} kq_token_pass;
size_t kq_method_passes(const kq_factor_options *opt); /* 0: the method is not one over tokens */
kq_token_pass kq_method_pass(const kq_factor_options *opt, size_t i);

/* H [n,n], lower triangle, += sum_t w_t x_t x_t^T for X [rows, n]; w [rows] or NULL for ones; scaled
 * [rows, n] scratch when there is w. Fixed tiles: the same bits for every number of threads. */
void kq_token_gram(const float *X, const float *w, size_t rows, size_t n, float *H, float *scaled,
                   int threads);
/* H complete: mirrored and divided by D. KQ_E_NUMERIC: NaN or Inf. */
kq_status kq_token_finish(float *H, size_t n, size_t D, kq_error *err);
/* Is the mean of H's diagonal, H [n,n], so small (1e-35) that its entries are zero or nearly beyond f32? */
bool kq_factor_is_tiny(const float *H, size_t n);
/* The matrix W [n,n] of the quadratic form that weights tokens by a factor H [n,n]. *regularised counts
 * how often rho was added again. */
kq_status kq_token_weight(kq_token_weighting kind, const float *H, size_t n, double rho, int threads,
                          float *W, int *regularised, kq_error *err);
/* q_t = x_t^T W x_t, W PSD; scratch [rows, n]. */
void kq_token_quadratic(const float *X, size_t rows, size_t n, const float *W, float *q, float *scratch,
                        int threads);

/* Scale so that tr(H_in)/n = tr(H_out)/m and tr(H_in) tr(H_out) = target = (1/D) sum_i ||G_i||_F^2. */
kq_status kq_factors_scale(float *H_in, size_t n, float *H_out, size_t m, double target, kq_error *err);

/* Factor file: safetensors, `<module>.H_in`, `<module>.H_out`: lower triangle packed by rows, n(n+1)/2
 * values, f32 or bf16. */
void kq_factor_pack(const float *H, size_t n, float *packed); /* [n,n] -> n(n+1)/2 */
void kq_factor_unpack(const float *packed, size_t n, float *H);

#endif
