/* One step of tuning, and three of Adam, against PyTorch (scripts/make_golden_tune.py); and that threads and
 * the way in which decoded weights are held change no bit. */
#include <math.h>

#include "check.h"

#include "base/mem.h"
#include "format/safetensors_write.h"
#include "tune/tuner.h"

static const char *const families[] = {"llama3", "qwen3"};
enum { N_FAMILIES = 2, SEQ = 3, T = 40, STEPS = 3, WARMUP = 2 };

/* The original, and the student: its linears rounded to multiples of 1/64. */
typedef struct models {
    kq_source *src;
    kq_weights teacher, student;
    kq_st_file *golden;
    const int32_t *ids;
    uint8_t packed[8];
    float *hidden; /* [SEQ, T, d] */
} models;

static kq_status rounded(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const kq_weights *w = ctx;
    size_t m, n;
    kq_linear_shape(w->cfg, id, &m, &n);
    kq_status st = w->linear(w->ctx, layer, id, W, err);
    for (size_t i = 0; i < m * n && !st; i++)
        W[i] = rintf(W[i] * 64) / 64;
    return st;
}

static kq_status rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst, kq_error *err)
{
    const kq_weights *w = ctx;
    return w->rows(w->ctx, name, row0, n_rows, dst, err);
}

static const float *golden(const models *m, const char *name)
{
    const kq_tensor *t = kq_st_find(m->golden, name);
    if (!t)
        fail_msg("golden file has no %s", name);
    return (const float *)(const void *)t->data;
}

/* The teacher's final hidden states, through kq_block_forward, which has a test of its own. */
static void run_teacher(models *m, kq_isa isa)
{
    kq_error err;
    kq_model_ctx *mc;
    kq_head *head;
    const kq_config *c = m->teacher.cfg;
    check_ok(kq_model_ctx_new(c, isa, KQ_F32, T, &mc, &err));
    check_ok(kq_head_load(mc, &m->teacher, &head, &err));
    m->hidden = kq_alloc(SEQ * T * c->d_model, sizeof(float));
    void *scratch = kq_alloc(kq_block_scratch_bytes(mc, T), 1);
    check_ok(kq_head_embed(head, m->ids, SEQ * T, m->hidden, &err));
    for (size_t l = 0; l < c->n_layer; l++) {
        kq_block b;
        check_ok(kq_block_load(mc, &m->teacher, l, &b, &err));
        for (size_t s = 0; s < SEQ; s++) {
            float *x = m->hidden + s * T * c->d_model;
            check_ok(kq_block_forward(mc, &b, x, T, x, scratch, 1, &err));
        }
        kq_block_free(&b);
    }
    kq_free(scratch);
    kq_head_free(head);
    kq_model_ctx_free(mc);
}

static kq_isa test_isa(void)
{
    kq_isa isa;
    kq_error err;
    check_ok(kq_isa_pick(NULL, &isa, &err));
    return isa;
}

/* Open the model KRONQ_GOLDEN_DIR/model and what PyTorch found for it. */
static void open_files(models *m, const char *model, const char *found)
{
    char path[512];
    kq_error err;
    snprintf(path, sizeof path, "%s/%s", KRONQ_GOLDEN_DIR, model);
    check_ok(kq_source_open(path, &m->src, &err));
    snprintf(path, sizeof path, "%s/%s.safetensors", KRONQ_GOLDEN_DIR, found);
    check_ok(kq_st_open(path, &m->golden, &err));
    m->ids = (const int32_t *)(const void *)golden(m, "ids");
    memset(m->packed, 0x7f, sizeof m->packed);
}

static void open_models(models *m, const char *family)
{
    char model[64], found[64];
    snprintf(model, sizeof model, "tiny_%s", family);
    snprintf(found, sizeof found, "tune_%s", family);
    open_files(m, model, found);
    m->teacher = kq_weights_from_source(m->src);
    m->student = (kq_weights){.cfg = m->teacher.cfg, .ctx = &m->teacher, .linear = rounded, .rows = rows};
    run_teacher(m, test_isa());
}

/* A GGUF with every block type that has F16 scales. Here the student is the file itself, and the teacher has
 * the rounded linears. */
static void open_blocks(models *m, const char *name)
{
    char model[64];
    snprintf(model, sizeof model, "%s.gguf", name);
    open_files(m, model, name);
    m->student = kq_weights_from_source(m->src);
    m->teacher = (kq_weights){.cfg = m->student.cfg, .ctx = &m->student, .linear = rounded, .rows = rows};
    run_teacher(m, test_isa());
}

