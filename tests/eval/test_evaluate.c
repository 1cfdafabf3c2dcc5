/* kq_evaluate against PyTorch in double precision (tests/golden/eval.txt) on the tiny models, and
 * against arithmetic on Markov chains. */
#include <unistd.h>

#include "generate/chain.h"

#include "base/mem.h"
#include "base/rng.h"
#include "eval/eval.h"
#include "source/source.h"
#include "temp_folder.h"

static kq_eval_options options(size_t ctx, int threads)
{
    kq_eval_options opt = kq_eval_defaults();
    opt.ctx = ctx;
    opt.threads = threads;
    opt.compute = KQ_F32;
    return opt;
}

/* The same ids as scripts/make_golden_eval.py. */
static void text(int32_t *ids, size_t n, size_t vocab)
{
    uint64_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = (x * 1103515245 + 12345) % 2147483648u;
        ids[i] = (int32_t)((x >> 8) % vocab);
    }
}

/* A source's weights, linears rounded to multiples of 1/64, or with one fault planted. */
typedef struct rounded {
    kq_weights inner, w;
    bool round;
    size_t nan_layer; /* a NaN in this layer's down_proj; SIZE_MAX: none */
} rounded;

static kq_status rounded_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const rounded *r = ctx;
    size_t m, n;
    kq_status st = r->inner.linear(r->inner.ctx, layer, id, W, err);
    kq_linear_shape(r->inner.cfg, id, &m, &n);
    for (size_t i = 0; st == KQ_OK && r->round && i < m * n; i++)
        W[i] = rintf(W[i] * 64) / 64;
    if (st == KQ_OK && layer == r->nan_layer && id == KQ_DOWN)
        W[0] = NAN;
    return st;
}

static kq_status rounded_rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst,
                              kq_error *err)
{
    const rounded *r = ctx;
    return r->inner.rows(r->inner.ctx, name, row0, n_rows, dst, err);
}

static void rounded_init(rounded *r, kq_weights inner)
{
    *r = (rounded){.inner = inner, .round = true, .nan_layer = SIZE_MAX};
    r->w = (kq_weights){.cfg = inner.cfg, .ctx = r, .linear = rounded_linear, .rows = rounded_rows};
}

static kq_source *open_tiny(const char *family)
{
    char path[512];
    kq_error err;
    kq_source *src;
    snprintf(path, sizeof path, "%s/tiny_%s", KRONQ_GOLDEN_DIR, family);
    check_ok(kq_source_open(path, &src, &err));
    return src;
}

static void test_golden(void **state)
{
    (void)state;
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/eval.txt", "r");
    assert_non_null(f);
    char family[32];
    size_t ctx, windows, lines = 0;
    double nll, nll_se, nll_sw, kld, kld_se, kld_sw, top1;
    while (fscanf(f, "%31s %zu %zu %lf %lf %lf %lf %lf %lf %lf", family, &ctx, &windows, &nll, &nll_se,
                  &nll_sw, &kld, &kld_se, &kld_sw, &top1) == 10) {
        lines++;
        kq_error err;
        kq_source *src = open_tiny(family);
        kq_weights w = kq_weights_from_source(src);
        rounded r;
        rounded_init(&r, w);
        int32_t ids[1000];
        size_t n = ctx * windows + 37; /* more than whole windows */
        text(ids, n, w.cfg->vocab_size);
        kq_eval_options opt = options(ctx, 2);
        kq_eval_figures e;
        check_ok(kq_evaluate(&r.w, &w, ids, n, &opt, &e, &err));
        assert_int_equal(e.windows, windows);
        assert_int_equal(e.tokens, windows * (ctx - 1));
        assert_true(e.has_kld);
        /* f32 here against f64 there: 2e-5 relative leaves room for other processors */
        check_number(e.nll, nll, 2e-5 * nll);
        check_number(e.nll_stderr, nll_se, 1e-4 * nll_se);
        check_number(e.nll_stderr_windows, nll_sw, 1e-3 * nll_sw);
        check_number(e.ppl, exp(nll), 2e-4 * exp(nll));
        check_number(e.ppl_stderr, exp(nll) * nll_se, 1e-3 * exp(nll) * nll_se);
        check_number(e.ppl_stderr_windows, exp(nll) * nll_sw, 1e-3 * exp(nll) * nll_sw);
        check_number(e.kld, kld, 1e-4 * kld);
        check_number(e.kld_stderr, kld_se, 1e-3 * kld_se);
        check_number(e.kld_stderr_windows, kld_sw, 1e-3 * kld_sw);
        check_number(e.top1, top1, 1e-9);
        double n_pos = (double)(windows * ctx); /* a 0/1 variable */
        check_number(e.top1_stderr, sqrt(top1 * (1 - top1) / (n_pos - 1)), 1e-9);

        /* without a reference the same perplexity, bit for bit, and no divergence */
        kq_eval_figures alone;
        check_ok(kq_evaluate(&r.w, NULL, ids, n, &opt, &alone, &err));
        assert_false(alone.has_kld);
        assert_true(alone.nll == e.nll && alone.ppl == e.ppl && alone.nll_stderr == e.nll_stderr);

        /* a model against itself */
        check_ok(kq_evaluate(&w, &w, ids, n, &opt, &e, &err));
        assert_true(e.kld == 0 && e.kld_stderr == 0 && e.top1 == 1 && e.top1_stderr == 0);

        /* bf16: the same to bf16's precision (8 bits, over some 20 products) */
        opt.compute = KQ_BF16;
        check_ok(kq_evaluate(&r.w, NULL, ids, n, &opt, &e, &err));
        check_number(e.nll, nll, 0.02 * nll);
        kq_source_close(src);
    }
    fclose(f);
    assert_int_equal(lines, 3);
}

