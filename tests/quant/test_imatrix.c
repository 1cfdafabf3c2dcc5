/* The imatrix that kronq makes is llama-imatrix's of the same text (tests/golden/imatrix.gguf), but for
 * llama.cpp's 8-bit activations; and a model is rounded from either. */
#include "base/file.h"
#include "base/mem.h"
#include "check.h"
#include "format/gguf.h"
#include "kronq.h"
#include "temp_folder.h"

#define GOLDEN KRONQ_GOLDEN_DIR "/imatrix.gguf"
static const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};

/* The model is Q8_0: llama.cpp rounds activations to 8 bits before each product, a few parts in a
 * thousand of each (2.95e-3 was the largest seen). A missing square, a wrong chunk or another text is
 * off by tens of per cent. */
static void written_as_llama_does(void **state)
{
    (void)state;
    kq_error err;
    kq_quantize_options o = kq_quantize_defaults();
    o.calibration.text = text;
    o.calibration.n_text = 1;
    o.calibration.tokens = 3648;
    o.calibration.seq_len = 32;
    o.common.threads = 2;
    char path[256], *report, *again;
    size_t size[2];
    char *file[2];
    for (int run = 0; run < 2; run++) {
        snprintf(path, sizeof path, "%s/ours%d.gguf", temp_folder, run);
        o.common.threads = run ? 1 : 3;
        check_ok(kq_imatrix(KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf", path, &o, &report, &err));
        assert_non_null(strstr(report, "\"entries\": 21"));
        free(report);
        check_ok(kq_file_read(path, 1 << 20, &file[run], &size[run], &err));
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(file[0], file[1], size[0]); /* whatever the number of threads */
    kq_free(file[0]);
    kq_free(file[1]);
    check_fails(kq_imatrix(KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf", path, &o, NULL, &err), KQ_E_ARG,
                "ours1.gguf");
    o.resume = true;
    check_ok(kq_imatrix(KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf", path, &o, &again, &err));
    free(again);
    o.calibration.tokens = 1024;
    check_fails(kq_imatrix(KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf", path, &o, NULL, &err), KQ_E_MISMATCH,
                "other settings");

    kq_gguf *a, *b;
    check_ok(kq_gguf_open(path, &a, &err));
    check_ok(kq_gguf_open(GOLDEN, &b, &err));
    assert_int_equal(kq_gguf_n_tensors(a), kq_gguf_n_tensors(b));
    for (size_t i = 0; i < kq_gguf_n_tensors(b); i++) {
        const kq_gguf_tensor *x = kq_gguf_tensor_at(a, i), *y = kq_gguf_tensor_at(b, i);
        float u[112], v[112];
        assert_string_equal(x->name, y->name);
        assert_int_equal(x->rank, y->rank);
        assert_int_equal(x->n_elem, y->n_elem);
        memcpy(u, x->data, x->size_bytes);
        memcpy(v, y->data, y->size_bytes);
        check_close(u, v, x->n_elem, strstr(x->name, ".counts") ? 0 : 0.01);
    }
    for (size_t i = 0; i < kq_gguf_n_kv(b); i++) {
        const kq_gguf_kv *y = kq_gguf_kv_at(b, i), *x = kq_gguf_find(a, y->key);
        if (!x || x->type != y->type || x->is_array != y->is_array || x->n != y->n)
            fail_msg("metadata %s is absent or of another type", y->key);
    }
    int64_t chunks, size_of_chunk;
    assert_true(kq_gguf_int(kq_gguf_find(a, "imatrix.chunk_count"), 0, &chunks) && chunks == 114);
    assert_true(kq_gguf_int(kq_gguf_find(a, "imatrix.chunk_size"), 0, &size_of_chunk) && size_of_chunk == 32);
    kq_gguf_close(a);
    kq_gguf_close(b);
}

/* Rounding from it: the report and the checkpoint say "imatrix"; one that does not fit is refused before
 * any work. */
static void quantizing_from_it(void **state)
{
    (void)state;
    kq_error err;
    kq_quantize_options o = kq_quantize_defaults();
    char out[256], config[300], *report, *json;
    size_t size;
    snprintf(out, sizeof out, "%s/out", temp_folder);
    snprintf(config, sizeof config, "%s/config.json", out);
    o.factors = GOLDEN;
    o.common.threads = 2;
    check_fails(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/odd", out, &o, NULL, &err), KQ_E_SHAPE,
                "the imatrix has 64 inputs for model.layers.0.self_attn.q_proj");
    assert_true(!kq_path_exists(out));
    o.factors = KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf";
    check_fails(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, NULL, &err), KQ_E_FORMAT,
                "is a GGUF file but no imatrix");
    o.factors = GOLDEN;
    check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, &report, &err));
    assert_non_null(strstr(report, "\"method\": \"imatrix\""));
    assert_non_null(strstr(report, "\"predicted_loss\": null"));
    free(report);
    check_ok(kq_file_read(config, 1 << 20, &json, &size, &err));
    assert_non_null(strstr(json, "\"method\": \"imatrix\""));
    kq_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_as_llama_does),
                                       cmocka_unit_test(quantizing_from_it)};
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
