/* Matrix products against a triple loop in double precision. Bound: an f32 sum of k products errs by at
 * most about k * 2^-24 * sum |a b|; bf16 operands are exact in f32, so the same bound holds for the bf16
 * product of the rounded values. */
#include "check.h"

#include <omp.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kern/gemm.h"

typedef struct problem {
    bool ta, tb;
    size_t m, n, k, lda, ldb, ldc;
    float *A, *B, *C0, *C;
    uint16_t *Ah, *Bh;
} problem;

static void fill(float *x, size_t n, kq_rng *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)kq_rng_normal(rng);
}

static void problem_make(problem *p, bool ta, bool tb, size_t m, size_t n, size_t k, size_t extra,
                         kq_rng *rng)
{
    *p = (problem){.ta = ta, .tb = tb, .m = m, .n = n, .k = k};
    p->lda = (ta ? m : k) + extra;
    p->ldb = (tb ? k : n) + extra;
    p->ldc = n + extra;
    size_t na = (ta ? k : m) * p->lda, nb = (tb ? n : k) * p->ldb, nc = m * p->ldc;
    p->A = kq_alloc(na, 4), p->B = kq_alloc(nb, 4), p->C0 = kq_alloc(nc, 4), p->C = kq_alloc(nc, 4);
    p->Ah = kq_alloc(na, 2), p->Bh = kq_alloc(nb, 2);
    fill(p->A, na, rng);
    fill(p->B, nb, rng);
    fill(p->C0, nc, rng);
    kq_f32_to_bf16_n(p->A, p->Ah, na);
    kq_f32_to_bf16_n(p->B, p->Bh, nb);
    memcpy(p->C, p->C0, nc * 4);
}

static void problem_free(problem *p)
{
    kq_free(p->A), kq_free(p->B), kq_free(p->C0), kq_free(p->C), kq_free(p->Ah), kq_free(p->Bh);
}

static void problem_check(const problem *p, float alpha, float beta, bool bf16)
{
    for (size_t i = 0; i < p->m; i++)
        for (size_t j = 0; j < p->ldc; j++) {
            float got = p->C[i * p->ldc + j];
            if (j >= p->n) { /* between the rows nothing may be written */
                if (memcmp(&got, &p->C0[i * p->ldc + j], 4) != 0)
                    fail_msg("column %zu beyond n = %zu was written", j, p->n);
                continue;
            }
            double s = 0, mag = 0;
            for (size_t l = 0; l < p->k; l++) {
                size_t ia = p->ta ? l * p->lda + i : i * p->lda + l,
                       ib = p->tb ? j * p->ldb + l : l * p->ldb + j;
                double a = bf16 ? kq_bf16_to_f32(p->Ah[ia]) : p->A[ia],
                       b = bf16 ? kq_bf16_to_f32(p->Bh[ib]) : p->B[ib];
                s += a * b;
                mag += fabs(a * b);
            }
            double c0 = p->C0[i * p->ldc + j], want = alpha * s + (beta != 0 ? beta * c0 : 0);
            double bound = (double)(p->k + 8) * 0x1p-24 * (fabs(alpha) * mag + fabs(beta * c0)) + 1e-30;
            if (!(fabs(got - want) <= bound))
                fail_msg("ta %d tb %d m %zu n %zu k %zu: C[%zu,%zu] = %.9g, want %.9g, bound %.3g", p->ta,
                         p->tb, p->m, p->n, p->k, i, j, (double)got, want, bound);
        }
}

static const size_t shapes[][3] = {{1, 1, 1},     {1, 300, 64},   {7, 5, 3},     {33, 17, 65},
                                   {64, 96, 112}, {100, 257, 31}, {129, 65, 300}};

static void test_f32(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(1, "gemm f32");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int t = 0; t < 4; t++) {
            problem p;
            problem_make(&p, t & 1, t & 2, shapes[s][0], shapes[s][1], shapes[s][2], s % 3, &rng);
            float alpha = s & 1 ? 0.5f : 1.0f, beta = t == 3 ? 1.0f : (t == 1 ? 0.25f : 0.0f);
            kq_gemm_f32(p.ta, p.tb, p.m, p.n, p.k, alpha, p.A, p.lda, p.B, p.ldb, beta, p.C, p.ldc);
            problem_check(&p, alpha, beta, false);
            problem_free(&p);
        }
}