static void close_models(models *m)
{
    kq_free(m->hidden);
    kq_st_close(m->golden);
    kq_source_close(m->src);
}

static kq_status hidden(void *ctx, size_t sequence, float *x, kq_error *err)
{
    const models *m = ctx;
    const size_t n = T * m->teacher.cfg->d_model;
    (void)err;
    memcpy(x, m->hidden + sequence * n, n * sizeof *x);
    return KQ_OK;
}

static kq_tuner *new_tuner(models *m, kq_compute compute, int threads, bool keep)
{
    static const kq_common nobody;
    kq_tuner *t;
    kq_error err;
    check_ok(kq_tuner_new(
        &(kq_tuner_options){.student = &m->student,
                            .teacher = &m->teacher,
                            .trained = m->student.stored ? &kq_trained_blocks : &kq_trained_scales,
                            .packed = m->packed,
                            .head = m->student.stored != NULL,
                            .embedding = m->student.stored != NULL,
                            .isa = test_isa(),
                            .compute = compute,
                            .threads = threads,
                            .T = T,
                            .at_once = SEQ,
                            .keep = keep,
                            .ids = m->ids,
                            .hidden = hidden,
                            .ctx = m,
                            .common = &nobody},
        &t, &err));
    memcpy(kq_tuner_state(t).theta, golden(m, "theta"), kq_tuner_params(t)->n * sizeof(float));
    return t;
}

static const uint32_t all[SEQ] = {0, 1, 2};

static void compare(const char *family, const char *what, size_t at, const float *got, const float *want,
                    size_t n)
{
    const double rel = check_rel(got + at, want + at, n);
    if (!(rel <= 1e-4)) /* sums in f32 in another order than in PyTorch's f64 */
        fail_msg("%s, %s at %zu: relative error %.3g", family, what, at, rel);
}

/* Every piece of the gradient by itself, so that a small one does not hide behind a large one. */
static void test_gradient(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        models m;
        kq_error err;
        double kl, same;
        open_models(&m, families[f]);
        kq_tuner *t = new_tuner(&m, KQ_F32, 2, true);
        const kq_params *p = kq_tuner_params(t);
        const kq_config *c = m.teacher.cfg;
        assert_int_equal(kq_st_find(m.golden, "theta")->n_elem, p->n);
        check_ok(kq_tuner_loss(t, all, SEQ, &same, &err));
        check_ok(kq_tuner_gradient(t, all, SEQ, &kl, &err));
        assert_true(fabs(kl / *golden(&m, "kl") - 1) < 1e-5);
        assert_true(kl == same);
        const float *got = kq_tuner_state(t).grad, *want = golden(&m, "grad");
        for (size_t i = 0; i < kq_model_n_linears(c); i++) {
            size_t rows_, cols;
            kq_linear_shape(c, (kq_linear_id)(i % KQ_N_LINEAR), &rows_, &cols);
            compare(families[f], "a of a linear", p->linear_at[i], got, want, rows_);
            compare(families[f], "b of a linear", p->linear_at[i] + rows_, got, want, cols);
        }
        for (size_t i = 0; i < c->n_layer * KQ_N_NORM; i++)
            if (p->norm_at[i] != SIZE_MAX)
                compare(families[f], "a norm", p->norm_at[i], got, want,
                        kq_model_norm(c, 0, (kq_norm_id)(i % KQ_N_NORM)).rows);
        compare(families[f], "the final norm", p->final_at, got, want, c->d_model);
        kq_tuner_free(t);
        close_models(&m);
    }
}

/* The gradients of one matrix: every d, and every m where the type has one. */
static void compare_blocks(const models *m, const char *name, size_t at, const float *got)
{
    const kq_tensor *t = kq_source_find(m->src, name);
    const kq_block_scales s = kq_block_scales_of(t->dtype);
    const size_t n = s.n ? t->n_elem / s.elems : 0;
    const float *want = golden(m, "grad");
    char what[64];
    assert_true((at == SIZE_MAX) == (s.n == 0));
    for (size_t k = 0; k < s.n; k++) {
        float *a = kq_alloc(n, sizeof *a), *b = kq_alloc(n, sizeof *b);
        for (size_t j = 0; j < n; j++) {
            a[j] = got[at + j * s.n + k];
            b[j] = want[at + j * s.n + k];
        }
        snprintf(what, sizeof what, "%s of %s", k ? "m" : "d", name);
        compare(kq_dtype_name(t->dtype), what, 0, a, b, n);
        kq_free(a);
        kq_free(b);
    }
}

