/* A tokenizer in GGUF metadata (byte-level, and sentencepiece scores against transformers' own
 * conversion), hostile metadata, and the files written beside a checkpoint. */
#include <unistd.h>

#include "format/gguf.h"
#include "tokenizer/tokenizer_check.h"
#include "base/buffer.h"
#include "base/mem.h"
#include "checkpoint/side_files.h"
#include "format/json.h"
#include "tokenizer/convert.h"
#include "tokenizer_files/tokenizer_files.h"

/* ---- a GGUF in memory ---- */

typedef struct gguf {
    kq_buffer kv, info, data;
    uint64_t n_kv, n_tensor;
} gguf;

static void put(kq_buffer *b, const void *p, size_t n)
{
    kq_error err;
    check_ok(kq_buffer_add(b, p, n, &err));
}
static void put_u32(kq_buffer *b, uint32_t x)
{
    put(b, &x, 4);
}
static void put_u64(kq_buffer *b, uint64_t x)
{
    put(b, &x, 8);
}
static void put_strn(kq_buffer *b, const char *s, size_t n)
{
    put_u64(b, n);
    put(b, s, n);
}
static void put_str(kq_buffer *b, const char *s)
{
    put_strn(b, s, strlen(s));
}
static void key(gguf *g, const char *k, uint32_t type)
{
    g->n_kv++;
    put_str(&g->kv, k);
    put_u32(&g->kv, type);
}
static void kv_str(gguf *g, const char *k, const char *s)
{
    key(g, k, KQ_GGUF_STRING);
    put_str(&g->kv, s);
}
static void kv_u32(gguf *g, const char *k, uint32_t x)
{
    key(g, k, KQ_GGUF_U32);
    put_u32(&g->kv, x);
}
static void kv_f32(gguf *g, const char *k, float x)
{
    key(g, k, KQ_GGUF_F32);
    put(&g->kv, &x, 4);
}
static void kv_bool(gguf *g, const char *k, bool x)
{
    key(g, k, KQ_GGUF_BOOL);
    put(&g->kv, &x, 1);
}
static void kv_array(gguf *g, const char *k, uint32_t type, uint64_t n)
{
    key(g, k, KQ_GGUF_ARRAY);
    put_u32(&g->kv, type);
    put_u64(&g->kv, n);
}

static void tensor(gguf *g, const char *name, uint64_t rows, uint64_t cols) /* f32; rows 0: rank 1 */
{
    g->n_tensor++;
    put_str(&g->info, name);
    put_u32(&g->info, rows ? 2 : 1);
    put_u64(&g->info, cols);
    if (rows)
        put_u64(&g->info, rows);
    put_u32(&g->info, 0);
    put_u64(&g->info, g->data.size);
    for (uint64_t i = 0; i < cols * (rows ? rows : 1); i++) {
        float x = 0.01f;
        put(&g->data, &x, 4);
    }
    while (g->data.size % 32)
        put(&g->data, "", 1);
}

static void finish(gguf *g, kq_buffer *file)
{
    file->size = 0;
    put(file, "GGUF", 4);
    put_u32(file, 3);
    put_u64(file, g->n_tensor);
    put_u64(file, g->n_kv);
    put(file, g->kv.data, g->kv.size);
    if (g->info.size)
        put(file, g->info.data, g->info.size);
    while (file->size % 32)
        put(file, "", 1);
    if (g->data.size)
        put(file, g->data.data, g->data.size);
    kq_free(g->kv.data);
    kq_free(g->info.data);
    kq_free(g->data.data);
    memset(g, 0, sizeof *g);
}

