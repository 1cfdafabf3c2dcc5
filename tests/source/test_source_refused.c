/* Models on disk that are refused, each with the file and the tensor that is wrong. */
#include "format/gguf.h"
#include "source/model_files.h"

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
    /* the single file goes first: the index and the files it names are not read */
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

/* tests/golden/tune_codebooks.gguf, with the ggml type and the number of columns of blk.0.ffn_up.weight
 * (IQ2_XXS, 256) replaced and, where d is not 0, the F16 number of that tensor's first block. */
static void write_codebooks(uint32_t type, uint64_t columns, uint16_t d)
{
    static const char name[] = "blk.0.ffn_up.weight";
    kq_map map;
    kq_gguf *g;
    check_ok(kq_map_open(KRONQ_GOLDEN_DIR "/tune_codebooks.gguf", &map, &err));
    bytes b = {0};
    put(&b, map.data, map.size);
    kq_map_close(&map);
    check_ok(kq_gguf_open_memory(b.p, b.n, "golden", &g, &err));
    for (size_t i = 0; i < kq_gguf_n_tensors(g) && d; i++)
        if (!strcmp(kq_gguf_tensor_at(g, i)->name, name))
            memcpy(b.p + (kq_gguf_tensor_at(g, i)->data - b.p), &d, 2);
    kq_gguf_close(g);
    for (uint8_t *p = b.p; p < b.p + b.n - 64; p++)
        if (!memcmp(p, name, sizeof name - 1)) { /* then the rank, two lengths, the type */
            memcpy(p + sizeof name - 1 + 4, &columns, 8);
            memcpy(p + sizeof name - 1 + 20, &type, 4);
            break;
        }
    write_file("src_model.gguf", b.p, b.n);
    free(b.p);
}

/* IQ2_XXS is read, TQ2_0 (of the same size) is not, by name; a type whose blocks are larger, half a block,
 * and an infinite scale are refused. */
static void codebook_types(void **s)
{
    (void)s;
    enum { IQ2_XXS = 16, IQ2_XS = 17, TQ2_0 = 35, WIDTH = 256 };
    static float got[WIDTH];
    static const struct {
        uint32_t type;
        uint16_t d;
        kq_status status;
        const char *message;
    } cases[] = {{IQ2_XXS, 0, KQ_OK, ""},
                 {TQ2_0, 0, KQ_E_UNSUPPORTED, "up_proj.weight has type TQ2_0, which kronq does not read"},
                 {IQ2_XXS, 0x7c00, KQ_E_NUMERIC, "up_proj.weight holds Inf"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_source *src;
        write_codebooks(cases[i].type, WIDTH, cases[i].d);
        check_ok(kq_source_open("src_model.gguf", &src, &err));
        const kq_tensor *t = kq_source_find(src, "model.layers.0.mlp.up_proj.weight");
        const kq_status status = kq_source_read_f32(src, t, 0, 1, got, &err);
        assert_int_equal(status, cases[i].status);
        assert_true(!status || strstr(err.message, cases[i].message));
        kq_source_close(src);
    }
    write_codebooks(IQ2_XS, WIDTH, 0);
    refused("src_model.gguf", KQ_E_FORMAT, "blk.0.");
    write_codebooks(IQ2_XXS, WIDTH / 2, 0);
    refused("src_model.gguf", KQ_E_FORMAT, "blk.0.ffn_up.weight");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(case_29_nan_weights),
        cmocka_unit_test(case_31_missing_shard),
        cmocka_unit_test(case_32_index_and_shard_disagree),
        cmocka_unit_test(case_33_tensor_in_two_shards),
        cmocka_unit_test(case_34_stale_index),
        cmocka_unit_test(case_35_config_and_tensors_disagree),
        cmocka_unit_test(mutated_index),
        cmocka_unit_test(gguf_tensors_without_a_place),
        cmocka_unit_test(case_60_block_count),
        cmocka_unit_test(unreadable_type_is_refused_when_read),
        cmocka_unit_test(codebook_types),
    };
    return cmocka_run_group_tests(tests, temp_folder_enter, temp_folder_leave);
}
