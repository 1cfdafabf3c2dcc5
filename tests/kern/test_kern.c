/* Every instruction set's kernels against plain C (kern/ref.c), which itself is checked against libm in
 * double: odd sizes, unaligned starts, and a guard value behind every output. */
#include "check.h"

#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kern/kern.h"

enum { MAX = 1300, GUARD = 0x7ac0ffee };

static const kq_kern *const kernels[] = {
    &kq_kern_ref,
#if defined(__x86_64__)
    &kq_kern_avx2,
    &kq_kern_avx512,
#endif
};

static const size_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 33, 64, 65, 100, 259, 1025};

static float storage[12][MAX + 64];

static float *slot(int i, size_t offset)
{
    return storage[i] + offset;
}

static void fill(float *x, size_t n, double sd, kq_rng *rng)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(sd * kq_rng_normal(rng));
    uint32_t g = GUARD;
    memcpy(x + n, &g, 4);
}

static void guard(const float *x, size_t n)
{
    uint32_t g;
    memcpy(&g, x + n, 4);
    if (g != GUARD)
        fail_msg("element %zu, one past the end, was written", n);
}

/* Relative to the largest magnitude of the row: 64 roundings are generous for sums of a thousand. */
static void near(const kq_kern *k, const char *what, const float *got, const float *want, size_t n,
                 double tol)
{
    double top = 1e-30;
    for (size_t i = 0; i < n; i++)
        top = fmax(top, fabs((double)want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tol * top))
            fail_msg("%s, %s, n = %zu: [%zu] = %.9g, want %.9g (largest %.3g)", k->name, what, n, i,
                     (double)got[i], (double)want[i], top);
}

static const double tol = 64 * 0x1p-24;

static bool runs_here(const kq_kern *k)
{
    kq_isa isa;
    return kq_isa_pick(k->name, &isa, NULL) == KQ_OK;
}

static void test_exp(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof kernels / sizeof *kernels; v++) {
        const kq_kern *k = kernels[v];
        if (!runs_here(k)) {
            printf("SKIP %s: not on this machine\n", k->name);
            continue;
        }
        double worst = 0;
        for (double x0 = -90; x0 < 89; x0 += 0.731) {
            float x[101], y[101];
            for (int i = 0; i < 101; i++)
                x[i] = y[i] = (float)(x0 + i * 0.0073);
            k->exp_sum(y, 101, 0);
            for (int i = 0; i < 101; i++) {
                double want = exp(fmin(x[i], (double)88.37f)), ulp = ldexp(1, ilogb(want) - 23);
                if (want < 0x1p-124) {
                    assert_true(y[i] == 0 || fabs(y[i] - want) < 2 * ulp);
                    continue;
                }
                worst = fmax(worst, fabs(y[i] - want) / ulp);
            }
        }
        printf("%s: exp within %.3f ulp\n", k->name, worst);
        assert_true(worst < 2);
        float s[4] = {NAN, 1, INFINITY, -INFINITY};
        k->exp_sum(s, 4, 0);
        assert_true(isnan(s[0]));
        assert_true(s[3] == 0);
    }
}

