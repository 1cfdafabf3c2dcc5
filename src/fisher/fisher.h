/* Kronecker factors of a linear layer's Fisher information, from the gradients of many samples.
 *
 * y = W x, W [m, n]. Sample i is one sequence; its gradient is G_i = sum_t g_t x_t^T [m, n] (docs/math.md,
 * eq. 4), and F = (1/D) sum_i vec(G_i) vec(G_i)^T (eq. 5) is to be approximated by H_out (x) H_in. All
 * methods over whole gradients are made of one product and its adjoint (eq. 2; Van Loan & Pitsianis 1993):
 *     A(Y)  = (1/D) sum_i G_i Y G_i^T   [n,n] -> [m,m]
 *     A*(X) = (1/D) sum_i G_i^T X G_i   [m,m] -> [n,n]
 * Factors are full symmetric f32 matrices, row-major: H_in [n, n], H_out [m, m]. Gradients are bf16. Every
 * function gives the same bits for every number of threads. docs/math.md, "Factors", has the methods'
 * equations 40 to 47. */
#ifndef KQ_FISHER_FISHER_H
#define KQ_FISHER_FISHER_H

#include "kern/gemm.h"

typedef enum kq_method {
    KQ_FLIPFLOP = 0,    /* eq. 3: maximum likelihood over samples (Dutilleul 1999) */
    KQ_FASTKRON,        /* eq. 40-43: Frobenius-optimal, by Lanczos (Chekalina et al. 2026) */
    KQ_YAQA_A,          /* eq. 46: over tokens, alternating (Tseng et al. 2025b, method A) */
    KQ_YAQA_B,          /* Frobenius-optimal, by power iteration (Tseng et al. 2025b, method B) */
    KQ_KFAC,            /* eq. 45: sum x x^T and sum g g^T over tokens (Martens & Grosse 2015) */
    KQ_FLIPFLOP_TOKENS, /* eq. 47: maximum likelihood with every token's g x^T for a sample */
    KQ_INPUT_ONLY,      /* eq. 44: sum x x^T, H_out = I (Tseng et al. 2024b) */
    KQ_DIAG,            /* the diagonals of fastkron's factors (the FastKron paper's OnlyDiag) */
    KQ_NONE,            /* eq. 44: both I (the FastKron paper's NoHess) */
    KQ_N_METHOD
} kq_method;
/* The method's name on the command line: "flipflop", "yaqa-a", ... */
const char *kq_method_name(kq_method method);
/* The reverse. KQ_E_ARG: an unknown name; the message lists those that exist. */
kq_status kq_method_parse(const char *name, kq_method *out, kq_error *err);

typedef enum kq_needs {
    KQ_NEEDS_NOTHING,
    KQ_NEEDS_INPUTS,   /* x of every token: one forward pass */
    KQ_NEEDS_TOKENS,   /* x and g = dLoss/dy of every token, and one pass over them a half step */
    KQ_NEEDS_GRADIENTS /* G_i of every sample: kq_factors */
} kq_needs;
kq_needs kq_method_needs(kq_method method);
/* Does the method need gradients of the loss (KQ_NEEDS_TOKENS or KQ_NEEDS_GRADIENTS)? Then eq. 1 with its
 * factors predicts how much the loss rises. */
bool kq_method_needs_gradients(kq_method method);
/* Does it iterate until a residual is below --tol (fastkron, yaqa-b, diag)? Then its report has sigma1 and a
 * residual. */
bool kq_method_iterates(kq_method method);

/* The gradients of all samples of one layer, in bf16. They lie in memory, or they are read (or made again)
 * piece by piece, once for every product. A sample is whole, G_i [m, n]; or factored, G_i = g_i^T x_i (eq.
 * 7): g_i [T, m], then x_i [T, n]. */
typedef struct kq_gradients {
    size_t D, m, n;    /* samples; shape of W */
    size_t T;          /* tokens of a factored sample; 0: the samples are whole (kq_factored_pays) */
    const uint16_t *g; /* [D, kq_sample_size], borrowed; NULL: read gives them */
    /* Write samples first .. first + count - 1 to g [count, kq_sample_size]. Calls come in ascending order
     * and count is bounded, whatever D is. */
    kq_status (*read)(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *err);
    void *ctx;
} kq_gradients;
/* Values of one sample. */
static inline size_t kq_sample_size(size_t m, size_t n, size_t T)
{
    return T ? T * (m + n) : m * n;
}

