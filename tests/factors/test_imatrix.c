/* Importance matrices: both forms that llama-imatrix wrote (tests/golden/imatrix.*) are read as they are
 * meant, and hostile files are errors. */
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format/bytes.h"
#include "format/gguf.h"
#include "kronq.h"
#include "factors/file.h"
#include "factors/imatrix.h"
#include "temp_folder.h"

#define GOLDEN KRONQ_GOLDEN_DIR "/imatrix.gguf"
static kq_lack lack;

static const struct {
    const char *module;
    size_t n;
} linears[] = {
    /* of tiny_cli */
    {"self_attn.q_proj", 64}, {"self_attn.k_proj", 64}, {"self_attn.v_proj", 64}, {"self_attn.o_proj", 64},
    {"mlp.gate_proj", 64},    {"mlp.up_proj", 64},      {"mlp.down_proj", 112},
};

static const char *module_of(size_t i, char buf[96])
{
    snprintf(buf, 96, "model.layers.%zu.%s", i / 7, linears[i % 7].module);
    return buf;
}

static void both_forms_say_the_same(void **state)
{
    (void)state;
    kq_error err;
    kq_imatrix_file *f[2];
    float a[112], b[112];
    char name[96];
    check_ok(kq_imatrix_open(GOLDEN, &f[0], &err));
    check_ok(kq_imatrix_open(KRONQ_GOLDEN_DIR "/imatrix.dat", &f[1], &err));
    assert_int_equal(kq_imatrix_n_entries(f[0]), 21);
    assert_int_equal(kq_imatrix_n_entries(f[1]), 21);
    for (size_t i = 0; i < 21; i++) {
        module_of(i, name);
        check_ok(kq_imatrix_read(f[0], name, linears[i % 7].n, a, &lack, &err));
        check_ok(kq_imatrix_read(f[1], name, linears[i % 7].n, b, &lack, &err));
        check_close(b, a, linears[i % 7].n, 1e-6); /* the .dat holds rounded quotients */
    }
    /* q and k see the same input, down another one */
    check_ok(kq_imatrix_read(f[0], "model.layers.0.self_attn.q_proj", 64, a, &lack, &err));
    check_ok(kq_imatrix_read(f[0], "model.layers.0.self_attn.k_proj", 64, b, &lack, &err));
    assert_memory_equal(a, b, 64 * sizeof *a);
    assert_non_null(strstr(kq_imatrix_settings(f[0]), "\"method\":\"imatrix\""));
    assert_non_null(strstr(kq_imatrix_settings(f[0]), "\"text\":[\"text.txt\"],\"tokens\":3648"));
    assert_non_null(strstr(kq_imatrix_settings(f[1]), "\"text\":[\"text.txt\"]"));
    check_ok(kq_imatrix_read(f[0], "model.layers.3.mlp.up_proj", 64, a, &lack, &err));
    assert_int_equal(lack, KQ_LACK_ENTRY);
    check_fails(kq_imatrix_read(f[0], "model.layers.2.mlp.up_proj", 63, a, &lack, &err), KQ_E_SHAPE,
                "64 inputs for model.layers.2.mlp.up_proj, the model has 63");
    kq_imatrix_close(f[0]);
    kq_imatrix_close(f[1]);
    /* as a factor file: the diagonal, and no H_out */
    kq_factor_file *file;
    float H[64 * 64];
    bool has_out = true;
    check_ok(kq_factor_file_open(GOLDEN, &file, &err));
    assert_true(kq_factor_file_is_imatrix(file));
    check_ok(kq_factor_file_check(file, "model.layers.0.self_attn.q_proj", 64, 64, false, &lack, &err));
    check_fails(kq_factor_file_check(file, "model.layers.0.self_attn.q_proj", 64, 65, false, &lack, &err),
                KQ_E_SHAPE, "the model has 65");
    check_ok(
        kq_factor_file_read(file, "model.layers.0.self_attn.q_proj", 64, 64, H, NULL, &has_out, &lack, &err));
    assert_true(!has_out);
    for (size_t i = 0; i < 64 * 64; i++)
        assert_true(H[i] == (i / 64 == i % 64 ? a[i / 64] : 0));
    kq_factor_file_close(file);
}

