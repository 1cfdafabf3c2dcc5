/* Methods over tokens give the factors of the same method over gradients where both are defined. */
#include "sweep/common.h"

static void token_sweep(const char *name, kq_method method, int passes, size_t draws, const uint8_t *selected,
                        int threads, kept *k)
{
    kq_error err;
    kq_source *src;
    kq_job job;
    char work[256], done[256], stem[40];
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_cli/hf", &src, &err));
    const kq_weights w = kq_weights_from_source(src);
    k->cfg = *kq_source_config(src);
    enum { SEQ = 11, T = 32 }; /* more than one group of sequences */
    int32_t ids[SEQ * T];
    for (int i = 0; i < SEQ * T; i++)
        ids[i] = (i * 7919 + i / 5) % (int)k->cfg.vocab_size;
    temp_path(done, name);
    snprintf(stem, sizeof stem, "%s.work", name);
    temp_path(work, stem);
    check_ok(kq_job_open(done, work, "{}", false, false, &job, &err));
    kq_factor_options factor = kq_factor_defaults();
    factor.method = method;
    factor.passes = passes;
    factor.threads = threads;
    const kq_sweep_estimate estimate = {.factor = &factor, .batch = 1, .n_seq = SEQ};
    kq_sweep s = {.weights = &w,
                  .ids = ids,
                  .n_seq = SEQ,
                  .T = T,
                  .estimates = &estimate,
                  .n_estimates = 1,
                  .draws = draws,
                  .sampled_labels = draws > 1,
                  .isa = kq_isa_best(),
                  .compute = KQ_F32,
                  .threads = threads,
                  .selected = selected,
                  .job = &job,
                  .ctx = k,
                  .done = never_done,
                  .linear = keep_factors,
                  .block = block_kept};
    kq_sweep_report report;
    check_ok(kq_sweep_run(&s, &report, &err));
    kq_job_finish(&job);
    kq_job_close(&job);
    kq_source_close(src);
}

/* kfac's and yaqa-a's first H_in are input-only's, found going down instead of up; yaqa-a's second pass
 * weights kfac's H_out; and no method's result depends on the threads. */
static void token_methods_agree(void **state)
{
    (void)state;
    const uint8_t all[3] = {127, 127, 127};
    kept input = {0}, kfac = {0}, one = {0}, two = {0}, other = {0};
    token_sweep("tok-input", KQ_INPUT_ONLY, 2, 1, all, 2, &input);
    token_sweep("tok-kfac", KQ_KFAC, 2, 1, all, 2, &kfac);
    token_sweep("tok-yaqa2", KQ_YAQA_A, 2, 1, all, 2, &two);
    token_sweep("tok-yaqa2b", KQ_YAQA_A, 2, 1, all, 1, &other);
    token_sweep("tok-flip", KQ_FLIPFLOP_TOKENS, 2, 3, all, 2, &one);
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(&input.cfg, (kq_linear_id)id, &m, &n);
            assert_true(apart(kfac.in[l][id], input.in[l][id], n) < 1e-5);
            assert_true(apart(two.in[l][id], input.in[l][id], n) < 1e-5);
            assert_true(apart(two.out[l][id], kfac.out[l][id], m) > 1e-4); /* the weights are there */
            assert_memory_equal(two.in[l][id], other.in[l][id], n * n * sizeof(float));
            assert_memory_equal(two.out[l][id], other.out[l][id], m * m * sizeof(float));
            for (size_t i = 0; i < m; i++)
                assert_true(one.out[l][id][i * m + i] >= 0 && isfinite(one.out[l][id][i * m + i]));
        }
    free_kept(&kfac);
    /* not the first of those that share an input */
    const uint8_t some[3] = {0, 1 << KQ_K | 1 << KQ_UP, 0};
    token_sweep("tok-some", KQ_KFAC, 2, 1, some, 2, &kfac);
    assert_null(kfac.in[1][KQ_Q]);
    assert_true(apart(kfac.in[1][KQ_K], input.in[1][KQ_K], 64) < 1e-5 &&
                apart(kfac.in[1][KQ_UP], input.in[1][KQ_UP], 64) < 1e-5);
    free_kept(&input);
    free_kept(&kfac);
    free_kept(&one);
    free_kept(&two);
    free_kept(&other);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_methods_agree),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
