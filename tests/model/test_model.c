/* What does not need PyTorch: finite differences, threads, memory, and refusals. */
#include "golden.h"

#include "base/rng.h"
#include "base/mem.h"

typedef struct setup {
    golden g;
    const kq_config *c;
    kq_model_ctx *mc;
    kq_block b;
    void *scratch;
} setup;

static void setup_make(setup *s, const char *family, kq_compute compute, size_t max_T)
{
    kq_error err;
    golden_open(&s->g, family);
    s->c = kq_source_config(s->g.src);
    check_ok(kq_model_ctx_new(s->c, test_isa(), compute, max_T, &s->mc, &err));
    check_ok(kq_block_load(s->mc, &s->g.w, 1, &s->b, &err));
    s->scratch = kq_alloc(kq_block_backward_bytes(s->mc, (kq_rows){1, max_T, 1}), 1);
}

static void setup_free(setup *s)
{
    kq_block_free(&s->b);
    kq_model_ctx_free(s->mc);
    kq_free(s->scratch);
    golden_close(&s->g);
}

static void random_rows(float *x, size_t n, const char *label)
{
    kq_rng rng = kq_rng_stream(11, label);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)kq_rng_normal(&rng);
}

/* d/de of <v, block(x + e u)> at e = 0 must be <dx, u> with dx = backward(v). Central differences with
 * step e err by about e^2 and by rounding / e: at e = 1e-2 a few 1e-4 of the norms; the directional
 * derivative is compared with that. */
static void test_finite_difference(void **state)
{
    (void)state;
    kq_error err;
    for (int f = 0; f < N_FAMILIES; f++) {
        setup s;
        const size_t T = 70;
        setup_make(&s, families[f], KQ_F32, T);
        const size_t n = T * s.c->d_model;
        float *x = kq_alloc(n, 4), *u = kq_alloc(n, 4), *v = kq_alloc(n, 4), *dx = kq_alloc(n, 4),
              *y0 = kq_alloc(n, 4), *y1 = kq_alloc(n, 4);
        random_rows(x, n, "x"), random_rows(v, n, "v");
        check_ok(kq_block_backward(s.mc, &s.b, x, v, (kq_rows){1, T, 1}, dx, NULL, s.scratch, &err));
        for (int trial = 0; trial < 4; trial++) {
            char label[16];
            snprintf(label, sizeof label, "u%d", trial);
            random_rows(u, n, label);
            const float e = 4e-3f;
            double want = 0, got = 0, uu = 0, dd = 0;
            for (size_t i = 0; i < n; i++)
                y1[i] = x[i] + e * u[i];
            check_ok(kq_block_forward(s.mc, &s.b, y1, T, y1, s.scratch, 1, &err)); /* in place */
            for (size_t i = 0; i < n; i++)
                y0[i] = x[i] - e * u[i];
            check_ok(kq_block_forward(s.mc, &s.b, y0, T, y0, s.scratch, 1, &err));
            for (size_t i = 0; i < n; i++) {
                want += (double)v[i] * ((double)y1[i] - y0[i]) / (2 * e);
                got += (double)dx[i] * u[i];
                uu += (double)u[i] * u[i], dd += (double)dx[i] * dx[i];
            }
            /* <dx, u> is about |dx| for a random u of unit variance */
            if (!(fabs(got - want) < 0.02 * sqrt(dd)))
                fail_msg("%s: directional derivative %.6g, by differences %.6g (|dx| %.3g)", families[f], got,
                         want, sqrt(dd));
        }
        kq_free(x), kq_free(u), kq_free(v), kq_free(dx), kq_free(y0), kq_free(y1);
        setup_free(&s);
    }
}

