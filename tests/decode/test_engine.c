/* The engine against the forward pass of the model room, and what it promises about batches, slots, cuts
 * and threads. */
#include "../model/golden.h"

#include "decode/engine_state.h"
#include "base/mem.h"

static kq_engine *engine_of(const kq_weights *w, kq_compute compute, kq_kv_type kv, int threads,
                            size_t n_slots, size_t max_T)
{
    kq_error err;
    kq_engine *e;
    const kq_engine_options opt = {.isa = test_isa(),
                                   .compute = compute,
                                   .kv = kv,
                                   .threads = threads,
                                   .n_slots = n_slots,
                                   .max_T = max_T};
    check_ok(kq_engine_new_dense(w, &opt, &e, &err));
    return e;
}

static void run_one(kq_engine *e, size_t slot, const int32_t *ids, size_t n, size_t n_logits, float *logits)
{
    kq_error err;
    const kq_engine_piece p = {.slot = slot, .ids = ids, .n = n, .n_logits = n_logits, .logits = logits};
    check_ok(kq_engine_run(e, &p, 1, &err));
}

/* Logits of all positions by kq_block_forward in f32. */
static float *by_forward(const golden *g)
{
    kq_error err;
    const kq_config *c = kq_source_config(g->src);
    kq_model_ctx *mc;
    kq_head *head;
    check_ok(kq_model_ctx_new(c, test_isa(), KQ_F32, g->T, &mc, &err));
    check_ok(kq_head_load(mc, &g->w, &head, &err));
    float *x = kq_alloc(g->T * c->d_model, 4), *all = kq_alloc(g->T * c->vocab_size, 4),
          *xn = kq_alloc(g->T * c->d_model, 4);
    void *scratch = kq_alloc(kq_block_scratch_bytes(mc, g->T), 1);
    check_ok(kq_head_embed(head, g->ids, g->T, x, &err));
    for (size_t i = 0; i < c->n_layer; i++) {
        kq_block b;
        check_ok(kq_block_load(mc, &g->w, i, &b, &err));
        check_ok(kq_block_forward(mc, &b, x, g->T, x, scratch, 1, &err));
        kq_block_free(&b);
    }
    check_ok(kq_head_logits(head, x, g->T, all, xn, 1, &err));
    kq_head_free(head);
    kq_model_ctx_free(mc);
    kq_free(x), kq_free(xn), kq_free(scratch);
    return all;
}

static void family(const char *name)
{
    golden g;
    golden_open(&g, name);
    const size_t T = g.T, vocab = kq_source_config(g.src)->vocab_size;
    float *want = by_forward(&g), *all = kq_alloc(T * vocab, 4), *row = kq_alloc(T * vocab, 4);
    /* relative error allowed against f32: rounding; then what the cache's and the weights' rounding to 8
     * or 11 bits makes of these small models */
    const struct {
        kq_compute compute;
        kq_kv_type kv;
        double tol;
    } kinds[] = {
        {KQ_F32, KQ_KV_F32, 2e-5},
        {KQ_F32, KQ_KV_F16, 2e-3},
        {KQ_F32, KQ_KV_BF16, 1.5e-2},
        {KQ_BF16, KQ_KV_BF16, 2.5e-2},
    };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        kq_engine *e = engine_of(&g.w, kinds[k].compute, kinds[k].kv, 1, 3, T);
        run_one(e, 0, g.ids, T, T, all);
        double rel = check_rel(all, want, T * vocab);
        printf("%s, compute %s, cache %s: relative error %.2g\n", name,
               kinds[k].compute == KQ_F32 ? "f32" : "bf16", kq_kv_name(kinds[k].kv), rel);
        check_close(all, want, T * vocab, kinds[k].tol);
        assert_int_equal(kq_engine_length(e, 0), T);
        assert_int_equal(kq_engine_length(e, 1), 0);

        /* the same sequence in pieces, in another slot, with another sequence beside it: the same bits */
        static const size_t cuts[] = {1, 1, 5, 1, 60, 2, 1};
        for (int threads = 1; threads <= 3; threads += 2) {
            kq_engine *f = engine_of(&g.w, kinds[k].compute, kinds[k].kv, threads, 3, T);
            size_t at = 0;
            for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
                kq_error err;
                float other[8 * 512];
                assert_true(vocab <= 512);
                const kq_engine_piece p[2] = {
                    {.slot = 1, .ids = g.ids + at + 1, .n = i + 1, .n_logits = 1, .logits = other},
                    {.slot = 2, .ids = g.ids + at, .n = cuts[i], .n_logits = cuts[i], .logits = row}};
                check_ok(kq_engine_run(f, p, 2, &err));
                assert_memory_equal(row, all + at * vocab, cuts[i] * vocab * 4);
                at += cuts[i];
            }
            assert_int_equal(kq_engine_length(f, 2), at);
            /* forget and go on otherwise; then the first way again */
            kq_engine_truncate(f, 2, 10);
            run_one(f, 2, g.ids, 3, 1, row);
            assert_memory_not_equal(row, all + 12 * vocab, vocab * 4);
            kq_engine_truncate(f, 2, 10);
            run_one(f, 2, g.ids + 10, 3, 1, row);
            assert_memory_equal(row, all + 12 * vocab, vocab * 4);
            /* a copied prefix goes on like the original, which is not touched */
            kq_error err;
            check_ok(kq_engine_copy(f, 2, 0, 11, &err));
            assert_int_equal(kq_engine_length(f, 0), 11);
            run_one(f, 0, g.ids + 11, 2, 2, row);
            assert_memory_equal(row, all + 11 * vocab, 2 * vocab * 4);
            run_one(f, 2, g.ids + 13, 1, 1, row);
            assert_memory_equal(row, all + 13 * vocab, vocab * 4);
            kq_engine_free(f);
        }
        kq_engine_free(e);
    }
    kq_free(want), kq_free(all), kq_free(row);
    golden_close(&g);
}

