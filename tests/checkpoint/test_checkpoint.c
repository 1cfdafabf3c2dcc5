/* Checkpoints: the codec of embedding rows against its definition, part files, and a saved model read
 * back, both against what was saved and against a decoder written here from docs/format.md alone. */
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "checkpoint/checkpoint.h"
#include "kern/gemm.h"
#include "kern/kern.h"
#include "temp_folder.h"

static void path_of(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", temp_folder, name);
}

/* ---- rows ---- */

static void rows_are_within_half_a_step(void **state)
{
    (void)state;
    const size_t sizes[] = {7, 16, 40, 48, 64, 96, 576};
    kq_rng rng = kq_rng_stream(1, "rows");
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s], group = kq_rows_group(n);
        assert_true(n % group == 0);
        float x[576], y[576];
        uint8_t q[576];
        uint16_t scales[576];
        for (int bits = 4; bits <= 8; bits += 4) {
            const int max = bits == 8 ? 127 : 7;
            for (size_t i = 0; i < n; i++)
                x[i] = (float)(kq_rng_normal(&rng) * (i / group % 3 == 1 ? 1e-3 : 2));
            memset(q, 0xa5, sizeof q);
            kq_rows_encode(x, n, bits, q, scales);
            kq_rows_decode(q, scales, n, bits, y);
            for (size_t g = 0; g < n / group; g++) {
                float top = 0;
                for (size_t i = g * group; i < (g + 1) * group; i++)
                    top = fmaxf(top, fabsf(x[i]));
                /* half a step, and the f16 rounding of the scale (2^-11 of it, but 2^-25 where f16 is
                 * subnormal) times the largest integer */
                const double step = top / max, bound = 0.5 * step + max * fmax(step / 2048, 3e-8) + 1e-9;
                for (size_t i = g * group; i < (g + 1) * group; i++)
                    if (!(fabs((double)x[i] - y[i]) <= bound))
                        fail_msg("n %zu, %d bits, column %zu: %g became %g, step %g", n, bits, i,
                                 (double)x[i], (double)y[i], step);
            }
        }
    }
}

static void rows_of_zeros_and_exact_values(void **state)
{
    (void)state;
    float x[64] = {0}, y[64];
    uint8_t q[64];
    uint16_t scales[4];
    for (int bits = 4; bits <= 8; bits += 4) {
        memset(x, 0, sizeof x);
        kq_rows_encode(x, 64, bits, q, scales);
        kq_rows_decode(q, scales, 64, bits, y);
        for (int i = 0; i < 64; i++)
            assert_true(y[i] == 0);
        /* integers times a power of two are kept exactly when the largest is there */
        const int max = bits == 8 ? 127 : 7;
        for (int i = 0; i < 64; i++)
            x[i] = 0.25f * (float)(i % (2 * max + 1) - max);
        x[63] = 0.25f * (float)max;
        kq_rows_encode(x, 64, bits, q, scales);
        kq_rows_decode(q, scales, 64, bits, y);
        assert_memory_equal(x, y, sizeof x);
    }
}

/* docs/format.md: even column in the low half of a byte, 8 added; int8 as it is. */
static void rows_as_bytes(void **state)
{
    (void)state;
    const float x[7] = {7, -7, 3, 0, -1, 5, -4};
    uint8_t q[7];
    uint16_t scale;
    kq_rows_encode(x, 7, 4, q, &scale);
    assert_int_equal(scale, 0x3c00);
    assert_memory_equal(q, ((uint8_t[]){15 | 1 << 4, 11 | 8 << 4, 7 | 13 << 4, 4}), 4);
    const float z[7] = {127, -127, 3, 0, -1, 5, -4};
    kq_rows_encode(z, 7, 8, q, &scale);
    assert_int_equal(scale, 0x3c00);
    assert_memory_equal(q, ((uint8_t[]){127, 129, 3, 0, 255, 5, 252}), 7);
}

/* ---- a small model, rounded without curvature ---- */