/* The tokenizer part of the metadata, out of a golden tokenizer.json. */
static void put_tokenizer(gguf *g, const char *file, const char *model, const char *pre)
{
    json_t *root = golden_json(file), *m = json_object_get(root, "model"),
           *vocab = json_object_get(m, "vocab"), *v, *item;
    json_t *merges = json_object_get(m, "merges"), *added = json_object_get(root, "added_tokens");
    size_t n = json_object_size(vocab), i;
    const char *name, **names = kq_calloc(n, sizeof *names);
    bool spm = !strcmp(model, "llama");
    assert_non_null(names);
    json_object_foreach(vocab, name, v)
        names[json_integer_value(v)] = name;
    kv_str(g, "tokenizer.ggml.model", model);
    if (pre)
        kv_str(g, "tokenizer.ggml.pre", pre);
    kv_array(g, "tokenizer.ggml.tokens", KQ_GGUF_STRING, n);
    for (i = 0; i < n; i++)
        put_str(&g->kv, names[i]);
    kv_array(g, "tokenizer.ggml.token_type", KQ_GGUF_I32, n);
    for (i = 0; i < n; i++) {
        uint32_t type = spm ? i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1 : 1;
        size_t j;
        json_array_foreach(added, j, item)
            if (!spm && (size_t)json_integer_value(json_object_get(item, "id")) == i)
                type = 3;
        put_u32(&g->kv, type);
    }
    if (spm) {
        kv_array(g, "tokenizer.ggml.scores", KQ_GGUF_F32, n);
        for (i = 0; i < n; i++) {
            float score = i < 259 ? 0.0f : -(float)(i / 2);
            put(&g->kv, &score, 4);
        }
        kv_u32(g, "tokenizer.ggml.unknown_token_id", 0);
        kv_u32(g, "tokenizer.ggml.bos_token_id", 1);
        kv_u32(g, "tokenizer.ggml.eos_token_id", 2);
    } else {
        kv_array(g, "tokenizer.ggml.merges", KQ_GGUF_STRING, json_array_size(merges));
        json_array_foreach(merges, i, item) {
            char pair[512];
            int len = snprintf(pair, sizeof pair, "%s %s", json_string_value(json_array_get(item, 0)),
                               json_string_value(json_array_get(item, 1)));
            assert_true(len < (int)sizeof pair);
            put_str(&g->kv, pair);
        }
        kv_u32(g, "tokenizer.ggml.bos_token_id", 1);
        kv_u32(g, "tokenizer.ggml.eos_token_id", 2);
        kv_u32(g, "tokenizer.ggml.unknown_token_id", 0);
        kv_bool(g, "tokenizer.ggml.add_bos_token", false);
    }
    kq_free(names);
    json_decref(root);
}

static kq_status from_memory(const kq_buffer *file, kq_tokenizer **tok, kq_error *err)
{
    kq_gguf *g = NULL;
    json_t *root = NULL, *config = NULL;
    *tok = NULL;
    kq_status status = kq_gguf_open_memory(file->data, file->size, "test.gguf", &g, err);
    if (!status && !(status = kq_tokenizer_gguf_json(g, 2048, &root, &config, err)) &&
        !(status = kq_tokenizer_from_json(root, "test.gguf", tok, err)))
        status = kq_tokenizer_apply_config(*tok, config, "test.gguf", err);
    json_decref(root);
    json_decref(config);
    kq_gguf_close(g);
    if (status) {
        kq_tokenizer_close(*tok);
        *tok = NULL;
    }
    return status;
}

static void gguf_families(void **state)
{
    (void)state;
    static const struct {
        const char *file, *model, *pre, *golden;
    } list[] = {
        {"tokenizer_smollm.json", "gpt2", "smollm", "smollm"},
        {"tokenizer_llama2.json", "llama", NULL, "spm"},
    };
    for (size_t i = 0; i < 2; i++) {
        gguf g = {0};
        kq_buffer file = {0};
        kq_tokenizer *tok;
        kq_error err;
        put_tokenizer(&g, list[i].file, list[i].model, list[i].pre);
        finish(&g, &file);
        check_ok(from_memory(&file, &tok, &err));
        check_family(tok, list[i].golden);
        kq_tokenizer_close(tok);
        kq_free(file.data);
    }
}

/* ---- hostile metadata ---- */

typedef struct fault {
    const char *name;
    kq_status status;
    const char *words;
} fault;