/* A linear in F16 is not trained. */
static void find_packed(models *m)
{
    const kq_config *c = m->student.cfg;
    for (size_t i = 0; i < kq_model_n_linears(c); i++)
        if (!kq_block_scales_of(kq_source_find(m->src, kq_model_linear_at(c, i).name)->dtype).n)
            m->packed[i / KQ_N_LINEAR] &= (uint8_t) ~(1u << i % KQ_N_LINEAR);
}

/* The blocks of each matrix by themselves, tied and untied. */
static void test_gradient_blocks(void **state)
{
    (void)state;
    static const char *const files[] = {"tune_blocks", "tune_codebooks", "tune_untied"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        models m;
        kq_error err;
        double kl, same;
        open_blocks(&m, files[f]);
        find_packed(&m);
        kq_tuner *t = new_tuner(&m, KQ_F32, 2, true);
        const kq_params *p = kq_tuner_params(t);
        const kq_config *c = m.student.cfg;
        assert_int_equal(kq_st_find(m.golden, "theta")->n_elem, p->n);
        assert_int_equal(p->n, kq_tuner_numbers(c, &(kq_tuner_options){.student = &m.student,
                                                                       .trained = &kq_trained_blocks,
                                                                       .packed = m.packed,
                                                                       .head = true,
                                                                       .embedding = true}));
        check_ok(kq_tuner_loss(t, all, SEQ, &same, &err));
        check_ok(kq_tuner_gradient(t, all, SEQ, &kl, &err));
        assert_true(fabs(kl / *golden(&m, "kl") - 1) < 1e-5);
        assert_true(fabs(kl / same - 1) < 1e-12);
        const float *got = kq_tuner_state(t).grad;
        for (size_t i = 0; i < kq_model_n_linears(c); i++)
            compare_blocks(&m, kq_model_linear_at(c, i).name, p->linear_at[i], got);
        compare(files[f], "the final norm", p->final_at, got, golden(&m, "grad"), c->d_model);
        if (!c->tie_embeddings)
            compare_blocks(&m, "lm_head.weight", p->head_at, got);
        compare_blocks(&m, "model.embed_tokens.weight", p->embed_at, got);
        kq_tuner_free(t);
        close_models(&m);
    }
}

/* Factors of 1 leave every weight as it is: the loss is that of the file itself. */
static void test_blocks_begin(void **state)
{
    (void)state;
    models m;
    kq_error err;
    double one, plain;
    open_blocks(&m, "tune_blocks");
    kq_tuner *t = new_tuner(&m, KQ_F32, 1, true);
    for (size_t i = 0; i < kq_tuner_params(t)->n; i++)
        kq_tuner_state(t).theta[i] = 1;
    check_ok(kq_tuner_loss(t, all, SEQ, &one, &err));
    kq_tuner_free(t);
    memset(m.packed, 0, sizeof m.packed);
    static const kq_common nobody;
    check_ok(kq_tuner_new(&(kq_tuner_options){.student = &m.student,
                                              .teacher = &m.teacher,
                                              .trained = &kq_trained_blocks,
                                              .packed = m.packed,
                                              .isa = test_isa(),
                                              .threads = 1,
                                              .T = T,
                                              .at_once = SEQ,
                                              .ids = m.ids,
                                              .hidden = hidden,
                                              .ctx = &m,
                                              .common = &nobody},
                          &t, &err));
    check_ok(kq_tuner_loss(t, all, SEQ, &plain, &err));
    assert_true(one == plain);
    kq_tuner_free(t);
    close_models(&m);
}

static void train(kq_tuner *t)
{
    kq_error err;
    double kl;
    for (size_t s = 0; s < STEPS; s++) {
        check_ok(kq_tuner_gradient(t, all, SEQ, &kl, &err));
        kq_tuner_update(t, kq_tune_rate(0.01, WARMUP, s, STEPS), s);
    }
}

/* Three steps of Adam. Where a gradient is nearly zero, Adam's step has the size of the others but a sign
 * that rounding decides: so the changes are compared as one vector. */
static void adam_of(models *m, const char *family)
{
    kq_tuner *t = new_tuner(m, KQ_F32, 2, true);
    const size_t n = kq_tuner_params(t)->n;
    float *theta = kq_tuner_state(t).theta, *want = kq_alloc(n, sizeof *want);
    const float *start = golden(m, "theta"), *end = golden(m, "theta3");
    train(t);
    for (size_t i = 0; i < n; i++) {
        want[i] = end[i] - start[i];
        theta[i] -= start[i];
    }
    const double rel = check_rel(theta, want, n);
    if (!(rel <= 1e-3))
        fail_msg("%s: the change of three steps is off by %.3g", family, rel);
    kq_free(want);
    kq_tuner_free(t);
    close_models(m);
}

