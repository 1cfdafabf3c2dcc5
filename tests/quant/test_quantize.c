/* kq_quantize as a whole: a packed model predicts what its dequantized weights predict; interrupted anywhere,
 * or out of memory, nothing is lost. */
#include "sweep/common.h"

static void packed_predicts_as_dequantized(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    const struct {
        int bits, embed_bits;
        const char *code;
    } cases[] = {{2, 8, "hyb"}, {4, 4, "1mad"}, {3, 16, "3inst"}};
    for (int i = 0; i < 3; i++) {
        char out[256], dense[256], path[300], cmd[1200], name[32];
        kq_model_file *m;
        kq_st_writer *w;
        kq_quantize_options o = small(text);
        o.bits = cases[i].bits;
        o.code = cases[i].code;
        o.embed_bits = cases[i].embed_bits;
        snprintf(name, sizeof name, "q%d", i);
        check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", temp_path(out, name), &o, NULL, &err));
        /* the same model with every weight in f32, as a plain folder */
        snprintf(name, sizeof name, "dense%d", i);
        temp_path(dense, name);
        snprintf(cmd, sizeof cmd,
                 "cp -r '%s/tiny_cli/hf' '%s' && chmod -R u+w '%s' && rm '%s/model.safetensors'",
                 KRONQ_GOLDEN_DIR, dense, dense, dense);
        assert_int_equal(system(cmd), 0);
        check_ok(kq_model_file_open(out, KQ_ISA_REF, &m, &err));
        const kq_weights *p = kq_model_file_weights(m);
        snprintf(path, sizeof path, "%s/model.safetensors", dense);
        check_ok(kq_st_writer_new(path, &w, &err));
        for (int pass = 0; pass < 2; pass++) {
            float *x = kq_alloc(384 * 64, sizeof *x);
            char tensor[160];
            const char *const rows[] = {"model.embed_tokens.weight", "model.norm.weight",
                                        "model.layers.%d.input_layernorm.weight",
                                        "model.layers.%d.post_attention_layernorm.weight"};
            for (int r = 0; r < 4; r++) {
                for (int l = 0; l < (r < 2 ? 1 : 3); l++) {
                    snprintf(tensor, sizeof tensor, "%s", rows[r]);
                    if (r >= 2)
                        snprintf(tensor, sizeof tensor,
                                 r == 2 ? "model.layers.%d.input_layernorm.weight"
                                        : "model.layers.%d.post_attention_layernorm.weight",
                                 l);
                    const size_t n = r ? 64 : 384, cols = r ? 1 : 64;
                    if (pass == 0) {
                        check_ok(
                            kq_st_writer_declare(w, tensor, KQ_T_F32, r ? 1 : 2, (size_t[]){n, cols}, &err));
                    } else {
                        check_ok(p->rows(p->ctx, tensor, 0, n, x, &err));
                        check_ok(kq_st_writer_data(w, x, n * cols * sizeof *x, &err));
                    }
                }
            }
            for (size_t l = 0; l < 3; l++) {
                for (int id = 0; id < KQ_N_LINEAR; id++) {
                    size_t shape[2];
                    kq_linear_shape(p->cfg, (kq_linear_id)id, &shape[0], &shape[1]);
                    kq_linear_name(tensor, 128, l, (kq_linear_id)id);
                    strcat(tensor, ".weight");
                    if (pass == 0) {
                        check_ok(kq_st_writer_declare(w, tensor, KQ_T_F32, 2, shape, &err));
                    } else {
                        check_ok(p->linear(p->ctx, l, (kq_linear_id)id, x, &err));
                        check_ok(kq_st_writer_data(w, x, shape[0] * shape[1] * sizeof *x, &err));
                    }
                }
            }
            kq_free(x);
        }
        check_ok(kq_st_writer_finish(w, &err));
        kq_model_file_close(m);
        kq_eval_text_options e = kq_eval_text_defaults();
        e.ctx = 64;
        e.chunks = 4;
        e.common.threads = 2;
        e.common.compute = "f32";
        char *json;
        check_ok(kq_eval_text(out, dense, text[0], &e, &json, &err));
        json_t *a = json_loads(json, 0, NULL);
        free(json);
        check_ok(kq_eval_text(dense, NULL, text[0], &e, &json, &err));
        json_t *b = json_loads(json, 0, NULL);
        free(json);
        const double ppl_a = json_number_value(json_object_get(a, "ppl")),
                     ppl_b = json_number_value(json_object_get(b, "ppl"));
        if (!(fabs(ppl_a / ppl_b - 1) < 0.005) ||
            !(fabs(json_number_value(json_object_get(a, "kld"))) < 1e-4))
            fail_msg("%g bits: perplexity %.4f packed, %.4f dequantized, KL divergence %.3g", o.bits, ppl_a,
                     ppl_b, json_number_value(json_object_get(a, "kld")));
        json_decref(a);
        json_decref(b);
    }
}

