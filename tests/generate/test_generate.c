/* Generation and self-written text on Markov chains, whose continuations are known without running a
 * model. */
#include "chain.h"

#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/eval.h"
#include "base/utf8.h"
#include "generate/generate.h"
#include "generate/sample.h"
#include "generate/self_text.h"

/* ids 0..255 are the bytes, 256 ends a document, 257 ends a turn, 258 begins one */
enum { VOCAB = 259, DOC_END = 256, TURN_END = 257, TURN_START = 258 };
static kq_tokenizer *tok;

/* A byte-level tokenizer.json without merges. Byte b is written as the character that GPT-2 gives it:
 * printable ones stand for themselves, the others follow from U+0100 on. */
static int setup(void **state)
{
    (void)state;
    static const char path[] = "test_generate_tokenizer.json";
    FILE *f = fopen(path, "w");
    if (!f)
        return -1;
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[", f);
    static const char *const special[] = {"<|endoftext|>", "<|im_end|>", "<|im_start|>"};
    for (int i = 0; i < 3; i++)
        fprintf(f,
                "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                "\"normalized\":false,"
                "\"special\":true}",
                i ? "," : "", DOC_END + i, special[i]);
    fputs("],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_"
          "offsets\":true,"
          "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_"
          "space\":true,\"trim_offsets\":true,"
          "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_"
          "subword_prefix\":null,\"end_of_word_suffix\":null,"
          "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{",
          f);
    unsigned next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        fprintf(f, "%s\"\\u%04x\":%u", b ? "," : "", itself ? b : next++, b);
    }
    for (int i = 0; i < 3; i++)
        fprintf(f, ",\"%s\":%d", special[i], DOC_END + i);
    fputs("},\"merges\":[]}}", f);
    if (fclose(f))
        return -1;
    kq_error err;
    kq_status st = kq_tokenizer_open_file(path, &tok, &err);
    if (st != KQ_OK)
        print_error("%s\n", err.message);
    unlink(path);
    return st == KQ_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    kq_tokenizer_close(tok);
    return 0;
}

/* What emit got: the whole text, and that every piece was whole characters. */
typedef struct heard {
    char text[8192];
    size_t n, calls, stop_at;
} heard;

static int hear(void *ctx, const char *text, size_t size)
{
    heard *h = ctx;
    assert_true(size > 0 && h->n + size < sizeof h->text);
    for (size_t at = 0; at < size;) {
        kq_utf8 c = kq_utf8_next(text + at, size - at);
        if (c.kind != KQ_UTF8_CHAR)
            fail_msg("emit got a broken character at byte %zu of %zu", at, size);
        at += c.size;
    }
    memcpy(h->text + h->n, text, size);
    h->n += size;
    h->text[h->n] = 0;
    return ++h->calls == h->stop_at;
}

/* A chain that speaks `bytes` (all different), one after another, and then `last`. */
static void chain_says(chain *c, const char *bytes, int32_t last)
{
    chain_init(c, VOCAB);
    size_t n = strlen(bytes);
    for (size_t i = 0; i < n; i++)
        *chain_logit(c, (unsigned char)bytes[i], i + 1 < n ? (unsigned char)bytes[i + 1] : (size_t)last) = 10;
}

static kq_engine *engine_of(const chain *c, size_t max_T)
{
    kq_error err;
    kq_engine *e;
    const kq_engine_options opt = {
        .isa = kq_isa_best(), .compute = KQ_F32, .threads = 1, .n_slots = 2, .max_T = max_T, .kv = KQ_KV_F32};
    check_ok(kq_engine_new_dense(&c->w, &opt, &e, &err));
    return e;
}

static void speak_until(chain *c, int32_t first, size_t n_max, kq_sampling s, const char *const *stop,
                        size_t n_stop, heard *h, size_t *made)
{
    kq_error err;
    kq_generated out;
    int32_t ids[4096];
    kq_engine *e = engine_of(c, n_max + 1);
    for (size_t again = 0; again < 2; again++) { /* a second time with the same engine: the same text */
        size_t stop_at = h->stop_at;
        *h = (heard){.stop_at = stop_at};
        const kq_generate_options opt = {.n_max = n_max,
                                         .sampling = s,
                                         .stop = stop,
                                         .n_stop = n_stop,
                                         .emit = hear,
                                         .ctx = h,
                                         .ids = ids};
        assert_true(n_max <= 4096);
        check_ok(kq_generate(e, 1, tok, &first, 1, again, &opt, &out, &err));
        if (out.n)
            assert_int_equal(kq_engine_length(e, 1), out.n + (out.finish == KQ_END_TOKEN));
        assert_int_equal(kq_engine_length(e, 0), 0);
    }
    *made = out.n;
    kq_engine_free(e);
}