typedef struct kq_factor_options {
    kq_method method;
    kq_compute compute; /* type of the matrix products */
    /* For flipflop in f32. false (the default): a processor with AVX512_VNNI (isa avx512 and up) multiplies
     * in block integers (panel.h), twice as fast: 192 values in a row share a scale, chosen so that the
     * rounding error is about 1e-4 of their root mean square. true: f32 throughout. Measured after 3 rounds
     * against f64, on SmolLM2's gradients and on synthetic ones with heavy tails: block integers change H by
     * 6e-6 to 2e-4 (Frobenius norm; measured with blocks of 256, which round a little more coarsely) and no
     * diagonal entry by more than 1.2e-4; bf16 1e-4 to 3e-3 and 4e-3; f32 3e-6. */
    bool exact;
    int threads;
    /* flipflop, flipflop-tokens: added to each factor's unit mean diagonal before it is inverted (eq. 3;
     * 1e-2) */
    double rho;
    int rounds;        /* flipflop, flipflop-tokens: full rounds (3) */
    size_t early;      /* flipflop: the rounds before the last take the first `early` samples (16); 0: all */
    int passes;        /* yaqa-a: passes over the tokens (2) */
    double tol;        /* fastkron, yaqa-b, diag: stop at this residual (1e-3) */
    int max_iter;      /* fastkron, yaqa-b, diag: at most this many steps (32) */
    bool start_random; /* fastkron, yaqa-b, diag: start from a random matrix instead of the identity */
    uint64_t seed;     /* of the random start */
    /* Bytes of scratch that the samples multiplied at a time should fill; 0: 96 MB. Fewer samples at a time
     * are summed in another order: the factors are then the same to rounding, not to the bit. */
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
    KQ_LACK_INPUT,    /* input-only: all inputs are zero, or so small that f32 holds no products of them */
    KQ_LACK_ENTRY,    /* the imatrix has no entry for the linear */
    KQ_LACK_COUNT,    /* the imatrix's entry was never counted */
    KQ_LACK_VALUES,   /* the imatrix's entry is zero throughout */
    KQ_N_LACK
} kq_lack;
/* The words of reports and factor files: "no gradient", ...; "" for KQ_LACK_NOTHING. */
const char *kq_lack_name(kq_lack lack);
/* The reverse; KQ_LACK_NOTHING for NULL and for any other text. */
kq_lack kq_lack_of(const char *name);

/* Below this mean square of its entries a gradient counts as none: a factor's entries are sums of such
 * squares, and f32 ends at 1e-38. */
#define KQ_TINY_SQUARE 1e-30

enum { KQ_TRACE = 256 }; /* steps whose residual is kept: the first ones, where there are more */

typedef struct kq_factor_report {
    /* Anything but KQ_LACK_NOTHING: there are no factors. H_in and H_out are zero, and the identity stands
     * for them. */
    kq_lack lack;
    int products; /* applications of A or A* */
    /* The members from here to the trace belong to methods that iterate; they are 0 for the others. */
    double sigma1; /* largest singular value of A */
    /* fastkron: a Ritz value, which is a lower bound; yaqa-b: sigma1 times the square root of what the
     * residual fell by in a step */
    double sigma2;
    /* fastkron: ||A*(u2) - sigma2 v2||_F / sigma2; yaqa-b: how far sigma2 moved in the last step, relative to
     * it */
    double sigma2_residual;
    /* fastkron: eq. 43, recomputed from the definition at the end; yaqa-b: ||A*(u) - sigma v||_F / sigma */
    double residual;
    int n_trace; /* steps in the trace */
    struct {     /* after each step: products so far; ||A*(u) - sigma v||_F / sigma (eq. 42) */
        int products;
        double residual;
    } trace[KQ_TRACE];
    bool converged;       /* residual <= tol; true for direct methods */
    int regularised;      /* flipflop: how often Cholesky failed and rho was added again */
    double trace_product; /* tr(H_in) tr(H_out) = (1/D) sum_i ||G_i||_F^2 */
    double seconds, flop; /* time of the estimation; multiplications and additions that it did */
} kq_factor_report;

