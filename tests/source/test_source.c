/* One model written three ways (one file, shards, GGUF) must read the same; and every folder or file
 * that does not fit is refused by name. The GGUF order of q and k is made here by the converter's own
 * definition: reshape(n_head, 2, d/2, n).swapaxes(1, 2). */
#include "base/file.h"
#include "base/rng.h"
#include "format/safetensors_write.h"

#include "format/bytes.h"
#include "source/source.h"

enum { D = 32, HEADS = 4, KV = 2, HD = 8, FF = 64, VOCAB = 40, LAYERS = 2, MAX_T = 64 };

/* cols 0: rank 1; heads: permuted in a llama GGUF */
typedef struct entry {
    char hf[80], gguf[40];
    size_t rows, cols, heads;
} entry;

static kq_error err;
static entry list[MAX_T];
static size_t n_list;

static void add(const char *hf, const char *gguf, size_t rows, size_t cols, size_t heads)
{
    entry *e = &list[n_list++];
    snprintf(e->hf, sizeof e->hf, "%s.weight", hf);
    snprintf(e->gguf, sizeof e->gguf, "%s.weight", gguf);
    e->rows = rows;
    e->cols = cols;
    e->heads = heads;
}

static void make_list(bool qwen3, bool tied)
{
    static const struct {
        const char *hf, *gguf;
        int rows, cols, heads;
    } layer[] = {
        {"input_layernorm", "attn_norm", D, 0, 0},
        {"post_attention_layernorm", "ffn_norm", D, 0, 0},
        {"self_attn.q_proj", "attn_q", HEADS * HD, D, HEADS},
        {"self_attn.k_proj", "attn_k", KV * HD, D, KV},
        {"self_attn.v_proj", "attn_v", KV * HD, D, 0},
        {"self_attn.o_proj", "attn_output", D, HEADS * HD, 0},
        {"mlp.gate_proj", "ffn_gate", FF, D, 0},
        {"mlp.up_proj", "ffn_up", FF, D, 0},
        {"mlp.down_proj", "ffn_down", D, FF, 0},
        {"self_attn.q_norm", "attn_q_norm", HD, 0, 0},
        {"self_attn.k_norm", "attn_k_norm", HD, 0, 0},
    };
    n_list = 0;
    add("model.embed_tokens", "token_embd", VOCAB, D, 0);
    add("model.norm", "output_norm", D, 0, 0);
    if (!tied)
        add("lm_head", "output", VOCAB, D, 0);
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < (qwen3 ? 11 : 9); i++) {
            char hf[64], gguf[32];
            snprintf(hf, sizeof hf, "model.layers.%zu.%s", l, layer[i].hf);
            snprintf(gguf, sizeof gguf, "blk.%zu.%s", l, layer[i].gguf);
            add(hf, gguf, (size_t)layer[i].rows, (size_t)layer[i].cols, qwen3 ? 0 : (size_t)layer[i].heads);
        }
}

static size_t count(const entry *e)
{
    return e->rows * (e->cols ? e->cols : 1);
}
static float value(size_t tensor, size_t i)
{
    return (float)((tensor * 7919 + i * 104729) % 2003) / 1024 - 1;
}

static void config(char *buf, size_t cap, bool qwen3, bool tied, const char *more)
{
    snprintf(buf, cap,
             "{\"model_type\": \"%s\", \"hidden_size\": %d, \"num_hidden_layers\": %d, "
             "\"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"head_dim\": %d, \"intermediate_size\": %d, \"vocab_size\": %d, "
             "\"tie_word_embeddings\": %s, "
             "\"max_position_embeddings\": 64, \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-05%s}",
             qwen3 ? "qwen3" : "llama", D, LAYERS, HEADS, KV, HD, FF, VOCAB, tied ? "true" : "false", more);
}

/* Tensors [from, to) of the list into one file; poison: one element of tensor 0 that is not a number. */
static void write_part(const char *path, size_t from, size_t to, const float *poison)
{
    kq_st_writer *w;
    check_ok(kq_st_writer_new(path, &w, &err));
    for (size_t i = from; i < to; i++) {
        const size_t shape[2] = {list[i].rows, list[i].cols};
        check_ok(kq_st_writer_declare(w, list[i].hf, KQ_T_F32, list[i].cols ? 2 : 1, shape, &err));
    }
    for (size_t i = from; i < to; i++)
        for (size_t j = 0; j < count(&list[i]); j++) {
            float v = poison && !i && j == 70 ? *poison : value(i, j);
            check_ok(kq_st_writer_data(w, &v, 4, &err));
        }
    check_ok(kq_st_writer_finish(w, &err));
}

static void clean(void)
{
    static const char *const files[] = {"config.json",   "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors",     "b2.safetensors"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[64];
        snprintf(path, sizeof path, "src_model/%s", files[i]);
        unlink(path);
    }
    mkdir("src_model", 0777);
}

