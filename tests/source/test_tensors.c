/* Names, shapes and roles of a model's tensors, one by one and through the iterators, and GGUF's names of
 * them. */
#include "source/tensors.h"

#include "check.h"

static const kq_config llama = {.arch = KQ_ARCH_LLAMA,
                                .n_layer = 12,
                                .d_model = 10,
                                .n_head = 4,
                                .n_kv_head = 2,
                                .head_dim = 3,
                                .d_ff = 20,
                                .vocab_size = 50,
                                .tie_embeddings = true};

static void linear_shapes_and_names(void **state)
{
    (void)state;
    static const size_t expected[KQ_N_LINEAR][2] = {{12, 10}, {6, 10},  {6, 10}, {10, 12},
                                                    {20, 10}, {20, 10}, {10, 20}};
    for (kq_linear_id id = KQ_Q; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(&llama, id, &m, &n);
        assert_int_equal(m, expected[id][0]);
        assert_int_equal(n, expected[id][1]);
        const kq_model_tensor t = kq_model_linear(&llama, 3, id);
        assert_true(t.role == KQ_ROLE_LINEAR && t.layer == 3 && t.linear == id && t.rank == 2);
        assert_true(t.rows == m && t.cols == n);
    }
    char name[64];
    kq_linear_name(name, sizeof name, 3, KQ_Q);
    assert_string_equal(name, "model.layers.3.self_attn.q_proj");
    kq_linear_name(name, sizeof name, 11, KQ_DOWN);
    assert_string_equal(name, "model.layers.11.mlp.down_proj");
}

/* All tensors in their order, with GGUF's names for each. */
static void all_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *hf, *gguf;
        size_t rows, cols; /* cols 1: a vector */
    } outside[] = {{"model.embed_tokens", "token_embd", 50, 10},
                   {"lm_head", "output", 50, 10},
                   {"model.norm", "output_norm", 10, 1}},
      layer[] = {
          {"input_layernorm", "attn_norm", 10, 1},   {"post_attention_layernorm", "ffn_norm", 10, 1},
          {"self_attn.q_norm", "attn_q_norm", 3, 1}, {"self_attn.k_norm", "attn_k_norm", 3, 1},
          {"self_attn.q_proj", "attn_q", 12, 10},    {"self_attn.k_proj", "attn_k", 6, 10},
          {"self_attn.v_proj", "attn_v", 6, 10},     {"self_attn.o_proj", "attn_output", 10, 12},
          {"mlp.gate_proj", "ffn_gate", 20, 10},     {"mlp.up_proj", "ffn_up", 20, 10},
          {"mlp.down_proj", "ffn_down", 10, 20},
      };
    for (int variant = 0; variant < 4; variant++) {
        kq_config c = llama;
        c.arch = variant & 1 ? KQ_ARCH_QWEN3 : KQ_ARCH_LLAMA;
        c.tie_embeddings = variant & 2;
        size_t index = 0;
        char hf[128], gguf[128], again[128];
        for (size_t l = 0; l <= c.n_layer; l++) /* 0: outside the layers */
            for (size_t k = 0; k < (l ? sizeof layer / sizeof *layer : 3); k++) {
                if (l ? c.arch == KQ_ARCH_LLAMA && (k == 2 || k == 3) : k == 1 && c.tie_embeddings)
                    continue;
                if (l) {
                    snprintf(hf, sizeof hf, "model.layers.%zu.%s.weight", l - 1, layer[k].hf);
                    snprintf(gguf, sizeof gguf, "blk.%zu.%s.weight", l - 1, layer[k].gguf);
                } else {
                    snprintf(hf, sizeof hf, "%s.weight", outside[k].hf);
                    snprintf(gguf, sizeof gguf, "%s.weight", outside[k].gguf);
                }
                const kq_model_tensor t = kq_model_tensor_at(&c, index++);
                kq_model_tensor found;
                assert_string_equal(t.name, hf);
                assert_int_equal(strlen(t.module), strlen(hf) - strlen(".weight"));
                assert_memory_equal(t.module, hf, strlen(t.module));
                assert_int_equal(t.rows, l ? layer[k].rows : outside[k].rows);
                assert_int_equal(t.cols, l ? layer[k].cols : outside[k].cols);
                assert_int_equal(t.rank, t.cols == 1 ? 1 : 2);
                assert_int_equal(t.layer, l ? l - 1 : 0);
                assert_true(kq_model_tensor_find(&c, hf, &found));
                assert_true(found.role == t.role && found.layer == t.layer && found.linear == t.linear &&
                            found.norm == t.norm);
                kq_gguf_name(hf, again, sizeof again);
                assert_string_equal(again, gguf);
                kq_gguf_hf_name(gguf, again, sizeof again);
                assert_string_equal(again, hf);
            }
        assert_int_equal(index, kq_model_n_tensors(&c));
    }
}

static void all_linears(void **state)
{
    (void)state;
    assert_int_equal(kq_model_n_linears(&llama), 12 * KQ_N_LINEAR);
    for (size_t i = 0; i < kq_model_n_linears(&llama); i++) {
        const kq_model_tensor t = kq_model_linear_at(&llama, i);
        char name[128];
        kq_linear_name(name, sizeof name, i / 7, (kq_linear_id)(i % 7));
        assert_string_equal(t.module, name);
        assert_true(t.layer == i / 7 && t.linear == (kq_linear_id)(i % 7));
    }
}

/* Names that no tensor of the model has, and names that keep their spelling in GGUF. */
static void other_names(void **state)
{
    (void)state;
    static const char *const unknown[] = {
        "",
        "lm_head.weight", /* tied */
        "model.layers.12.mlp.up_proj.weight",
        "model.layers.03.mlp.up_proj.weight",
        "model.layers.3.mlp.up_proj",
        "model.layers.3.mlp.up_proj.weight2",
        "model.layers.3.self_attn.q_norm.weight", /* Qwen3's */
        "model.layers.99999999999999999999.mlp.up_proj.weight",
        "model.layers.3mlp.up_proj.weight",
        "model.layers..mlp.up_proj.weight",
        "model.norm.bias",
    };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        if (kq_model_tensor_find(&llama, unknown[i], NULL))
            fail_msg("found: %s", unknown[i]);
    char buf[128];
    kq_gguf_hf_name("blk.7.attn_q.bias", buf, sizeof buf);
    assert_string_equal(buf, "model.layers.7.self_attn.q_proj.bias");
    static const char *const kept[] = {"rope_freqs.weight", "blk.1.attn_q", "blk.x.attn_q.weight",
                                       "output.bias",       "blk.",         "blk.1.attn_qq.weight"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        kq_gguf_hf_name(kept[i], buf, sizeof buf);
        assert_string_equal(buf, kept[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(linear_shapes_and_names),
                                       cmocka_unit_test(all_tensors), cmocka_unit_test(all_linears),
                                       cmocka_unit_test(other_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