/* Is a sample of T tokens better kept factored (eq. 7)? It is when it then stores no more values, T(m+n)
 * against mn, and multiplies less. The multiply-adds of a sample, as the mean of A and A*, are
 *   whole:     mn(m+n)(c + 1/2)/2, and half of that in block integers
 *   factored:  T(m^2+n^2)(c + 1/2)/2 + T^2(m+n) 3/4
 * with triangular and symmetric work counted once; c is 1/2 for the triangular middles of flipflop and 1 for
 * the symmetric middles of the other methods. The two ways give different factors, because bf16 rounds G_i
 * in the first and g_i and x_i in the second. */
bool kq_factored_pays(size_t m, size_t n, size_t T, const kq_factor_options *opt);

/* Factors by opt->method (one of KQ_NEEDS_GRADIENTS) into H_in [n,n] and H_out [m,m], the caller's:
 * symmetric, positive semidefinite (checked), on the scale of eq. 6, tr(H_in) tr(H_out) = (1/D) sum
 * ||G_i||_F^2 and tr(H_in)/n = tr(H_out)/m. Where nothing is left of the gradients (report->lack) both are
 * zero. report may be NULL. progress (may be NULL) is called between products with the fraction done; a
 * nonzero return stops with KQ_E_INTERRUPTED. KQ_E_NUMERIC: NaN or Inf in a gradient (the message names the
 * sample), or an estimate that is not positive semidefinite. KQ_E_ARG: shape or options. KQ_E_MEMORY:
 * kq_factors_bytes. */
kq_status kq_factors(const kq_gradients *G, const kq_factor_options *opt, float *H_in, float *H_out,
                     kq_factor_report *report, int (*progress)(void *ctx, double fraction), void *ctx,
                     kq_error *err);

/* Bytes of scratch that kq_factors allocates for a layer (for the memory plan). Of G only the sizes are read,
 * and whether read is set. */
size_t kq_factors_bytes(const kq_gradients *G, const kq_factor_options *opt);

/* What an estimate costs, before it begins: cost.c. */
/* Products: flipflop's number is known; for a method that iterates, the most to expect at a residual of 1e-3
 * (SmolLM2: 8 to 18). */
int kq_factors_products(const kq_factor_options *opt);
/* The products in passes over all D samples; an early round is a part of a pass. */
double kq_factors_passes(const kq_factor_options *opt, size_t D);
/* The arithmetic of that many products, as kq_factor_report counts it. Of G only the sizes are read. */
double kq_factors_flop(const kq_gradients *G, const kq_factor_options *opt, int products);

/* ---- gradients that are kept nowhere: several estimates side by side --------------------------------- */

/* Where a pass hands its samples: those of each source (a linear of the block) in order, any number at a
 * time. `wanted` shrinks during the pass: a source whose bit is clear may be left out, and when no bit is
 * left the pass may end. Not for two threads at once; add uses the threads of the options itself. */
typedef struct kq_gradient_sink kq_gradient_sink;
struct kq_gradient_sink {
    /* g [count, kq_sample_size], borrowed for the call */
    kq_status (*add)(kq_gradient_sink *to, size_t source, const uint16_t *g, size_t count, kq_error *err);
    uint64_t
        wanted; /* bit `source` set: samples of it are still needed; add may clear the bit of its source */
};
/* Goes over the samples of the wanted sources once. Every call gives the same samples, bit by bit. */
typedef kq_status kq_gradient_pass(void *ctx, kq_gradient_sink *to, kq_error *err);

/* One estimate of one linear. */
typedef struct kq_stream_linear {
    size_t source;                /* 0 to 63; several estimates may share one */
    size_t D, m, n, T;            /* of the source's samples, as in kq_gradients */
    const kq_factor_options *opt; /* borrowed */
    float *H_in, *H_out;          /* [n,n], [m,m]: the caller's */
    kq_factor_report report;      /* its seconds are the arithmetic's alone, without the passes */
} kq_stream_linear;

/* kq_factors for each of the estimates, with the same bytes, in as many passes as the longest of them takes
 * products. Each pass multiplies every estimate once. Errors as kq_factors'; KQ_E_ARG also for a source
 * above 63. */
