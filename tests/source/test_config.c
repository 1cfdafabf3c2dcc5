/* config.json -> kq_config: values that LlamaConfig and Qwen3Config of transformers give, and every
 * refusal by name. */
#include "base/rng.h"
#include "source/config_json.h"

#include "check.h"

static kq_error err;
static kq_config cfg;
static kq_storage storage;

#define SIZES                                                                                                \
    "\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"intermediate_size\": 96, " \
    "\"vocab_size\": 128"

static kq_status parse(const char *text)
{
    err.message[0] = 0;
    return kq_config_from_json(text, strlen(text), "config.json", &cfg, &storage, &err);
}

#define LLAMA(more) "{\"model_type\": \"llama\", " SIZES more "}"
#define QWEN3(more) "{\"model_type\": \"qwen3\", " SIZES more "}"

static void defaults(void **state)
{
    (void)state;
    check_ok(parse(LLAMA("")));
    assert_int_equal(cfg.arch, KQ_ARCH_LLAMA);
    assert_int_equal(cfg.n_kv_head, 4);
    assert_int_equal(cfg.head_dim, 16);
    assert_int_equal(cfg.max_position, 2048);
    assert_true(cfg.rope_theta == 10000 && cfg.rms_eps == 1e-6f && !cfg.tie_embeddings &&
                cfg.rope_scaling.kind == KQ_ROPE_PLAIN && !storage.kronq);
    assert_int_equal(cfg.bos_id, 1);
    assert_int_equal(cfg.n_eos, 1);
    assert_int_equal(cfg.eos_id[0], 2);
    check_ok(parse(QWEN3(", \"num_key_value_heads\": 2, \"sliding_window\": null, \"use_sliding_window\": "
                         "false, \"eos_token_id\": [7, 9]")));
    assert_int_equal(cfg.arch, KQ_ARCH_QWEN3);
    assert_int_equal(cfg.head_dim, 128);
    assert_int_equal(cfg.n_kv_head, 2);
    assert_int_equal(cfg.bos_id, -1);
    assert_int_equal(cfg.n_eos, 2);
    assert_int_equal(cfg.eos_id[1], 9);
    check_ok(parse(LLAMA(", \"quantization_config\": {\"quant_method\": \"kronq\"}, \"bos_token_id\": null, "
                         "\"head_dim\": 8")));
    assert_true(storage.kronq && cfg.bos_id == -1 && cfg.head_dim == 8);
}

static void rope_forms(void **state)
{
    (void)state;
#define LLAMA3                                                               \
    "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, " \
    "\"original_max_position_embeddings\": 8192"
    check_ok(parse(
        LLAMA(", \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", " LLAMA3 "}")));
    kq_config old = cfg;
    check_ok(parse(
        LLAMA(", \"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", " LLAMA3 "}")));
    assert_memory_equal(&old, &cfg, sizeof cfg);
    assert_true(cfg.rope_scaling.kind == KQ_ROPE_LLAMA3 && cfg.rope_theta == 500000 &&
                cfg.rope_scaling.factor == 8 && cfg.rope_scaling.high_freq_factor == 4);
    assert_int_equal(cfg.rope_scaling.original_max_position, 8192);
    check_ok(parse(LLAMA(", \"rope_parameters\": {\"rope_theta\": 2e5, \"rope_type\": \"default\"}")));
    assert_true(cfg.rope_theta == 2e5 && cfg.rope_scaling.kind == KQ_ROPE_PLAIN);
    check_ok(parse(LLAMA(", \"rope_scaling\": null")));
    check_fails(parse(LLAMA(", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}")), KQ_E_FORMAT,
                "low_freq_factor");
    check_fails(parse(LLAMA(", \"rope_scaling\": 3")), KQ_E_FORMAT, "rope_scaling");
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"{\"model_type\": \"mistral\", " SIZES "}", "mistral"},
        {LLAMA(", \"attention_bias\": true"), "attention_bias"},
        {LLAMA(", \"mlp_bias\": true"), "mlp_bias"},
        {QWEN3(", \"use_sliding_window\": true, \"max_window_layers\": 1"), "use_sliding_window"},
        {QWEN3(", \"layer_types\": [\"full_attention\", \"sliding_attention\"]"), "layer_types[1]"},
        {QWEN3(", \"is_causal\": false"), "is_causal"},
        {LLAMA(", \"is_causal\": null"), "is_causal"},
        {LLAMA(", \"hidden_act\": \"gelu\""), "hidden_act"},
        {LLAMA(", \"partial_rotary_factor\": 0.5, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": "
               "2.0}"),
         "partial_rotary_factor"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"gptq\"}"), "gptq"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"fbgemm_fp8\"}"), "FP8"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": "
               "\"float-quantized\"}"),
         "FP8"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": "
               "{\"group_0\": {\"weights\": {\"type\": \"float\", "
               "\"num_bits\": 8}}}}"),
         "FP8"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"modelopt\", \"quant_algo\": \"FP8\"}"),
         "FP8"},
        {LLAMA(", \"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}"), "FP8"},
        {LLAMA(", \"quantization_config\": {}"), "quantization_config"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_fails(parse(cases[i].text), KQ_E_UNSUPPORTED, cases[i].word);
}

