/* The real model: NLL of 512 tokens of SmolLM2-135M-Instruct (Q4_1 GGUF, path in KRONQ_TEST_MODEL)
 * against transformers on the dequantized weights (scripts/make_golden_smollm2.py). */
#include "golden.h"
#include "base/mem.h"

static const char *model_path;

static void test_nll(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_st_file *file;
    check_ok(kq_source_open(model_path, &src, &err));
    check_ok(kq_st_open(KRONQ_GOLDEN_DIR "/smollm2_nll.safetensors", &file, &err));
    const kq_config *c = kq_source_config(src);
    const kq_tensor *t_ids = kq_st_find(file, "ids"), *t_nll = kq_st_find(file, "nll");
    assert_true(t_ids && t_nll);
    const int32_t *ids = (const int32_t *)(const void *)t_ids->data;
    const float *want = (const float *)(const void *)t_nll->data;
    const size_t T = t_ids->n_elem, d = c->d_model;
    kq_weights w = kq_weights_from_source(src);
    kq_model_ctx *mc;
    kq_head *head;
    check_ok(kq_model_ctx_new(c, test_isa(), KQ_F32, T, &mc, &err));
    check_ok(kq_head_load(mc, &w, &head, &err));
    float *x = kq_alloc(T * d, 4), *nll = kq_alloc(T, 4);
    void *scratch = kq_alloc(kq_block_scratch_bytes(mc, T), 1),
         *hs = kq_alloc(kq_head_scratch_bytes(mc), 1);
    check_ok(kq_head_embed(head, ids, T, x, &err));
    for (size_t i = 0; i < c->n_layer; i++) {
        kq_block b;
        check_ok(kq_block_load(mc, &w, i, &b, &err));
        check_ok(kq_block_forward(mc, &b, x, T, x, scratch, 2, &err));
        kq_block_free(&b);
    }
    int32_t *target = kq_alloc(T, sizeof *target);
    memcpy(target, ids + 1, (T - 1) * sizeof *target);
    target[T - 1] = -1;
    check_ok(kq_head_loss(head, x, T, target, nll, NULL, NULL, hs, &err));
    double worst = 0, mean = 0;
    for (size_t t = 0; t + 1 < T; t++) {
        worst = fmax(worst, fabs((double)nll[t] - want[t]));
        mean += want[t] / (double)(T - 1);
    }
    printf("mean nll %.6f, largest difference of a token %.3g nats, relative %.3g\n", mean, worst,
           check_rel(nll, want, T - 1));
    assert_true(worst < 5e-3); /* f32 through 30 layers in another order of summation */
    check_close(nll, want, T - 1, 1e-4);

    kq_head_free(head);
    kq_model_ctx_free(mc);
    kq_free(x), kq_free(nll), kq_free(scratch), kq_free(hs), kq_free(target);
    kq_st_close(file);
    kq_source_close(src);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nll)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    model_path = getenv("KRONQ_TEST_MODEL");
    if (!model_path || !*model_path) {
        printf("SKIP: KRONQ_TEST_MODEL does not name SmolLM2-135M-Instruct.Q4_1.gguf\n");
        return 77;
    }
    return run_or_skip(run);
}