static void test_families(void **state)
{
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++)
        family(families[i]);
}

/* More rows than a pass holds, in one piece and in many. */
static void test_long(void **state)
{
    (void)state;
    enum { T = 2 * KQ_ENGINE_ROWS + 37, SLOTS = 300 };
    golden g;
    kq_error err;
    golden_open(&g, "llama3");
    const size_t vocab = kq_source_config(g.src)->vocab_size;
    int32_t *ids = kq_alloc(T, sizeof *ids);
    for (size_t t = 0; t < T; t++)
        ids[t] = g.ids[t * 7 % g.T];
    float *a = kq_alloc(T * vocab, 4), *b = kq_alloc(T * vocab, 4);
    kq_engine *e = engine_of(&g.w, KQ_F32, KQ_KV_BF16, 2, SLOTS, T);
    run_one(e, 0, ids, T, T, a);
    run_one(e, 1, ids, 300, 0, NULL);
    run_one(e, 1, ids + 300, T - 300, T - 300, b);
    assert_memory_equal(b, a + 300 * vocab, (T - 300) * vocab * 4);
    kq_engine_piece p[SLOTS];
    for (size_t s = 0; s < SLOTS; s++) {
        kq_engine_truncate(e, s, 0);
        p[s] = (kq_engine_piece){
            .slot = s, .ids = ids, .n = s == 7 ? 30 : 1, .n_logits = 1, .logits = b + s * vocab};
    }
    check_ok(kq_engine_run(e, p, SLOTS, &err));
    for (size_t s = 0; s < SLOTS; s++)
        assert_memory_equal(b + s * vocab, a + (p[s].n - 1) * vocab, vocab * 4);
    kq_engine_free(e);
    kq_free(a), kq_free(b), kq_free(ids);
    golden_close(&g);
}