typedef struct fixture {
    kq_source *src;
    kq_weights plain;
    kq_trellis *trellis;
    kq_packed packed[3][KQ_N_LINEAR];
    kq_module_report report[3][KQ_N_LINEAR];
    unsigned ids[3];
} fixture;

static void round_model(fixture *f, const char *model, kq_code code, int k)
{
    kq_error err;
    char path[512], name[64];
    *f = (fixture){.ids = {1u << KQ_Q | 1u << KQ_DOWN, 0, 1u << KQ_K}};
    snprintf(path, sizeof path, "%s/tiny_cli/%s", KRONQ_GOLDEN_DIR, model);
    check_ok(kq_source_open(path, &f->src, &err));
    f->plain = kq_weights_from_source(f->src);
    check_ok(kq_trellis_new(code, k, kq_isa_best(), NULL, &f->trellis, &err));
    const kq_config *cfg = kq_source_config(f->src);
    for (size_t l = 0; l < cfg->n_layer; l++) {
        if (!f->ids[l])
            continue;
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            if (!(f->ids[l] >> id & 1))
                continue;
            kq_module_report *r = &f->report[l][id];
            *r = (kq_module_report){
                .bits = k,
                .round = {.relative_mse = 0.1 + id, .predicted_loss = NAN, .extra_in = 1, .extra_out = 2},
                .factor_residual = NAN,
                .sigma1 = 1.0 / 3,
                .sigma2 = NAN,
                .products = 5};
            kq_linear_name(r->name, sizeof r->name, l, (kq_linear_id)id);
            kq_linear_shape(cfg, (kq_linear_id)id, &r->m, &r->n);
            float *W = kq_alloc(r->m * r->n, sizeof *W);
            check_ok(f->plain.linear(f->plain.ctx, l, (kq_linear_id)id, W, &err));
            check_ok(kq_round_linear(f->trellis, &(kq_round_input){r->name, W, r->m, r->n, NULL, NULL, false},
                                     &(kq_round_options){.sigma_reg = 1e-2, .seed = 7, .threads = 1},
                                     &f->packed[l][id], NULL, &err));
            kq_free(W);
        }
        snprintf(name, sizeof name, "block-%05zu.safetensors", l);
        path_of(path, name);
        check_ok(kq_part_write(path, l, f->ids[l], f->packed[l], f->report[l], &err));
    }
}

static void free_model(fixture *f)
{
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++)
            kq_packed_free(&f->packed[l][id]);
    kq_trellis_free(f->trellis);
    kq_source_close(f->src);
}

static kq_status read_rows(void *ctx, size_t row0, size_t count, float *W, kq_error *err)
{
    const kq_weights *w = ctx;
    return w->rows(w->ctx, "model.embed_tokens.weight", row0, count, W, err);
}

/* The embedding as a trellis of the fixture's code, which quantize makes before it saves. */
static void write_rows(fixture *f, int bits)
{
    kq_error err;
    char path[256];
    const kq_config *cfg = kq_source_config(f->src);
    const kq_rows_input in = {.name = "model.embed_tokens",
                              .rows = cfg->vocab_size,
                              .n = cfg->d_model,
                              .read = read_rows,
                              .ctx = &f->plain};
    const kq_round_options opt = {.threads = 2};
    kq_module_report report = {.name = "model.embed_tokens", .m = in.rows, .n = in.n, .bits = bits};
    kq_packed packed;
    kq_trellis *t;
    check_ok(kq_trellis_new(kq_trellis_code(f->trellis), bits, kq_isa_best(), NULL, &t, &err));
    check_ok(kq_round_rows(t, &in, &opt, &packed, &report.round, &err));
    const double relative_mse = report.round.relative_mse;
    char name[40];
    snprintf(name, sizeof name, "packed-%05d.safetensors", KQ_ROWS_PART * bits + 1);
    path_of(path, name);
    check_ok(kq_part_write_rows(path, &packed, &report, &err));
    check_ok(kq_part_read_rows_report(path, "model.embed_tokens", &report, &err));
    assert_true(report.round.relative_mse == relative_mse && report.bits == bits && report.m == in.rows);
    check_fails(kq_part_read_rows_report(path, "lm_head", &report, &err), KQ_E_FORMAT,
                "no report of lm_head");
    kq_packed_free(&packed);
    kq_trellis_free(t);
}