/* ---- hostile files ---- */

typedef struct tensor {
    const char *name;
    uint64_t ne[2];
    uint32_t type;
    float value;
} tensor;

static void build(bytes *b, const char *type, const tensor *t, size_t n)
{
    uint64_t offset = 0;
    b->n = 0;
    gguf_header(b, n, 3);
    kv_str(b, "general.type", type);
    kv_u32(b, "imatrix.chunk_count", 2);
    kv_u32(b, "imatrix.chunk_size", 16);
    for (size_t i = 0; i < n; i++) {
        gguf_info(b, t[i].name, 2, t[i].ne, t[i].type, offset);
        offset += (t[i].ne[0] * t[i].ne[1] * (t[i].type ? 2 : 4) + 31) / 32 * 32;
    }
    pad_to(b, 32);
    for (size_t i = 0; i < n; i++) {
        for (uint64_t k = 0; k < t[i].ne[0] * t[i].ne[1]; k++)
            t[i].type ? put(b, "\0", 2) : putf(b, t[i].value);
        pad_to(b, 32);
    }
}

#define SUM(v)                                      \
    {                                               \
        "blk.0.attn_q.weight.in_sum2", {4, 1}, 0, v \
    }
#define COUNT(v)                                   \
    {                                              \
        "blk.0.attn_q.weight.counts", {1, 1}, 0, v \
    }

static void hostile_files(void **state)
{
    (void)state;
    kq_error err;
    kq_imatrix_file *f;
    bytes b = {0};
    float mean[4];
    const struct {
        const char *type;
        tensor t[3];
        size_t n;
        kq_status status;
        const char *words;
    } bad[] = {
        {"model",
         {SUM(1), COUNT(32)},
         2,
         KQ_E_FORMAT,
         "is a GGUF file but no imatrix (general.type is \"model\")"},
        {"imatrix", {{0}}, 0, KQ_E_FORMAT, "has no entries"},
        {"imatrix", {SUM(1)}, 1, KQ_E_FORMAT, "blk.0.attn_q.weight.in_sum2 has no .counts"},
        {"imatrix", {COUNT(1)}, 1, KQ_E_FORMAT, "blk.0.attn_q.weight.counts has no .in_sum2"},
        {"imatrix", {SUM(1), {"blk.0.attn_k.weight.counts", {1, 1}, 0, 32}}, 2, KQ_E_FORMAT, "has no"},
        {"imatrix", {SUM(1), COUNT(NAN)}, 2, KQ_E_NUMERIC, "a count of"},
        {"imatrix", {SUM(1), COUNT(INFINITY)}, 2, KQ_E_NUMERIC, "a count of inf"},
        {"imatrix",
         {{"blk.0.attn_q.weight.in_sum2", {4, 2}, 0, 1}, {"blk.0.attn_q.weight.counts", {1, 2}, 0, 32}},
         2,
         KQ_E_UNSUPPORTED,
         "2 matrices of experts"},
        {"imatrix",
         {{"blk.0.attn_q.weight.in_sum2", {4, 1}, 1, 1}, COUNT(32)},
         2,
         KQ_E_FORMAT,
         "in_sum2 is F16, expected F32"},
        {"imatrix", {SUM(NAN), COUNT(32)}, 2, KQ_E_NUMERIC, "blk.0.attn_q.weight: sum of squares 0 is"},
        {"imatrix", {SUM(INFINITY), COUNT(32)}, 2, KQ_E_NUMERIC, "sum of squares 0 is inf"},
        {"imatrix", {SUM(-1), COUNT(32)}, 2, KQ_E_NUMERIC, "sum of squares 0 is -1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        build(&b, bad[i].type, bad[i].t, bad[i].n);
        assert_true(kq_imatrix_recognise(b.p, b.n));
        check_fails(kq_imatrix_open_memory(b.p, b.n, "x", &f, &err), bad[i].status, bad[i].words);
    }
    /* what llama-quantize goes on without: never counted, or zero throughout */
    const struct {
        tensor t[2];
        kq_lack lack;
    } empty[] = {
        {{SUM(1), COUNT(0)}, KQ_LACK_COUNT},        {{SUM(1), COUNT(-3)}, KQ_LACK_COUNT},
        {{SUM(0), COUNT(0)}, KQ_LACK_COUNT},        {{SUM(0), COUNT(32)}, KQ_LACK_VALUES},
        {{SUM(1e-38f), COUNT(32)}, KQ_LACK_VALUES}, {{SUM(1), COUNT(0.5f)}, KQ_LACK_NOTHING},
    };
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        build(&b, "imatrix", empty[i].t, 2);
        check_ok(kq_imatrix_open_memory(b.p, b.n, "x", &f, &err));
        check_ok(kq_imatrix_read(f, "model.layers.0.self_attn.q_proj", 4, mean, &lack, &err));
        assert_int_equal(lack, empty[i].lack);
        kq_imatrix_close(f);
    }
    const tensor good[2] = {SUM(8), COUNT(32)};
    build(&b, "imatrix", good, 2);
    check_ok(kq_imatrix_open_memory(b.p, b.n, "x", &f, &err));
    check_ok(kq_imatrix_read(f, "model.layers.0.self_attn.q_proj", 4, mean, &lack, &err));
    assert_true(mean[3] == 0.25f);
    kq_imatrix_close(f);

    /* .dat: two entries with one name, impossible lengths */
    b.n = 0;
    put32(&b, 2);
    for (int i = 0; i < 2; i++) {
        put32(&b, 19);
        put_text(&b, "blk.0.attn_q.weight");
        put32(&b, 1);
        put32(&b, 1);
        putf(&b, 1);
    }
    check_fails(kq_imatrix_open_memory(b.p, b.n, "x", &f, &err), KQ_E_FORMAT,
                "model.layers.0.self_attn.q_proj appears twice");
    const uint32_t lengths[] = {0, 0xffffffff, 0x80000000, 192, 1000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memcpy(b.p + 4, &lengths[i], 4);
        check_fails(kq_imatrix_open_memory(b.p, b.n, "x", &f, &err), KQ_E_FORMAT, "name of entry 0");
    }
    free(b.p);
}