static void test_threads_same_bits(void **state)
{
    (void)state;
    kq_error err;
    for (int f = 0; f < N_FAMILIES; f++)
        for (int compute = 0; compute < 2; compute++) {
            setup s;
            const size_t T = 331;
            setup_make(&s, families[f], (kq_compute)compute, T);
            const size_t n = T * s.c->d_model;
            float *x = kq_alloc(n, 4), *y1 = kq_alloc(n, 4), *y = kq_alloc(n, 4);
            random_rows(x, n, "x");
            check_ok(kq_block_forward(s.mc, &s.b, x, T, y1, s.scratch, 1, &err));
            for (int threads = 2; threads <= 5; threads += 3) {
                check_ok(kq_block_forward(s.mc, &s.b, x, T, y, s.scratch, threads, &err));
                assert_memory_equal(y, y1, n * 4);
            }
            kq_free(x), kq_free(y1), kq_free(y);
            setup_free(&s);
        }
}

/* Tokens only see what came before: the first rows do not change when later ones do. */
static void test_causal(void **state)
{
    (void)state;
    kq_error err;
    setup s;
    const size_t T = 200, d = 64;
    setup_make(&s, "llama2", KQ_F32, T);
    float *x = kq_alloc(T * d, 4), *y = kq_alloc(T * d, 4), *z = kq_alloc(T * d, 4);
    random_rows(x, T * d, "x");
    check_ok(kq_block_forward(s.mc, &s.b, x, T, y, s.scratch, 1, &err));
    random_rows(x + 130 * d, (T - 130) * d, "other");
    check_ok(kq_block_forward(s.mc, &s.b, x, T, z, s.scratch, 1, &err));
    assert_memory_equal(y, z, 130 * d * 4);
    assert_true(check_rel(y + 130 * d, z + 130 * d, (T - 130) * d) > 0.1);
    kq_free(x), kq_free(y), kq_free(z);
    setup_free(&s);
}

/* The gradients of all linears' weights (only their sums over rows can be compared) and of the norms. */
typedef struct taken {
    float *G[KQ_N_LINEAR]; /* [m, n] += G^T X */
    const kq_block *b;
} taken;

static kq_status take(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err)
{
    (void)err;
    taken *k = ctx;
    const size_t m = k->b->lin[id].m, n = k->b->lin[id].n;
    kq_gemm_f32(true, false, m, n, T, 1, G, m, X, n, 1, k->G[id], n);
    return KQ_OK;
}

typedef struct gradients {
    float *dx, *norm[KQ_N_NORM];
    taken linear;
} gradients;

static gradients new_gradients(const setup *s, size_t rows)
{
    gradients g = {.dx = kq_calloc(rows * s->c->d_model, sizeof(float)), .linear.b = &s->b};
    for (int i = 0; i < KQ_N_LINEAR; i++)
        g.linear.G[i] = kq_calloc(s->b.lin[i].m * s->b.lin[i].n, sizeof(float));
    for (kq_norm_id i = KQ_NORM_ATTN; i < kq_model_n_norms(s->c); i++)
        g.norm[i] = kq_calloc(kq_model_norm(s->c, 0, i).rows, sizeof(float));
    return g;
}

static void free_gradients(gradients *g)
{
    kq_free(g->dx);
    for (int i = 0; i < KQ_N_LINEAR; i++)
        kq_free(g->linear.G[i]);
    for (int i = 0; i < KQ_N_NORM; i++)
        kq_free(g->norm[i]);
}

static void back(const setup *s, const float *x, const float *dy, kq_rows rows, float *dx, gradients *g)
{
    kq_error err;
    kq_linear_sink to = {.give = take, .ctx = &g->linear, .selected = (1u << KQ_N_LINEAR) - 1};
    memcpy(to.dnorm, g->norm, sizeof to.dnorm);
    void *scratch = kq_alloc(kq_block_backward_bytes(s->mc, rows), 1);
    check_ok(kq_block_backward(s->mc, &s->b, x, dy, rows, dx, &to, scratch, &err));
    kq_free(scratch);
}

static void check_same(const float *a, const float *b, size_t n, bool bits)
{
    double diff = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    assert_true(size > 0 && (bits ? diff == 0 : diff < 1e-10 * size));
}