static void save(fixture *f, const char *out, int embed_bits, size_t shard_size, kq_save_report *report)
{
    kq_error err;
    check_ok(kq_mkdirs(out, &err));
    if (embed_bits < 8)
        write_rows(f, embed_bits);
    const kq_save_options o = {.src = f->src,
                               .dir = out,
                               .part_dir = temp_folder,
                               .code = kq_trellis_code(f->trellis),
                               .embed_bits = embed_bits,
                               .head_bits = embed_bits,
                               .shard_size = shard_size,
                               .settings_json = "{\"method\": \"none\", \"seed\": 7}"};
    check_ok(kq_checkpoint_save(&o, report, &err));
}

static void part_reports_come_back(void **state)
{
    (void)state;
    kq_error err;
    char path[256];
    fixture f;
    kq_module_report r[KQ_N_LINEAR];
    round_model(&f, "hf", KQ_1MAD, 2);
    path_of(path, "block-00000.safetensors");
    check_ok(kq_part_read_reports(path, 0, r, &err));
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        const kq_module_report *a = &f.report[0][id], *b = &r[id];
        assert_string_equal(a->name, b->name);
        if (!a->name[0])
            continue;
        assert_true(a->m == b->m && a->n == b->n && a->bits == b->bits && a->products == b->products &&
                    a->round.extra_in == b->round.extra_in && a->round.extra_out == b->round.extra_out);
        /* to the last bit: they are part of a resumed run's result */
        assert_true(a->round.relative_mse == b->round.relative_mse && a->sigma1 == b->sigma1);
        assert_true(isnan(b->round.predicted_loss) && isnan(b->factor_residual) && isnan(b->sigma2));
    }
    check_fails(kq_part_read_reports("nowhere.safetensors", 0, r, &err), KQ_E_IO, "nowhere.safetensors");
    free_model(&f);
}

/* ---- the checkpoint, decoded by its specification ---- */

static float code_value(kq_code code, uint32_t state, int j, const float (*table)[2])
{
    if (code == KQ_HYB) {
        const uint32_t h = state * (state + 1);
        const float v = table[h >> 6 & 511][j];
        return j == 0 && (h >> 15 & 1) ? -v : v;
    }
    if (code == KQ_1MAD) {
        const uint32_t x = state * 34038481u + 76625530u;
        return (float)((int)(x & 255) + (int)(x >> 8 & 255) + (int)(x >> 16 & 255) + (int)(x >> 24) - 510) /
               147.800537f;
    }
    if (code == KQ_MUL1) {
        const uint32_t x = state * 0x83dcd12du;
        const double exact =
            (1024 + (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)) * 1774 / 262144.0;
        return kq_f16_to_f32(kq_f32_to_f16((float)(exact - 1329 / 128.0)));
    }
    const uint32_t x = state * 89226354u + 64248484u, y = (x & 0x8fff8fffu) ^ 0x3b603b60u;
    return kq_f16_to_f32((uint16_t)y) + kq_f16_to_f32((uint16_t)(y >> 16));
}

/* Sylvester's matrix over sqrt(n): (-1)^popcount(i and j). */
static double sylvester(size_t i, size_t j, size_t n)
{
    return (__builtin_popcountll(i & j) % 2 ? -1 : 1) / sqrt((double)n);
}

static double half_at(const kq_tensor *t, size_t i)
{
    return kq_f16_to_f32((uint16_t)(t->data[2 * i] | t->data[2 * i + 1] << 8));
}

