/* A packed linear's product, in its three steps, and a packed head's, against the dense weights and a product
 * in double: every code and number of bits, sizes that need padding, and orders without a Hadamard matrix. */
#include "check.h"

#include "base/mem.h"
#include "base/rng.h"
#include "decode/matrix.h"

enum { T = 5 };

static void product(kq_isa isa, const kq_trellis *t, const kq_packed *p, const kq_packed_code *code,
                    const float *x, float *y)
{
    kq_error err;
    kq_rotation *u_m, *u_n;
    const kq_decode_kern *k = kq_decode_kern_pick(isa);
    const kq_packed_kern *pk = kq_packed_kern_pick(isa);
    check_ok(kq_rotation_new(p->m_pad, &u_m, &err));
    check_ok(kq_rotation_new(p->n_pad, &u_n, &err));
    kq_matrix M = {.kind = KQ_MATRIX_PACKED,
                   .m = p->m,
                   .n = p->n,
                   .m_pad = p->m_pad,
                   .n_pad = p->n_pad,
                   .words = p->trellis,
                   .trellis = t,
                   .code = code,
                   .u_m = u_m,
                   .u_n = u_n,
                   .su = kq_alloc(p->n, 4),
                   .sv = kq_alloc(p->m, 4)};
    for (size_t i = 0; i < p->n; i++)
        M.su[i] = p->su[i];
    for (size_t i = 0; i < p->m; i++)
        M.sv[i] = (float)p->sv[i] * p->scale * (code ? code->unit : 1);
    float *z = kq_alloc(T * p->n_pad, 4), *w = kq_alloc(T * p->m_pad, 4), *panel = kq_alloc(16 * p->n_pad, 4),
          *rotating = kq_alloc(2 * p->n_pad + p->m_pad, 4), step[T];
    for (size_t i = 0; i < T; i++)
        kq_matrix_rotate_in(&M, &(kq_matrix_kern){k, pk, NULL}, x + i * p->n,
                            code ? (void *)((int16_t *)(void *)z + i * p->n_pad) : (void *)(z + i * p->n_pad),
                            &step[i], rotating);
    if (p->one_sided) { /* a head: pieces of rows, the last one cut */
        const kq_rotated all = {z, p->n_pad, T, step};
        for (size_t r = 0; r < p->m; r += 32)
            kq_matrix_head_rows(&M, &(kq_matrix_kern){.dense = k, .packed = pk}, r,
                                p->m - r < 32 ? p->m : r + 32, &all, w + r, p->m_pad, panel);
        for (size_t i = 0; i < T; i++)
            memcpy(y + i * p->m, w + i * p->m_pad, p->m * sizeof *y);
        goto out;
    }
    for (size_t tile = 0; tile < p->m_pad / 16; tile++)
        kq_matrix_tile(&M, &(kq_matrix_kern){k, pk, NULL}, tile, z, p->n_pad, T, w + tile * 16, p->m_pad,
                       panel);
    for (size_t i = 0; i < T; i++) /* one vector alone: the same bits */
        for (size_t tile = 0; tile < p->m_pad / 16; tile++) {
            float one[16];
            kq_matrix_tile(&M, &(kq_matrix_kern){k, pk, NULL}, tile,
                           code ? (void *)((int16_t *)(void *)z + i * p->n_pad) : (void *)(z + i * p->n_pad),
                           p->n_pad, 1, one, 16, panel);
            assert_memory_equal(one, w + i * p->m_pad + tile * 16, sizeof one);
        }
    for (size_t i = 0; i < T; i++)
        kq_matrix_rotate_out(&M, k, w + i * p->m_pad, step[i], y + i * p->m, rotating);
out:
    kq_matrix_free(&M);
    kq_rotation_free(u_m), kq_rotation_free(u_n);
    kq_free(z), kq_free(w), kq_free(panel), kq_free(rotating);
}