static void folder(bool qwen3, bool tied, const char *more)
{
    char text[2048];
    clean();
    make_list(qwen3, tied);
    config(text, sizeof text, qwen3, tied, more);
    write_text("src_model/config.json", text);
}

/* index: tensors before `split` in a.safetensors, the rest in the file named second. */
static void write_index(size_t split, const char *second, size_t from, size_t to)
{
    bytes b = {0};
    put_text(&b, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (size_t i = from; i < to; i++) {
        char line[256];
        snprintf(line, sizeof line, "%s\"%.79s\": \"%.100s\"", i > from ? ", " : "", list[i].hf,
                 i < split ? "a.safetensors" : second);
        put_text(&b, line);
    }
    put_text(&b, "}}");
    write_file("src_model/model.safetensors.index.json", b.p, b.n);
    free(b.p);
}

/* ggml type of the embedding in write_gguf: 0 (F32) or 39 (MXFP4, 17 bytes for 32 elements, zeros) */
static uint32_t embed_type;

/* rope: factors of rope_freqs.weight, HD / 2 of them, or NULL. */
static void write_gguf(const char *path, bool qwen3, const float *rope, uint32_t layers)
{
    const char *arch = qwen3 ? "qwen3" : "llama";
    char key[80];
    bytes b = {0};
    gguf_header(&b, n_list + (rope ? 1 : 0), 12);
    kv_str(&b, "general.architecture", arch);
#define KEY(name) (snprintf(key, sizeof key, "%s." name, arch), key)
    kv_u32(&b, KEY("block_count"), layers);
    kv_u32(&b, KEY("context_length"), 64);
    kv_u32(&b, KEY("embedding_length"), D);
    kv_u32(&b, KEY("feed_forward_length"), FF);
    kv_u32(&b, KEY("attention.head_count"), HEADS);
    kv_u32(&b, KEY("attention.head_count_kv"), KV);
    kv_u32(&b, KEY("attention.key_length"), HD);
    kv_u32(&b, KEY("vocab_size"), VOCAB);
    kv_f32(&b, KEY("rope.freq_base"), 10000);
    kv_f32(&b, KEY("attention.layer_norm_rms_epsilon"), 1e-5f);
    kv_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    size_t offset = 0;
    for (size_t i = 0; i < n_list; i++) {
        uint64_t ne[2] = {list[i].cols ? list[i].cols : list[i].rows, list[i].rows};
        gguf_info(&b, list[i].gguf, list[i].cols ? 2 : 1, ne, i ? 0 : embed_type, offset);
        offset += ((i || !embed_type ? 4 * count(&list[i]) : count(&list[i]) / 32 * 17) + 31) / 32 * 32;
    }
    if (rope)
        gguf_info(&b, "rope_freqs.weight", 1, (const uint64_t[]){HD / 2}, 0, offset);
    for (size_t i = 0; i < n_list; i++) {
        const entry *e = &list[i];
        pad_to(&b, 32);
        if (!i && embed_type) {
            put(&b, NULL, count(e) / 32 * 17);
            continue;
        }
        if (!e->heads) {
            for (size_t j = 0; j < count(e); j++)
                putf(&b, value(i, j));
            continue;
        }
        size_t half = e->rows / e->heads / 2;
        for (size_t h = 0; h < e->heads; h++)
            for (size_t j = 0; j < half; j++)
                for (size_t s = 0; s < 2; s++) /* out[h][j][s] = in[h][s][j] */
                    for (size_t c = 0; c < e->cols; c++)
                        putf(&b, value(i, ((h * 2 + s) * half + j) * e->cols + c));
    }
    pad_to(&b, 32);
    if (rope)
        put(&b, rope, HD / 2 * 4);
    write_file(path, b.p, b.n);
    free(b.p);
}

static void check_values(const char *path)
{
    kq_source *src;
    static float got[FF * D + VOCAB * D];
    check_ok(kq_source_open(path, &src, &err));
    for (size_t i = 0; i < n_list; i++) {
        const kq_tensor *t = kq_source_find(src, list[i].hf);
        size_t cols = list[i].cols ? list[i].cols : 1;
        if (!t)
            fail_msg("%s: %s is missing", path, list[i].hf);
        for (size_t from = 0; from < 4; from += 3) { /* whole, and rows 3 to rows - 1 */
            size_t n = list[i].rows - from - (from ? 1 : 0);
            check_ok(kq_source_read_f32(src, t, from, n, got, &err));
            for (size_t j = 0; j < n * cols; j++)
                if (got[j] != value(i, from * cols + j))
                    fail_msg("%s: %s from row %zu: element %zu differs", path, list[i].hf, from, j);
        }
        check_fails(kq_source_read_f32(src, t, list[i].rows, 1, got, &err), KQ_E_ARG, "rows");
        check_fails(kq_source_read_f32(src, t, 1, SIZE_MAX, got, &err), KQ_E_ARG, "rows");
    }
    kq_source_close(src);
}

static void refused(const char *path, kq_status status, const char *words)
{
    kq_source *src;
    err.message[0] = 0;
    check_fails(kq_source_open(path, &src, &err), status, words);
    assert_null(src);
}

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

static void case_29_nan_weights(void **s)
{
    (void)s;
    const float poison[3] = {NAN, INFINITY, -INFINITY};
    static float got[VOCAB * D];
    for (int i = 0; i < 3; i++) {
        kq_source *src;
        folder(false, true, "");
        write_part("src_model/model.safetensors", 0, n_list, &poison[i]);
        check_ok(kq_source_open("src_model", &src, &err));
        const kq_tensor *t = kq_source_find(src, "model.embed_tokens.weight");
        check_fails(kq_source_read_f32(src, t, 1, 5, got, &err), KQ_E_NUMERIC, "index 70 (row 2, column 6)");
        assert_non_null(strstr(err.message, "model.embed_tokens.weight"));
        check_ok(kq_source_read_f32(src, t, 3, 5, got, &err));
        kq_source_close(src);
    }
}

static void shards(void)
{
    folder(false, true, "");
    write_part("src_model/a.safetensors", 0, 7, NULL);
    write_part("src_model/b.safetensors", 7, n_list, NULL);
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

static void case_31_missing_shard(void **s)
{
    (void)s;
    shards();
    write_index(7, "c.safetensors", 0, n_list);
    refused("src_model", KQ_E_IO, "c.safetensors");
}

static void case_32_index_and_shard_disagree(void **s)
{
    (void)s;
    shards();
    /* it sends tensor 7 to the wrong file: the right one is opened too */
    write_index(8, "b.safetensors", 0, n_list);
    check_values("src_model");
    /* a tensor that it does not list is in a file that it names */
    write_index(7, "b.safetensors", 0, n_list - 1);
    check_values("src_model");
    write_index(7, "b.safetensors", 0, 7); /* it names one file only: what is in the other is missing */
    refused("src_model", KQ_E_SHAPE, "is missing");
    write_part("src_model/b.safetensors", 7, n_list - 1, NULL);
    write_index(7, "b.safetensors", 0, n_list); /* the head is stored nowhere, and not tied */
    refused("src_model", KQ_E_SHAPE, "stale index");
}

static void case_33_tensor_in_two_shards(void **s)
{
    (void)s;
    shards();
    const float other = 0.125f;
    /* as transformers, the last file by name counts, whatever the index says */
    write_part("src_model/b2.safetensors", 0, 1, &other);
    write_index(7, "b.safetensors", 0, n_list - 1);
    check_values("src_model");
    write_part("src_model/b2.safetensors", 0, n_list, &other);
    write_index(7, "b2.safetensors", 0, n_list);
    kq_source *src;
    float row[D];
    check_ok(kq_source_open("src_model", &src, &err));
    check_ok(kq_source_read_f32(src, kq_source_find(src, list[0].hf), 70 / D, 1, row, &err));
    assert_true(row[70 % D] == other);
    kq_source_close(src);
}

static void case_34_stale_index(void **s)
{
    (void)s;
    shards();
    write_index(7, "b.safetensors", 0, n_list);
    /* the single file goes first: the index and what it names are not looked at */
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    unlink("src_model/a.safetensors");
    check_values("src_model");
}

static void case_35_config_and_tensors_disagree(void **s)
{
    (void)s;
    char text[2048], *p;
    folder(false, false, "");
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    static const struct {
        const char *from, *to, *words;
    } edits[] = {
        {"\"vocab_size\": 40", "\"vocab_size\": 41", "model.embed_tokens.weight is [40, 32]"},
        {"\"intermediate_size\": 64", "\"intermediate_size\": 65", "mlp"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "model.layers.2"},
        {"\"head_dim\": 8", "\"head_dim\": 4", "q_proj"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"qwen3\"", "q_norm"},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        config(text, sizeof text, false, false, "");
        p = strstr(text, edits[i].from);
        assert_non_null(p);
        assert_int_equal(strlen(edits[i].from), strlen(edits[i].to));
        memcpy(p, edits[i].to, strlen(edits[i].to));
        write_text("src_model/config.json", text);
        refused("src_model", KQ_E_SHAPE, edits[i].words);
    }
    unlink("src_model/config.json");
    refused("src_model", KQ_E_IO, "config.json");
    refused("no_such_model", KQ_E_IO, "does not exist");
    folder(false, false, "");
    refused("src_model", KQ_E_IO, "model.safetensors");
    n_list = 2;
    write_part("src_model/model.safetensors", 0, n_list, NULL);
    refused("src_model", KQ_E_SHAPE, "lm_head.weight");
}

/* Any answer is right, but memory errors are not: an index that names shards which overlap, mutated a
 * little. */
static void mutated_index(void **s)
{
    (void)s;
    static char seed[8192], text[8192];
    static const char chars[] = "{}[]\",:ab2_.lwmodel0123";
    kq_rng rng = kq_rng_stream(4, "index");
    shards();
    write_part("src_model/b2.safetensors", 5, n_list, NULL);
    write_index(7, "b2.safetensors", 0, n_list);
    FILE *f = fopen("src_model/model.safetensors.index.json", "r");
    size_t n = fread(seed, 1, sizeof seed - 1, f), opened = 0;
    fclose(f);
    for (int round = 0; round < 600; round++) {
        kq_source *src;
        memcpy(text, seed, n + 1);
        for (size_t k = kq_rng_u64(&rng) % 4 + 1; k; k--)
            text[kq_rng_u64(&rng) % n] = chars[kq_rng_u64(&rng) % (sizeof chars - 1)];
        write_text("src_model/model.safetensors.index.json", text);
        if (kq_source_open("src_model", &src, &err))
            continue;
        opened++;
        assert_int_equal(kq_source_n_tensors(src), n_list);
        kq_source_close(src);
    }
    assert_true(opened > 20);
}

/* In a GGUF they are refused, as llama.cpp does. */
static void gguf_tensors_without_a_place(void **s)
{
    (void)s;
    /* and .weight */
    static const char *const names[] = {"blk.0.attn_sinks", "blk.0.attn_q.scale", "rope_factors_long", "x",
                                        "cls.output"};
    kq_source *src;
    for (int qwen3 = 0; qwen3 < 2; qwen3++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            folder(qwen3, true, "");
            add("y", names[i], 4, 0, 0);
            write_gguf("src_model.gguf", qwen3, NULL, LAYERS);
            if (qwen3 && !strncmp(names[i], "cls", 3)) { /* a reranker's head */
                check_ok(kq_source_open("src_model.gguf", &src, &err));
                kq_source_close(src);
            } else {
                refused("src_model.gguf", KQ_E_UNSUPPORTED, "has no place");
            }
        }
    folder(false, true, "");
    add("y", "blk.0.attn_q_norm", 4, 0, 0); /* Qwen3's, not LLaMA's */
    write_gguf("src_model.gguf", false, NULL, LAYERS);
    refused("src_model.gguf", KQ_E_UNSUPPORTED, "blk.0.attn_q_norm.weight has no place");
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

static void case_60_block_count(void **s)
{
    (void)s;
    folder(false, true, "");
    write_gguf("src_model.gguf", false, NULL, 513);
    refused("src_model.gguf", KQ_E_FORMAT, "num_hidden_layers");
    write_gguf("src_model.gguf", false, NULL, 3);
    refused("src_model.gguf", KQ_E_SHAPE, "model.layers.2");
}

/* A block type that is not read is no obstacle until its numbers are asked for; then the message names
 * tensor and type. */
static void unreadable_type_is_refused_when_read(void **s)
{
    (void)s;
    kq_source *src;
    static float got[VOCAB * D];
    folder(false, true, "");
    embed_type = 39;
    write_gguf("src_model.gguf", false, NULL, LAYERS);
    embed_type = 0;
    check_ok(kq_source_open("src_model.gguf", &src, &err));
    const kq_tensor *t = kq_source_find(src, "model.embed_tokens.weight");
    assert_int_equal(t->dtype, KQ_T_OTHER);
    check_fails(kq_source_read_f32(src, t, 0, 1, got, &err), KQ_E_UNSUPPORTED,
                "model.embed_tokens.weight has type MXFP4");
    check_ok(kq_source_read_f32(src, kq_source_find(src, "model.norm.weight"), 0, D, got, &err));
    kq_source_close(src);
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

#define T(name) cmocka_unit_test(name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(same_values_three_ways),
        T(configs_agree),
        T(llama3_factors_are_recognised),
        T(case_29_nan_weights),
        T(case_30_file_names),
        T(case_31_missing_shard),
        T(case_32_index_and_shard_disagree),
        T(case_33_tensor_in_two_shards),
        T(case_34_stale_index),
        T(case_35_config_and_tensors_disagree),
        T(extra_tensors),
        T(mutated_index),
        T(gguf_tensors_without_a_place),
        T(kronq_checkpoint_may_hold_trellis),
        T(case_60_block_count),
        T(unreadable_type_is_refused_when_read),
        T(fingerprints),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    clean();
    rmdir("src_model");
    unlink("src_model.gguf");
    return failed;
}
