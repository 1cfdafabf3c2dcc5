/* The targets of sequential rounding against the normal equations of eq. 161, computed by plain loops in
 * double from forward passes of both models; and that threads and a new beginning in the middle change no
 * bit. */
#include "check.h"
#include <sys/stat.h>

#include "temp_folder.h"

#include "base/mem.h"
#include "sequential/sequential.h"

enum { SEQ = 5, T = 24, LAYERS = 2, BITS = 3 };
static const char *const family[] = {"llama3", "qwen3"};

/* The original, and the student whose linears are rounded as far as the test has come. */
typedef struct models {
    kq_source *src;
    const kq_config *cfg;
    kq_weights original, student;
    float *rounded[LAYERS][KQ_N_LINEAR]; /* owned; NULL: the original's */
    kq_model_ctx *mc;
    kq_trellis *trellis;
    int32_t ids[SEQ * T];
    /* of both models: the input of the block at work, the inputs of its linears, and the sum after attention
     */
    float *hidden[2], *input[2][KQ_N_LINEAR], *middle[2];
    void *scratch;
} models;

static kq_status student_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const models *m = ctx;
    size_t rows, cols;
    kq_linear_shape(m->cfg, id, &rows, &cols);
    if (layer >= LAYERS || !m->rounded[layer][id])
        return m->original.linear(m->original.ctx, layer, id, W, err);
    memcpy(W, m->rounded[layer][id], rows * cols * sizeof *W);
    return KQ_OK;
}

static kq_status student_rows(void *ctx, const char *name, size_t row0, size_t n, float *dst, kq_error *err)
{
    const models *m = ctx;
    return m->original.rows(m->original.ctx, name, row0, n, dst, err);
}

static void open_models(models *m, const char *name)
{
    char path[512];
    kq_error err;
    kq_isa isa;
    *m = (models){.src = NULL};
    check_ok(kq_isa_pick(NULL, &isa, &err));
    snprintf(path, sizeof path, "%s/tiny_%s", KRONQ_GOLDEN_DIR, name);
    check_ok(kq_source_open(path, &m->src, &err));
    m->original = kq_weights_from_source(m->src);
    m->cfg = m->original.cfg;
    m->student = (kq_weights){.cfg = m->cfg, .ctx = m, .linear = student_linear, .rows = student_rows};
    check_ok(kq_model_ctx_new(m->cfg, isa, KQ_F32, T, &m->mc, &err));
    check_ok(kq_trellis_new(KQ_3INST, BITS, isa, NULL, &m->trellis, &err));
    m->scratch = kq_alloc(kq_block_scratch_bytes(m->mc, T), 1);
    for (size_t i = 0; i < SEQ * T; i++)
        m->ids[i] = (int32_t)((i * i * 7 + 3 * i) % m->cfg->vocab_size);
    for (int k = 0; k < 2; k++) {
        m->hidden[k] = kq_alloc(SEQ * T * m->cfg->d_model, sizeof(float));
        m->middle[k] = kq_alloc(SEQ * T * m->cfg->d_model, sizeof(float));
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t rows, cols;
            kq_linear_shape(m->cfg, (kq_linear_id)id, &rows, &cols);
            m->input[k][id] = kq_alloc(SEQ * T * cols, sizeof(float));
        }
        for (size_t i = 0; i < SEQ * T; i++)
            check_ok(m->original.rows(m->original.ctx, "model.embed_tokens.weight", (size_t)m->ids[i], 1,
                                      m->hidden[k] + i * m->cfg->d_model, &err));
    }
}

static void close_models(models *m)
{
    for (int k = 0; k < 2; k++) {
        kq_free(m->hidden[k]);
        kq_free(m->middle[k]);
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_free(m->input[k][id]);
    }
    for (size_t i = 0; i < LAYERS * KQ_N_LINEAR; i++)
        kq_free(m->rounded[i / KQ_N_LINEAR][i % KQ_N_LINEAR]);
    kq_free(m->scratch);
    kq_trellis_free(m->trellis);
    kq_model_ctx_free(m->mc);
    kq_source_close(m->src);
}

/* Keeps every linear's input of one sequence. */
typedef struct keep {
    models *m;
    int k;
    size_t s;
} keep;

static kq_status keep_input(void *ctx, kq_linear_id id, const float *X, const float *G, size_t n_tokens,
                            kq_error *err)
{
    const keep *z = ctx;
    size_t rows, cols;
    (void)G;
    (void)err;
    kq_linear_shape(z->m->cfg, id, &rows, &cols);
    memcpy(z->m->input[z->k][id] + z->s * T * cols, X, n_tokens * cols * sizeof *X);
    return KQ_OK;
}

