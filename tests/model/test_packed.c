/* kq_block_forward_packed: sequences of one pass, with and without a shared beginning, against
 * kq_block_forward on each of them alone. */
#include "golden.h"

#include "base/rng.h"
#include "base/mem.h"

enum { LONGEST = 150, N_SEQ = 6 };

/* own rows, rows of the prefix, and whose: an index before its own; -1 none */
typedef struct sequence {
    size_t n, prefix;
    int of;
} sequence;
/* two alone (one longer than a tile of attention), a prefix with three continuations, one of a single row */
static const sequence seqs[N_SEQ] = {{150, 0, -1}, {7, 0, -1},  {90, 0, -1},
                                     {1, 90, 2},   {60, 90, 2}, {13, 90, 2}};

static void run(const char *family, kq_compute compute, double tol)
{
    golden g;
    kq_error err;
    kq_model_ctx *mc;
    kq_block b;
    golden_open(&g, family);
    const size_t d = g.w.cfg->d_model;
    check_ok(kq_model_ctx_new(g.w.cfg, test_isa(), compute, LONGEST, &mc, &err));
    check_ok(kq_block_load(mc, &g.w, 0, &b, &err));

    kq_segment seg[N_SEQ];
    size_t T = 0;
    for (int i = 0; i < N_SEQ; i++) {
        seg[i] = (kq_segment){.row = T,
                              .n = seqs[i].n,
                              .prefix_n = seqs[i].prefix,
                              .prefix_row = seqs[i].of < 0 ? 0 : seg[seqs[i].of].row};
        T += seqs[i].n;
    }
    float *x = kq_alloc(T * d, sizeof *x), *y = kq_alloc(T * d, sizeof *x), *z = kq_alloc(T * d, sizeof *x),
          *one = kq_alloc(LONGEST * d, sizeof *x);
    void *scratch = kq_alloc(kq_block_packed_scratch_bytes(mc, T, LONGEST, 3), 1),
         *alone = kq_alloc(kq_block_scratch_bytes(mc, LONGEST), 1);
    kq_rng rng = kq_rng_stream(3, family);
    for (size_t i = 0; i < T * d; i++)
        x[i] = (float)kq_rng_normal(&rng);
    memcpy(y, x, T * d * sizeof *x);
    check_ok(kq_block_forward_packed(
        mc, &b, y, &(kq_packing){.T = T, .seg = seg, .n_seg = N_SEQ, .longest = LONGEST}, scratch, 1, &err));
    for (int threads = 2; threads <= 3; threads++) {
        memcpy(z, x, T * d * sizeof *x);
        check_ok(kq_block_forward_packed(
            mc, &b, z, &(kq_packing){.T = T, .seg = seg, .n_seg = N_SEQ, .longest = LONGEST}, scratch,
            threads, &err));
        assert_memory_equal(y, z, T * d * sizeof *y);
    }
    for (int i = 0; i < N_SEQ; i++) {
        memcpy(one, x + seg[i].prefix_row * d, seg[i].prefix_n * d * sizeof *x);
        memcpy(one + seg[i].prefix_n * d, x + seg[i].row * d, seg[i].n * d * sizeof *x);
        check_ok(kq_block_forward(mc, &b, one, seg[i].prefix_n + seg[i].n, one, alone, 1, &err));
        check_close(y + seg[i].row * d, one + seg[i].prefix_n * d, seg[i].n * d, tol);
    }
    const kq_segment outside = {.row = T - 3, .n = 4},
                     late = {.row = 0, .n = 10, .prefix_row = 20, .prefix_n = LONGEST - 9};
    check_fails(kq_block_forward_packed(
                    mc, &b, z, &(kq_packing){.T = T, .seg = &outside, .n_seg = 1, .longest = LONGEST},
                    scratch, 1, &err),
                KQ_E_ARG, "segment 0");
    check_fails(kq_block_forward_packed(mc, &b, z,
                                        &(kq_packing){.T = T, .seg = &late, .n_seg = 1, .longest = LONGEST},
                                        scratch, 1, &err),
                KQ_E_ARG, "segment 0");
    check_fails(kq_block_forward_packed(
                    mc, &b, z, &(kq_packing){.T = T, .seg = seg, .n_seg = N_SEQ, .longest = LONGEST + 1},
                    scratch, 1, &err),
                KQ_E_ARG, "a sequence of 151 tokens");
    kq_free(x);
    kq_free(y);
    kq_free(z);
    kq_free(one);
    kq_free(scratch);
    kq_free(alone);
    kq_block_free(&b);
    kq_model_ctx_free(mc);
    golden_close(&g);
}

/* f32: other tiles, so another order of the sums; a bf16 product rounds its inputs (2^-9), which then
 * differ in a last bit here and there */
static void test_packed(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        run(families[f], KQ_F32, 2e-6);
        run(families[f], KQ_BF16, 2e-3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