static void hostile(void **state)
{
    (void)state;
    static const fault faults[] = {
        {"none", KQ_OK, ""},
        {"no model", KQ_E_FORMAT, "tokenizer.ggml.model"},
        {"model int", KQ_E_FORMAT, "tokenizer.ggml.model"},
        {"model bert", KQ_E_UNSUPPORTED, "bert"},
        {"pre unknown", KQ_E_UNSUPPORTED, "llama-bpe"},
        {"tokens int", KQ_E_FORMAT, "tokens"},
        {"tokens empty", KQ_E_FORMAT, "tokens"},
        {"types short", KQ_E_FORMAT, "token_type"},
        {"types u8", KQ_OK, ""},
        {"types string", KQ_E_FORMAT, "token_type"},
        {"types 99", KQ_E_FORMAT, "token_type"},
        {"token nul", KQ_E_FORMAT, "UTF-8"},
        {"token bad", KQ_E_FORMAT, "UTF-8"},
        {"token twice", KQ_E_FORMAT, "twice"},
        {"merges int", KQ_E_FORMAT, "merges"},
        {"merges missing", KQ_E_FORMAT, "merges"},
        {"merge one", KQ_E_FORMAT, "merges[0]"},
        {"merge unknown", KQ_E_FORMAT, "merge 0"},
        {"bos far", KQ_OK, ""},
        {"bos string", KQ_E_FORMAT, "bos_token_id"},
        {"add_bos int", KQ_E_FORMAT, "add_bos_token"},
        {"spm no scores", KQ_E_FORMAT, "scores"},
        {"spm scores short", KQ_E_FORMAT, "scores"},
        {"spm scores string", KQ_E_FORMAT, "scores"},
        {"spm nan", KQ_E_FORMAT, "scores"},
        {"spm no unk", KQ_OK, ""},
        {"template bad", KQ_E_FORMAT, "chat_template"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const char *f = faults[i].name;
#define IS(x) (!strcmp(f, x))
        gguf g = {0};
        kq_buffer file = {0};
        kq_tokenizer *tok;
        kq_error err = {0};
        bool spm = !strncmp(f, "spm", 3);
        if (IS("model int"))
            kv_u32(&g, "tokenizer.ggml.model", 1);
        else if (!IS("no model"))
            kv_str(&g, "tokenizer.ggml.model", spm ? "llama" : IS("model bert") ? "bert" : "gpt2");
        kv_str(&g, "tokenizer.ggml.pre", IS("pre unknown") ? "martian" : "gpt-2");
        kv_array(&g, "tokenizer.ggml.tokens", IS("tokens int") ? KQ_GGUF_U8 : KQ_GGUF_STRING,
                 IS("tokens empty") ? 0 : 3);
        if (IS("tokens int")) {
            put(&g.kv, "abc", 3);
        } else if (!IS("tokens empty")) {
            put_str(&g.kv, "a");
            put_strn(&g.kv,
                     IS("token nul")   ? "b\0c"
                     : IS("token bad") ? "b\xff!"
                                       : "b",
                     IS("token nul") || IS("token bad") ? 3 : 1);
            put_str(&g.kv, IS("token twice") ? "a" : "ab");
        }
        kv_array(&g, "tokenizer.ggml.token_type",
                 IS("types u8")       ? KQ_GGUF_U8
                 : IS("types string") ? KQ_GGUF_STRING
                                      : KQ_GGUF_I32,
                 IS("types short")    ? 2
                 : IS("tokens empty") ? 0
                                      : 3);
        for (int k = 0; k < (IS("types short") ? 2 : IS("tokens empty") ? 0 : 3); k++) {
            uint8_t one = 1;
            if (IS("types u8"))
                put(&g.kv, &one, 1);
            else if (IS("types string"))
                put_str(&g.kv, "1");
            else
                put_u32(&g.kv, IS("types 99") ? 99 : 1);
        }
        if (!IS("merges missing")) {
            kv_array(&g, "tokenizer.ggml.merges", IS("merges int") ? KQ_GGUF_U8 : KQ_GGUF_STRING, 1);
            if (IS("merges int"))
                put(&g.kv, "x", 1);
            else
                put_str(&g.kv, IS("merge one") ? "ab" : IS("merge unknown") ? "b a" : "a b");
        }
        if (IS("bos string"))
            kv_str(&g, "tokenizer.ggml.bos_token_id", "a");
        else
            kv_u32(&g, "tokenizer.ggml.bos_token_id", IS("bos far") ? 3 : 0);
        if (IS("add_bos int"))
            kv_u32(&g, "tokenizer.ggml.add_bos_token", 1);
        if (!IS("spm no unk"))
            kv_u32(&g, "tokenizer.ggml.unknown_token_id", 0);
        if (spm && !IS("spm no scores")) {
            size_t n = IS("spm scores short") ? 1 : 3;
            kv_array(&g, "tokenizer.ggml.scores", IS("spm scores string") ? KQ_GGUF_STRING : KQ_GGUF_F32, n);
            for (size_t k = 0; k < n; k++) {
                float x = IS("spm nan") ? NAN : 0.0f;
                if (IS("spm scores string"))
                    put_str(&g.kv, "0");
                else
                    put(&g.kv, &x, 4);
            }
        }
        kv_str(&g, "tokenizer.chat_template", IS("template bad") ? "\xc3(" : "{{ x }}");
        finish(&g, &file);
        kq_status s = from_memory(&file, &tok, &err);
        if (s != faults[i].status || !strstr(err.message, faults[i].words))
            fail_msg("%s: status %d (want %d), message \"%s\" (want \"%s\")", f, s, faults[i].status,
                     err.message, faults[i].words);
        kq_tokenizer_close(tok);
        kq_free(file.data);
#undef IS
    }
}

/* ---- what is warned of ---- */

static char warned[512];

static void take_warning(void *ctx, const char *message)
{
    (void)ctx;
    const size_t n = strlen(warned);
    snprintf(warned + n, sizeof warned - n, "%s\n", message);
}

/* A byte-level tokenizer without tokenizer.ggml.pre, in which "<|im_end|>" is typed as an ordinary token. */
static void warnings(void **state)
{
    (void)state;
    for (int pre = 0; pre < 3; pre++) {
        static const char *const pres[] = {NULL, "", "gpt-2"};
        gguf g = {0};
        kq_buffer file = {0};
        kq_tokenizer *tok;
        kq_error err = {0};
        int32_t *ids;
        size_t n;
        kv_str(&g, "tokenizer.ggml.model", "gpt2");
        if (pres[pre])
            kv_str(&g, "tokenizer.ggml.pre", pres[pre]);
        kv_array(&g, "tokenizer.ggml.tokens", KQ_GGUF_STRING, 3);
        put_str(&g.kv, "a");
        put_str(&g.kv, "<|im_end|>");
        put_str(&g.kv, "aa");
        kv_array(&g, "tokenizer.ggml.token_type", KQ_GGUF_I32, 3);
        for (int k = 0; k < 3; k++)
            put_u32(&g.kv, 1);
        kv_array(&g, "tokenizer.ggml.merges", KQ_GGUF_STRING, 1);
        put_str(&g.kv, "a a");
        finish(&g, &file);
        *warned = 0;
        kq_set_warning_handler(take_warning, NULL);
        check_ok(from_memory(&file, &tok, &err));
        kq_set_warning_handler(NULL, NULL);
        assert_non_null(strstr(warned, "is no control token"));
        assert_true((strstr(warned, "tokenizer.ggml.pre is missing") != NULL) == (pre < 2));
        check_ok(kq_tokenizer_encode(tok, "aa<|im_end|>", 12, false, true, &ids, &n, &err));
        assert_true(n == 2 && ids[0] == 2 && ids[1] == 1);
        kq_free(ids);
        kq_tokenizer_close(tok);
        kq_free(file.data);
    }
}

/* ---- files ---- */

static void write_model(const char *path)
{
    gguf g = {0};
    kq_buffer file = {0};
    kq_error err;
    kv_str(&g, "general.architecture", "llama");
    kv_u32(&g, "llama.block_count", 1);
    kv_u32(&g, "llama.context_length", 512);
    kv_u32(&g, "llama.embedding_length", 32);
    kv_u32(&g, "llama.feed_forward_length", 64);
    kv_u32(&g, "llama.attention.head_count", 4);
    kv_u32(&g, "llama.attention.head_count_kv", 2);
    kv_u32(&g, "llama.rope.dimension_count", 8);
    kv_f32(&g, "llama.rope.freq_base", 100000.0f);
    kv_f32(&g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    kv_u32(&g, "llama.vocab_size", 2000);
    put_tokenizer(&g, "tokenizer_smollm.json", "gpt2", "smollm");
    kv_str(&g, "tokenizer.chat_template", "{{ '<|im_start|>' }}");
    tensor(&g, "token_embd.weight", 2000, 32);
    tensor(&g, "output_norm.weight", 0, 32);
    tensor(&g, "blk.0.attn_norm.weight", 0, 32);
    tensor(&g, "blk.0.ffn_norm.weight", 0, 32);
    tensor(&g, "blk.0.attn_q.weight", 32, 32);
    tensor(&g, "blk.0.attn_k.weight", 16, 32);
    tensor(&g, "blk.0.attn_v.weight", 16, 32);
    tensor(&g, "blk.0.attn_output.weight", 32, 32);
    tensor(&g, "blk.0.ffn_gate.weight", 64, 32);
    tensor(&g, "blk.0.ffn_up.weight", 64, 32);
    tensor(&g, "blk.0.ffn_down.weight", 32, 64);
    finish(&g, &file);
    check_ok(kq_file_write(path, file.data, file.size, &err));
    kq_free(file.data);
}

static json_t *load(const char *dir, const char *name)
{
    char path[256];
    kq_error err;
    json_t *v;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    check_ok(kq_json_read(path, KQ_TOK_MAX_FILE, &v, &err));
    return v;
}

static void from_gguf(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_tokenizer *tok;
    char dir[64], path[128], *text;
    snprintf(dir, sizeof dir, "side_%d", (int)getpid());
    check_ok(kq_mkdirs(dir, &err));
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    write_model(path);
    check_ok(kq_source_open(path, &src, &err));
    check_ok(kq_write_hf_side_files(src, dir, &err));
    check_ok(kq_config_json(src, &text, &err));
    kq_source_close(src);
    unlink(path);

    json_t *config = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-5"));
    assert_string_equal(json_string_value(json_array_get(json_object_get(config, "architectures"), 0)),
                        "LlamaForCausalLM");
    static const struct {
        const char *key;
        int value;
    } numbers[] = {{"hidden_size", 32},
                   {"intermediate_size", 64},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2},
                   {"head_dim", 8},
                   {"num_hidden_layers", 1},
                   {"vocab_size", 2000},
                   {"max_position_embeddings", 512},
                   {"rope_theta", 100000},
                   {"bos_token_id", 1}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (json_number_value(json_object_get(config, numbers[i].key)) != numbers[i].value)
            fail_msg("config.json: %s is not %d", numbers[i].key, numbers[i].value);
    assert_true(json_is_true(json_object_get(config, "tie_word_embeddings")));
    json_decref(config);
    kq_free(text);

    json_t *v = load(dir, "tokenizer_config.json");
    assert_string_equal(json_string_value(json_object_get(v, "eos_token")), "<|im_end|>");
    assert_string_equal(json_string_value(json_object_get(v, "chat_template")), "{{ '<|im_start|>' }}");
    json_decref(v);
    v = load(dir, "generation_config.json");
    /* eos, then what ends an answer by its name: "<|endoftext|>" */
    json_t *ends = json_pack("[i,i]", 2, 0);
    assert_true(json_equal(json_object_get(v, "eos_token_id"), ends));
    json_decref(ends);
    json_decref(v);
    v = load(dir, "special_tokens_map.json");
    assert_string_equal(json_string_value(json_object_get(v, "bos_token")), "<|im_start|>");
    json_decref(v);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    assert_int_equal(kq_tokenizer_eos(tok), 2);
    check_family(tok, "smollm");
    kq_tokenizer_close(tok);
    check_side_files(dir);
}

static void from_folder(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_tokenizer *tok;
    char dir[64], out[80], path[160], *text;
    size_t size, size2;
    static const char *const names[] = {"config.json", "model.safetensors"};
    snprintf(dir, sizeof dir, "folder_%d", (int)getpid());
    snprintf(out, sizeof out, "%s/out", dir);
    check_ok(kq_mkdirs(out, &err));
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "tiny_llama3/%s", names[i]);
        text = golden_read(name, &size);
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        check_ok(kq_file_write(path, text, size, &err));
        kq_free(text);
    }
    check_ok(kq_source_open(dir, &src, &err));
    check_fails(kq_tokenizer_open(src, &tok, &err), KQ_E_UNSUPPORTED, "tokenizer.json");
    /* LLaMA-3's begins texts with a token that this model has no row for */
    char *golden = golden_read("tokenizer_smollm.json", &size);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    check_ok(kq_file_write(path, golden, size, &err));
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    check_ok(kq_file_write(path, "<|im_start|>", 12, &err));
    check_ok(kq_tokenizer_open(src, &tok, &err));
    assert_string_equal(kq_tokenizer_chat_template(tok), "<|im_start|>");
    kq_tokenizer_close(tok);
    check_ok(kq_write_hf_side_files(src, out, &err));
    snprintf(path, sizeof path, "%s/tokenizer.json", out);
    check_ok(kq_file_read(path, 1 << 24, &text, &size2, &err));
    assert_int_equal(size, size2);
    assert_memory_equal(text, golden, size);
    kq_free(text);
    kq_free(golden);
    check_ok(kq_config_json(src, &text, &err));
    assert_string_equal(text, kq_source_config_json(src));
    kq_free(text);
    kq_source_close(src);
    static const char *const made[] = {
        "out/tokenizer.json", "out/chat_template.jinja", "out", "tokenizer.json", "chat_template.jinja",
        "config.json",        "model.safetensors",       ""};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, made[i]);
        assert_int_equal(remove(path), 0); /* the folders must be empty by then */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gguf_families), cmocka_unit_test(hostile),
                                       cmocka_unit_test(warnings), cmocka_unit_test(from_gguf),
                                       cmocka_unit_test(from_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