static void speak(chain *c, int32_t first, size_t n_max, kq_sampling s, heard *h, size_t *made)
{
    speak_until(c, first, n_max, s, NULL, 0, h, made);
}

static const kq_sampling greedy = {.temperature = 0, .top_p = 1},
                         plain = {.temperature = 1, .top_p = 1, .seed = 3};

static void test_speaks(void **state)
{
    (void)state;
    /* one to four bytes a character, all bytes different so that the chain is a line */
    static const char text[] = "xa\xc3\xa9 \xe2\x82\xac-\xf0\x9f\x99\x84!";
    static const int32_t ends[] = {DOC_END, TURN_END};
    for (size_t i = 0; i < 2; i++) {
        chain c;
        chain_says(&c, text, ends[i]);
        if (ends[i] == TURN_END) { /* only the configuration says that this one ends */
            c.cfg.eos_id[0] = 7;
            c.cfg.eos_id[1] = TURN_END;
            c.cfg.n_eos = 2;
        }
        *chain_logit(&c, (size_t)ends[i], 'Z') = 10; /* were it not to stop there, it would go on with Z */
        heard h = {0};
        size_t made;
        speak(&c, 'x', 100, greedy, &h, &made);
        assert_string_equal(h.text, text + 1);
        assert_int_equal(made, strlen(text) - 1);
        /* a, e acute, space, euro, dash, face, exclamation mark: as each becomes complete */
        assert_int_equal(h.calls, 7);
        speak(&c, 'x', 100, plain, &h, &made); /* logits of 160 leave nothing to chance */
        assert_string_equal(h.text, text + 1);

        /* n_max in the middle of the euro sign: one replacement for the rest */
        speak(&c, 'x', 5, greedy, &h, &made);
        assert_string_equal(h.text, "a\xc3\xa9 \xef\xbf\xbd");
        assert_int_equal(made, 5);
        speak(&c, 'x', 0, greedy, &h, &made);
        assert_int_equal(made, 0);
        assert_int_equal(h.calls, 0);
        h.stop_at = 2; /* emit stops it: nothing more comes, not even at the end */
        speak(&c, 'x', 100, greedy, &h, &made);
        assert_string_equal(h.text, "a\xc3\xa9");
        assert_int_equal(made, 3);
        chain_free(&c);
    }
}

static void test_broken_text(void **state)
{
    (void)state;
    chain c;
    /* cut characters, stray bytes, a cut one before the end */
    chain_says(&c,
               "x\xe2\x82"
               "b\x80\xff"
               "c\xf0\x9f",
               DOC_END);
    heard h = {0};
    size_t made;
    speak(&c, 'x', 100, greedy, &h, &made);
    assert_string_equal(h.text, "\xef\xbf\xbd"
                                "b\xef\xbf\xbd\xef\xbf\xbd"
                                "c\xef\xbf\xbd");
    chain_free(&c);

    /* a token without text in the middle: TURN_START is special, not an end */
    chain_says(&c, "xab", TURN_START);
    *chain_logit(&c, TURN_START, 'c') = 10;
    *chain_logit(&c, 'c', DOC_END) = 10;
    speak(&c, 'x', 100, greedy, &h, &made);
    assert_string_equal(h.text, "abc");
    assert_int_equal(made, 4);
    chain_free(&c);

    /* all bytes at random: whatever comes, emit gets whole characters (hear checks) */
    chain_init(&c, VOCAB);
    for (size_t j = 0; j < VOCAB; j++)
        *chain_logit(&c, j, DOC_END) = *chain_logit(&c, j, TURN_START) = -10;
    for (uint64_t seed = 0; seed < 2; seed++) {
        kq_sampling s = {.temperature = 1, .top_p = 1, .seed = seed};
        speak(&c, 'x', 200, s, &h, &made);
        assert_true(h.calls > 50 && made > 100);
    }
    chain_free(&c);
}