/* Keys that transformers 5.23 does not look at, or that are off: it loads the model as if they were not
 * there. */
static void ignored_keys(void **state)
{
    (void)state;
    static const char *const llama[] = {
        ", \"pretraining_tp\": 2",
        ", \"pretraining_tp\": \"x\"",
        ", \"sliding_window\": 4096",
        ", \"use_sliding_window\": true",
        ", \"rope_interleaved\": true",
        ", \"layer_types\": [\"full_attention\", \"full_attention\"]",
        ", \"hidden_act\": \"swish\"",
        ", \"architectures\": [\"LlamaModel\"]",
        ", \"torch_dtype\": 5, \"dtype\": null",
        ", \"quantization_config\": null",
        ", \"attention_dropout\": NaN, \"initializer_range\": 1e999",
        ", \"logits_scaling\": 1000000000000000019884624838656, \"pad_token_id\": -1",
        ", \"num_local_experts\": 8, \"is_causal\": true",
        ", \"layer_types\": [\"sliding_attention\"], \"use_sliding_window\": \"false\", "
        "\"max_window_layers\": \"28\"",
        ", \"partial_rotary_factor\": 0.5",
    };
    static const char *const qwen3[] = {
        ", \"sliding_window\": 4096",
        ", \"use_sliding_window\": true",
        ", \"use_sliding_window\": true, \"sliding_window\": null, \"max_window_layers\": 0",
        ", \"use_sliding_window\": true, \"max_window_layers\": 0, \"layer_types\": [\"full_attention\", "
        "\"full_attention\"]",
        ", \"mlp_bias\": true",
        ", \"num_experts\": 8",
        ", \"mlp_bias\": 1",
        ", \"rope_scaling\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}",
    };
    char text[1024];
    for (size_t i = 0; i < sizeof llama / sizeof *llama; i++) {
        snprintf(text, sizeof text, "%.*s%s}", (int)strlen(LLAMA("")) - 1, LLAMA(""), llama[i]);
        check_ok(parse(text));
    }
    for (size_t i = 0; i < sizeof qwen3 / sizeof *qwen3; i++) {
        snprintf(text, sizeof text, "%.*s, \"num_key_value_heads\": 4%s}", (int)strlen(QWEN3("")) - 1,
                 QWEN3(""), qwen3[i]);
        check_ok(parse(text));
    }
}

static void storage_forms(void **state)
{
    (void)state;
#define FP8(more)                                                                                          \
    LLAMA(", \"quantization_config\": {\"quant_method\": \"fp8\", \"activation_scheme\": \"dynamic\"" more \
          "}")
    check_ok(parse(FP8(
        ", \"fmt\": \"e4m3\", \"weight_block_size\": [128, 64], \"modules_to_not_convert\": [\"lm_head\"]")));
    assert_true(storage.fp8 && !storage.kronq && storage.block_rows == 128 && storage.block_cols == 64);
    check_ok(parse(FP8("")));
    assert_true(storage.fp8 && storage.block_rows == 128 && storage.block_cols == 128);
    check_ok(parse(FP8(", \"weight_block_size\": null")));
    assert_true(storage.fp8 && storage.block_rows == 0 && storage.block_cols == 0);
    static const char *const broken[] = {
        FP8(", \"weight_block_size\": [128]"), FP8(", \"weight_block_size\": [0, 128]"),
        FP8(", \"weight_block_size\": 128"), FP8(", \"weight_block_size\": [128, 1e3]")};
    for (size_t i = 0; i < 4; i++)
        check_fails(parse(broken[i]), KQ_E_FORMAT, "weight_block_size");
    check_ok(parse(LLAMA(", \"transformers_weights\": \"other.safetensors\"")));
    assert_string_equal(storage.weights_file, "other.safetensors");
}

