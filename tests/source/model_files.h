/* A small model as a folder or as a GGUF, and the ways in which its files can be wrong. */
#ifndef KQ_TESTS_SOURCE_MODEL_FILES_H
#define KQ_TESTS_SOURCE_MODEL_FILES_H

#include "base/file.h"
#include "base/rng.h"
#include "format/safetensors_write.h"
#include "format/bytes.h"
#include "source/source.h"
#include "temp_folder.h"

enum { D = 32, HEADS = 4, KV = 2, HD = 8, FF = 64, VOCAB = 40, LAYERS = 2, MAX_T = 64 };

/* cols 0: rank 1; heads: permuted in a llama GGUF */
typedef struct entry {
    char hf[80], gguf[40];
    size_t rows, cols, heads;
} entry;

static kq_error err;

static entry list[MAX_T];

static size_t n_list;

static inline void add(const char *hf, const char *gguf, size_t rows, size_t cols, size_t heads)
{
    entry *e = &list[n_list++];
    snprintf(e->hf, sizeof e->hf, "%s.weight", hf);
    snprintf(e->gguf, sizeof e->gguf, "%s.weight", gguf);
    e->rows = rows;
    e->cols = cols;
    e->heads = heads;
}

static inline void make_list(bool qwen3, bool tied)
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

static inline size_t count(const entry *e)
{
    return e->rows * (e->cols ? e->cols : 1);
}

static inline float value(size_t tensor, size_t i)
{
    return (float)((tensor * 7919 + i * 104729) % 2003) / 1024 - 1;
}

static inline void config(char *buf, size_t cap, bool qwen3, bool tied, const char *more)
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
static inline void write_part(const char *path, size_t from, size_t to, const float *poison)
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

static inline void clean(void)
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

static inline void folder(bool qwen3, bool tied, const char *more)
{
    char text[2048];
    clean();
    make_list(qwen3, tied);
    config(text, sizeof text, qwen3, tied, more);
    write_text("src_model/config.json", text);
}

/* index: tensors before `split` in a.safetensors, the rest in the file named second. */
static inline void write_index(size_t split, const char *second, size_t from, size_t to)
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
static inline void write_gguf(const char *path, bool qwen3, const float *rope, uint32_t layers)
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

static inline void check_values(const char *path)
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

static inline void refused(const char *path, kq_status status, const char *words)
{
    kq_source *src;
    err.message[0] = 0;
    check_fails(kq_source_open(path, &src, &err), status, words);
    assert_null(src);
}

static inline void shards(void)
{
    folder(false, true, "");
    write_part("src_model/a.safetensors", 0, 7, NULL);
    write_part("src_model/b.safetensors", 7, n_list, NULL);
}

#endif