static void test_against_ref(void **state)
{
    (void)state;
    const kq_kern *ref = &kq_kern_ref;
    for (size_t v = 0; v < sizeof kernels / sizeof *kernels; v++) {
        const kq_kern *k = kernels[v];
        if (!runs_here(k))
            continue;
        kq_rng rng = kq_rng_stream(3, "kernels");
        for (size_t si = 0; si < sizeof sizes / sizeof *sizes; si++)
            for (size_t off = 0; off < 3; off++) {
                size_t n = sizes[si];
                float *x = slot(0, off), *w = slot(1, off + 1), *u = slot(2, off), *dy = slot(3, off + 2),
                      *y = slot(4, off + 1), *z = slot(5, off);
                float *p = slot(6, off), *q = slot(7, off + 3), r, s;
#define AGAIN(dst, src) memcpy(dst, src, n * sizeof(float)), fill((dst) + n, 0, 1, &rng)
                fill(x, n, 3, &rng), fill(w, n, 1, &rng), fill(u, n, 1, &rng), fill(dy, n, 1, &rng);
                fill(y, n, 1, &rng), fill(z, n, 1, &rng), fill(p, n, 1, &rng), fill(q, n, 1, &rng);

                assert_true(k->max(x, n) == ref->max(x, n));
                assert_true(fabs(k->sum_exp(x, n, 1.5f) / ref->sum_exp(x, n, 1.5f) - 1) < tol);
                AGAIN(y, x), AGAIN(z, x);
                r = k->softmax(y, n, 0.7f), s = ref->softmax(z, n, 0.7f);
                near(k, "softmax", y, z, n, tol), near(k, "its log sum", &r, &s, 1, tol), guard(y, n);
                double sum = 0;
                for (size_t i = 0; i < n; i++)
                    sum += y[i];
                assert_true(fabs(sum - 1) < 1e-5);
                AGAIN(p, x);
                k->softmax_again(p, n, 0.7f, r);
                near(k, "softmax again", p, y, n, tol), guard(p, n);
                AGAIN(p, dy), AGAIN(q, dy);
                k->softmax_back(z, p, n, 0.3f, 0.7f), ref->softmax_back(z, q, n, 0.3f, 0.7f);
                near(k, "softmax back", p, q, n, tol), guard(p, n);
                AGAIN(y, x), AGAIN(z, x);
                r = k->exp_sum(y, n, 2), s = ref->exp_sum(z, n, 2);
                near(k, "exp", y, z, n, tol), near(k, "its sum", &r, &s, 1, tol), guard(y, n);

                k->swiglu(x, u, y, n), ref->swiglu(x, u, z, n);
                near(k, "swiglu", y, z, n, tol), guard(y, n);
                AGAIN(y, x), AGAIN(z, x), AGAIN(p, u), AGAIN(q, u);
                k->swiglu_back(y, p, dy, n), ref->swiglu_back(z, q, dy, n);
                near(k, "swiglu back g", y, z, n, tol), near(k, "swiglu back u", p, q, n, tol), guard(y, n),
                    guard(p, n);

                r = k->rms_norm(x, w, y, n, 1e-5f), s = ref->rms_norm(x, w, z, n, 1e-5f);
                near(k, "rms_norm", y, z, n, tol), near(k, "its factor", &r, &s, 1, tol), guard(y, n);
                k->rms_norm_back(x, w, dy, r, NULL, y, n), ref->rms_norm_back(x, w, dy, r, NULL, z, n);
                if (n >= 7) /* in short rows the two terms cancel */
                    near(k, "rms_norm back", y, z, n, tol);
                guard(y, n);
                AGAIN(y, u);
                k->rms_norm_back(x, w, dy, r, y, y, n), ref->rms_norm_back(x, w, dy, r, u, z, n);
                near(k, "rms_norm back, added", y, z, n, tol), guard(y, n);

                k->add(x, u, y, n), ref->add(x, u, z, n);
                near(k, "add", y, z, n, 0), guard(y, n);
                k->scale(y, n, 0.37f), ref->scale(z, n, 0.37f);
                near(k, "scale", y, z, n, 0), guard(y, n);
                if (n % 2 == 0) {
                    k->rope(x, u, w, y, n / 2, -1), ref->rope(x, u, w, z, n / 2, -1);
                    near(k, "rope", y, z, n, tol), guard(y, n);
                    AGAIN(y, x);
                    k->rope(y, u, w, y, n / 2, -1);
                    near(k, "rope in place", y, z, n, tol), guard(y, n);
                }
                double mag = 0;
                for (size_t i = 0; i < n; i++)
                    mag += fabs((double)x[i] * u[i]);
                assert_true(fabs((double)k->dot(x, u, n) - ref->dot(x, u, n)) <= tol * mag);
                assert_true(k->all_finite(x, n));
                for (size_t i = 0; i < n; i += n / 3 + 1) {
                    float old = x[i];
                    x[i] = i & 1 ? NAN : INFINITY;
                    assert_false(k->all_finite(x, n));
                    float m = k->max(x, n);
                    assert_true(i & 1 ? isnan(m) : m == INFINITY);
                    x[i] = old;
                }
                uint16_t b0[MAX], b1[MAX];
                memset(b0, 0x55, sizeof b0), memset(b1, 0x55, sizeof b1);
                k->to_bf16(x, b0 + off, n);
                kq_f32_to_bf16_n(x, b1 + off, n);
                assert_memory_equal(b0, b1, sizeof b0);
            }
    }
}

