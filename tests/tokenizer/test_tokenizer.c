/* The tokenizer against the `tokenizers` package (golden files: scripts/make_golden_tokenizers.py), and
 * hostile files. */
#include <unistd.h>

#include "base/rng.h"
#include "tokenizer/tokenizer_check.h"
#include "base/buffer.h"
#include "base/mem.h"
#include "base/utf8.h"

static kq_tokenizer *open_family(const char *family)
{
    kq_error err;
    kq_tokenizer *tok;
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer_%s.json", KRONQ_GOLDEN_DIR, family);
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    return tok;
}

static void family(const char *name)
{
    kq_tokenizer *tok = open_family(name);
    check_family(tok, name);
    kq_tokenizer_close(tok);
}

static void smollm(void **state)
{
    (void)state;
    family("smollm");
}
static void llama3(void **state)
{
    (void)state;
    family("llama3");
}
static void qwen(void **state)
{
    (void)state;
    family("qwen");
}
static void llama2(void **state)
{
    (void)state;
    family("llama2");
}
static void llama2_metaspace(void **state)
{
    (void)state;
    family("llama2_metaspace");
}

/* Valid text comes back byte for byte, also token by token; the long-piece path agrees with itself on a
 * text without a single space. */
static void round_trip(void **state)
{
    (void)state;
    kq_error err;
    size_t size, n, back;
    char *raw = golden_read("tokenizer_text.bin", &size), *text;
    kq_buffer valid = {0}, joined = {0};
    int32_t *ids;
    check_ok(kq_utf8_lossy(raw, size, &valid, &err));
    static const char *const names[] = {"smollm", "llama3", "llama2"};
    for (int f = 0; f < 3; f++) {
        kq_tokenizer *tok = open_family(names[f]);
        check_ok(kq_tokenizer_encode(tok, valid.data, valid.size, false, false, &ids, &n, &err));
        check_ok(kq_tokenizer_decode(tok, ids, n, false, &text, &back, &err));
        if (f < 2) {
            assert_int_equal(back, valid.size);
            assert_memory_equal(text, valid.data, back);
        }
        joined.size = 0;
        for (size_t i = 0; i < n; i++) {
            const char *bytes;
            size_t k;
            check_ok(kq_tokenizer_token_bytes(tok, ids[i], &bytes, &k, &err));
            check_ok(kq_buffer_add(&joined, bytes, k, &err));
        }
        size_t extra = f == 2; /* LLaMA-2's decoder takes one leading space */
        assert_int_equal(joined.size, back + extra);
        assert_memory_equal(joined.data + extra, text, back);
        kq_free(text);
        kq_free(ids);
        kq_tokenizer_close(tok);
    }
    kq_free(joined.data);
    kq_free(valid.data);
    kq_free(raw);
}

/* Pieces around the length where the scan gives way to the heap, against a plain restatement of BPE. */
static void short_and_long_pieces(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok = open_family("llama2");
    kq_rng rng = kq_rng_stream(11, "pieces");
    for (int round = 0; round < 400; round++) {
        char s[120];
        int32_t want[120], *ids;
        size_t len = 1 + kq_rng_u64(&rng) % 100, n, m = 0;
        for (size_t i = 0; i < len; i++)
            s[i] = "aaabeth \nino"[kq_rng_u64(&rng) % 12];
        check_ok(kq_tokenizer_encode(tok, s, len, false, false, &ids, &n, &err));
        want[m++] = kq_tokenizer_id(tok, "\xe2\x96\x81");
        for (size_t i = 0; i < len; i++) {
            char one[4] = {s[i]}, byte[8];
            snprintf(byte, sizeof byte, "<0x%02X>", s[i]);
            int32_t id = kq_tokenizer_id(tok, s[i] == ' ' ? "\xe2\x96\x81" : one);
            want[m++] = id >= 0 ? id : kq_tokenizer_id(tok, byte);
        }
        for (;;) {
            size_t best = SIZE_MAX;
            const kq_merge *found = NULL;
            for (size_t i = 0; i + 1 < m; i++)
                for (size_t k = 0; k <= tok->merge_mask && m > 1; k++) {
                    uint64_t key = ((uint64_t)(uint32_t)want[i] << 32 | (uint32_t)want[i + 1]) + 1;
                    const kq_merge *g = &tok->merge[(kq_merge_slot(tok, key) + k) & tok->merge_mask];
                    if (!g->key)
                        break;
                    if (g->key == key && (!found || g->rank < found->rank)) {
                        found = g;
                        best = i;
                    }
                }
            if (!found)
                break;
            want[best] = found->id;
            memmove(want + best + 1, want + best + 2, (m - best - 2) * sizeof *want);
            m--;
        }
        assert_int_equal(n, m);
        assert_memory_equal(ids, want, m * sizeof *want);
        kq_free(ids);
    }
    kq_tokenizer_close(tok);
}