/* Case 35, the part that config.json alone decides. */
static void case_35_broken_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "JSON"},
        {"[]", "model_type"},
        {"{\"model_type\": 3}", "model_type"},
        {"{\"model_type\": \"llama\"}", "num_hidden_layers"},
        {LLAMA(", \"head_dim\": 0"), "head_dim"},
        {LLAMA(", \"head_dim\": 7"), "head_dim"},
        {LLAMA(", \"head_dim\": -1"), "head_dim"},
        {LLAMA(", \"num_key_value_heads\": 3"), "num_key_value_heads"},
        {LLAMA(", \"num_key_value_heads\": 0"), "num_key_value_heads"},
        {LLAMA(", \"rms_norm_eps\": -1"), "rms_norm_eps"},
        {LLAMA(", \"rope_theta\": 0"), "rope_theta"},
        {LLAMA(", \"eos_token_id\": \"2\""), "eos_token_id"},
        {LLAMA(", \"bos_token_id\": 1.5"), "bos_token_id"},
        {LLAMA(", \"tie_word_embeddings\": 1"), "tie_word_embeddings"},
        {LLAMA(", \"rms_norm_eps\": 1e400"), "rms_norm_eps"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 1000000000, "
         "\"num_attention_heads\": 4, "
         "\"intermediate_size\": 96, \"vocab_size\": 128}",
         "num_hidden_layers"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 9223372036854775807, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 1, "
         "\"intermediate_size\": 96, \"vocab_size\": 128}",
         "hidden_size"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 0, "
         "\"intermediate_size\": 96, \"vocab_size\": 128}",
         "num_attention_heads"},
        {"{\"model_type\": \"llama\", \"hidden_size\": 64.5, \"num_hidden_layers\": 1, "
         "\"num_attention_heads\": 1, "
         "\"intermediate_size\": 96, \"vocab_size\": 128}",
         "hidden_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_fails(parse(cases[i].text), KQ_E_FORMAT, cases[i].word);
}

/* What transformers 5.23 loads although it looks wrong: the values it has then. Ids outside the
 * vocabulary never appear; a key's last value counts. */
static void odd_tokens(void **state)
{
    (void)state;
    check_ok(parse(LLAMA(", \"bos_token_id\": [5, 6], \"eos_token_id\": -1, \"vocab_size\": 100, \"x\": "
                         "1e999, \"y\": 1000000000000000019884624838656")));
    assert_int_equal(cfg.bos_id, 5);
    assert_int_equal(cfg.n_eos, 0);
    assert_int_equal(cfg.vocab_size, 100);
    check_ok(parse(LLAMA(", \"bos_token_id\": 4000000000, \"eos_token_id\": [3, 128, 3.0, 127, -7]")));
    assert_int_equal(cfg.bos_id, -1);
    assert_int_equal(cfg.n_eos, 2);
    assert_true(cfg.eos_id[0] == 3 && cfg.eos_id[1] == 127);
    check_fails(parse(LLAMA(", \"eos_token_id\": [[2]]")), KQ_E_FORMAT, "eos_token_id");
}

/* Any answer is right, but memory errors are not, and what is accepted is within its limits. */
static void mutated(void **state)
{
    (void)state;
    static const char seed[] =
        LLAMA(", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1, "
              "\"high_freq_factor\": 4, "
              "\"original_max_position_embeddings\": 64}, \"eos_token_id\": [2, 3], \"layer_types\": "
              "[\"full_attention\"], "
              "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], "
              "\"config_groups\": {\"a\": {}}}, "
              "\"transformers_weights\": \"x\", \"sliding_window\": null, \"head_dim\": 16");
    static const char bytes[] = "{}[]\",:\\0123456789-.eEnulltrue";
    kq_rng rng = kq_rng_stream(3, "config");
    size_t accepted = 0;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof seed];
        memcpy(text, seed, sizeof seed);
        for (size_t k = kq_rng_u64(&rng) % 3 + 1; k; k--)
            text[kq_rng_u64(&rng) % (sizeof seed - 1)] = bytes[kq_rng_u64(&rng) % (sizeof bytes - 1)];
        if (parse(text))
            continue;
        accepted++;
        check_ok(kq_config_check(&cfg, "config.json", &err));
        assert_true(strlen(storage.weights_file) < sizeof storage.weights_file && cfg.n_eos <= KQ_MAX_EOS);
    }
    assert_true(accepted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),      cmocka_unit_test(rope_forms),
        cmocka_unit_test(refusals),      cmocka_unit_test(case_35_broken_sizes),
        cmocka_unit_test(odd_tokens),    cmocka_unit_test(ignored_keys),
        cmocka_unit_test(storage_forms), cmocka_unit_test(mutated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
