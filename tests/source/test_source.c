/* A model on disk: a folder of one file or of several, and a GGUF, are the same model. */
#include "source/model_files.h"

static void same_values_three_ways(void **s)
{
    (void)s;
    for (int kind = 0; kind < 4; kind++) {
        bool qwen3 = kind & 1, tied = kind & 2;
        folder(qwen3, tied, "");
        write_part("src_model/model.safetensors", 0, n_list, NULL);
        check_values("src_model");
        unlink("src_model/model.safetensors");
        write_part("src_model/a.safetensors", 0, 7, NULL);
        write_part("src_model/b.safetensors", 7, n_list, NULL);
        write_index(7, "b.safetensors", 0, n_list);
        check_values("src_model");
        write_gguf("src_model.gguf", qwen3, NULL, LAYERS);
        check_values("src_model.gguf");
    }
}

static void configs_agree(void **s)
{
    (void)s;
    kq_source *a, *b;
    folder(false, true, ", \"bos_token_id\": null");
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    write_gguf("src_model.gguf", false, NULL, LAYERS);
    check_ok(kq_source_open("src_model", &a, &err));
    check_ok(kq_source_open("src_model.gguf", &b, &err));
    assert_memory_equal(kq_source_config(a), kq_source_config(b), sizeof(kq_config));
    assert_true(kq_source_config_json(a) && !kq_source_config_json(b) && !kq_source_gguf(a) &&
                kq_source_gguf(b));
    kq_source_close(a);
    kq_source_close(b);
}

static void llama3_factors_are_recognised(void **s)
{
    (void)s;
    /* HD 8, theta 10000: wavelengths 6.28, 62.8, 628, 6283; low 8192, high 2048: the last one lies
     * between.
     * smooth = (8192/6283.185 - 1) / 3 = 0.1012657; factor 8: 1/((1-s)/8 + s) = 4.683077; factor 32:
     * 1/((1-s)/32 + s) = 7.734142 */
    const double smooth = (8192 / 6283.185307179586 - 1) / 3;
    const double factors[2] = {8, 32};
    kq_source *src;
    folder(false, true, "");
    for (int i = 0; i < 2; i++) {
        const float rope[HD / 2] = {1, 1, 1, (float)(1 / ((1 - smooth) / factors[i] + smooth))};
        write_gguf("src_model.gguf", false, rope, LAYERS);
        check_ok(kq_source_open("src_model.gguf", &src, &err));
        const kq_rope_scaling *r = &kq_source_config(src)->rope_scaling;
        assert_true(r->kind == KQ_ROPE_LLAMA3 && r->factor == factors[i] && r->low_freq_factor == 1 &&
                    r->high_freq_factor == 4);
        assert_int_equal(r->original_max_position, 8192);
        kq_source_close(src);
    }
    const float odd[HD / 2] = {1, 2, 1, 3};
    write_gguf("src_model.gguf", false, odd, LAYERS);
    check_ok(kq_source_open("src_model.gguf", &src, &err));
    const kq_rope_scaling *r = &kq_source_config(src)->rope_scaling;
    assert_int_equal(r->kind, KQ_ROPE_TABLE);
    assert_memory_equal(r->divisor, odd, sizeof odd);
    kq_source_close(src);
    const float bad[][HD / 2] = {{1, 0, 1, 1}, {1, 1, -2, 1}, {NAN, 1, 1, 1}, {1, 1, 1, INFINITY}};
    for (size_t i = 0; i < 4; i++) {
        write_gguf("src_model.gguf", false, bad[i], LAYERS);
        refused("src_model.gguf", KQ_E_FORMAT, "frequency factor");
    }
}

static void case_30_file_names(void **s)
{
    (void)s;
    static const char *const names[] = {"../src_model/b.safetensors", "/etc/passwd", "..", "",
                                        "x/b.safetensors"};
    shards();
    for (size_t i = 0; i < 5; i++) {
        write_index(7, names[i], 0, n_list);
        refused("src_model", KQ_E_FORMAT, "same folder");
    }
    /* a symbolic link is how download caches store files: read, and checked like any other */
    unlink("src_model/b2.safetensors");
    assert_int_equal(symlink("b.safetensors", "src_model/b2.safetensors"), 0);
    write_index(7, "b2.safetensors", 0, n_list);
    check_values("src_model");
}

