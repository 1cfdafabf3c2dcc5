/* Rounding onto EXL3's grid: a part file decodes to what the rounding says that it has made, and feedback on
 * both sides is worth what it promises. */
#include "exl3/save.h"
#include "exl3/tiles.h"

#include "base/mem.h"
#include "base/rng.h"
#include "format/exl3.h"
#include "round/matrix.h"
#include "temp_folder.h"

static kq_error err;

/* Factors with a strong common direction and unequal diagonals. */
static float *factor(size_t n, const char *name)
{
    kq_rng rng = kq_rng_stream(1, name);
    float *H = kq_calloc(n * n, sizeof *H), *v = kq_alloc(n, sizeof *v);
    for (int k = 0; k < 24; k++) {
        for (size_t i = 0; i < n; i++)
            v[i] = (float)(kq_rng_normal(&rng) + 0.5) * (i % 7 == 0 ? 2 : 1);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                H[i * n + j] += v[i] * v[j] / 24;
    }
    kq_free(v);
    return H;
}

static float *weights(size_t m, size_t n)
{
    kq_rng rng = kq_rng_stream(1, "weights");
    float *W = kq_alloc(m * n, sizeof *W);
    for (size_t i = 0; i < m * n; i++)
        W[i] = (float)(0.03 * kq_rng_normal(&rng) * (1 + (double)(i % n % 5)) * (i / n % 3 ? 1 : 2));
    return W;
}

/* The linear of a part file, decoded. */
static void read_back(const char *path, const char *module, kq_code code, size_t m, size_t n, float *W)
{
    kq_st_file *f;
    char name[3][64];
    float *values = kq_alloc(65536, sizeof *values);
    check_ok(kq_st_open(path, &f, &err));
    snprintf(name[0], 64, "%s.trellis", module);
    snprintf(name[1], 64, "%s.suh", module);
    snprintf(name[2], 64, "%s.svh", module);
    const kq_tensor *t = kq_st_find(f, name[0]), *suh = kq_st_find(f, name[1]), *svh = kq_st_find(f, name[2]);
    assert_true(t && suh && svh);
    assert_true(t->shape[0] == kq_exl3_padded(n) / 16 && t->shape[1] == kq_exl3_padded(m) / 16);
    kq_exl3_values(code, values);
    const kq_exl3 x = {.bits = (int)t->shape[2] / 16,
                       .code = code,
                       .n_in = kq_exl3_padded(n),
                       .n_out = kq_exl3_padded(m),
                       .trellis = t->data,
                       .suh = suh->data,
                       .svh = svh->data,
                       .values = values};
    check_ok(kq_exl3_read_rows(&x, n, 0, m, W, &err));
    kq_free(values);
    kq_st_close(f);
}

typedef struct result {
    double predicted, measured; /* loss of eq. 1: as reported, and of the weights that the file decodes to */
    double relative;
} result;

/* Round W, write and read it, and compare the report with what came back. */
static result round_one(const kq_round_input *in, kq_code code, int k, const float *H_in, const float *H_out)
{
    kq_trellis *t;
    kq_exl3_tiles tiles;
    kq_packed packed;
    result r;
    kq_module_report report = {.m = in->m, .n = in->n, .bits = k};
    float *E = kq_alloc(in->m * in->n, sizeof *E);
    snprintf(report.name, sizeof report.name, "%s", in->name);
    check_ok(kq_trellis_new(code, k, kq_isa_best(), NULL, &t, &err));
    kq_exl3_tiles_init(&tiles, t);
    const kq_tile_rounder rounder = kq_exl3_rounder(&tiles);
    const kq_round_options opt = {.sigma_reg = 0.1,
                                  .seed = 5,
                                  .threads = 2,
                                  .channel_scales = KQ_CHANNEL_SCALES_CURVATURE,
                                  .block = KQ_EXL3_BLOCK,
                                  .tiles = &rounder};
    check_ok(kq_round_linear(t, in, &opt, &packed, &report.round, &err));
    assert_true(packed.scale == 1);
    check_ok(kq_exl3_part_write("part.safetensors", code, 1, (const kq_packed *[]){&packed},
                                (const kq_module_report *[]){&report}, &err));
    read_back("part.safetensors", in->name, code, in->m, in->n, E);
    for (size_t i = 0; i < in->m * in->n; i++)
        E[i] = in->W[i] - E[i];
    r.predicted = report.round.predicted_loss;
    check_ok(kq_predicted_loss(E, in->m, in->n, H_in, H_out, 1, &r.measured, &err));
    r.relative = kq_sum_squares(E, in->m * in->n) / kq_sum_squares(in->W, in->m * in->n);
    kq_packed_free(&packed);
    kq_trellis_free(t);
    kq_free(E);
    return r;
}

static void report_is_true(void **s)
{
    (void)s;
    static const struct {
        kq_code code;
        int k;
        size_t m, n;
    } cases[] = {
        {KQ_MUL1, 2, 128, 256}, {KQ_MCG, 3, 192, 128}, {KQ_3INST, 4, 40, 300}, {KQ_MUL1, 6, 50, 64}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t m = cases[i].m, n = cases[i].n;
        float *W = weights(m, n), *H_in = factor(n, "in"), *H_out = factor(m, "out");
        const kq_round_input in = {
            .name = "a.b", .W = W, .m = m, .n = n, .H_in = H_in, .H_out = H_out, .predicts = true};
        const result r = round_one(&in, cases[i].code, cases[i].k, H_in, H_out);
        check_number(r.measured / r.predicted, 1, 1e-3);
        assert_true(r.relative < 2.5 * pow(4, -cases[i].k));
        kq_free(W);
        kq_free(H_in);
        kq_free(H_out);
    }
}