static void questions(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok = open_family("smollm");
    int32_t end = kq_tokenizer_id(tok, "<|endoftext|>");
    assert_int_equal(end, 0);
    assert_int_equal(kq_tokenizer_document_end(tok), 0);
    assert_int_equal(kq_tokenizer_id(tok, "no such token, surely"), -1);
    assert_int_equal(kq_tokenizer_vocab_size(tok), 2000);
    assert_int_equal(kq_tokenizer_bos(tok), -1);
    char *text;
    size_t size;
    int32_t far[] = {5000000, end}, bad = -1;
    check_ok(kq_tokenizer_decode(tok, far, 2, false, &text, &size, &err));
    assert_string_equal(text, "<|endoftext|>");
    kq_free(text);
    check_fails(kq_tokenizer_decode(tok, &bad, 1, false, &text, &size, &err), KQ_E_ARG, "negative");
    kq_tokenizer_close(tok);
}

/* ---- hostile files ---- */

static kq_status try_text(const char *text, size_t size, kq_error *err)
{
    char path[64];
    kq_tokenizer *tok = NULL;
    err->message[0] = 0;
    snprintf(path, sizeof path, "hostile_%d.json", (int)getpid());
    kq_error werr;
    kq_status status = kq_file_write(path, text, size, &werr);
    if (status)
        fail_msg("%s", werr.message);
    status = kq_tokenizer_open_file(path, &tok, err);
    if (!status) { /* whatever loads must also run */
        int32_t *ids;
        size_t n;
        kq_error e2;
        if (!kq_tokenizer_encode(tok, "Hello w\xc3\xb6rld\n 12 <s>", 19, true, true, &ids, &n, &e2))
            kq_free(ids);
    }
    kq_tokenizer_close(tok);
    unlink(path);
    return status;
}

static void truncated(void **state)
{
    (void)state;
    kq_error err;
    size_t size;
    char *text = golden_read("tokenizer_smollm.json", &size);
    kq_rng rng = kq_rng_stream(3, "cut");
    for (size_t i = 0; i < 400; i++) {
        size_t cut = i < 200 ? i : (size_t)(kq_rng_uniform(&rng) * (double)size);
        if (try_text(text, cut, &err) == KQ_OK)
            fail_msg("cut at %zu was accepted", cut);
        assert_true(err.message[0] != 0);
    }
    kq_free(text);
}

/* One byte changed: accepted or refused, never a crash (meant for the sanitizers). */
static void flipped(void **state)
{
    (void)state;
    kq_error err;
    size_t size;
    char *text = golden_read("tokenizer_llama2.json", &size);
    kq_rng rng = kq_rng_stream(4, "flip");
    for (size_t i = 0; i < 300; i++) {
        size_t at = (size_t)(kq_rng_uniform(&rng) * (double)size);
        char old = text[at];
        text[at] = "0\"[{}],:9-ex\\ "[kq_rng_u64(&rng) % 14];
        (void)try_text(text, size, &err);
        text[at] = old;
    }
    kq_free(text);
}

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a b\"]}"