/* Wherever an allocation fails: a message, no result, no crash; and afterwards the same call succeeds. */
static void quantizing_without_memory(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    kq_quantize_options o = small(text);
    o.common.threads = 1; /* the counter of the injection is not for threads */
    o.only = "layers\\.2\\.self_attn\\.k_proj";
    for (int kind = 0; kind < 2; kind++) {
        o.bits = kind ? 2.5 : 2;
        o.embed_bits = kind ? 8 : 4;
        size_t failed = 0;
        bool finished = false;
        for (size_t n = 1; n < 100000 && !finished; n += 1 + n / 16) {
            char out[256], path[300], name[32], *report = NULL;
            snprintf(name, sizeof name, "memory-%d-%zu", kind, n);
            temp_path(out, name);
            kq_alloc_fail_after(n);
            kq_status status = kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, &report, &err);
            kq_alloc_fail_after(0);
            snprintf(path, sizeof path, "%s/config.json", out);
            if (status == KQ_OK) {
                finished = true;
                assert_true(kq_path_exists(path));
                free(report);
            } else {
                if (status != KQ_E_MEMORY)
                    fail_msg("allocation %zu: status %d, %s", n, status, err.message);
                assert_null(report);
                assert_true(!kq_path_exists(path));
                failed++;
                kq_quantize_options again = o;
                again.resume = true;
                if (failed % 8 == 0)
                    check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &again, NULL, &err));
            }
        }
        assert_true(finished && failed > 20);
    }
}

/* Stopped at every call of progress in turn: KQ_E_INTERRUPTED, and a resumed run gives the bytes of an
 * uninterrupted one. Also where bits are shared out, which has more stages: factors of all blocks,
 * forecasts, rounding. */
static void interrupted_anywhere(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    for (int kind = 0; kind < 2; kind++) {
        kq_quantize_options o = small(text);
        o.only = "layers\\.(0|2)\\.self_attn\\.[ko]_proj";
        o.bits = kind ? 2.7 : 2;
        char whole[256], out[256], cmd[1200], name[32];
        check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf",
                             temp_path(whole, kind ? "whole-shared" : "whole"), &o, NULL, &err));
        int stops = 0;
        for (int n = 1;; n += 5) {
            int left = n;
            kq_quantize_options p = o;
            p.common.progress = stop_at;
            p.common.ctx = &left;
            snprintf(name, sizeof name, "stop-%d-%d", kind, n);
            temp_path(out, name);
            kq_status status = kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &p, NULL, &err);
            if (status == KQ_OK)
                break;
            assert_int_equal(status, KQ_E_INTERRUPTED);
            stops++;
            p = o;
            p.resume = true;
            check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &p, NULL, &err));
            snprintf(cmd, sizeof cmd, "diff -r '%s' '%s'", whole, out);
            assert_int_equal(system(cmd), 0);
        }
        assert_true(stops > 10);
    }
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_predicts_as_dequantized),
        cmocka_unit_test(quantizing_without_memory),
        cmocka_unit_test(interrupted_anywhere),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
