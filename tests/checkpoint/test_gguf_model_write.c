/* A model folder written as a GGUF and opened again is the same model: names, row order, rope scaling,
 * and a tokenizer that gives the same ids. */
#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "format/encode.h"
#include "source/gguf_model.h"
#include "checkpoint/gguf_model_write.h"
#include "source/rope.h"
#include "format/safetensors_write.h"
#include "tokenizer/tokenizer.h"

#include <unistd.h>

#include "check.h"

enum { V = 2100, D = 8 };
static kq_error err;
static const char gguf_path[] = "test_model.gguf", folder[] = "test_model";

static float value(const char *name, size_t i)
{
    size_t h = 7;
    for (; *name; name++)
        h = h * 31 + (unsigned char)*name;
    return (float)((h + i * 2654435761u) % 1000) / 500 - 1;
}

static kq_status fill(void *ctx, size_t i, kq_st_writer *w, kq_error *e)
{
    const kq_st_decl *d = (const kq_st_decl *)ctx + i;
    const size_t n = d->rank == 1 ? d->shape[0] : d->shape[0] * d->shape[1];
    float *x = kq_alloc(n, sizeof *x);
    for (size_t k = 0; k < n; k++)
        x[k] = value(d->name, k);
    kq_status status = kq_st_writer_data(w, x, n * sizeof *x, e);
    kq_free(x);
    return status;
}

/* A one-layer model with this tokenizer: 2 heads of 4, of which q and k rows are interleaved in a GGUF
 * of architecture llama. */
static void make_folder(const char *model_type, const char *rope, json_t *tokenizer, const char *bos,
                        const char *eos)
{
    char config[1024], path[512];
    kq_gguf_slot *slots;
    size_t n, size;
    snprintf(config, sizeof config,
             "{\"model_type\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": 6, \"num_hidden_layers\": "
             "1, \"num_attention_heads\": 2, "
             "\"num_key_value_heads\": 2, \"head_dim\": 4, \"vocab_size\": %d, \"max_position_embeddings\": "
             "512, \"rms_norm_eps\": 1e-6, \"rope_theta\": 500000.0, "
             "\"tie_word_embeddings\": false, \"rope_scaling\": %s}",
             model_type, D, V, rope);
    check_ok(kq_mkdirs(folder, &err));
    snprintf(path, sizeof path, "%s/config.json", folder);
    check_ok(kq_file_write(path, config, strlen(config), &err));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    char *text = json_dumps(tokenizer, JSON_COMPACT);
    check_ok(kq_file_write(path, text, strlen(text), &err));
    free(text);
    snprintf(config, sizeof config,
             "{\"eos_token\": \"%s\"%s%s%s, \"chat_template\": \"{{ 'x' }}\", \"additional_special_tokens\": "
             "[\"<|side|>\"]}",
             eos, bos ? ", \"bos_token\": \"" : "", bos ? bos : "", bos ? "\"" : "");
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    check_ok(kq_file_write(path, config, strlen(config), &err));
    kq_config cfg = {.arch = !strcmp(model_type, "qwen3") ? KQ_ARCH_QWEN3 : KQ_ARCH_LLAMA,
                     .n_layer = 1,
                     .d_model = D,
                     .n_head = 2,
                     .n_kv_head = 2,
                     .head_dim = 4,
                     .d_ff = 6,
                     .vocab_size = V};
    check_ok(kq_gguf_layout(&cfg, &slots, &n, &err));
    kq_st_decl *decl = calloc(n, sizeof *decl);
    for (size_t i = 0; i < n; i++)
        decl[i] =
            (kq_st_decl){.name = slots[i].hf_name,
                         .dtype = KQ_T_F32,
                         .rank = slots[i].rank,
                         .shape = {slots[i].rank == 1 ? slots[i].ne[0] : slots[i].ne[1], slots[i].ne[0]}};
    check_ok(kq_st_write_shards(folder, 0, decl, n, fill, decl, &size, &err));
    free(decl);
    kq_free(slots);
}

static kq_status write_gguf(const kq_source *src)
{
    kq_gguf_writer *w;
    kq_gguf_slot *slots;
    size_t n;
    unlink(gguf_path);
    check_ok(kq_gguf_writer_new(gguf_path, &w, &err));
    kq_status status = kq_gguf_write_model(w, src, 0, &err);
    if (status) {
        kq_gguf_writer_abort(w);
        return status;
    }
    check_ok(kq_gguf_layout(kq_source_config(src), &slots, &n, &err));
    for (size_t i = 0; i < n; i++)
        check_ok(kq_gguf_writer_declare(w, slots[i].name, 0, slots[i].rank, slots[i].ne, &err));
    for (size_t i = 0; i < n; i++) {
        const size_t cols = slots[i].rank == 1 ? 1 : slots[i].ne[0],
                     rows = slots[i].rank == 1 ? slots[i].ne[0] : slots[i].ne[1];
        float *x = kq_alloc(rows * cols, sizeof *x), *y = kq_alloc(rows * cols, sizeof *y);
        if (*slots[i].hf_name)
            check_ok(kq_source_read_f32(src, kq_source_find(src, slots[i].hf_name), 0, rows, x, &err));
        else
            kq_rope_divisors(kq_source_config(src), x);
        for (size_t r = 0; r < rows; r++)
            memcpy(y + r * cols, x + (slots[i].head_dim ? kq_gguf_hf_row(r, slots[i].head_dim) : r) * cols,
                   cols * sizeof *x);
        check_ok(kq_gguf_writer_data(w, y, rows * cols * sizeof *y, &err));
        kq_free(x);
        kq_free(y);
    }
    kq_free(slots);
    return kq_gguf_writer_finish(w, &err);
}