/* Golden files cut off everywhere, and with bytes changed: any answer, no memory error (buffers are
 * exactly sized; run under ASan). */
static void mangled_files(void **state)
{
    (void)state;
    const char *const files[2] = {GOLDEN, KRONQ_GOLDEN_DIR "/imatrix.dat"};
    kq_rng rng = kq_rng_stream(5, "mangled");
    kq_error err;
    for (int i = 0; i < 2; i++) {
        char *whole, name[96];
        size_t size;
        float mean[112];
        check_ok(kq_file_read(files[i], 1 << 20, &whole, &size, &err));
        size_t opened = 0;
        for (int round = 0; round < 4000; round++) {
            const size_t n = round % 2 ? size : kq_rng_u64(&rng) % size;
            uint8_t *copy = malloc(n + !n);
            kq_imatrix_file *f;
            memcpy(copy, whole, n);
            for (uint64_t k = kq_rng_u64(&rng) % 4; k && n; k--)
                copy[kq_rng_u64(&rng) % (kq_rng_u64(&rng) % 2 ? n
                                         : n < 3000           ? n
                                                              : 3000)] = (uint8_t)kq_rng_u64(&rng);
            kq_imatrix_recognise(copy, n);
            if (!kq_imatrix_open_memory(copy, n, "mangled", &f, &err)) {
                opened++;
                for (size_t j = 0; j < 21; j++)
                    kq_imatrix_read(f, module_of(j, name), linears[j % 7].n, mean, &lack, &err);
                kq_imatrix_close(f);
            } else if (!err.message[0]) {
                fail_msg("an error without words");
            }
            free(copy);
        }
        assert_true(opened > 100 && opened < 3900);
        kq_free(whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(both_forms_say_the_same),

                                       cmocka_unit_test(hostile_files), cmocka_unit_test(mangled_files)};
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
