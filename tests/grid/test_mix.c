/* Which tensor gets which type: llama-quantize's rules counted by hand for the shapes of LLaMA-3-8B (32
 * layers, 8 of 32 heads). */
#include "grid/mix.h"

#include "check.h"

static const kq_config llama = {.arch = KQ_ARCH_LLAMA,
                                .n_layer = 32,
                                .d_model = 4096,
                                .n_head = 32,
                                .n_kv_head = 8,
                                .head_dim = 128,
                                .d_ff = 14336,
                                .vocab_size = 128256};

static void count(const char *name, kq_linear_id id, kq_dtype type, size_t want)
{
    size_t n = 0;
    for (size_t l = 0; l < llama.n_layer; l++)
        n += kq_mix_linear(kq_mix_find(name), &llama, l, id, false) == type;
    if (n != want)
        fail_msg("%s: %zu linears %d are %s, expected %zu", name, n, id, kq_dtype_name(type), want);
}

static void mixtures(void **state)
{
    (void)state;
    /* the first and last four layers, and every third of the 24 between: 4 + 4 + 8 */
    count("Q4_K_M", KQ_V, KQ_T_Q6_K, 16);
    count("Q4_K_M", KQ_DOWN, KQ_T_Q6_K, 16);
    count("Q4_K_M", KQ_O, KQ_T_Q4_K, 32);
    count("Q4_K_S", KQ_V, KQ_T_Q5_K, 4);
    count("Q4_K_S", KQ_DOWN, KQ_T_Q5_K, 4);
    count("Q5_K_M", KQ_DOWN, KQ_T_Q6_K, 16);
    count("Q3_K_M", KQ_V, KQ_T_Q5_K, 2);
    count("Q3_K_M", KQ_V, KQ_T_Q4_K, 30);
    count("Q3_K_M", KQ_DOWN, KQ_T_Q5_K, 2);
    count("Q3_K_M", KQ_O, KQ_T_Q4_K, 32);
    count("Q2_K", KQ_V, KQ_T_Q4_K, 32);
    count("Q2_K", KQ_DOWN, KQ_T_Q3_K, 32);
    count("Q4_0", KQ_DOWN, KQ_T_Q4_1, 4);
    count("Q8_0", KQ_DOWN, KQ_T_Q8_0, 32);
    count("IQ2_XXS", KQ_V, KQ_T_Q4_K, 32);
    count("IQ2_XXS", KQ_DOWN, KQ_T_Q2_K, 4);
    count("IQ2_XXS", KQ_O, KQ_T_IQ2_XXS, 32);
    count("IQ2_S", KQ_GATE, KQ_T_IQ2_XS, 32);
    count("IQ2_S", KQ_O, KQ_T_IQ3_S, 32);
    count("IQ2_M", KQ_UP, KQ_T_IQ2_S, 32);
    count("IQ2_M", KQ_DOWN, KQ_T_IQ3_S, 4);
    count("IQ3_XXS", KQ_Q, KQ_T_IQ2_S, 32);
    count("IQ3_XXS", KQ_O, KQ_T_IQ3_S, 32);
    count("IQ3_XXS", KQ_DOWN, KQ_T_IQ3_XXS, 32);
    count("IQ3_XS", KQ_K, KQ_T_IQ3_XXS, 32);
    count("IQ3_XS", KQ_UP, KQ_T_IQ3_XXS, 24);
    count("IQ3_XS", KQ_UP, KQ_T_IQ3_S, 8);
    count("IQ3_S", KQ_V, KQ_T_Q4_K, 32);
    count("IQ3_S", KQ_O, KQ_T_IQ3_S, 32);
    count("IQ3_M", KQ_V, KQ_T_Q4_K, 32);
    count("IQ3_M", KQ_DOWN, KQ_T_Q4_K, 4);
    count("IQ3_M", KQ_O, KQ_T_Q4_K, 32);
    count("IQ4_XS", KQ_V, KQ_T_Q5_K, 32);
    count("IQ4_XS", KQ_DOWN, KQ_T_IQ4_XS, 32);
    assert_int_equal(kq_mix_linear(kq_mix_find("Q4_K_M"), &llama, 0, KQ_V, true), KQ_T_Q4_K);
    assert_ptr_equal(kq_mix_find("Q9_0"), NULL);
}

static void rows(void **state)
{
    (void)state;
    kq_config tied = llama;
    tied.tie_embeddings = true;
    const kq_mix *q4 = kq_mix_find("Q4_K_M"), *q0 = kq_mix_find("Q4_0");
    assert_int_equal(kq_mix_rows(q4, &llama, false, false), KQ_T_Q4_K);
    assert_int_equal(kq_mix_rows(q4, &llama, true, false), KQ_T_Q6_K);
    assert_int_equal(kq_mix_rows(q0, &tied, false, false), KQ_T_Q6_K);
    assert_int_equal(kq_mix_rows(q0, &tied, false, true), KQ_T_Q4_0);
    assert_int_equal(kq_mix_rows(kq_mix_find("IQ2_XS"), &llama, false, false), KQ_T_Q2_K);
    assert_int_equal(kq_mix_rows(kq_mix_find("IQ2_M"), &llama, false, false), KQ_T_IQ3_S);
    assert_int_equal(kq_mix_rows(kq_mix_find("IQ3_XXS"), &llama, true, false), KQ_T_Q5_K);
    assert_int_equal(kq_mix_rows(kq_mix_find("IQ3_M"), &tied, false, false), KQ_T_Q6_K);
    tied.d_model = 576; /* SmolLM2 */
    assert_int_equal(kq_mix_rows(q4, &tied, false, false), KQ_T_Q8_0);
    assert_int_equal(kq_mix_rows(q0, &tied, false, false), KQ_T_Q8_0);
    assert_int_equal(kq_mix_fallback(KQ_T_Q4_K, 576), KQ_T_Q5_0);
    assert_int_equal(kq_mix_fallback(KQ_T_Q6_K, 576), KQ_T_Q8_0);
    assert_int_equal(kq_mix_fallback(KQ_T_Q2_K, 100), KQ_T_F16);
    assert_int_equal(kq_mix_fallback(KQ_T_IQ2_XS, 576), KQ_T_IQ4_NL);
    assert_int_equal(kq_mix_fallback(KQ_T_Q4_0, 100), KQ_T_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mixtures), cmocka_unit_test(rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