/* y [m] += W x for W [m, n]. */
static void multiply(const float *W, const float *x, size_t m, size_t n, double *y)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            y[i] += (double)W[i * n + j] * x[j];
}

/* Both models through block `layer`: inputs and middle; with `move` the hidden states too. */
static void run_block(models *m, size_t layer, bool move)
{
    kq_error err;
    const size_t d = m->cfg->d_model;
    size_t rows, n;
    kq_linear_shape(m->cfg, KQ_O, &rows, &n);
    float *y = kq_alloc(T * d, sizeof *y), *W = kq_alloc(d * n, sizeof *W);
    double *sum = kq_alloc(d, sizeof *sum);
    for (int k = 0; k < 2; k++) {
        const kq_weights *w = k ? &m->student : &m->original;
        kq_block b;
        check_ok(kq_block_load(m->mc, w, layer, &b, &err));
        check_ok(w->linear(w->ctx, layer, KQ_O, W, &err));
        for (size_t s = 0; s < SEQ; s++) {
            keep z = {m, k, s};
            float *h = m->hidden[k] + s * T * d;
            const kq_linear_sink sink = {.give = keep_input, .ctx = &z};
            check_ok(kq_block_forward_sink(m->mc, &b, h, T, y, m->scratch, &sink, &err));
            for (size_t t = 0; t < T; t++) {
                for (size_t i = 0; i < d; i++)
                    sum[i] = h[t * d + i];
                multiply(W, m->input[k][KQ_O] + (s * T + t) * n, d, n, sum);
                for (size_t i = 0; i < d; i++)
                    m->middle[k][(s * T + t) * d + i] = (float)sum[i];
            }
            if (move)
                memcpy(h, y, T * d * sizeof *y);
        }
        kq_block_free(&b);
    }
    kq_free(sum);
    kq_free(W);
    kq_free(y);
}

/* The two sides of the normal equations V (H + lambda I) = sum w y z^T + lambda W at V = target. */
static void check_target(models *m, size_t layer, kq_linear_id id, const float *W, const float *target)
{
    const size_t d = m->cfg->d_model;
    const bool residual = id == KQ_O || id == KQ_DOWN;
    float *const *before = id == KQ_O ? m->hidden : m->middle;
    const double r = residual ? 1 : 0.3;
    size_t rows, n;
    kq_linear_shape(m->cfg, id, &rows, &n);
    run_block(m, layer, false);
    double *H = kq_calloc(n * n, sizeof *H), *right = kq_calloc(rows * n, sizeof *right),
           *y = kq_alloc(rows, sizeof *y), trace = 0;
    for (size_t t = 0; t < SEQ * T; t++) {
        const float *x = m->input[0][id] + t * n, *z = m->input[1][id] + t * n, *h = before[0] + t * d,
                    *k = before[1] + t * d;
        double square = 0, w = 1;
        for (size_t i = 0; i < d; i++)
            square += (double)h[i] * h[i];
        for (size_t i = 0; i < rows; i++)
            y[i] = residual ? (double)h[i] - k[i] : 0;
        if (residual)
            w = (double)d / square;
        multiply(W, x, rows, n, y);
        for (size_t j = 0; j < n; j++) {
            for (size_t i = 0; i < n; i++)
                H[i * n + j] += w * z[i] * z[j];
            for (size_t i = 0; i < rows; i++)
                right[i * n + j] += w * y[i] * z[j];
        }
    }
    for (size_t j = 0; j < n; j++)
        trace += H[j * n + j];
    float *a = kq_alloc(rows * n, sizeof *a), *b = kq_alloc(rows * n, sizeof *b);
    const double lambda = r * trace / (double)n;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < n; j++) {
            double left = lambda * target[i * n + j];
            for (size_t l = 0; l < n; l++)
                left += target[i * n + l] * H[l * n + j];
            a[i * n + j] = (float)(left - lambda * W[i * n + j]);
            b[i * n + j] = (float)right[i * n + j];
        }
    check_close(a, b, rows * n, 1e-4);
    kq_free(a);
    kq_free(b);
    kq_free(H);
    kq_free(right);
    kq_free(y);
}

static kq_sequential *begin(const models *m, const kq_job *job, int threads)
{
    kq_error err;
    kq_isa isa;
    kq_sequential *s;
    check_ok(kq_isa_pick(NULL, &isa, &err));
    const kq_sequential_options o = {.weights = &m->original,
                                     .ids = m->ids,
                                     .n_seq = SEQ,
                                     .T = T,
                                     .isa = isa,
                                     .compute = KQ_F32,
                                     .threads = threads,
                                     .job = job};
    check_ok(kq_sequential_new(&o, &s, &err));
    return s;
}