static void test_stop(void **state)
{
    (void)state;
    static const struct {
        const char *stop[3];
        size_t n;
        const char *want;
        size_t made;
    } cases[] = {
        {{"fg"}, 1, "bcde", 6},
        {{"zz", "d", "cde"}, 3, "bc", 3},   /* the first to be whole */
        {{"dex", "def"}, 2, "bc", 5},       /* held back, one of two comes */
        {{"dex", "ghj"}, 2, "bcdefghi", 8}, /* held back, let go again, and at the end */
        {{""}, 1, "bcdefghi", 8},
        {{"i"}, 1, "bcdefgh", 8},
    };
    chain c;
    chain_says(&c, "abcdefghi", DOC_END);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        heard h = {0};
        size_t made;
        speak_until(&c, 'a', 50, greedy, cases[i].stop, cases[i].n, &h, &made);
        assert_string_equal(h.text, cases[i].want);
        assert_int_equal(made, cases[i].made);
    }
    /* a penalty on what was said: from a cycle a -> b -> a, 'c' is second choice */
    chain_free(&c);
    chain_init(&c, VOCAB);
    *chain_logit(&c, 'a', 'b') = *chain_logit(&c, 'b', 'a') = 3;
    *chain_logit(&c, 'a', 'c') = *chain_logit(&c, 'b', 'c') = 2;
    *chain_logit(&c, 'c', DOC_END) = 1;
    heard h = {0};
    size_t made;
    kq_sampling s = greedy;
    speak(&c, 'a', 5, s, &h, &made);
    assert_string_equal(h.text, "babab");
    s.repetition_penalty = 1.4; /* 3 / 1.4 > 2: goes on */
    speak(&c, 'a', 5, s, &h, &made);
    assert_string_equal(h.text, "babab");
    s.repetition_penalty = 2;
    speak(&c, 'a', 5, s, &h, &made);
    assert_string_equal(h.text, "bc");
    chain_free(&c);
}

static void test_generate_refused(void **state)
{
    (void)state;
    kq_error err;
    chain c;
    kq_engine *e;
    kq_generated out = {.n = 9};
    heard h = {0};
    int32_t prompt[] = {'x', 'y'}, bad = VOCAB;
    kq_generate_options opt = {.n_max = 5, .sampling = plain, .emit = hear, .ctx = &h};
    chain_init(&c, VOCAB);
    e = engine_of(&c, 4);
    check_fails(kq_generate(e, 0, tok, prompt, 0, 0, &opt, &out, &err), KQ_E_ARG, "no tokens");
    assert_int_equal(out.n, 0);
    assert_int_not_equal(kq_generate(e, 0, tok, &bad, 1, 0, &opt, &out, &err), KQ_OK);
    for (size_t j = 0; j < VOCAB; j++)
        for (size_t i = 'a'; i <= 'z'; i++)
            *chain_logit(&c, j, i) = 5;
    kq_engine_free(e);
    e = engine_of(&c, 4);
    opt.n_max = 3;
    check_ok(kq_generate(e, 0, tok, prompt, 2, 0, &opt, &out, &err)); /* 2 + 3 - 1 places: fits */
    assert_int_equal(out.n, 3);
    opt.n_max = 4;
    /* one too many: said */
    check_fails(kq_generate(e, 0, tok, prompt, 2, 0, &opt, &out, &err), KQ_E_ARG, "");
    assert_int_equal(out.n, 3);
    kq_engine_free(e);
    *chain_logit(&c, 'y', 3) = NAN;
    e = engine_of(&c, 4);
    opt.n_max = 3;
    kq_status st = kq_generate(e, 0, tok, prompt, 2, 0, &opt, &out, &err);
    assert_int_equal(st, KQ_E_NUMERIC);
    kq_engine_free(e);
    chain_free(&c);
}

/* ---- self-written text ---- */

static int stop_at_third(void *ctx, const char *stage, double fraction)
{
    assert_string_equal(stage, "self-text");
    assert_true(fraction > 0 && fraction <= 1 + 1e-12);
    return ++*(int *)ctx == 3;
}