static void dense(const kq_trellis *t, const kq_packed *p, float *W)
{
    kq_error err;
    kq_hadamard *u;
    if (!p->one_sided) {
        check_ok(kq_unround_linear(t, p, W, 1, &err));
        return;
    }
    check_ok(kq_hadamard_new(p->n_pad, &u, &err));
    check_ok(kq_unround_rows(&(kq_row_codes){.most = t}, p, u, 0, p->m, W, &err));
    kq_hadamard_free(u);
}

static void test_products(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{32, 64}, {40, 100}, {9, 33}, {144, 48}, {16, 1200}, {176, 16}};
    kq_error err;
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int bits = 2; bits <= 4; bits++) {
            kq_trellis *t;
            kq_packed_code *c;
            double worst = 0, worst_int = 0;
            check_ok(kq_trellis_new((kq_code)code, bits, KQ_ISA_REF, NULL, &t, &err));
            check_ok(kq_packed_code_new(t, &c, &err));
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
                const size_t m = shapes[s][0], n = shapes[s][1], m_pad = (m + 15) / 16 * 16,
                             n_pad = (n + 15) / 16 * 16;
                kq_rng rng = kq_rng_stream((uint64_t)(code * 8 + bits), "test");
                kq_packed p = {.m = m,
                               .n = n,
                               .m_pad = m_pad,
                               .n_pad = n_pad,
                               .trellis = kq_alloc(m_pad / 16 * (n_pad / 16) * kq_trellis_words(t), 2),
                               .su = kq_alloc(n, 4),
                               .sv = kq_alloc(m, 4),
                               .scale = 0.37f};
                float *W = kq_alloc(m * n, 4), *x = kq_alloc(T * n, 4), *y = kq_alloc(T * m, 4),
                      *want = kq_alloc(T * m, 4);
                for (size_t i = 0; i < m_pad / 16 * (n_pad / 16) * kq_trellis_words(t); i++)
                    p.trellis[i] = (uint16_t)kq_rng_u64(&rng);
                for (size_t i = 0; i < n; i++)
                    p.su[i] = (float)(kq_rng_normal(&rng) < 0 ? -1 : 1) * (1 + 0.25f * (float)(i % 4));
                for (size_t i = 0; i < m; i++)
                    p.sv[i] = (float)(kq_rng_normal(&rng) < 0 ? -1 : 1) * (1 + 0.25f * (float)(i % 3));
                for (size_t i = 0; i < T * n; i++)
                    x[i] = (float)kq_rng_normal(&rng);
                x[3] = 50; /* an outlier: the rotation spreads it */
                for (int head = 0; head <= 1; head++) {
                    p.one_sided = head;
                    dense(t, &p, W);
                    for (size_t i = 0; i < T; i++)
                        for (size_t r = 0; r < m; r++) {
                            double sum = 0;
                            for (size_t j = 0; j < n; j++)
                                sum += (double)W[r * n + j] * x[i * n + j];
                            want[i * m + r] = (float)sum;
                        }
                    for (int isa = KQ_ISA_REF; isa <= (int)kq_isa_best() && isa <= KQ_ISA_AVX512; isa++) {
                        product((kq_isa)isa, t, &p, NULL, x, y);
                        worst = fmax(worst, check_rel(y, want, T * m));
                        check_close(y, want, T * m, 1e-5);
                        product((kq_isa)isa, t, &p, c, x, y);
                        worst_int = fmax(worst_int, check_rel(y, want, T * m));
                        check_close(y, want, T * m, 1.2e-3);
                    }
                }
                kq_packed_free(&p);
                kq_free(W), kq_free(x), kq_free(y), kq_free(want);
            }
            printf("%s %d bits: relative error %.1e in f32, %.1e in integers\n", kq_code_name((kq_code)code),
                   bits, worst, worst_int);
            kq_packed_code_free(c);
            kq_trellis_free(t);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
