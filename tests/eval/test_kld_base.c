/* Files of saved logits (llama.cpp's format) against NumPy's reading of it (scripts/make_golden_kld.py),
 * and damaged ones. */
#include "check.h"

#include "base/mem.h"
#include "eval/eval.h"

enum { CTX = 40, WINDOWS = 3, N_NUMBER = 6 + KQ_N_QUANTILE + WINDOWS };
#define BASE KRONQ_GOLDEN_DIR "/kld_base.bin"

static kq_weights inner;
static kq_status rounded_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    size_t m, n;
    (void)ctx;
    kq_status st = inner.linear(inner.ctx, layer, id, W, err);
    kq_linear_shape(inner.cfg, id, &m, &n);
    for (size_t i = 0; st == KQ_OK && i < m * n; i++)
        W[i] = rintf(W[i] * 64) / 64;
    return st;
}

static kq_source *open_tiny(kq_weights *w)
{
    kq_error err;
    kq_source *src;
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_llama3", &src, &err));
    *w = kq_weights_from_source(src);
    return src;
}

static void test_read(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src = open_tiny(&inner);
    kq_weights w = inner;
    w.linear = rounded_linear;
    double want[N_NUMBER];
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/kld_base.txt", "r");
    assert_non_null(f);
    for (int i = 0; i < N_NUMBER; i++)
        assert_int_equal(fscanf(f, "%lf", &want[i]), 1);
    fclose(f);
    kq_kld_base base;
    assert_true(kq_kld_base_is(BASE));
    assert_false(kq_kld_base_is(KRONQ_GOLDEN_DIR "/eval.txt") || kq_kld_base_is(KRONQ_GOLDEN_DIR) ||
                 kq_kld_base_is("none"));
    check_ok(kq_kld_base_open(BASE, &base, &err));
    assert_int_equal(base.ctx, CTX);
    assert_int_equal(base.windows, WINDOWS);
    kq_eval_window window[WINDOWS];
    kq_eval_options opt = kq_eval_defaults();
    opt.ctx = CTX;
    opt.compute = KQ_F32;
    opt.threads = 2;
    opt.half = true;
    opt.base = &base;
    opt.per_window = window;
    kq_eval_figures e;
    check_ok(kq_evaluate(&w, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err));
    assert_int_equal(e.tokens, WINDOWS * (CTX - 1 - CTX / 2));
    /* f32 here, f64 there: 2e-5 of values around 6 */
    check_number(e.nll, want[0], 1e-4);
    check_number(e.reference_nll, want[1], 1e-5); /* a sum over the file alone */
    check_number(e.ratio, want[0] - want[1], 1e-4);
    check_number(e.kld, want[2], 2e-5);
    for (int i = 0; i < KQ_N_QUANTILE; i++)
        check_number(e.kld_quantile[i], want[3 + i], 5e-5);
    check_number(e.top1, want[3 + KQ_N_QUANTILE], 1e-9);
    check_number(e.dp_mean, want[4 + KQ_N_QUANTILE], 1e-5);
    check_number(e.dp_rms, want[5 + KQ_N_QUANTILE], 1e-5);
    double nll = 0, top1 = 0;
    for (int i = 0; i < WINDOWS; i++) {
        check_number(window[i].kld, want[6 + KQ_N_QUANTILE + i], 2e-5);
        nll += window[i].nll / WINDOWS;
        top1 += window[i].top1 / WINDOWS;
    }
    check_number(nll, e.nll, 1e-12);
    check_number(top1, e.top1, 1e-12);

    /* refusals of kq_evaluate */
    opt.half = false;
    check_fails(kq_evaluate(&w, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_ARG, "second halves");
    opt.half = true;
    opt.ctx = 30;
    check_fails(kq_evaluate(&w, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_ARG,
                "3 windows of 40 tokens, 4 of 30");
    kq_source *other;
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_llama2", &other, &err));
    const kq_weights v = kq_weights_from_source(other);
    opt.ctx = CTX;
    check_fails(kq_evaluate(&v, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_MISMATCH,
                "is of a model of 300 tokens, this one has 259");
    kq_source_close(other);
    kq_kld_base_close(&base);
    kq_source_close(src);
}

/* Written again by us: header and ids equal, rows equal to a step or two of 16 bits; read again: no
 * divergence. */
static void test_write(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src = open_tiny(&inner);
    kq_kld_base base, ours;
    check_ok(kq_kld_base_open(BASE, &base, &err));
    kq_eval_options opt = kq_eval_defaults();
    opt.ctx = CTX;
    opt.compute = KQ_F32;
    opt.half = true;
    kq_eval_figures e;
    for (int threads = 1; threads <= 3; threads += 2) {
        opt.threads = threads;
        opt.base = NULL;
        check_ok(kq_kld_writer_open("ours.kld", CTX, base.vocab, WINDOWS, base.ids, &opt.save, &err));
        check_ok(kq_evaluate(&inner, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err));
        check_ok(kq_out_commit(opt.save, &err));
        opt.save = NULL;
        check_ok(kq_kld_base_open("ours.kld", &ours, &err));
        assert_int_equal(ours.map.size, base.map.size);
        assert_memory_equal(ours.map.data, base.map.data, 20 + 4 * CTX * WINDOWS);
        const size_t row = kq_kld_row_bytes(base.vocab);
        for (size_t r = 0; r < WINDOWS * (CTX - 1 - CTX / 2); r++) {
            float a[2], b[2];
            memcpy(a, ours.rows + r * row, 8);
            memcpy(b, base.rows + r * row, 8);
            check_number(a[0], b[0], 1e-5 * b[0]);
            check_number(a[1], b[1], 1e-4);
            const uint16_t *p = (const uint16_t *)(const void *)(ours.rows + r * row + 8),
                           *q = (const uint16_t *)(const void *)(base.rows + r * row + 8);
            for (size_t i = 0; i < base.vocab; i++)
                assert_true(abs(p[i] - q[i]) <= 3);
        }
        opt.base = &ours;
        check_ok(kq_evaluate(&inner, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err));
        check_number(e.kld, 0, 1e-4);
        /* the file keeps 16 nats below the most likely: what is rarer (much, in a random model) counts
         * as that */
        assert_true(e.ratio > -1e-4 && e.ratio < 1);
        check_number(e.top1, 1, 0);
        kq_kld_base_close(&ours);
    }
    kq_kld_base_close(&base);
    kq_source_close(src);
}

static void write_file(const uint8_t *data, size_t size, size_t at, const void *patch, size_t n)
{
    kq_error err;
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, data, size);
    if (n)
        memcpy(copy + at, patch, n);
    check_ok(kq_file_write("bad.kld", copy, size, &err));
    free(copy);
}

static void test_damaged(void **state)
{
    (void)state;
    kq_error err;
    kq_kld_base base, bad;
    check_ok(kq_kld_base_open(BASE, &base, &err));
    const uint8_t *data = base.map.data;
    for (size_t cut = 0; cut < base.map.size; cut += cut < 40 ? 1 : 997) {
        write_file(data, cut, 0, NULL, 0);
        check_fails(kq_kld_base_open("bad.kld", &bad, &err), KQ_E_FORMAT, "bad.kld: ");
    }
    static const struct {
        size_t at;
        int32_t value;
        const char *words;
    } numbers[] = {
        {0, 0, "does not begin with"}, {8, 0, "cannot be"},           {8, -40, "cannot be"},
        {8, 0x7fffffff, "cannot be"},  {8, 41, "an unfinished file"}, {12, -1, "cannot be"},
        {12, 0, "cannot be"},          {12, 0x7fffffff, "cannot be"}, {12, 298, "an unfinished file"},
        {16, 0, "cannot be"},          {16, 4, "an unfinished file"}, {16, 0x7fffffff, "cannot be"},
        {20, -1, "token 0 is -1"},     {24, 300, "token 1 is 300"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        write_file(data, base.map.size, numbers[i].at, &numbers[i].value, 4);
        check_fails(kq_kld_base_open("bad.kld", &bad, &err), KQ_E_FORMAT, numbers[i].words);
    }
    /* a row that is no row */
    kq_source *src = open_tiny(&inner);
    kq_eval_options opt = kq_eval_defaults();
    opt.ctx = CTX;
    opt.half = true;
    static const float rubbish[] = {NAN, INFINITY, -1, 1};
    const size_t row = (size_t)(base.rows - data) + 21 * kq_kld_row_bytes(base.vocab);
    for (int i = 0; i < 8; i++) {
        kq_eval_figures e;
        write_file(data, base.map.size, row + 4 * (size_t)(i / 4), &rubbish[i % 4], 4);
        check_ok(kq_kld_base_open("bad.kld", &bad, &err));
        opt.base = &bad;
        if (i == 6) /* -1 is a possible minimum */
            check_ok(kq_evaluate(&inner, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err));
        else
            check_fails(kq_evaluate(&inner, NULL, base.ids, CTX * WINDOWS, &opt, &e, &err), KQ_E_FORMAT,
                        "bad.kld: window 1, position 22: scale");
        kq_kld_base_close(&bad);
    }
    kq_source_close(src);
    kq_kld_base_close(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read), cmocka_unit_test(test_write),
                                       cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