static void extra_tensors(void **s)
{
    (void)s;
    folder(false, true, "");
    add("model.layers.0.self_attn.rotary_emb.inv_freq", "x", 4, 0, 0);
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    n_list--;
    check_values("src_model");
    n_list++;
    static const char *const names[] = {"model.layers.0.self_attn.q_proj.bias",
                                        "model.layers.7.mlp.up_proj.weight",
                                        "model.layers.00.mlp.up_proj.weight",
                                        "model.layers.1.mlp.up_proj.weight_scale",
                                        "score.weight",
                                        "x",
                                        "model.model.y"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) { /* transformers leaves them out */
        strcpy(list[n_list - 1].hf, names[i]);
        write_part("src_model/model.safetensors", 0, n_list, NULL);
        n_list--;
        check_values("src_model");
        kq_source *src;
        check_ok(kq_source_open("src_model", &src, &err));
        assert_null(kq_source_find(src, names[i]));
        assert_int_equal(kq_source_n_tensors(src), n_list);
        kq_source_close(src);
        n_list++;
    }
}

static void kronq_checkpoint_may_hold_trellis(void **s)
{
    (void)s;
    kq_source *src;
    folder(false, true, ", \"quantization_config\": {\"quant_method\": \"kronq\"}");
    for (size_t i = 0; i < n_list; i++)
        if (strstr(list[i].hf, "_proj.weight"))
            strcpy(strrchr(list[i].hf, '.'), ".trellis");
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    check_ok(kq_source_open("src_model", &src, &err));
    assert_true(kq_source_is_kronq(src));
    kq_source_close(src);
    char text[2048];
    config(text, sizeof text, false, true, "");
    write_text("src_model/config.json", text);
    refused("src_model", KQ_E_SHAPE, "q_proj.weight is missing");
}

static void fingerprints(void **s)
{
    (void)s;
    char a[33], b[33], c[33];
    kq_source *src;
    folder(false, true, "");
    write_part("src_model/a.safetensors", 0, 7, NULL);
    write_part("src_model/b.safetensors", 7, n_list, NULL);
    write_index(7, "b.safetensors", 0, n_list);
    check_ok(kq_source_open("src_model", &src, &err));
    check_ok(kq_source_fingerprint(src, a, &err));
    kq_source_close(src);
    folder(false, true, "");
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    check_ok(kq_source_open("src_model", &src, &err));
    check_ok(kq_source_fingerprint(src, b, &err));
    kq_source_close(src);
    assert_string_equal(a, b); /* how it is cut into files does not matter */
    const float other = 0.125f;
    write_part("src_model/model.safetensors", 0, n_list, &other);
    check_ok(kq_source_open("src_model", &src, &err));
    check_ok(kq_source_fingerprint(src, c, &err));
    kq_source_close(src);
    assert_string_not_equal(a, c);
    /* what ends an answer changes no factor */
    write_text("src_model/generation_config.json", "{\"eos_token_id\": [0, 1]}");
    check_ok(kq_source_open("src_model", &src, &err));
    assert_int_equal(kq_source_config(src)->n_eos, 2);
    check_ok(kq_source_fingerprint(src, b, &err));
    kq_source_close(src);
    remove("src_model/generation_config.json");
    assert_string_equal(b, c);
    assert_int_equal(strlen(a), 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_values_three_ways),
        cmocka_unit_test(configs_agree),
        cmocka_unit_test(llama3_factors_are_recognised),
        cmocka_unit_test(case_30_file_names),
        cmocka_unit_test(extra_tensors),
        cmocka_unit_test(kronq_checkpoint_may_hold_trellis),
        cmocka_unit_test(fingerprints),
    };
    return cmocka_run_group_tests(tests, temp_folder_enter, temp_folder_leave);
}