static void test_self_text(void **state)
{
    (void)state;
    enum { LEN = 30, SEQ = 40, ODD = 35 };
    static int32_t all[SEQ * LEN], few[SEQ * LEN], other[SEQ * LEN];
    kq_error err;
    chain c;
    chain_init(&c, VOCAB);
    /* after any token: only 'a'..'d' and the document's end, with odds e^0 : e^1 : e^1 : e^2 : e^1;
     * after the end 'a' only */
    static const int32_t say[] = {'a', 'b', 'c', 'd', DOC_END};
    static const double odds[] = {0, 1, 1, 2, 1};
    double scale = sqrt((double)c.cfg.d_model), total = 0;
    for (size_t j = 0; j < VOCAB; j++) {
        for (size_t i = 0; i < VOCAB; i++)
            *chain_logit(&c, j, i) = -10;
        for (size_t i = 0; i < 5; i++)
            *chain_logit(&c, j, (size_t)say[i]) = j == DOC_END && i ? -10.0f : (float)(odds[i] / scale);
    }
    for (size_t i = 0; i < 5; i++)
        total += exp(odds[i]);
    kq_eval_options opt = kq_eval_defaults();
    opt.compute = KQ_F32;
    opt.threads = 1;
    check_ok(kq_self_text(&c.w, tok, SEQ, LEN, &opt, 42, all, &err));
    double count[5] = {0}, n = 0;
    for (size_t s = 0; s < SEQ; s++) {
        /* a text begins after the end of one; not with this tokenizer's turn */
        assert_int_equal(all[s * LEN], DOC_END);
        for (size_t t = 1; t < LEN; t++) {
            int32_t id = all[s * LEN + t], last = all[s * LEN + t - 1];
            if (last == DOC_END) {
                assert_int_equal(id, 'a'); /* it goes on after an end */
                continue;
            }
            size_t i = 0;
            while (i < 5 && say[i] != id)
                i++;
            assert_true(i < 5);
            count[i]++;
            n++;
        }
    }
    double chi2 = 0;
    for (size_t i = 0; i < 5; i++) {
        double want = n * exp(odds[i]) / total;
        chi2 += (count[i] - want) * (count[i] - want) / want;
    }
    if (chi2 > 20) /* 4 degrees of freedom: 5e-4; the seed is fixed */
        fail_msg(
            "the model's own text is not distributed like the model: chi-square %g (%g %g %g %g %g of %g)",
            chi2, count[0], count[1], count[2], count[3], count[4], n);

    /* sequence i is the same whatever is asked for beside it, and for any number of threads; another
     * seed gives another */
    opt.threads = 3;
    check_ok(kq_self_text(&c.w, tok, ODD, LEN, &opt, 42, few, &err));
    assert_memory_equal(few, all, ODD * LEN * sizeof *all);
    check_ok(kq_self_text(&c.w, tok, 1, LEN, &opt, 42, few, &err));
    assert_memory_equal(few, all, LEN * sizeof *all);
    check_ok(kq_self_text(&c.w, tok, SEQ, LEN, &opt, 43, other, &err));
    size_t same = 0;
    for (size_t s = 0; s < SEQ; s++)
        same += !memcmp(other + s * LEN, all + s * LEN, LEN * sizeof *all);
    assert_int_equal(same, 0);
    for (size_t s = 1; s < SEQ; s++)
        assert_memory_not_equal(all, all + s * LEN, LEN * sizeof *all);

    /* 'd' ends an answer now, as generation_config.json may say: the start token follows, and nothing
     * else does */
    c.cfg.eos_id[c.cfg.n_eos++] = 'd';
    check_ok(kq_self_text(&c.w, tok, SEQ, LEN, &opt, 42, few, &err));
    size_t ends = 0;
    for (size_t i = 0; i + 1 < SEQ * LEN; i++)
        if ((i + 1) % LEN && few[i] == 'd') {
            assert_int_equal(few[i + 1], DOC_END);
            ends++;
        }
    assert_true(ends > 20);
    check_ok(kq_self_text(&c.w, tok, ODD, LEN, &opt, 42, other, &err));
    assert_memory_equal(few, other, ODD * LEN * sizeof *few);
    c.cfg.n_eos--;

    check_ok(kq_self_text(&c.w, tok, 3, 1, &opt, 42, few, &err));
    assert_true(few[0] == DOC_END && few[1] == DOC_END && few[2] == DOC_END);
    check_ok(kq_self_text(&c.w, tok, 0, LEN, &opt, 42, few, &err));
    int calls = 0;
    opt.progress = stop_at_third;
    opt.progress_ctx = &calls;
    check_fails(kq_self_text(&c.w, tok, SEQ, LEN, &opt, 42, few, &err), KQ_E_INTERRUPTED, "stopped");
    assert_int_equal(calls, 3);
    opt.progress = NULL;
    *chain_logit(&c, 'd', 'a') = NAN;
    assert_int_equal(kq_self_text(&c.w, tok, SEQ, LEN, &opt, 42, few, &err), KQ_E_NUMERIC);
    chain_free(&c);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_speaks),    cmocka_unit_test(test_broken_text),
        cmocka_unit_test(test_stop),      cmocka_unit_test(test_generate_refused),
        cmocka_unit_test(test_self_text),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