/* Round the linear towards its target, and let the student have it. */
static void round_linear(models *m, kq_sequential *s, size_t layer, kq_linear_id id, const float *target)
{
    kq_error err;
    kq_packed packed;
    size_t rows, cols;
    kq_linear_shape(m->cfg, id, &rows, &cols);
    const kq_round_input in = {.name = "linear", .W = target, .m = rows, .n = cols};
    const kq_round_options opt = {.sigma_reg = 0.1, .threads = 1};
    float **to = &m->rounded[layer][id];
    if (!*to)
        *to = kq_alloc(rows * cols, sizeof(float));
    check_ok(kq_round_linear(m->trellis, &in, &opt, &packed, NULL, &err));
    check_ok(kq_unround_linear(m->trellis, &packed, *to, 1, &err));
    check_ok(kq_sequential_rounded(s, layer, id, m->trellis, &packed, &err));
    kq_packed_free(&packed);
}

static float *target_of(models *m, kq_sequential *s, size_t layer, kq_linear_id id, float **W)
{
    kq_error err;
    size_t rows, cols;
    kq_linear_shape(m->cfg, id, &rows, &cols);
    float *target = kq_alloc(rows * cols, sizeof *target);
    *W = kq_alloc(rows * cols, sizeof **W);
    check_ok(m->original.linear(m->original.ctx, layer, id, *W, &err));
    check_ok(kq_sequential_target(s, layer, id, *W, target, &err));
    return target;
}

/* All linears of two blocks with a stream of two threads beside one of one thread; the second is begun anew
 * before the second block. */
static void run_family(const char *name)
{
    char path[2][256];
    kq_error err;
    models m;
    kq_job job[2] = {{.lock = -1}, {.lock = -1}};
    kq_sequential *s[2];
    open_models(&m, name);
    for (int k = 0; k < 2; k++) {
        char folder[32];
        snprintf(folder, sizeof folder, "%s-%d", name, k);
        job[k].work_dir = (char *)temp_path(path[k], folder);
        assert_int_equal(mkdir(path[k], 0777), 0);
        s[k] = begin(&m, &job[k], k + 1);
    }
    for (size_t l = 0; l < LAYERS; l++) {
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t rows, cols;
            float *W, *again;
            kq_linear_shape(m.cfg, (kq_linear_id)id, &rows, &cols);
            float *target = target_of(&m, s[0], l, (kq_linear_id)id, &W);
            check_target(&m, l, (kq_linear_id)id, W, target);
            if (l > 0 || id > KQ_V)
                assert_true(check_rel(target, W, rows * cols) > 1e-3); /* there is something to correct */
            kq_free(W);
            again = target_of(&m, s[1], l, (kq_linear_id)id, &W);
            assert_memory_equal(target, again, rows * cols * sizeof *target);
            for (int k = 0; k < 2; k++)
                round_linear(&m, s[k], l, (kq_linear_id)id, target);
            kq_free(W);
            kq_free(again);
            kq_free(target);
        }
        run_block(&m, l, true);
        for (int k = 0; k < 2; k++)
            check_ok(kq_sequential_block_done(s[k], l, &err));
        kq_sequential_free(s[1]);
        s[1] = begin(&m, &job[1], 2);
    }
    float W = 0;
    check_fails(kq_sequential_target(s[0], 0, KQ_Q, &W, &W, &err), KQ_E_ARG, "block 0: its streams are at");
    for (int k = 0; k < 2; k++)
        kq_sequential_free(s[k]);
    close_models(&m);
}

static void targets_solve_their_least_squares(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof family / sizeof *family; i++)
        run_family(family[i]);
}

static void an_id_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    char path[256];
    kq_error err;
    models m;
    float *W = NULL;
    kq_job job = {.lock = -1};
    open_models(&m, "llama3");
    job.work_dir = (char *)temp_path(path, "bad");
    assert_int_equal(mkdir(path, 0777), 0);
    m.ids[3] = (int32_t)m.cfg->vocab_size;
    kq_sequential *s = begin(&m, &job, 1);
    check_fails(kq_sequential_target(s, 0, KQ_Q, W, W, &err), KQ_E_ARG, "outside the vocabulary");
    kq_sequential_free(s);
    close_models(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_solve_their_least_squares),
        cmocka_unit_test(an_id_outside_the_vocabulary_is_refused),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