static void check_gradients(const setup *s, const gradients *a, const gradients *b, size_t rows, bool bits)
{
    check_same(a->dx, b->dx, rows * s->c->d_model, bits);
    for (int i = 0; i < KQ_N_LINEAR; i++)
        check_same(a->linear.G[i], b->linear.G[i], s->b.lin[i].m * s->b.lin[i].n, bits);
    for (kq_norm_id i = KQ_NORM_ATTN; i < kq_model_n_norms(s->c); i++)
        check_same(a->norm[i], b->norm[i], kq_model_norm(s->c, 0, i).rows, bits);
}

/* Several sequences at once have the gradients that each has alone, with the same bits for any number of
 * threads. */
static void test_backward_sequences(void **state)
{
    (void)state;
    enum { SEQ = 3, T = 70 };
    for (int f = 0; f < N_FAMILIES; f++) {
        setup s;
        setup_make(&s, families[f], KQ_F32, T);
        const size_t n = SEQ * T * s.c->d_model, one = T * s.c->d_model;
        float *x = kq_alloc(n, 4), *dy = kq_alloc(n, 4);
        random_rows(x, n, "x"), random_rows(dy, n, "dy");
        gradients alone = new_gradients(&s, SEQ * T), first = new_gradients(&s, SEQ * T);
        for (size_t i = 0; i < SEQ; i++)
            back(&s, x + i * one, dy + i * one, (kq_rows){1, T, 1}, alone.dx + i * one, &alone);
        back(&s, x, dy, (kq_rows){SEQ, T, 1}, first.dx, &first);
        check_gradients(&s, &first, &alone, SEQ * T, false);
        for (int threads = 2; threads <= 7; threads += 5) {
            gradients g = new_gradients(&s, SEQ * T);
            back(&s, x, dy, (kq_rows){SEQ, T, threads}, g.dx, &g);
            check_gradients(&s, &g, &first, SEQ * T, true);
            free_gradients(&g);
        }
        free_gradients(&alone), free_gradients(&first);
        kq_free(x), kq_free(dy);
        setup_free(&s);
    }
}

typedef struct seen {
    kq_linear_id order[16];
    size_t n;
    kq_linear_id stop_at;
    bool grads;
} seen;

static kq_status see(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err)
{
    seen *s = ctx;
    assert_non_null(X);
    assert_true((G != NULL) == s->grads);
    assert_int_equal(T, 40);
    s->order[s->n++] = id;
    return s->stop_at == id ? kq_fail(err, KQ_E_INTERRUPTED, "stop") : KQ_OK;
}

static void test_sinks(void **state)
{
    (void)state;
    kq_error err;
    setup s;
    const size_t T = 40, d = 96;
    setup_make(&s, "qwen3", KQ_F32, T);
    float *x = kq_alloc(T * d, 4), *dy = kq_alloc(T * d, 4), *y = kq_alloc(T * d, 4), *z = kq_alloc(T * d, 4);
    random_rows(x, T * d, "x"), random_rows(dy, T * d, "dy");
    check_ok(kq_block_forward(s.mc, &s.b, x, T, y, s.scratch, 1, &err));
    seen f = {.stop_at = KQ_N_LINEAR};
    check_ok(kq_block_forward_sink(s.mc, &s.b, x, T, z, s.scratch, &(kq_linear_sink){.give = see, .ctx = &f},
                                   &err));
    assert_memory_equal(y, z, T * d * 4);
    assert_int_equal(f.n, 7);
    f = (seen){.stop_at = KQ_GATE};
    check_fails(kq_block_forward_sink(s.mc, &s.b, x, T, z, s.scratch,
                                      &(kq_linear_sink){.give = see, .ctx = &f}, &err),
                KQ_E_INTERRUPTED, "stop");

    seen b = {.stop_at = KQ_N_LINEAR, .grads = true}; /* only what was asked for, also without dx */
    check_ok(kq_block_backward(
        s.mc, &s.b, x, dy, (kq_rows){1, T, 1}, NULL,
        &(kq_linear_sink){.give = see, .ctx = &b, .selected = 1u << KQ_GATE | 1u << KQ_V}, s.scratch, &err));
    assert_int_equal(b.n, 2);
    assert_int_equal(b.order[0], KQ_GATE);
    assert_int_equal(b.order[1], KQ_V);
    b = (seen){.stop_at = KQ_O, .grads = true};
    check_fails(kq_block_backward(s.mc, &s.b, x, dy, (kq_rows){1, T, 1}, y,
                                  &(kq_linear_sink){.give = see, .ctx = &b, .selected = 127}, s.scratch,
                                  &err),
                KQ_E_INTERRUPTED, "stop");
    assert_int_equal(b.order[b.n - 1], KQ_O);
    kq_free(x), kq_free(dy), kq_free(y), kq_free(z);
    setup_free(&s);
}