static void test_refused(void **state)
{
    (void)state;
    golden g;
    kq_error err;
    golden_open(&g, "llama2");
    const size_t vocab = kq_source_config(g.src)->vocab_size;
    float *logits = kq_alloc(8 * vocab, 4);
    kq_engine *e = engine_of(&g.w, KQ_F32, KQ_KV_F32, 1, 2, 8), *none;
    const int32_t bad[] = {1, (int32_t)vocab, -1};
    kq_engine_piece p[2] = {{.slot = 0, .ids = g.ids, .n = 5},
                            {.slot = 1, .ids = g.ids, .n = 3, .n_logits = 3, .logits = logits}};
    check_ok(kq_engine_run(e, p, 2, &err));
#define REFUSED(change, words)                                      \
    do {                                                            \
        kq_engine_piece q_[2] = {p[0], p[1]}, *q = q_;              \
        q[0].n = 1;                                                 \
        change;                                                     \
        check_fails(kq_engine_run(e, q, 2, &err), KQ_E_ARG, words); \
        assert_int_equal(kq_engine_length(e, 0), 5);                \
        assert_int_equal(kq_engine_length(e, 1), 3);                \
    } while (0)
    REFUSED(q[1].slot = 0, "two pieces");
    REFUSED(q[1].slot = 2, "slot 2 of 2");
    REFUSED(q[0].n = 4, "do not fit");
    REFUSED(q[0].n = (size_t)-1, "do not fit");
    REFUSED(q[0].n = 0, "tokens");
    REFUSED(q[1].n_logits = 4, "logits of 4 of 3");
    REFUSED(q[1].logits = NULL, "logits of 3");
    REFUSED((q[0].ids = bad + 1), "vocabulary");
    REFUSED((q[0].ids = bad + 2), "vocabulary");
    check_fails(kq_engine_copy(e, 0, 0, 1, &err), KQ_E_ARG, "copy");
    check_fails(kq_engine_copy(e, 0, 2, 1, &err), KQ_E_ARG, "copy");
    check_fails(kq_engine_copy(e, 0, 1, 6, &err), KQ_E_ARG, "holds 5");
    kq_engine_options opt = {.isa = test_isa(), .n_slots = 0, .max_T = 8};
    check_fails(kq_engine_new_dense(&g.w, &opt, &none, &err), KQ_E_ARG, "0 sequences");
    opt.n_slots = 60000, opt.max_T = (size_t)1 << 60;
    check_fails(kq_engine_new_dense(&g.w, &opt, &none, &err), KQ_E_MEMORY, "");
    kq_engine_free(e);
    /* out of memory anywhere: said, and nothing leaks */
    int failures = 0;
    for (size_t n = 1; n < 200; n++) {
        opt = (kq_engine_options){
            .isa = test_isa(), .compute = n & 1 ? KQ_BF16 : KQ_F32, .n_slots = 2, .max_T = 8, .threads = 1};
        kq_alloc_fail_after(n);
        kq_status st = kq_engine_new_dense(&g.w, &opt, &e, &err);
        kq_alloc_fail_after(0);
        if (st == KQ_OK) {
            kq_engine_free(e);
            break;
        }
        assert_int_equal(st, KQ_E_MEMORY);
        assert_null(e);
        failures++;
    }
    assert_in_range(failures, 20, 198);
    kq_free(logits);
    golden_close(&g);
}

/* Weights stored in bf16 stay where the file is mapped, whatever the compute type: no copy is made. */
static void test_stored(void **state)
{
    (void)state;
    golden g;
    golden_open(&g, "llama3");
    for (int compute = KQ_F32; compute <= KQ_BF16; compute++) {
        kq_engine *e = engine_of(&g.w, (kq_compute)compute, KQ_KV_BF16, 1, 1, 8);
        size_t weights = e->head.m * e->head.n;
        for (size_t l = 0; l < e->cfg->n_layer; l++)
            for (int id = 0; id < KQ_N_LINEAR; id++) {
                const kq_matrix *M = &e->layers[l].lin[id];
                char name[160];
                kq_linear_name(name, sizeof name - 8, l, (kq_linear_id)id);
                strcat(name, ".weight");
                assert_int_equal(M->kind, KQ_MATRIX_BF16);
                assert_null(M->owned_half);
                assert_ptr_equal(M->half, kq_source_find(g.src, name)->data);
                weights += M->m * M->n;
            }
        assert_int_equal(e->head.kind, KQ_MATRIX_BF16);
        assert_null(e->head.owned_half);
        assert_int_equal(kq_engine_bytes_per_token(e), 2 * weights);
        kq_engine_free(e);
    }
    /* the same weights without a file behind them: copies, with the same bits of the logits */
    kq_weights read = g.w;
    read.stored = NULL;
    const size_t vocab = kq_source_config(g.src)->vocab_size;
    float *a = kq_alloc(vocab, 4), *b = kq_alloc(vocab, 4);
    for (int compute = KQ_F32; compute <= KQ_BF16; compute++) {
        kq_engine *e = engine_of(&g.w, (kq_compute)compute, KQ_KV_BF16, 1, 1, 8),
                  *f = engine_of(&read, (kq_compute)compute, KQ_KV_BF16, 1, 1, 8);
        assert_int_equal(f->head.kind, compute == KQ_BF16 ? KQ_MATRIX_BF16 : KQ_MATRIX_F32);
        run_one(e, 0, g.ids, 8, 1, a);
        run_one(f, 0, g.ids, 8, 1, b);
        assert_memory_equal(a, b, vocab * 4);
        kq_engine_free(e), kq_engine_free(f);
    }
    kq_free(a), kq_free(b);
    golden_close(&g);
}

static int run(void)
{
    kq_kern_init(test_isa());
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_long),
                                       cmocka_unit_test(test_refused), cmocka_unit_test(test_stored)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    return run_or_skip(run);
}
