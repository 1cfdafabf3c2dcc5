/* Forward, loss and gradients of every linear against PyTorch (transformers, eager attention, f32) on
 * three tiny models. */
#include "golden.h"
#include "base/mem.h"

typedef struct grads {
    float *dW[KQ_N_LINEAR];
    int order[KQ_N_LINEAR], n;
    const kq_config *cfg;
} grads;

static kq_status add_grad(void *ctx, kq_linear_id id, const float *X, const float *G, size_t T, kq_error *err)
{
    grads *g = ctx;
    size_t m, n;
    (void)err;
    kq_linear_shape(g->cfg, id, &m, &n);
    for (size_t t = 0; t < T; t++)
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                g->dW[id][i * n + j] += G[t * m + i] * X[t * n + j];
    g->order[g->n++] = id;
    return KQ_OK;
}

/* Relative error 1e-4 in f32: PyTorch's own sums go in another order, 150 tokens through two layers. In
 * bf16 products each operand is off by up to 2^-9: only the direction can be compared, cosine 0.999. */
static void compare(const char *what, const float *got, const float *want, size_t n, kq_compute compute)
{
    double rel = check_rel(got, want, n), cos = cosine(got, want, n);
    if (compute == KQ_F32 ? !(rel <= 1e-4) : !(cos >= 0.999))
        fail_msg("%s: relative error %.3g, cosine %.6f", what, rel, cos);
}

static void run_family(const char *family, kq_compute compute)
{
    golden g;
    kq_error err;
    golden_open(&g, family);
    const kq_config *c = kq_source_config(g.src);
    const size_t T = g.T, d = c->d_model;
    kq_model_ctx *mc;
    check_ok(kq_model_ctx_new(c, test_isa(), compute, T, &mc, &err));
    kq_head *head;
    check_ok(kq_head_load(mc, &g.w, &head, &err));
    kq_block b[MAX_LAYERS];
    float *x[MAX_LAYERS + 1], *dx = kq_alloc(T * d, 4), *nll = kq_alloc(T, 4),
                              *logits = kq_alloc(T * c->vocab_size, 4), *xn = kq_alloc(T * d, 4);
    void *fwd = kq_alloc(kq_block_scratch_bytes(mc, T), 1),
         *bwd = kq_alloc(kq_block_backward_bytes(mc, (kq_rows){1, T, 1}), 1);
    void *hs = kq_alloc(kq_head_scratch_bytes(mc), 1);
    for (size_t i = 0; i <= c->n_layer; i++)
        x[i] = kq_alloc(T * d, 4);

    check_ok(kq_head_embed(head, g.ids, T, x[0], &err));
    for (size_t i = 0; i < c->n_layer; i++) {
        char name[32];
        check_ok(kq_block_load(mc, &g.w, i, &b[i], &err));
        check_ok(kq_block_forward(mc, &b[i], x[i], T, x[i + 1], fwd, 1, &err));
        snprintf(name, sizeof name, "block%zu", i);
        compare(name, x[i + 1], golden_f32(&g, name), T * d, compute);
    }
    check_ok(kq_head_logits(head, x[c->n_layer], T, logits, xn, 1, &err));
    const int32_t *rows = (const int32_t *)(const void *)golden_tensor(&g, "logit_rows")->data;
    const float *want = golden_f32(&g, "logits");
    for (size_t i = 0; i < golden_tensor(&g, "logit_rows")->n_elem; i++)
        compare("logits", logits + (size_t)rows[i] * c->vocab_size, want + i * c->vocab_size, c->vocab_size,
                compute);

    int32_t *target = kq_alloc(T, sizeof *target);
    memcpy(target, g.ids + 1, (T - 1) * sizeof *target);
    target[T - 1] = -1;
    check_ok(kq_head_loss(head, x[c->n_layer], T, target, nll, dx, NULL, hs, &err));
    compare("nll", nll, g.nll, T - 1, compute);
    assert_true(nll[T - 1] == 0);
    for (size_t t = 0; t + 1 < T; t += 29) { /* log-softmax of the logits is the same loss */
        kq_log_softmax(logits + t * c->vocab_size, c->vocab_size);
        assert_true(fabs(-logits[t * c->vocab_size + (size_t)target[t]] - nll[t]) < 1e-3);
    }

    for (size_t i = c->n_layer; i-- > 0;) {
        grads gr = {.cfg = c};
        for (int id = 0; id < KQ_N_LINEAR; id++)
            gr.dW[id] = kq_calloc(b[i].lin[id].m * b[i].lin[id].n, 4);
        check_ok(kq_block_backward(
            mc, &b[i], x[i], dx, (kq_rows){1, T, 1}, dx,
            &(kq_linear_sink){.give = add_grad, .ctx = &gr, .selected = (1u << KQ_N_LINEAR) - 1}, bwd, &err));
        assert_int_equal(gr.n, KQ_N_LINEAR);
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            char name[160];
            kq_linear_name(name, sizeof name - 16, i, (kq_linear_id)id);
            strcat(name, ".weight.grad");
            compare(name, gr.dW[id], golden_f32(&g, name), b[i].lin[id].m * b[i].lin[id].n, compute);
            kq_free(gr.dW[id]);
        }
    }
    compare("dx", dx, golden_f32(&g, "dx"), T * d, compute);

    for (size_t i = 0; i < c->n_layer; i++)
        kq_block_free(&b[i]);
    for (size_t i = 0; i <= c->n_layer; i++)
        kq_free(x[i]);
    kq_free(dx), kq_free(nll), kq_free(logits), kq_free(xn), kq_free(fwd), kq_free(bwd), kq_free(hs),
        kq_free(target);
    kq_head_free(head);
    kq_model_ctx_free(mc);
    golden_close(&g);
}

static void test_f32(void **state)
{
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++)
        run_family(families[i], KQ_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++)
        run_family(families[i], KQ_BF16);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return run_or_skip(run);
}
