/* Matrix products: those of the libraries (kern/gemm.h) and flip-flop's block integers
 * (fisher/product.h), against sums in double. */
#include <math.h>
#include <stdio.h>

#include "base/error.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fisher/panel.h"
#include "fisher/product.h"
#include "kern/gemm.h"
#include "selfcheck/selfcheck.h"

typedef struct shape {
    size_t m, n, k;
} shape;
/* Small ones go to OpenBLAS, large ones to oneDNN (kern/gemm.c); odd sizes make edges. */
static const shape shapes[] = {{1, 64, 64}, {31, 17, 129}, {64, 64, 64}, {160, 192, 96}, {97, 131, 257}};

/* C = op(A) op(B) in double, rounded once. */
static void product(bool ta, bool tb, shape s, const float *A, const float *B, float *C)
{
    for (size_t i = 0; i < s.m; i++)
        for (size_t j = 0; j < s.n; j++) {
            double sum = 0;
            for (size_t l = 0; l < s.k; l++)
                sum += (double)A[ta ? l * s.m + i : i * s.k + l] * B[tb ? j * s.k + l : l * s.n + j];
            C[i * s.n + j] = (float)sum;
        }
}

/* One shape, all four ways to store the operands: the largest errors in f32 and bf16. The bf16 operands
 * are exact in f32, so both have one reference. */
static kq_status check_shape(shape s, kq_rng *rng, double *f32, double *bf16, kq_error *err)
{
    const size_t a = s.m * s.k, b = s.k * s.n, c = s.m * s.n;
    float *A = kq_alloc(a, 4), *B = kq_alloc(b, 4), *want = kq_alloc(c, 4), *got = kq_alloc(c, 4);
    uint16_t *A16 = kq_alloc(a, 2), *B16 = kq_alloc(b, 2);
    kq_status status = A && B && want && got && A16 && B16
                           ? KQ_OK
                           : kq_fail(err, KQ_E_MEMORY, "out of memory: a product of the self-check");
    for (size_t i = 0; !status && i < a; i++)
        A16[i] = kq_f32_to_bf16((float)kq_rng_normal(rng)), A[i] = kq_bf16_to_f32(A16[i]);
    for (size_t i = 0; !status && i < b; i++)
        B16[i] = kq_f32_to_bf16((float)kq_rng_normal(rng)), B[i] = kq_bf16_to_f32(B16[i]);
    for (int way = 0; way < 4 && !status; way++) {
        const bool ta = way & 1, tb = way & 2;
        const size_t lda = ta ? s.m : s.k, ldb = tb ? s.k : s.n;
        product(ta, tb, s, A, B, want);
        kq_gemm_f32(ta, tb, s.m, s.n, s.k, 1, A, lda, B, ldb, 0, got, s.n);
        *f32 = fmax(*f32, kq_check_distance(got, want, c));
        status = kq_gemm_bf16(ta, tb, s.m, s.n, s.k, A16, lda, B16, ldb, false, got, s.n, err);
        if (!status)
            *bf16 = fmax(*bf16, kq_check_distance(got, want, c));
    }
    kq_free(A), kq_free(B), kq_free(want), kq_free(got), kq_free(A16), kq_free(B16);
    return status;
}

/* The mean of G C^T C G^T over D samples, exact or as the machine likes it. */
static kq_status middle_product(const kq_gradients *G, const uint16_t *g, const float *C, bool exact,
                                float *out, kq_error *err)
{
    kq_product_plan plan;
    kq_product p;
    if (!kq_product_size(&plan, G, KQ_F32, exact, 1, 0, false))
        return kq_fail(err, KQ_E_MEMORY, "a product of the self-check is too large");
    void *block = kq_alloc(plan.bytes, 1);
    if (!block)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a product of the self-check");
    kq_product_init(&p, &plan, block);
    kq_status status = kq_product_begin(&p, false, KQ_MID_TRIANGULAR, C, G->D, err);
    for (size_t at = 0, n; at < G->D && !status; at += n) {
        n = G->D - at < plan.chunk ? G->D - at : plan.chunk;
        status = kq_product_add(&p, g + at * plan.sample, n, err);
    }
    if (!status)
        status = kq_product_end(&p, out, err);
    kq_free(block);
    return status;
}

/* Block integers against f32: docs/math.md bounds their error by 2e-4 of the largest value. */
static kq_status check_panels(kq_checker *c, kq_error *err)
{
    enum { D = 3, M = 100, N = 130 };
    kq_rng rng = kq_rng_stream(2, "selfcheck/panels");
    uint16_t *g = kq_alloc(D * M * N, 2);
    float *C = kq_calloc(N * N, 4), *want = kq_alloc(M * M, 4), *got = kq_alloc(M * M, 4);
    kq_status status = g && C && want && got
                           ? KQ_OK
                           : kq_fail(err, KQ_E_MEMORY, "out of memory: a product of the self-check");
    for (size_t i = 0; !status && i < D * M * N; i++)
        g[i] = kq_f32_to_bf16((float)kq_rng_normal(&rng));
    for (size_t i = 0; !status && i < N; i++)
        for (size_t j = 0; j <= i; j++)
            C[i * N + j] = (float)((i == j ? 3 : 0.3) * kq_rng_normal(&rng));
    const kq_gradients G = {.D = D, .m = M, .n = N};
    if (!status && !(status = middle_product(&G, g, C, true, want, err)) &&
        !(status = middle_product(&G, g, C, false, got, err)))
        status = kq_checker_note(c, "fisher", "product_block_integers", "avx512",
                                 kq_check_distance(got, want, M * M), 2e-4, err);
    kq_free(g), kq_free(C), kq_free(want), kq_free(got);
    return status;
}

kq_status kq_check_products(kq_checker *c, kq_error *err)
{
    kq_rng rng = kq_rng_stream(1, "selfcheck/products");
    double f32 = 0, bf16 = 0;
    kq_status status = KQ_OK;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !status; i++)
        status = check_shape(shapes[i], &rng, &f32, &bf16, err);
    const char *isa = kq_isa_name(kq_kern_isa());
    /* sums of 257 values in another order; both sum in f32 */
    if (!status)
        status = kq_checker_note(c, "kern", "gemm_f32", isa, f32, 64 * 0x1p-24, err);
    if (!status)
        status = kq_checker_note(c, "kern", "gemm_bf16", isa, bf16, 64 * 0x1p-24, err);
    return status || !kq_panel_available() ? status : check_panels(c, err);
}