static json_t *load(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer_%s.json", KRONQ_GOLDEN_DIR, name);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

static const char rope3[] =
    "{\"rope_type\": \"llama3\", \"factor\": 32.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
    "\"original_max_position_embeddings\": 8192}";

static const struct family {
    const char *tokenizer, *model_type, *rope, *bos, *eos, *model, *pre;
} families[] = {
    {"smollm", "llama", "null", NULL, "<|endoftext|>", "gpt2", "smollm"},
    {"llama3", "llama", rope3, "<|begin_of_text|>", "<|end_of_text|>", "gpt2", "llama-bpe"},
    {"qwen", "qwen3", "null", NULL, "<|endoftext|>", "gpt2", "qwen2"},
    {"llama2", "llama", "null", "<s>", "</s>", "llama", "default"},
    {"llama2_metaspace", "llama", "null", "<s>", "</s>", "llama", "default"},
};

static void same_ids(const kq_source *a, const kq_source *b, const char *name)
{
    static const char *const texts[] = {"",
                                        "Hello world",
                                        "  two  spaces\n\n\ttab\r\n",
                                        "1234567890 3.14",
                                        "it's we'LL don't",
                                        "na\xc3\xafve caf\xc3\xa9 \xe2\x80\x94 \xe6\x97\xa5\xe6\x9c\xac",
                                        "\xf0\x9f\xa6\x99\xf0\x9f\x9a\x80 <|endoftext|> x",
                                        "</s><s>[INST]",
                                        "x<|side|>y",
                                        "\x01\x02 \x7f",
                                        "=====------>>"};
    kq_tokenizer *ta, *tb;
    check_ok(kq_tokenizer_open(a, &ta, &err));
    check_ok(kq_tokenizer_open(b, &tb, &err));
    assert_int_equal(kq_tokenizer_bos(ta), kq_tokenizer_bos(tb));
    assert_int_equal(kq_tokenizer_eos(ta), kq_tokenizer_eos(tb));
    assert_true(kq_tokenizer_id(ta, "<|side|>") > 0); /* which tokenizer.json does not name */
    assert_int_equal(kq_tokenizer_id(ta, "<|side|>"), kq_tokenizer_id(tb, "<|side|>"));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *x, *y;
        if ((*texts[i] == ' ' || strchr(texts[i], '<')) && !strcmp(name, "llama2_metaspace"))
            continue; /* this Metaspace puts a space only before the first piece, and none before a space;
                         GGUF knows only LLaMA-2's older "always" */
        size_t n, m;
        check_ok(kq_tokenizer_encode(ta, texts[i], strlen(texts[i]), true, true, &x, &n, &err));
        check_ok(kq_tokenizer_encode(tb, texts[i], strlen(texts[i]), true, true, &y, &m, &err));
        if (n != m || memcmp(x, y, n * sizeof *x))
            fail_msg("%s: \"%s\": %zu and %zu ids", name, texts[i], n, m);
        kq_free(x);
        kq_free(y);
    }
    kq_tokenizer_close(ta);
    kq_tokenizer_close(tb);
}

static void families_round_trip(void **s)
{
    (void)s;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        const struct family *x = &families[f];
        json_t *tokenizer = load(x->tokenizer);
        kq_source *src, *back;
        make_folder(x->model_type, x->rope, tokenizer, x->bos, x->eos);
        json_decref(tokenizer);
        check_ok(kq_source_open(folder, &src, &err));
        check_ok(write_gguf(src));
        check_ok(kq_source_open(gguf_path, &back, &err));
        const kq_gguf *g = kq_source_gguf(back);
        assert_true(kq_gguf_str_is(kq_gguf_find(g, "tokenizer.ggml.model"), 0, x->model));
        assert_true(kq_gguf_str_is(kq_gguf_find(g, "tokenizer.ggml.pre"), 0, x->pre));
        /* padded up to the embedding's rows */
        assert_int_equal(kq_gguf_find(g, "tokenizer.ggml.tokens")->n, V);
        assert_true(kq_gguf_str_is(kq_gguf_find(g, "tokenizer.ggml.tokens"), V - 1, "[PAD2099]"));
        assert_true(kq_gguf_str_is(kq_gguf_find(g, "tokenizer.chat_template"), 0, "{{ 'x' }}"));
        const kq_config *a = kq_source_config(src), *b = kq_source_config(back);
        assert_true(a->arch == b->arch && a->n_layer == b->n_layer && a->d_ff == b->d_ff &&
                    a->head_dim == b->head_dim && a->vocab_size == b->vocab_size &&
                    a->max_position == b->max_position && a->rope_theta == b->rope_theta &&
                    a->rms_eps == b->rms_eps && !b->tie_embeddings);
        assert_memory_equal(&a->rope_scaling, &b->rope_scaling, sizeof a->rope_scaling);
        for (size_t i = 0; i < kq_source_n_tensors(src); i++) { /* rows back in Hugging Face's order */
            const kq_tensor *t = kq_source_tensor(src, i), *u = kq_source_find(back, t->name);
            float p[64], q[64];
            const size_t rows = t->shape[0] < 8 ? t->shape[0] : 8,
                         n = t->rank == 2 ? rows * t->shape[1] : rows;
            assert_true(u && u->n_elem == t->n_elem && n <= 64);
            check_ok(kq_source_read_f32(src, t, 0, rows, p, &err));
            check_ok(kq_source_read_f32(back, u, 0, rows, q, &err));
            if (memcmp(p, q, n * sizeof *p))
                fail_msg("%s: %s differs", x->tokenizer, t->name);
        }
        same_ids(src, back, x->tokenizer);
        kq_source_close(src);
        kq_source_close(back);
    }
}