/* No array of all heads' T x T scores: at 4096 tokens those alone would be 4 * 4096^2 * 4 bytes = 268 MB
 * here. */
static void test_long(void **state)
{
    (void)state;
    kq_error err;
    setup s;
    const size_t T = 4096, d = 64;
    setup_make(&s, "llama2", KQ_F32, T);
    size_t bytes = kq_block_backward_bytes(s.mc, (kq_rows){1, T, 1});
    printf("backward at 4096 tokens: %.1f MB of scratch\n", (double)bytes / 1e6);
    assert_true(bytes < 40u << 20);
    float *x = kq_alloc(T * d, 4), *y = kq_alloc(T * d, 4), *z = kq_alloc(T * d, 4);
    random_rows(x, T * d, "x");
    check_ok(kq_block_forward(s.mc, &s.b, x, T, y, s.scratch, 2, &err));
    check_ok(kq_block_forward(s.mc, &s.b, x, 300, z, s.scratch, 1, &err));
    check_close(z, y, 300 * d, 1e-5);
    check_fails(kq_block_forward(s.mc, &s.b, x, T + 1, y, s.scratch, 1, &err), KQ_E_ARG, "4097");
    x[70 * d + 3] = NAN;
    check_fails(kq_block_forward(s.mc, &s.b, x, 100, y, s.scratch, 1, &err), KQ_E_NUMERIC, "model.layers.1");
    x[70 * d + 3] = INFINITY;
    check_fails(kq_block_forward(s.mc, &s.b, x, 100, y, s.scratch, 1, &err), KQ_E_NUMERIC, "model.layers.1");
    kq_free(x), kq_free(y), kq_free(z);
    setup_free(&s);
}

/* More tokens than a tile of kq_head_distill has: the same as its pieces, and as central differences say. A
 * model's divergence from itself is 0. */
static void test_distill_tiles(void **state)
{
    (void)state;
    enum { T = 2 * KQ_DISTILL_TILE + 7, CUT = 100 };
    setup s;
    kq_error err;
    kq_head *h;
    setup_make(&s, "llama3", KQ_F32, 8);
    check_ok(kq_head_load(s.mc, &s.g.w, &h, &err));
    const size_t d = s.c->d_model, n = T * d;
    float *x = kq_alloc(n, 4), *teacher = kq_alloc(n, 4), *dx = kq_alloc(n, 4), *kl = kq_alloc(T, 4),
          *dx2 = kq_alloc(n, 4), *kl2 = kq_alloc(T, 4), *dw = kq_calloc(2 * d, 4);
    void *scratch = kq_alloc(kq_head_distill_bytes(s.mc), 1);
    random_rows(x, n, "x"), random_rows(teacher, n, "teacher");
    kq_distill z = {
        .h = h, .teacher = h, .x = x, .teacher_x = teacher, .T = T, .kl = kl, .dx = dx, .dnorm = dw};
    check_ok(kq_head_distill(&z, scratch, &err));
    kq_distill a = z, b = z;
    a.T = CUT;
    b.T = T - CUT;
    b.x = x + CUT * d;
    b.teacher_x = teacher + CUT * d;
    a.kl = kl2;
    b.kl = kl2 + CUT;
    a.dx = dx2;
    b.dx = dx2 + CUT * d;
    a.dnorm = b.dnorm = dw + d;
    check_ok(kq_head_distill(&a, scratch, &err));
    check_ok(kq_head_distill(&b, scratch, &err));
    check_close(kl, kl2, T, 1e-5);
    check_close(dx, dx2, n, 1e-5);
    check_close(dw, dw + d, d, 1e-5);
    const size_t t = KQ_DISTILL_TILE + 3, j = 5;
    const float e = 1e-2f, was = x[t * d + j];
    kq_distill one = {.h = h, .teacher = h, .x = x, .teacher_x = teacher, .T = T, .kl = kl2};
    x[t * d + j] = was + e;
    check_ok(kq_head_distill(&one, scratch, &err));
    const double up = kl2[t];
    x[t * d + j] = was - e;
    check_ok(kq_head_distill(&one, scratch, &err));
    check_number((up - kl2[t]) / (2 * e), dx[t * d + j], 1e-3);
    one.teacher_x = x;
    check_ok(kq_head_distill(&one, scratch, &err));
    for (size_t i = 0; i < T; i++)
        check_number(kl2[i], 0, 1e-6);
    kq_free(x), kq_free(teacher), kq_free(dx), kq_free(kl), kq_free(dx2), kq_free(kl2), kq_free(dw);
    kq_free(scratch);
    kq_head_free(h);
    setup_free(&s);
}