kq_status kq_factors_stream(kq_stream_linear *linears, size_t count, kq_gradient_pass *pass, void *pass_ctx,
                            int (*progress)(void *ctx, double fraction), void *ctx, kq_error *err);
/* Bytes of scratch that it allocates; 0: more than the address space holds. */
size_t kq_factors_stream_bytes(const kq_stream_linear *linears, size_t count);

/* One product of eq. 2: out [m,m] = A(Y) for a symmetric Y [n,n]; adjoint: out [n,n] = A*(Y) for Y [m,m].
 * KQ_E_ARG, KQ_E_MEMORY, or the error of G->read. */
kq_status kq_fisher_product(const kq_gradients *G, bool adjoint, const float *Y, float *out,
                            kq_compute compute, int threads, kq_error *err);

/* ---- statistics over tokens: tokens.c (docs/math.md, "Token-level estimators", eq. 44 to 47) --------- */

/* Which sums a pass over the tokens adds up, H_in = sum_t w_t x_t x_t^T and H_out = sum_t w_t g_t g_t^T, and
 * with what weights. */
typedef enum kq_token_weighting {
    KQ_WEIGHT_ONE,
    /* eq. 46: w_t = g_t^T H_out g_t / ||H_out||_F^2 for H_in, x_t^T H_in x_t / ||H_in||_F^2 for H_out, with
     * the other side's factor as the pass before left it */
    KQ_WEIGHT_FACTOR,
    KQ_WEIGHT_INVERSE /* eq. 47: w_t = g_t^T Ho^-1 g_t or x_t^T Hi^-1 x_t, Ho and Hi as in eq. 3 */
} kq_token_weighting;
typedef struct kq_token_pass {
    bool in, out; /* H_in, H_out is added up */
    kq_token_weighting weight;
} kq_token_pass;
/* Passes that the method makes over the tokens; 0: it is not a method over tokens. */
size_t kq_method_passes(const kq_factor_options *opt);
kq_token_pass kq_method_pass(const kq_factor_options *opt, size_t i); /* pass i, from 0 on */

/* The lower triangle of H [n,n] += sum_t w_t x_t x_t^T for X [rows, n]; w [rows], NULL: ones; scaled [rows,
 * n]: scratch, needed with w only. */
void kq_token_gram(const float *X, const float *w, size_t rows, size_t n, float *H, float *scaled,
                   int threads);
/* After the last kq_token_gram: H [n,n] is mirrored and divided by D. KQ_E_NUMERIC: NaN or Inf. */
kq_status kq_token_finish(float *H, size_t n, size_t D, kq_error *err);
/* Is the mean of H's diagonal, H [n,n], so small (1e-35) that its entries are zero or nearly beyond f32? */
bool kq_factor_is_tiny(const float *H, size_t n);
/* The matrix W [n,n] of the quadratic form that weights tokens by the factor H [n,n]: H / ||H||_F^2 or the
 * inverse of H / mean diagonal + rho I. *regularised counts how often rho was added again. KQ_E_NUMERIC: H is
 * zero, overflows, or cannot be inverted; KQ_E_MEMORY. */
kq_status kq_token_weight(kq_token_weighting kind, const float *H, size_t n, double rho, int threads,
                          float *W, int *regularised, kq_error *err);
/* q_t = x_t^T W x_t for X [rows, n] and a positive semidefinite W [n,n]; q [rows]; scratch [rows, n]. */
void kq_token_quadratic(const float *X, size_t rows, size_t n, const float *W, float *q, float *scratch,
                        int threads);

/* ---- finished factors: factor.c ---------------------------------------------------------------------- */

/* Eq. 6: scale so that tr(H_in) tr(H_out) = target = (1/D) sum_i ||G_i||_F^2 and tr(H_in)/n = tr(H_out)/m.
 * KQ_E_NUMERIC: a trace is zero, negative or not finite. */
kq_status kq_factors_scale(float *H_in, size_t n, float *H_out, size_t m, double target, kq_error *err);

/* A factor file's form of H [n,n] (docs/format.md): the lower triangle by rows, n(n+1)/2 values. */
void kq_factor_pack(const float *H, size_t n, float *packed);
void kq_factor_unpack(const float *packed, size_t n, float *H);

#endif