/* Windows, threads and grouping must not show in the bits. */
static void test_threads(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src = open_tiny("llama3");
    kq_weights w = kq_weights_from_source(src);
    rounded r;
    rounded_init(&r, w);
    int32_t ids[700];
    text(ids, 700, w.cfg->vocab_size);
    kq_eval_figures first, e;
    for (int threads = 1; threads <= 8; threads += threads < 4 ? 1 : 4) {
        kq_eval_options opt = options(130, threads); /* 5 windows; two whole tiles of 64 and one of 2 */
        check_ok(kq_evaluate(&r.w, &w, ids, 700, &opt, threads == 1 ? &first : &e, &err));
        if (threads > 1)
            assert_memory_equal(&first, &e, sizeof e);
    }
    kq_source_close(src);
}

static void test_chain(void **state)
{
    (void)state;
    enum { VOCAB = 50, CTX = 65, N = CTX * 7 + 64 };
    chain q, p;
    chain_init(&q, VOCAB);
    chain_init(&p, VOCAB + 0);
    kq_rng rng = kq_rng_stream(4, "chain");
    double scale = sqrt((double)q.cfg.d_model); /* RMSNorm of a unit vector */
    for (size_t j = 0; j < VOCAB; j++)
        for (size_t i = 0; i < VOCAB; i++) {
            *chain_logit(&q, j, i) = (float)(0.2 * kq_rng_normal(&rng));
            *chain_logit(&p, j, i) = *chain_logit(&q, j, i) + (float)(0.1 * kq_rng_normal(&rng));
        }
    int32_t ids[N];
    text(ids, N, VOCAB);
    for (size_t chunks = 0; chunks <= 9; chunks += 3) { /* 9: more than there are */
        size_t windows = chunks && chunks < 7 ? chunks : 7;
        double nll = 0, kld = 0, same = 0;
        for (size_t t = 0; t < windows * CTX; t++) {
            double zq = 0, zp = 0, kl = 0;
            size_t tq = 0, tp = 0, j = (size_t)ids[t];
            for (size_t i = 0; i < VOCAB; i++) {
                zq += exp(scale * (double)*chain_logit(&q, j, i));
                zp += exp(scale * (double)*chain_logit(&p, j, i));
                tq = *chain_logit(&q, j, i) > *chain_logit(&q, j, tq) ? i : tq;
                tp = *chain_logit(&p, j, i) > *chain_logit(&p, j, tp) ? i : tp;
            }
            for (size_t i = 0; i < VOCAB; i++) {
                double lp = scale * (double)*chain_logit(&p, j, i) - log(zp),
                       lq = scale * (double)*chain_logit(&q, j, i) - log(zq);
                kl += exp(lp) * (lp - lq);
            }
            kld += kl;
            same += tp == tq;
            if (t % CTX < CTX - 1) /* a window's last token predicts nothing that is scored */
                nll -= scale * (double)*chain_logit(&q, j, (size_t)ids[t + 1]) - log(zq);
        }
        kq_error err;
        kq_eval_options opt = options(CTX, 3);
        opt.chunks = chunks;
        kq_eval_figures e;
        check_ok(kq_evaluate(&q.w, &p.w, ids, N, &opt, &e, &err));
        assert_int_equal(e.windows, windows);
        check_number(e.nll, nll / (double)(windows * (CTX - 1)), 1e-5);
        check_number(e.kld, kld / (double)(windows * CTX), 1e-5);
        check_number(e.top1, same / (double)(windows * CTX), 1e-12);
    }
    chain_free(&q);
    chain_free(&p);
}