/* diag(sv) U_m What' U_n^T diag(su), What' from the words of the file; m and n powers of two. */
static void decode_by_hand(const kq_st_file *file, const char *module, kq_code code, int k, size_t m,
                           size_t n, float *W)
{
    char name[160];
    const char *const suffix[] = {"trellis", "su", "sv", "scale"};
    const kq_tensor *t[4];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s.%s", module, suffix[i]);
        assert_non_null(t[i] = kq_st_find(file, name));
    }
    assert_true(t[0]->dtype == KQ_T_I16 && t[0]->rank == 3 && t[0]->shape[0] == m / 16 &&
                t[0]->shape[1] == n / 16 && t[0]->shape[2] == (size_t)(16 * k));
    assert_true(t[1]->dtype == KQ_T_F16 && t[1]->n_elem == n && t[2]->dtype == KQ_T_F16 &&
                t[2]->n_elem == m && t[3]->dtype == KQ_T_F32 && t[3]->rank == 0);
    float scale, table[KQ_HYB_ENTRIES][2];
    memcpy(&scale, t[3]->data, 4);
    const kq_tensor *tab = kq_st_find(file, "kronq.hyb_table");
    assert_true((tab != NULL) == (code == KQ_HYB));
    if (tab)
        memcpy(table, tab->data, sizeof table);
    const int V = code == KQ_HYB ? 2 : 1, bits = 256 * k;
    double *P = calloc(m * n, sizeof *P), *Q = calloc(m * n, sizeof *Q);
    for (size_t tile = 0; tile < m / 16 * (n / 16); tile++) {
        const uint8_t *words = t[0]->data + tile * (size_t)(32 * k);
        for (int step = 0; step < 256 / V; step++) {
            uint32_t s = 0;
            for (int b = 0; b < 16; b++) {
                const int at = (step * k * V + b) % bits, word = at / 16;
                const unsigned value = words[2 * word] | (unsigned)words[2 * word + 1] << 8;
                s = s << 1 | (value >> (15 - at % 16) & 1);
            }
            for (int j = 0; j < V; j++) {
                const size_t w = (size_t)(step * V + j), r = tile / (n / 16) * 16 + w / 16,
                             c = tile % (n / 16) * 16 + w % 16;
                P[r * n + c] = (double)scale * code_value(code, s, j, (const float(*)[2])table);
            }
        }
    }
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++)
            for (size_t c = 0; c < n; c++)
                Q[i * n + c] += sylvester(i, j, m) * P[j * n + c];
    for (size_t i = 0; i < m; i++)
        for (size_t c = 0; c < n; c++) {
            double sum = 0;
            for (size_t j = 0; j < n; j++)
                sum += Q[i * n + j] * sylvester(c, j, n);
            W[i * n + c] = (float)(sum * half_at(t[2], i) * half_at(t[1], c));
        }
    free(P);
    free(Q);
}

