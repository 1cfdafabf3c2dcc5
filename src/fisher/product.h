/* The building blocks of the estimators (this room and selfcheck, which compares them with a reference): the
 * products of eq. 2 with a workspace that is allocated once a layer, Cholesky factors, and the check that a
 * matrix is positive semidefinite. */
#ifndef KQ_FISHER_PRODUCT_H
#define KQ_FISHER_PRODUCT_H

#include "fisher/fisher.h"

/* What stands in the middle of G_i Y G_i^T (adjoint: G_i^T Y G_i). */
typedef enum kq_middle {
    KQ_MID_IDENTITY, /* Y = I: one rank-k update, half of its square computed */
    /* Y = C^T C, of which the lower triangular C is given: T_i = G_i C^T (adjoint: C G_i), then a rank-k
       update */
    KQ_MID_TRIANGULAR,
    /* any symmetric Y: T_i = G_i Y (adjoint: Y G_i), then T_i G_i^T (T_i^T G_i), of which the lower triangle
       is computed */
    KQ_MID_SYMMETRIC
} kq_middle;

/* The workspace of one layer's products (product_plan.c). */
typedef struct kq_product_plan {
    size_t D, m, n, T; /* T: 0, or the tokens of a factored sample */
    size_t sample;     /* values of a sample: mn, or T(m + n) */
    kq_compute compute;
    bool panels; /* f32, not exact, AVX-512 with VNNI: panel.h instead of BLAS */
    int threads;
    bool pieces;                           /* a chunk may arrive in pieces: bf16 then keeps a copy */
    size_t chunk;                          /* samples that are multiplied at a time */
    size_t gf, t, mid16, panel, acc, gram; /* bytes of each slice, see kq_product */
    size_t bytes;                          /* of all of them */
} kq_product_plan;

/* Factored samples G_i = g_i^T x_i, g_i [T,m], x_i [T,n], are never multiplied out (eq. 7). With a_i = g_i
 * and p_i = x_i (in the adjoint a_i = x_i and p_i = g_i):
 *     G_i Y G_i^T = a_i^T S_i a_i,   S_i = p_i Y p_i^T [T,T],
 * and with Y = C^T C: S_i = (p_i C^T)(p_i C^T)^T. kq_factored_pays has the cost. */

/* A product in the making: begun, fed its samples in order, ended. Samples are multiplied a chunk at a time,
 * however they arrive, so that the bits do not depend on how they arrive. The slices' meaning depends on the
 * kind of product: f32 or bf16 through the libraries, `panels` in block integers, factored samples. */
typedef struct kq_product {
    kq_product_plan plan;
    /* f32: the chunk's gradients; bf16: a copy of them (pieces); panels: these, in integers */
    float *gf;
    /* the chunk's T_i, in the compute type; panels: scales; factored: p_i mid, then S_i a_i */
    void *t;
    void *gram;      /* factored: the chunk's S_i, in the compute type */
    uint16_t *mid16; /* bf16: the middle matrix; panels: the middle, packed, its scales, the balance */
    float *panel;    /* for each thread: bf16: a stage-1 result before it is rounded; panels: one before
                        quantization */
    float *acc;      /* partial sums over fixed groups of samples, [splits, dim, dim] */
    bool adjoint;    /* the product at work */
    kq_middle kind;
    const float *mid; /* borrowed */
    size_t samples;   /* of the product at work */
    size_t done;      /* samples of finished chunks */
    size_t held;      /* samples of the chunk at hand */
    double flop;      /* useful arithmetic so far (symmetric and triangular work counted once) */
} kq_product;

/* False when a size overflows. exact: f32 products stay f32 products, never block integers (KQ_MID_SYMMETRIC
 * and factored samples have no others). chunk_bytes: of kq_factor_options. pieces: kq_product_add may be
 * given less than a chunk. Of G only D, m, n and T are read. */
bool kq_product_size(kq_product_plan *plan, const kq_gradients *G, kq_compute compute, bool exact,
                     int threads, size_t chunk_bytes, bool pieces);
/* Set p up over `block` (plan->bytes, 64-byte aligned), which stays the caller's. */
void kq_product_init(kq_product *p, const kq_product_plan *plan, void *block);

/* Useful arithmetic of one product over so many samples (symmetric and triangular work counted once). */
double kq_product_flop(const kq_product_plan *plan, bool adjoint, kq_middle kind, size_t samples);

/* Begin the mean over the first `samples` (at most D) of G_i Y G_i^T, a full symmetric [m,m], or, adjoint, of
 * G_i^T Y G_i, [n,n]. mid is what `kind` says: [n,n], adjoint [m,m], read until kq_product_end and not its
 * `out`; NULL for KQ_MID_IDENTITY. KQ_E_ARG: a symmetric middle in a plan with panels. */
kq_status kq_product_begin(kq_product *p, bool adjoint, kq_middle kind, const float *mid, size_t samples,
                           kq_error *err);
/* The next count samples, g [count, plan.sample] bf16. Without plan.pieces each call must reach a chunk's
 * end. */
kq_status kq_product_add(kq_product *p, const uint16_t *g, size_t count, kq_error *err);
kq_status kq_product_end(kq_product *p, float *out, kq_error *err);

/* The lower triangular L [n,n] with L L^T = A + shift I, in f32. Only A's lower triangle is read and only L's
 * is written; L may be A. False: A + shift I is not positive definite. */
bool kq_cholesky(const float *A, size_t n, float shift, float *L, int threads);
/* C = L^-1, lower triangular, its upper triangle zero. C may not be L. */
void kq_triangle_inverse(const float *L, size_t n, float *C, int threads);

/* Is H [n,n] positive semidefinite up to rounding? If Cholesky's factorisation of H + 1e-6 ||H||_F I fails,
 * negative eigenvalues are set to zero, unless one is below -tol times the largest: then KQ_E_NUMERIC, naming
 * `what`. work: kq_psd_work(n) floats. */
kq_status kq_psd_check(float *H, size_t n, double tol, float *work, int threads, const char *what,
                       kq_error *err);
size_t kq_psd_work(size_t n);

/* C [n,n] = L^-1 with L L^T = H / (its mean diagonal) + rho I (Ho, Hi of eq. 3), so that C^T C is the
 * inverse. rho is added again while the factorisation fails, up to 64 times; *regularised counts how often (a
 * factor of low rank may need it). L [n,n]: scratch. KQ_E_NUMERIC: H has no positive trace, or stays
 * singular. */
kq_status kq_regularised_inverse(const float *H, size_t n, double rho, float *L, float *C, int threads,
                                 int *regularised, kq_error *err);

#endif