/* The flat model knows nothing: perplexity is the size of the vocabulary. A model of another width may
 * be the reference. */
static void test_flat_and_widths(void **state)
{
    (void)state;
    kq_error err;
    chain a, b;
    chain_init(&a, 40);
    chain_init(&b, 40);
    b.cfg.d_model = 96; /* the same chain in a wider model */
    b.cfg.n_head = 6;
    free(b.head);
    b.head = calloc(40 * 96, sizeof *b.head);
    assert_non_null(b.head);
    int32_t ids[64];
    text(ids, 64, 40);
    kq_eval_options opt = options(32, 1);
    kq_eval_figures e;
    check_ok(kq_evaluate(&a.w, &b.w, ids, 64, &opt, &e, &err));
    check_number(e.ppl, 40.0, 1e-4);
    check_number(e.nll_stderr, 0.0, 1e-6);
    check_number(e.kld, 0.0, 1e-7);
    assert_true(e.top1 == 1);
    /* one window says nothing about the scatter of windows */
    check_ok(kq_evaluate(&a.w, &b.w, ids, 32, &opt, &e, &err));
    assert_true(isnan(e.nll_stderr_windows) && isfinite(e.nll_stderr));
    chain_free(&a);
    chain_free(&b);
}

typedef struct watch {
    double last;
    int calls, stop_at;
} watch;

static int watching(void *ctx, const char *stage, double fraction)
{
    watch *w = ctx;
    assert_true(!strcmp(stage, "model") || !strcmp(stage, "reference") || !strcmp(stage, "scores"));
    assert_true(fraction > w->last && fraction <= 1 + 1e-12);
    w->last = fraction;
    return ++w->calls == w->stop_at;
}

static void test_refused(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src = open_tiny("llama2");
    kq_weights w = kq_weights_from_source(src);
    rounded r;
    rounded_init(&r, w);
    int32_t ids[300];
    text(ids, 300, w.cfg->vocab_size);
    kq_eval_figures e, untouched;
    memset(&e, 0x5a, sizeof e);
    memset(&untouched, 0x5a, sizeof untouched);
    kq_eval_options opt = options(100, 2);
    check_fails(kq_evaluate(&w, NULL, ids, 99, &opt, &e, &err), KQ_E_ARG, "99 tokens");
    check_fails(kq_evaluate(&w, NULL, ids, 0, &opt, &e, &err), KQ_E_ARG, "0 tokens");
    opt.ctx = 1;
    check_fails(kq_evaluate(&w, NULL, ids, 300, &opt, &e, &err), KQ_E_ARG, "at least 2");
    opt.ctx = 0;
    check_fails(kq_evaluate(&w, NULL, ids, 300, &opt, &e, &err), KQ_E_ARG, "at least 2");
    opt.ctx = 100;
    chain other;
    chain_init(&other, 40);
    check_fails(kq_evaluate(&w, &other.w, ids, 300, &opt, &e, &err), KQ_E_MISMATCH, "40");
    chain_free(&other);
    int32_t was = ids[150];
    ids[150] = (int32_t)w.cfg->vocab_size;
    check_fails(kq_evaluate(&w, NULL, ids, 300, &opt, &e, &err), KQ_E_ARG, "vocabulary");
    ids[150] = -1;
    check_fails(kq_evaluate(&w, NULL, ids, 300, &opt, &e, &err), KQ_E_ARG, "vocabulary");
    ids[150] = was;
    r.nan_layer = 1;
    check_fails(kq_evaluate(&r.w, NULL, ids, 300, &opt, &e, &err), KQ_E_NUMERIC, "model, window ");
    assert_non_null(strstr(err.message, "layers.1"));
    check_fails(kq_evaluate(&w, &r.w, ids, 300, &opt, &e, &err), KQ_E_NUMERIC, "reference, window ");
    r.nan_layer = SIZE_MAX;

    /* stopped at every call of progress in turn; the last run is not stopped and ends at 1 */
    for (int stop = 1;; stop++) {
        watch seen = {.stop_at = stop};
        opt.progress = watching;
        opt.progress_ctx = &seen;
        kq_eval_figures whole;
        kq_status st = kq_evaluate(&r.w, &w, ids, 300, &opt, &whole, &err);
        if (st == KQ_OK) {
            assert_true(stop > 4);
            check_number(seen.last, 1.0, 1e-9);
            break;
        }
        assert_int_equal(st, KQ_E_INTERRUPTED);
        assert_int_equal(seen.calls, stop);
    }
    opt.progress = NULL;

    /* every allocation fails in turn: an error each time, nothing leaked (the sanitizer looks), nothing
     * written */
    opt.threads = 1;
    for (size_t n = 1;; n++) {
        kq_eval_figures whole;
        kq_alloc_fail_after(n);
        kq_status st = kq_evaluate(&r.w, &w, ids, 300, &opt, &whole, &err);
        kq_alloc_fail_after(0);
        if (st == KQ_OK) {
            assert_true(n > 10);
            break;
        }
        assert_int_equal(st, KQ_E_MEMORY);
    }
    assert_memory_equal(&e, &untouched, sizeof e);
    kq_source_close(src);
}