static void test_adam(void **state)
{
    (void)state;
    models m;
    for (int f = 0; f < N_FAMILIES; f++) {
        open_models(&m, families[f]);
        adam_of(&m, families[f]);
    }
    open_blocks(&m, "tune_blocks");
    adam_of(&m, "blocks");
}

/* The same bits for any number of threads, and with weights that are decoded again at every use. */
static void same_bits(models *m, kq_compute compute)
{
    kq_tuner *a = new_tuner(m, compute, 1, true);
    train(a);
    for (int threads = 1; threads <= 7; threads += 3) {
        kq_tuner *b = new_tuner(m, compute, threads, threads == 4);
        train(b);
        assert_memory_equal(kq_tuner_state(a).theta, kq_tuner_state(b).theta,
                            kq_tuner_params(a)->n * sizeof(float));
        kq_tuner_free(b);
    }
    kq_tuner_free(a);
    close_models(m);
}

static void test_same_bits(void **state)
{
    (void)state;
    for (int compute = KQ_F32; compute <= KQ_BF16; compute++) {
        models m;
        open_models(&m, "qwen3");
        same_bits(&m, (kq_compute)compute);
        open_blocks(&m, "tune_blocks");
        same_bits(&m, (kq_compute)compute);
    }
}

/* Products in bf16 point the same way. */
static void bf16_of(models *m, double least)
{
    kq_error err;
    double kl, ab = 0, aa = 0, bb = 0;
    kq_tuner *t = new_tuner(m, KQ_BF16, 2, true);
    check_ok(kq_tuner_gradient(t, all, SEQ, &kl, &err));
    const float *a = kq_tuner_state(t).grad, *b = golden(m, "grad");
    for (size_t i = 0; i < kq_tuner_params(t)->n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    if (!(ab / sqrt(aa * bb) > least))
        fail_msg("the gradient in bf16 points elsewhere: %.5f", ab / sqrt(aa * bb));
    assert_true(fabs(kl / *golden(m, "kl") - 1) < 0.01);
    kq_tuner_free(t);
    close_models(m);
}

static void test_bf16(void **state)
{
    (void)state;
    models m;
    open_models(&m, "llama3");
    bf16_of(&m, 0.999);
    open_blocks(&m,
                "tune_blocks"); /* a tenth of that loss: what bf16 rounds away is a larger part of p - q */
    bf16_of(&m, 0.98);
}

/* A linear that is not packed keeps its weights, and has no numbers. */
static void test_plain_linear(void **state)
{
    (void)state;
    models m;
    kq_error err;
    double kl, before;
    open_models(&m, "llama3");
    m.packed[0] &= (uint8_t) ~(1u << KQ_O);
    static const kq_common nobody;
    kq_tuner *t;
    check_ok(kq_tuner_new(&(kq_tuner_options){.student = &m.student,
                                              .teacher = &m.teacher,
                                              .trained = &kq_trained_scales,
                                              .packed = m.packed,
                                              .isa = test_isa(),
                                              .threads = 1,
                                              .T = T,
                                              .at_once = SEQ,
                                              .ids = m.ids,
                                              .hidden = hidden,
                                              .ctx = &m,
                                              .common = &nobody},
                          &t, &err));
    assert_true(kq_tuner_params(t)->linear_at[KQ_O] == SIZE_MAX);
    check_ok(kq_tuner_loss(t, all, SEQ, &before, &err));
    for (size_t s = 0; s < 5; s++) {
        check_ok(kq_tuner_gradient(t, all, SEQ, &kl, &err));
        kq_tuner_update(t, 0.003, s);
    }
    check_ok(kq_tuner_loss(t, all, SEQ, &kl, &err));
    assert_true(kl < before);
    kq_tuner_free(t);
    close_models(&m);
}

static void test_rate(void **state)
{
    (void)state;
    assert_true(fabs(kq_tune_rate(1, 5, 0, 10) - 0.2) < 1e-12);
    assert_true(fabs(kq_tune_rate(1, 5, 5, 10) - 0.5) < 1e-12);
    assert_true(fabs(kq_tune_rate(1, 0, 0, 10) - 1) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient),     cmocka_unit_test(test_gradient_blocks),
        cmocka_unit_test(test_blocks_begin), cmocka_unit_test(test_adam),
        cmocka_unit_test(test_same_bits),    cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_plain_linear), cmocka_unit_test(test_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