static void saved_is_what_was_rounded(void **state)
{
    (void)state;
    kq_error err;
    const struct {
        const char *model;
        kq_code code;
        int k, embed_bits;
        size_t shard_size;
    } cases[] = {{"hf", KQ_HYB, 2, 8, 0},
                 {"hf", KQ_1MAD, 3, 16, 1 << 14},
                 {"model.gguf", KQ_3INST, 4, 4, (size_t)1 << 40},
                 {"hf", KQ_HYB, 4, 4, 1},
                 {"hf", KQ_MUL1, 2, 8, 0},
                 {"hf", KQ_1MAD, 2, 3, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture f;
        char out[256], path[300], name[32];
        kq_save_report report;
        kq_model_file *m;
        snprintf(name, sizeof name, "out-%zu", i);
        path_of(out, name);
        round_model(&f, cases[i].model, cases[i].code, cases[i].k);
        save(&f, out, cases[i].embed_bits, cases[i].shard_size, &report);
        assert_int_equal(report.n_quantized, 3);
        assert_int_equal(report.n_weights_quantized, 64 * 64 + 64 * 112 + 32 * 64);

        check_ok(kq_model_file_open(out, KQ_ISA_REF, &m, &err));
        assert_true(kq_source_is_kronq(kq_model_file_source(m)));
        const kq_weights *w = kq_model_file_weights(m);
        for (size_t l = 0; l < 3; l++) {
            for (int id = 0; id < KQ_N_LINEAR; id++) {
                size_t rows, cols;
                kq_linear_shape(w->cfg, (kq_linear_id)id, &rows, &cols);
                float *a = kq_alloc(rows * cols, sizeof *a), *b = kq_alloc(rows * cols, sizeof *b);
                const bool packed = f.ids[l] >> id & 1;
                assert_int_equal(kq_model_file_bits(m, l, (kq_linear_id)id), packed ? cases[i].k : 0);
                check_ok(w->linear(w->ctx, l, (kq_linear_id)id, a, &err));
                if (packed)
                    check_ok(kq_unround_linear(f.trellis, &f.packed[l][id], b, 1, &err));
                else
                    check_ok(f.plain.linear(f.plain.ctx, l, (kq_linear_id)id, b, &err));
                if (packed || strcmp(cases[i].model, "model.gguf"))
                    assert_memory_equal(a, b, rows * cols * sizeof *a);
                else
                    check_close(a, b, rows * cols, 0.003); /* Q8_0 became bf16, 8 bits of precision */
                kq_free(a);
                kq_free(b);
            }
        }
        float *a = kq_alloc(384 * 64, sizeof *a), *b = kq_alloc(384 * 64, sizeof *b);
        check_ok(w->rows(w->ctx, "model.embed_tokens.weight", 0, 384, a, &err));
        check_ok(f.plain.rows(f.plain.ctx, "model.embed_tokens.weight", 0, 384, b, &err));
        check_close(a, b, 384 * 64,
                    cases[i].embed_bits == 16  ? 0.0
                    : cases[i].embed_bits == 8 ? 0.01
                    : cases[i].embed_bits == 4 ? 0.1
                                               : 0.2);
        float one[64];
        check_ok(w->rows(w->ctx, "model.embed_tokens.weight", 383, 1, one, &err));
        assert_memory_equal(one, a + 383 * 64, sizeof one);
        if (cases[i].embed_bits < 16)
            check_fails(w->rows(w->ctx, "model.embed_tokens.weight", 383, 2, a, &err), KQ_E_ARG,
                        "rows 383 to 385");
        check_fails(w->rows(w->ctx, "model.nothing.weight", 0, 1, one, &err), KQ_E_FORMAT,
                    "model.nothing.weight is missing");
        kq_free(a);
        kq_free(b);
        kq_model_file_close(m);

        if (!cases[i].shard_size || cases[i].shard_size > 1 << 20) {
            kq_st_file *file;
            float hand[64 * 64], ours[64 * 64];
            snprintf(path, sizeof path, "%s/model.safetensors", out);
            check_ok(kq_st_open(path, &file, &err));
            decode_by_hand(file, "model.layers.0.self_attn.q_proj", cases[i].code, cases[i].k, 64, 64, hand);
            check_ok(kq_unround_linear(f.trellis, &f.packed[0][KQ_Q], ours, 1, &err));
            check_close(ours, hand, 64 * 64, 2e-6); /* f32 butterflies against sums in f64 */
            kq_st_close(file);
        }
        snprintf(path, sizeof path, "%s/config.json", out);
        json_t *config = json_load_file(path, JSON_REJECT_DUPLICATES, NULL),
               *qc = json_object_get(config, "quantization_config");
        assert_string_equal(json_string_value(json_object_get(qc, "quant_method")), "kronq");
        assert_int_equal(json_integer_value(json_object_get(qc, "bits")), cases[i].k);
        assert_int_equal(json_object_size(json_object_get(qc, "module_bits")), 3);
        assert_int_equal(json_array_size(json_object_get(qc, "modules_to_not_convert")), 18 + 1);
        assert_string_equal(json_string_value(json_object_get(qc, "method")), "none");
        json_decref(config);
        free_model(&f);
    }
}

static double bits_in_fixture(void *ctx, size_t layer, kq_linear_id id)
{
    return ((fixture *)ctx)->ids[layer] >> id & 1 ? 3 : 0;
}

static void plan_is_what_gets_written(void **state)
{
    (void)state;
    for (int embed_bits = 2; embed_bits <= 16; embed_bits *= 2) {
        fixture f;
        kq_save_report plan, written;
        char out[256], name[32];
        snprintf(name, sizeof name, "plan-%d", embed_bits);
        path_of(out, name);
        round_model(&f, "hf", KQ_1MAD, 3);
        kq_checkpoint_plan(f.src, embed_bits, embed_bits, 0, bits_in_fixture, &f, &plan);
        save(&f, out, embed_bits, 0, &written);
        assert_int_equal(plan.n_quantized, written.n_quantized);
        assert_true(plan.n_parameters == written.n_parameters &&
                    plan.n_parameters == 384 * 64 + 7 * 64 + 3 * 33792);
        assert_true(plan.bpw_linear == written.bpw_linear && plan.bits == 3 && written.bits == 3);
        /* the file is the plan and a header of at most 200 bytes a tensor */
        assert_true(written.file_bytes >= plan.file_bytes && written.file_bytes < plan.file_bytes + 60 * 200);
        free_model(&f);
    }
}

static void padded_sizes_come_back(void **state)
{
    (void)state;
    kq_error err;
    fixture f;
    kq_save_report report;
    kq_model_file *m;
    char out[256];
    path_of(out, "odd");
    char other[256];
    path_of(other, "block-00002.safetensors"); /* of the other model */
    unlink(other);
    round_model(&f, "odd", KQ_3INST, 3);
    save(&f, out, 8, 0, &report);
    check_ok(kq_model_file_open(out, KQ_ISA_REF, &m, &err));
    const kq_weights *w = kq_model_file_weights(m);
    float a[40 * 52], b[40 * 52];
    check_ok(w->linear(w->ctx, 0, KQ_DOWN, a, &err));
    check_ok(kq_unround_linear(f.trellis, &f.packed[0][KQ_DOWN], b, 1, &err));
    assert_memory_equal(a, b, sizeof a);
    check_ok(f.plain.linear(f.plain.ctx, 0, KQ_DOWN, b, &err));
    check_close(a, b, 40 * 52, 0.25);
    kq_model_file_close(m);
    free_model(&f);
}

static void opening_without_memory(void **state)
{
    (void)state;
    kq_error err;
    fixture f;
    kq_save_report report;
    char out[256];
    path_of(out, "memory");
    round_model(&f, "hf", KQ_HYB, 2);
    save(&f, out, 8, 0, &report);
    size_t n = 1;
    for (;; n++) {
        kq_model_file *m = NULL;
        kq_alloc_fail_after(n);
        kq_status status = kq_model_file_open(out, KQ_ISA_REF, &m, &err);
        kq_alloc_fail_after(0);
        if (!status) {
            kq_model_file_close(m);
            break;
        }
        assert_int_equal(status, KQ_E_MEMORY);
        assert_null(m);
        assert_true(n < 100000);
    }
    assert_true(n > 5);
    for (n = 1; n < 40; n++) { /* saving: an error, and no config.json */
        kq_save_report r;
        char path[300], fresh[280];
        snprintf(fresh, sizeof fresh, "%s-%zu", out, n);
        check_ok(kq_mkdirs(fresh, &err));
        const kq_save_options o = {.src = f.src,
                                   .dir = fresh,
                                   .part_dir = temp_folder,
                                   .code = kq_trellis_code(f.trellis),
                                   .embed_bits = 8,
                                   .head_bits = 8};
        kq_alloc_fail_after(n);
        kq_status status = kq_checkpoint_save(&o, &r, &err);
        kq_alloc_fail_after(0);
        snprintf(path, sizeof path, "%s/config.json", fresh);
        assert_true(status == KQ_OK || status == KQ_E_MEMORY);
        assert_true((status == KQ_OK) == kq_path_exists(path));
    }
    free_model(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_within_half_a_step),
        cmocka_unit_test(rows_of_zeros_and_exact_values),
        cmocka_unit_test(rows_as_bytes),
        cmocka_unit_test(part_reports_come_back),
        cmocka_unit_test(saved_is_what_was_rounded),
        cmocka_unit_test(plan_is_what_gets_written),
        cmocka_unit_test(opening_without_memory),
        cmocka_unit_test(padded_sizes_come_back),
    };
    kq_kern_init(KQ_ISA_REF);
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