static void expect_refusal(json_t *tokenizer, kq_status status, const char *words)
{
    kq_source *src;
    make_folder("llama", "null", tokenizer, NULL, "<|endoftext|>");
    check_ok(kq_source_open(folder, &src, &err));
    check_fails(write_gguf(src), status, words);
    assert_false(kq_path_exists(gguf_path));
    kq_source_close(src);
    json_decref(tokenizer);
}

static void refuses_what_gguf_cannot_say(void **s)
{
    (void)s;
    json_t *t = load("smollm");
    json_object_set_new(
        t, "pre_tokenizer",
        json_loads(
            "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}", 0,
            NULL));
    expect_refusal(t, KQ_E_UNSUPPORTED, "tokenizer.ggml.pre");
    t = load("smollm");
    json_object_set_new(json_object_get(json_object_get(t, "model"), "vocab"), "beyond", json_integer(V));
    expect_refusal(t, KQ_E_MISMATCH, "\"beyond\" has id 2100, the embedding has 2100 rows");
    t = load("llama2"); /* the first merge again at the end: no order of scores */
    json_t *merges = json_object_get(json_object_get(t, "model"), "merges"),
           *vocab = json_object_get(json_object_get(t, "model"), "vocab");
    json_t *one = json_array_get(merges, 0);
    char whole[64], *half;
    if (json_is_array(one))
        snprintf(whole, sizeof whole, "%s%s", json_string_value(json_array_get(one, 0)),
                 json_string_value(json_array_get(one, 1)));
    else
        snprintf(whole, sizeof whole, "%s", json_string_value(one));
    if ((half = strchr(whole + 1, ' ')))
        memmove(half, half + 1, strlen(half));
    assert_non_null(json_object_get(vocab, whole));
    /* another way to make the same piece: whole = first byte token-free split */
    json_object_set_new(vocab, "q1", json_integer(V - 1));
    json_array_append(merges, one);
    expect_refusal(t, KQ_E_UNSUPPORTED, "do not stand together");
}

/* Values beyond the types' range are refused, not made infinite; Q8_0 as ggml's reference makes it. */
static void encodes(void **s)
{
    (void)s;
    float x[32];
    uint8_t out[128];
    size_t at = 0;
    for (int i = 0; i < 32; i++)
        x[i] = (float)(i - 16) * 0.25f;
    check_ok(kq_encode(KQ_T_Q8_0, x, 32, out, NULL, &err));
    assert_int_equal((int8_t)out[2], -127); /* -4 is the largest */
    assert_int_equal((int8_t)out[2 + 16], 0);
    assert_int_equal((int8_t)out[2 + 18], 16); /* 0.5 * 127 / 4 = 15.875 */
    memset(x, 0, sizeof x);
    check_ok(kq_encode(KQ_T_Q8_0, x, 32, out, NULL, &err));
    for (int i = 0; i < 34; i++)
        assert_int_equal(out[i], 0);
    x[5] = 1e-44f;
    check_ok(kq_encode(KQ_T_Q8_0, x, 32, out, NULL, &err));
    x[5] = 70000;
    check_fails(kq_encode(KQ_T_F16, x, 32, out, &at, &err), KQ_E_NUMERIC, "too large for F16");
    assert_int_equal(at, 5);
    x[5] = 1e30f;
    check_fails(kq_encode(KQ_T_Q8_0, x, 32, out, &at, &err), KQ_E_NUMERIC, "too large for Q8_0");
    check_ok(kq_encode(KQ_T_BF16, x, 32, out, NULL, &err));
    check_fails(kq_encode(KQ_T_Q8_0, x, 31, out, NULL, &err), KQ_E_ARG, "31 values");
    check_fails(kq_encode(KQ_T_Q4_0, x, 32, out, NULL, &err), KQ_E_ARG, "Q4_0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_round_trip),
        cmocka_unit_test(refuses_what_gguf_cannot_say),
        cmocka_unit_test(encodes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