static void test_bf16(void **state)
{
    (void)state;
    kq_error err;
    kq_rng rng = kq_rng_stream(1, "gemm bf16");
    for (int round = 0; round < 3; round++) /* more shapes than the cache holds, then again */
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int t = 0; t < 8; t++) {
                problem p;
                problem_make(&p, t & 1, t & 2, shapes[s][0], shapes[s][1], shapes[s][2], (size_t)round, &rng);
                check_ok(kq_gemm_bf16(p.ta, p.tb, p.m, p.n, p.k, p.Ah, p.lda, p.Bh, p.ldb, t & 4, p.C, p.ldc,
                                      &err));
                problem_check(&p, 1.0f, t & 4 ? 1.0f : 0.0f, true);
                problem_free(&p);
            }
}

static void test_tiled(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(1, "gemm tiled");
    for (int t = 0; t < 4; t++) {
        problem p;
        problem_make(&p, t & 1, t & 2, 300, 700, 40, 3, &rng);
        kq_gemm_f32_tiled(p.ta, p.tb, p.m, p.n, p.k, 2.0f, p.A, p.lda, p.B, p.ldb, 1.0f, p.C, p.ldc, 1);
        problem_check(&p, 2.0f, 1.0f, false);
        float *D = kq_alloc(p.m * p.ldc, 4);
        for (int threads = 2; threads <= 5; threads++) {
            memcpy(D, p.C0, p.m * p.ldc * 4);
            kq_gemm_f32_tiled(p.ta, p.tb, p.m, p.n, p.k, 2.0f, p.A, p.lda, p.B, p.ldb, 1.0f, D, p.ldc,
                              threads);
            assert_memory_equal(D, p.C, p.m * p.ldc * 4);
        }
        kq_free(D);
        problem_free(&p);
    }
}

/* The products hold themselves to one thread, yet leave the caller's number of threads as it was; and
 * may be called from all. */
static void test_threads(void **state)
{
    (void)state;
    kq_error err;
    kq_rng rng = kq_rng_stream(1, "gemm threads");
    omp_set_num_threads(3);
    problem p[6];
    for (int i = 0; i < 6; i++)
        problem_make(&p[i], false, true, 50 + (size_t)i, 70, 30, 0, &rng);
    int bad = 0;
#pragma omp parallel for num_threads(3) reduction(+ : bad)
    for (int i = 0; i < 6; i++) {
        kq_gemm_f32(false, true, p[i].m, p[i].n, p[i].k, 1.0f, p[i].A, p[i].lda, p[i].B, p[i].ldb, 0.0f,
                    p[i].C, p[i].ldc);
        bad += kq_gemm_bf16(false, true, p[i].m, p[i].n, p[i].k, p[i].Ah, p[i].lda, p[i].Bh, p[i].ldb, false,
                            p[i].C, p[i].ldc, NULL) != KQ_OK;
    }
    assert_int_equal(bad, 0);
    for (int i = 0; i < 6; i++)
        problem_check(&p[i], 1.0f, 0.0f, true);
    kq_gemm_f32(false, true, p[0].m, p[0].n, p[0].k, 1.0f, p[0].A, p[0].lda, p[0].B, p[0].ldb, 0.0f, p[0].C,
                p[0].ldc);
    check_ok(kq_gemm_bf16(false, true, p[0].m, p[0].n, p[0].k, p[0].Ah, p[0].lda, p[0].Bh, p[0].ldb, false,
                          p[0].C, p[0].ldc, &err));
    assert_int_equal(omp_get_max_threads(), 3);
    for (int i = 0; i < 6; i++)
        problem_free(&p[i]);
}

/* Which instruction set is fixed once in a process, so KRONQ_ISA says which one this run tests (ctest
 * runs all of them). */
int main(void)
{
    kq_isa isa;
    kq_error err;
    if (kq_isa_pick(NULL, &isa, &err) != KQ_OK) {
        printf("SKIP: %s\n", err.message);
        return 77;
    }
    kq_kern_init(isa);
    printf("isa %s\n", kq_isa_name(isa));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_tiled), cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