/* Hidden states of the reference from a file: the same bits, and no block of the reference is computed
 * (one holds a NaN then). */
static void test_hidden(void **state)
{
    (void)state;
    kq_error err;
    char path[256], cmd[300];
    kq_source *src = open_tiny("llama3");
    kq_weights w = kq_weights_from_source(src);
    rounded q, broken;
    rounded_init(&q, w);
    rounded_init(&broken, w);
    broken.round = false;
    broken.nan_layer = 0;
    enum { CTX = 70, WINDOWS = 5 };
    int32_t ids[CTX * WINDOWS];
    text(ids, CTX * WINDOWS, w.cfg->vocab_size);
    kq_eval_options opt = options(CTX, 2);
    kq_eval_figures plain, e;
    check_ok(kq_evaluate(&q.w, &w, ids, CTX * WINDOWS, &opt, &plain, &err));
    check_fails(kq_evaluate(&q.w, &broken.w, ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_NUMERIC, "reference");

    for (int half = 0; half < 2; half++) { /* llama.cpp's convention looks at the same states */
        opt.half = half;
        opt.hidden = NULL;
        check_ok(kq_evaluate(&q.w, &w, ids, CTX * WINDOWS, &opt, &plain, &err));
        check_ok(kq_hidden_open(temp_folder, "the text", WINDOWS, CTX, w.cfg->d_model, &opt.hidden, &err));
        assert_int_equal(kq_hidden_whole(opt.hidden), half);
        if (!half) {
            check_ok(kq_evaluate(&q.w, &w, ids, CTX * WINDOWS, &opt, &e, &err));
            check_ok(kq_hidden_finish(opt.hidden, &err));
            assert_memory_equal(&e, &plain, sizeof e);
            kq_hidden_close(opt.hidden);
            check_ok(
                kq_hidden_open(temp_folder, "the text", WINDOWS, CTX, w.cfg->d_model, &opt.hidden, &err));
        }
        assert_true(kq_hidden_whole(opt.hidden));
        opt.threads = 1 + half;
        check_ok(kq_evaluate(&q.w, &broken.w, ids, CTX * WINDOWS, &opt, &e, &err));
        assert_memory_equal(&e, &plain, sizeof e);
        kq_hidden_close(opt.hidden);
    }

    /* another key is another file; unfinished, it leaves nothing */
    check_ok(kq_hidden_open(temp_folder, "another text", WINDOWS, CTX, w.cfg->d_model, &opt.hidden, &err));
    assert_false(kq_hidden_whole(opt.hidden));
    kq_hidden_close(opt.hidden);
    snprintf(cmd, sizeof cmd, "test $(ls %s | wc -l) = 1", temp_folder);
    assert_int_equal(system(cmd), 0);

    /* other shapes, and damage */
    check_fails(kq_hidden_open(temp_folder, "the text", WINDOWS - 1, CTX, w.cfg->d_model, &opt.hidden, &err),
                KQ_E_FORMAT, "remove it");
    snprintf(cmd, sizeof cmd, "ls -d %s/*.safetensors", temp_folder);
    FILE *f = popen(cmd, "r");
    assert_int_equal(fscanf(f, "%255s", path), 1);
    pclose(f);
    assert_non_null(f = fopen(path, "r+b"));
    /* in the last window but one */
    fseek(f, -(long)(WINDOWS * 8 + CTX * w.cfg->d_model * 4 + 100), SEEK_END);
    fputc(7, f);
    fclose(f);
    check_ok(kq_hidden_open(temp_folder, "the text", WINDOWS, CTX, w.cfg->d_model, &opt.hidden, &err));
    check_fails(kq_evaluate(&q.w, &w, ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_FORMAT,
                "window 3 is damaged");
    kq_hidden_close(opt.hidden);
    assert_int_equal(truncate(path, 1000), 0);
    check_fails(kq_hidden_open(temp_folder, "the text", WINDOWS, CTX, w.cfg->d_model, &opt.hidden, &err),
                KQ_E_FORMAT, path);
    kq_source_close(src);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_threads), cmocka_unit_test(test_chain),
        cmocka_unit_test(test_flat_and_widths), cmocka_unit_test(test_refused), cmocka_unit_test(test_hidden),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
