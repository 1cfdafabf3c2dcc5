/* Which tokens of a GGUF end an answer. The expected lists follow llama.cpp's llama_vocab::impl::load,
 * name by name; those of SmolLM2 and Qwen3 are what it prints ("printing all EOG tokens") for these
 * models. */
#include "source/gguf_special.h"

#include "format/bytes.h"

static kq_error err;

/* tokens: separated by spaces */
typedef struct vocabulary {
    const char *model, *tokens;
    const char *keys[4];
    uint32_t ids[4];
} vocabulary;

static size_t words(const char *text)
{
    size_t n = 0;
    for (const char *p = text; *p; p += strspn(p, " "), n++)
        p += strcspn(p, " ");
    return n;
}

static kq_gguf_special read_special(vocabulary v, kq_status want)
{
    bytes b = {0};
    kq_gguf *g;
    kq_gguf_special s;
    size_t n_key = 0;
    while (n_key < 4 && v.keys[n_key])
        n_key++;
    gguf_header(&b, 0, 2 + n_key);
    kv_str(&b, "tokenizer.ggml.model", v.model);
    put_string(&b, "tokenizer.ggml.tokens");
    put32(&b, 9);
    put32(&b, 8);
    put64(&b, words(v.tokens));
    for (const char *p = v.tokens; *p; p += strspn(p, " ")) {
        const size_t n = strcspn(p, " ");
        put64(&b, n);
        put(&b, p, n);
        p += n;
    }
    for (size_t i = 0; i < n_key; i++)
        kv_u32(&b, v.keys[i], v.ids[i]);
    check_ok(kq_gguf_open_memory(b.p, b.n, "x.gguf", &g, &err));
    assert_int_equal(kq_gguf_special_read(g, &s, &err), want);
    kq_gguf_close(g);
    free(b.p);
    return s;
}

static void expect(vocabulary v, size_t n, const int32_t *ids)
{
    const kq_gguf_special s = read_special(v, KQ_OK);
    if (s.n_end != n || (n && memcmp(s.end, ids, n * sizeof *ids)))
        fail_msg("%s: %zu end tokens (%d, %d, ...), expected %zu (%d, ...)", v.tokens, s.n_end, s.end[0],
                 s.end[1], n, n ? ids[0] : -1);
}

#define EOS "tokenizer.ggml.eos_token_id"
#define EOT "tokenizer.ggml.eot_token_id"
#define EOM "tokenizer.ggml.eom_token_id"
#define ENDS(...)                                                 \
    sizeof((const int32_t[]){__VA_ARGS__}) / 4, (const int32_t[]) \
    {                                                             \
        __VA_ARGS__                                               \
    }

static void end_tokens(void **state)
{
    (void)state;
    /* SmolLM2 */
    expect(
        (vocabulary){
            "gpt2", "<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> a", {EOS}, {2}},
        ENDS(2, 0, 4));
    expect((vocabulary){"gpt2",
                        "a <|endoftext|> <|im_start|> <|im_end|> <|fim_prefix|> <|fim_middle|> "
                        "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>",
                        {EOS},
                        {3}},
           ENDS(3, 1, 7, 8, 9)); /* Qwen3 */
    /* eot by name, the lowest: 2 */
    expect((vocabulary){"gpt2", "a <|begin_of_text|> <|end_of_text|> <|eom_id|> <|eot_id|> b", {EOS}, {4}},
           ENDS(4, 2, 3));
    expect((vocabulary){"gpt2", "a b c <|eot_id|>", {EOS, EOT, EOM}, {2, 1, 0}}, ENDS(2, 1, 0, 3));
    /* eos without a key: 2 */
    expect((vocabulary){"llama", "<unk> <s> </s> a <|im_end|> <end_of_turn>", {NULL}, {0}}, ENDS(2, 4, 5));
    expect((vocabulary){"llama", "<unk> <s> x a", {EOS}, {3}}, ENDS(3));
    /* not Falcon's 11 */
    expect((vocabulary){"gpt2", "a b c d e f g h i j k l m", {NULL}, {0}}, 0, NULL);
    /* gpt-oss goes on after <|end|> */
    expect((vocabulary){"gpt2", "a <|end|> <|return|> <|call|>", {EOS}, {2}}, ENDS(2, 3));
    /* Solar too */
    expect((vocabulary){"gpt2", "a <|end|> <|flush|> <|calls|>", {EOS}, {2}}, ENDS(2, 3));
    expect((vocabulary){"gpt2", "a <|end|> <|return|>", {EOS}, {2}}, ENDS(2, 1));
    expect((vocabulary){"gpt2", "a </s> <|tool_response> <turn|> <eos>", {EOS}, {4}}, ENDS(4, 2, 3));
    /* the first of two paddings */
    expect((vocabulary){"gpt2", "a [PAD] <PAD> [EOS] [EOT] _<EOT> <EOT>", {EOS}, {0}},
           ENDS(0, 4, 1, 3, 5, 6));
    expect(
        (vocabulary){
            "gpt2",
            "a <\xef\xbd\x9c"
            "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c> <end_of_utterance> [e~[ <|end_of_text|>",
            {EOS},
            {0}},
        ENDS(0, 1, 2, 3, 4));
    /* keys outside the vocabulary are passed over */
    expect((vocabulary){"gpt2", "a b <|im_end|>", {EOS, EOT}, {4294967295u, 7}}, ENDS(2));
    expect((vocabulary){"llama", "<unk> <s> </s> a", {EOS, "tokenizer.ggml.bos_token_id"}, {99, 98}},
           ENDS(2));
}

static void types(void **state)
{
    (void)state;
    kq_gguf_special s =
        read_special((vocabulary){"gpt2", "a <|end|> <|return|> <|call|> <|channel|>", {EOS}, {2}}, KQ_OK);
    int32_t type[5] = {0};
    for (size_t i = 0; i < s.n_retyped; i++)
        type[s.retyped[i].id] = s.retyped[i].type;
    assert_memory_equal(type, ((int32_t[]){0, 4, 3, 3, 4}), sizeof type);
    assert_true(s.bos == -1 && s.eos == 2 && s.unknown == -1 && s.padding == -1);
    s = read_special((vocabulary){"llama", "<unk> <s> </s>", {NULL}, {0}}, KQ_OK);
    assert_true(s.bos == 1 && s.eos == 2 && s.unknown == 0 && s.padding == -1);
    s = read_special((vocabulary){"llama", "x", {NULL}, {0}}, KQ_OK);
    assert_true(s.bos == -1 && s.eos == -1 && s.unknown == 0 && s.n_end == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(end_tokens), cmocka_unit_test(types)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