static void two_sides(void **s)
{
    (void)s;
    const size_t m = 256, n = 256;
    float *W = weights(m, n), *H_in = factor(n, "in"), *H_out = factor(m, "out");
    kq_round_input in = {.name = "a.b", .W = W, .m = m, .n = n, .predicts = true};
    const double none = round_one(&in, KQ_MUL1, 2, H_in, H_out).measured;
    in.H_in = H_in;
    const double one = round_one(&in, KQ_MUL1, 2, H_in, H_out).measured;
    in.H_out = H_out;
    const double both = round_one(&in, KQ_MUL1, 2, H_in, H_out).measured;
    if (!(one < 0.8 * none && both < 0.8 * one))
        fail_msg("loss %g without factors, %g with one, %g with both", none, one, both);
    kq_free(W);
    kq_free(H_in);
    kq_free(H_out);
}

/* Weights of zero, tiny and huge ones. */
static void edges(void **s)
{
    (void)s;
    const size_t m = 64, n = 200;
    float *W = kq_calloc(m * n, sizeof *W), *back = kq_alloc(m * n, sizeof *back);
    kq_round_input in = {.name = "a.b", .W = W, .m = m, .n = n};
    round_one(&in, KQ_MUL1, 3, NULL, NULL);
    read_back("part.safetensors", "a.b", KQ_MUL1, m, n, back);
    for (size_t i = 0; i < m * n; i++)
        assert_true(back[i] == 0);
    W[7] = 1; /* one weight alone: what surrounds it is noise of its own size over the block's */
    check_number(round_one(&in, KQ_MUL1, 3, NULL, NULL).relative, 0, 0.1);
    float *G = weights(m, n);
    in.W = G;
    for (size_t i = 0; i < m * n; i++)
        G[i] *= 1e-5f;
    check_number(round_one(&in, KQ_MUL1, 3, NULL, NULL).relative, 0, 0.1);
    kq_packed packed;
    kq_trellis *t;
    kq_round_report report;
    for (size_t i = 0; i < m * n; i++)
        G[i] *= 1e18f;
    check_ok(kq_trellis_new(KQ_MUL1, 3, kq_isa_best(), NULL, &t, &err));
    const kq_round_options opt = {.sigma_reg = 0.1, .threads = 1, .block = KQ_EXL3_BLOCK};
    check_fails(kq_round_linear(t, &in, &opt, &packed, &report, &err), KQ_E_NUMERIC, "half float");
    kq_trellis_free(t);
    kq_free(W);
    kq_free(G);
    kq_free(back);
}

typedef struct head {
    const float *W;
    size_t n;
} head;

static kq_status read_head(void *ctx, size_t row0, size_t count, float *W, kq_error *e)
{
    const head *h = ctx;
    (void)e;
    memcpy(W, h->W + row0 * h->n, count * h->n * sizeof *W);
    return KQ_OK;
}

/* A head goes through bands of rows; the bands do not show. */
static void rows(void **s)
{
    (void)s;
    const size_t m = 300, n = 100;
    float *W = weights(m, n), *H = factor(n, "in"), *back = kq_alloc(m * n, sizeof *back);
    memset(W + 3 * n, 0, n * sizeof *W); /* a token that never was */
    kq_trellis *t;
    kq_exl3_tiles tiles;
    head h = {W, n};
    double relative[2];
    check_ok(kq_trellis_new(KQ_MUL1, 6, kq_isa_best(), NULL, &t, &err));
    kq_exl3_tiles_init(&tiles, t);
    const kq_tile_rounder rounder = kq_exl3_rounder(&tiles);
    const kq_round_options opt = {.sigma_reg = 0.1, .threads = 2, .block = KQ_EXL3_BLOCK, .tiles = &rounder};
    for (int i = 0; i < 2; i++) {
        kq_rows_input in = {.name = "lm_head", .rows = m, .n = n, .H_in = H, .read = read_head, .ctx = &h};
        kq_module_report report = {.name = "lm_head", .m = m, .n = n, .bits = 6};
        kq_packed packed;
        in.band = i ? 128 : 0;
        check_ok(kq_round_rows(t, &in, &opt, &packed, &report.round, &err));
        assert_true(packed.scale == 1 && !packed.one_sided);
        check_ok(kq_exl3_part_write("part.safetensors", KQ_MUL1, 1, (const kq_packed *[]){&packed},
                                    (const kq_module_report *[]){&report}, &err));
        read_back("part.safetensors", "lm_head", KQ_MUL1, m, n, back);
        for (size_t j = 0; j < n; j++)
            assert_true(back[3 * n + j] == 0);
        for (size_t j = 0; j < m * n; j++)
            back[j] -= W[j];
        relative[i] = kq_sum_squares(back, m * n) / kq_sum_squares(W, m * n);
        check_number(relative[i] / report.round.relative_mse, 1, 1e-3);
        assert_true(relative[i] < 2.5 * pow(4, -6));
        kq_packed_free(&packed);
    }
    check_number(relative[0] / relative[1], 1, 1e-6);
    kq_trellis_free(t);
    kq_free(W);
    kq_free(H);
    kq_free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(report_is_true), cmocka_unit_test(two_sides),
                                       cmocka_unit_test(edges), cmocka_unit_test(rows)};
    return cmocka_run_group_tests(tests, temp_folder_enter, temp_folder_leave);
}