static void test_head_refusals(void **state)
{
    (void)state;
    kq_error err;
    setup s;
    setup_make(&s, "llama2", KQ_F32, 8);
    kq_head *head;
    check_ok(kq_head_load(s.mc, &s.g.w, &head, &err));
    float x[4 * 64], nll[4];
    int32_t ids[4] = {1, 2, 259, 3}, neg[4] = {1, -1, 0, 0}, bad[4] = {0, 0, -2, 0};
    void *hs = kq_alloc(kq_head_scratch_bytes(s.mc), 1);
    check_fails(kq_head_embed(head, ids, 4, x, &err), KQ_E_ARG, "259");
    check_fails(kq_head_embed(head, neg, 4, x, &err), KQ_E_ARG, "-1");
    random_rows(x, 4 * 64, "x");
    check_fails(kq_head_loss(head, x, 4, ids, nll, NULL, NULL, hs, &err), KQ_E_ARG, "259");
    check_fails(kq_head_loss(head, x, 4, bad, nll, NULL, NULL, hs, &err), KQ_E_ARG, "-2");
    x[70] = NAN;
    int32_t ok[4] = {5, 6, 7, 8};
    check_fails(kq_head_loss(head, x, 4, ok, nll, NULL, NULL, hs, &err), KQ_E_NUMERIC, "NaN");
    kq_free(hs);
    kq_head_free(head);
    setup_free(&s);
}

/* Every allocation may fail: an error comes back, and nothing leaks (the sanitizer build sees to that). */
static void test_out_of_memory(void **state)
{
    (void)state;
    golden g;
    kq_error err;
    golden_open(&g, "qwen3");
    size_t n = 1;
    for (;; n++) {
        kq_model_ctx *mc = NULL;
        kq_head *head = NULL;
        kq_block b = {0};
        kq_alloc_fail_after(n);
        kq_status st =
            kq_model_ctx_new(kq_source_config(g.src), test_isa(), n & 1 ? KQ_BF16 : KQ_F32, 16, &mc, &err);
        if (st == KQ_OK && (st = kq_block_load(mc, &g.w, 0, &b, &err)) == KQ_OK)
            st = kq_head_load(mc, &g.w, &head, &err);
        kq_alloc_fail_after(0);
        kq_head_free(head);
        kq_block_free(&b);
        kq_model_ctx_free(mc);
        if (st == KQ_OK)
            break;
        assert_int_equal(st, KQ_E_MEMORY);
        assert_null(head);
    }
    assert_true(n > 15);
    golden_close(&g);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_difference),
        cmocka_unit_test(test_threads_same_bits),
        cmocka_unit_test(test_backward_sequences),
        cmocka_unit_test(test_causal),
        cmocka_unit_test(test_sinks),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_distill_tiles),
        cmocka_unit_test(test_head_refusals),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return run_or_skip(run);
}