static void test_matvec(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {3, 7}, {4, 16}, {5, 33}, {9, 64}, {13, 100}, {66, 131}};
    static const float specials[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3.4e38f, 1e-40f};
    for (size_t v = 0; v < sizeof kernels / sizeof *kernels; v++) {
        const kq_kern *k = kernels[v];
        if (!runs_here(k))
            continue;
        kq_rng rng = kq_rng_stream(4, "matvec");
        for (size_t si = 0; si < sizeof shapes / sizeof *shapes; si++) {
            size_t rows = shapes[si][0], n = shapes[si][1], ld = n + si % 3;
            /* exactly as large as needed, so that a sanitizer sees a read beyond the end */
            float *W = kq_alloc((rows - 1) * ld + n + 1, 4), *x = kq_alloc(n + 1, 4),
                  *xr = kq_alloc(rows + 1, 4), *y = kq_alloc(n + rows + 1, 4);
            uint16_t *Wb = kq_alloc((rows - 1) * ld + n, 2);
            fill(W, (rows - 1) * ld + n, 1, &rng), fill(x, n, 1, &rng), fill(xr, rows, 1, &rng);
            kq_f32_to_bf16_n(W, Wb, (rows - 1) * ld + n);
            for (int bf = 0; bf < 2; bf++) {
                fill(y, rows, 1, &rng);
                bf ? k->matvec_bf16(Wb, ld, rows, n, x, y) : k->matvec(W, ld, rows, n, x, y);
                guard(y, rows);
                for (size_t r = 0; r < rows; r++) {
                    double s = 0, mag = 0;
                    for (size_t i = 0; i < n; i++) {
                        double a = bf ? kq_bf16_to_f32(Wb[r * ld + i]) : W[r * ld + i];
                        s += a * x[i], mag += fabs(a * x[i]);
                    }
                    assert_true(fabs(y[r] - s) <= tol * mag);
                }
                fill(y, n, 1, &rng);
                bf ? k->matvec_t_bf16(Wb, ld, rows, n, xr, y) : k->matvec_t(W, ld, rows, n, xr, y);
                guard(y, n);
                for (size_t i = 0; i < n; i++) {
                    double s = 0, mag = 0;
                    for (size_t r = 0; r < rows; r++) {
                        double a = bf ? kq_bf16_to_f32(Wb[r * ld + i]) : W[r * ld + i];
                        s += a * xr[r], mag += fabs(a * xr[r]);
                    }
                    assert_true(fabs(y[i] - s) <= tol * mag);
                }
            }
            kq_free(W), kq_free(x), kq_free(xr), kq_free(y), kq_free(Wb);
        }
        float many[40];
        uint16_t got[40], want[40];
        for (size_t i = 0; i < 40; i++)
            many[i] = specials[i % 8];
        k->to_bf16(many, got, 40);
        kq_f32_to_bf16_n(many, want, 40);
        assert_memory_equal(got, want, sizeof got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exp), cmocka_unit_test(test_against_ref),
                                       cmocka_unit_test(test_matvec)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