static void refused(void **state)
{
    (void)state;
    kq_error err;
    static const struct {
        const char *text;
        kq_status status;
        const char *words;
    } cases[] = {
        {"{" MODEL "}", KQ_OK, ""},
        {"", KQ_E_FORMAT, "JSON"},
        {"[]", KQ_E_FORMAT, "model"},
        {"{}", KQ_E_FORMAT, "model"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", KQ_E_UNSUPPORTED, "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", KQ_E_FORMAT, "vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", KQ_E_FORMAT, "id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483647},\"merges\":[]}}", KQ_E_FORMAT, "id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1e3},\"merges\":[]}}", KQ_E_FORMAT, "id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999999999999},\"merges\":[]}}", KQ_E_FORMAT,
         "whole number"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", KQ_E_FORMAT,
         "two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", KQ_OK, ""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\u0061\":1},\"merges\":[]}}", KQ_OK, ""},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"a c\"]}}", KQ_E_FORMAT, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"b a\"]}}", KQ_E_FORMAT, "merge 0"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[\"ab\"]}}", KQ_E_FORMAT, "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[[\"a\"]]}}", KQ_E_FORMAT, "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":7}}", KQ_E_FORMAT, "merges"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"unk_token\":\"?\"}}", KQ_E_FORMAT,
         "unk_token"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"dropout\":0.1}}", KQ_E_UNSUPPORTED,
         "dropout"},
        {"{\"model\":{\"type\":\"BPE\"," VOCAB ",\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
         KQ_E_UNSUPPORTED, "end_of_word_suffix"},
        {"{" MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}", KQ_E_UNSUPPORTED, "Lowercase"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", KQ_E_UNSUPPORTED,
         "BertPreTokenizer"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":3}}", KQ_E_FORMAT,
         "Sequence"},
        {"{" MODEL
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
         KQ_E_UNSUPPORTED, "none of those"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}+\"},"
         "\"behavior\":\"Isolated\"}}",
         KQ_E_UNSUPPORTED, "none of those"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\h\"},\"behavior\":"
         "\"Isolated\"}}",
         KQ_E_UNSUPPORTED, "none of those"},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?{x})\"},\"behavior\":"
         "\"Isolated\"}}",
         KQ_E_UNSUPPORTED, "none of those"},
        {"{" MODEL
         ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Sideways\"}}",
         KQ_E_UNSUPPORTED, "Sideways"},
        {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", KQ_E_UNSUPPORTED, "WordPiece"},
        {"{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}", KQ_E_UNSUPPORTED, "BertProcessing"},
        {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{"
         "\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],"
         "\"special_tokens\":{\"x\":{\"ids\":[7]}}}}",
         KQ_E_FORMAT, "not in the vocabulary"},
        {"{" MODEL
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],\"special_tokens\":{}}}",
         KQ_E_FORMAT, "0 times"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":2,\"content\":\"a\",\"special\":true}]}", KQ_OK, ""},
        {"{" MODEL ",\"added_tokens\":[{\"id\":2,\"content\":\"zz\",\"special\":true}]}", KQ_OK, ""},
        {"{" MODEL ",\"added_tokens\":[{\"id\":4,\"content\":\"y\"},{\"id\":4,\"content\":\"z\"}]}", KQ_OK,
         ""},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":2},\"merges\":[]},\"added_tokens\":[{\"id\":"
         "0,\"content\":\"y\"}]}",
         KQ_E_FORMAT, "two tokens"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":4194304,\"content\":\"y\"}]}", KQ_E_FORMAT, "id"},
        {"{" MODEL ",\"added_tokens\":[{\"content\":\"y\"}]}", KQ_E_FORMAT, "id"},
        {"{" MODEL ",\"added_tokens\":[5]}", KQ_E_FORMAT, "added_tokens"},
        {"{" MODEL ",\"added_tokens\":{}}", KQ_E_FORMAT, "added_tokens"},
        {"{" MODEL ",\"added_tokens\":[{\"id\":3,\"content\":\"\",\"special\":true}]}", KQ_OK, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_status s = try_text(cases[i].text, strlen(cases[i].text), &err);
        if (s != cases[i].status || !strstr(err.message, cases[i].words))
            fail_msg("%s: status %d (want %d), message \"%s\" (want \"%s\")", cases[i].text, s,
                     cases[i].status, err.message, cases[i].words);
    }
    const size_t depth = 100000;
    char *deep = kq_alloc(2 * depth, 1);
    assert_non_null(deep);
    memset(deep, '[', depth);
    memset(deep + depth, ']', depth);
    check_fails(try_text(deep, 2 * depth, &err), KQ_E_FORMAT, "JSON");
    kq_free(deep);
    check_fails(try_text("{\"a\":\"\xff\"}", 9, &err), KQ_E_FORMAT, "JSON");
    kq_tokenizer *tok;
    check_fails(kq_tokenizer_open_file("no/such/tokenizer.json", &tok, &err), KQ_E_IO, "no/such");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smollm),
        cmocka_unit_test(llama3),
        cmocka_unit_test(qwen),
        cmocka_unit_test(llama2),
        cmocka_unit_test(llama2_metaspace),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(short_and_long_pieces),
        cmocka_unit_test(questions),
        cmocka_unit_test(truncated),
        cmocka_unit_test(flipped),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
