/* Codes, packing and the search: against numbers computed in Python, a bit-by-bit reader, the plain C
 * search and known squared errors. */
#include "check.h"

#include "base/mem.h"
#include "base/rng.h"
#include "trellis/internal.h"

static const kq_isa isas[] = {KQ_ISA_REF, KQ_ISA_AVX2, KQ_ISA_AVX512};

/* States of a packed tile, one bit at a time. */
static void read_states(const uint16_t *words, int k, int V, uint16_t *states)
{
    int n_bits = 256 * k;
    for (int t = 0; t < 256 / V; t++) {
        unsigned s = 0;
        for (int b = 0; b < 16; b++) {
            int pos = (t * k * V + b) % n_bits;
            s = 2 * s + (words[pos / 16] >> (15 - pos % 16) & 1);
        }
        states[t] = (uint16_t)s;
    }
}

static void encode(kq_code code, int k, kq_isa isa, const float *w, size_t n, uint16_t *packed,
                   float *decoded)
{
    kq_error err;
    kq_trellis *t;
    check_ok(kq_trellis_new(code, k, isa, NULL, &t, &err));
    void *scratch = kq_alloc(1, kq_trellis_scratch_bytes(t));
    assert_non_null(scratch);
    kq_trellis_encode(t, w, n, packed, decoded, scratch);
    kq_free(scratch);
    kq_trellis_free(t);
}

static void test_arguments(void **state)
{
    (void)state;
    kq_error err;
    kq_code code;
    kq_trellis *t = (kq_trellis *)&err;
    for (int i = 0; i < KQ_N_CODE; i++) {
        check_ok(kq_code_parse(kq_code_name((kq_code)i), &code, &err));
        assert_int_equal(code, i);
        assert_int_equal(kq_code_V((kq_code)i), i == KQ_HYB ? 2 : 1);
    }
    check_fails(kq_code_parse("qtip", &code, &err), KQ_E_ARG, "qtip");
    check_fails(kq_trellis_new(KQ_HYB, 5, KQ_ISA_REF, NULL, &t, &err), KQ_E_ARG, "5 bits");
    assert_null(t);
    check_fails(kq_trellis_new(KQ_HYB, 1, KQ_ISA_REF, NULL, &t, &err), KQ_E_ARG, "1 bits");
    check_fails(kq_trellis_new(KQ_N_CODE, 2, KQ_ISA_REF, NULL, &t, &err), KQ_E_ARG, "code");
    static float table[512][2];
    check_fails(kq_trellis_new(KQ_HYB, 2, KQ_ISA_REF, (const float(*)[2])table, &t, &err), KQ_E_ARG, "rms");
    table[7][1] = NAN;
    check_fails(kq_trellis_new(KQ_HYB, 2, KQ_ISA_REF, (const float(*)[2])table, &t, &err), KQ_E_ARG,
                "finite");
    for (size_t i = 1; i < 6; i++) {
        kq_alloc_fail_after(i);
        kq_status st = kq_trellis_new(KQ_HYB, 2, kq_isa_best(), NULL, &t, &err);
        kq_alloc_fail_after(0);
        if (st == KQ_OK)
            kq_trellis_free(t);
        else
            assert_int_equal(st, KQ_E_MEMORY);
    }
    kq_trellis_free(NULL);
}

static void test_golden(void **state)
{
    (void)state;
    FILE *f = fopen(KRONQ_GOLDEN_DIR "/trellis.bin", "rb");
    assert_non_null(f);
    for (int i = 0; i < 64; i++) {
        uint32_t s;
        float want[4], got[4];
        assert_int_equal(fread(&s, 4, 1, f), 1);
        assert_int_equal(fread(want, 4, 4, f), 4);
        kq_code_value(KQ_1MAD, kq_hyb_table, s, got);
        kq_code_value(KQ_3INST, kq_hyb_table, s, got + 1);
        kq_code_value(KQ_HYB, kq_hyb_table, s, got + 2);
        assert_memory_equal(got, want, sizeof want);
    }
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++) {
            uint16_t words[2 * 64];
            float want[512], got[512];
            kq_error err;
            kq_trellis *t;
            check_ok(kq_trellis_new((kq_code)code, k, kq_isa_best(), NULL, &t, &err));
            assert_int_equal(kq_trellis_words(t), 16 * k);
            assert_int_equal(fread(words, 2, (size_t)(32 * k), f), 32 * k);
            assert_int_equal(fread(want, 4, 512, f), 512);
            kq_trellis_decode(t, words, 2, got);
            assert_memory_equal(got, want, sizeof want);
            kq_trellis_free(t);
        }
    for (int code = 0; code < KQ_N_CODE; code++) {
        uint64_t want, got = 0;
        assert_int_equal(fread(&want, 8, 1, f), 1);
        for (uint32_t s = 0; s < 65536; s++) {
            float v[2];
            uint32_t bits;
            kq_code_value((kq_code)code, kq_hyb_table, s, v);
            memcpy(&bits, v, sizeof bits);
            got += (uint64_t)bits * (2 * s + 1);
        }
        assert_true(got == want);
    }
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
}

static void test_rms(void **state)
{
    (void)state;
    /* numpy over all 65536 states */
    static const double want[KQ_N_CODE] = {0.968246, 1.000088, 1.243709, 1.000312, 1.244106};
    for (int code = 0; code < KQ_N_CODE; code++) {
        kq_error err;
        kq_trellis *t;
        check_ok(kq_trellis_new((kq_code)code, 2, KQ_ISA_REF, NULL, &t, &err));
        /* hyb: not every table entry is met equally often */
        assert_true(fabs(kq_trellis_rms(t) - want[code]) < 2e-5);
        kq_trellis_free(t);
    }
}

/* hyb: a state, its complement and bit 15 (what the kernels' shared costs rest on). */
static void test_symmetry(void **state)
{
    (void)state;
    for (uint32_t s = 0; s < 65536; s++) {
        float a[2], b[2], c[2];
        kq_code_value(KQ_HYB, kq_hyb_table, s, a);
        kq_code_value(KQ_HYB, kq_hyb_table, 65535 - s, b);
        kq_code_value(KQ_HYB, kq_hyb_table, s ^ 0x8000, c);
        assert_true(a[0] == b[0] && a[1] == b[1] && a[0] == -c[0] && a[1] == c[1]);
    }
}

/* Integer costs must approximate U |w - c|^2 and stay in 16 bits, at the edge of the allowed targets too. */
static void test_costs(void **state)
{
    (void)state;
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++) {
            kq_error err;
            kq_trellis *t;
            check_ok(kq_trellis_new((kq_code)code, k, KQ_ISA_REF, NULL, &t, &err));
            for (int angle = 0; angle < 16; angle++) {
                double w[2] = {t->W * cos(angle * M_PI / 8), t->V == 2 ? t->W * sin(angle * M_PI / 8) : 0},
                       len = w[0] * w[0] + w[1] * w[1];
                const double scale = t->V == 1 ? t->S : t->U * 65536 / t->S;
                kq_step step = {{(int16_t)lrint(w[0] * scale), (int16_t)lrint(w[1] * scale)},
                                (uint16_t)(lrint(t->U * len) + 8)};
                for (uint32_t s = 0; s < 65536; s++) {
                    double d = 0;
                    for (int v = 0; v < t->V; v++)
                        d += (w[v] - t->value[s * (uint32_t)t->V + (uint32_t)v]) *
                             (w[v] - t->value[s * (uint32_t)t->V + (uint32_t)v]);
                    uint32_t c = kq_state_cost(t, &step, s);
                    if (t->V == 1) {
                        assert_true(c <= 65535 - KQ_VITERBI_CAP_1);
                        /* A and C (a half each) times 2 D, the product; D is cut off at 2^15 */
                        assert_true(fabs((double)c - t->U * d) <= 2.6 || (c >= 32766 && t->U * d > 32765));
                        continue;
                    }
                    assert_true(c <= 65535 - KQ_VITERBI_CAP);
                    /* n, base, and per value product, A (a half each) and C (0.4) */
                    assert_true(fabs((double)c - 8 - t->U * d) <= 4.5);
                }
            }
            kq_trellis_free(t);
        }
}

/* The seam lies amid the longest weights, also where they lie across the ends of the tile. */
static void test_seam(void **state)
{
    (void)state;
    kq_error err;
    kq_trellis *t;
    check_ok(kq_trellis_new(KQ_MUL1, 2, KQ_ISA_REF, NULL, &t, &err));
    static const int places[] = {0, 1, 3, 100, 253, 255};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        kq_step steps[256] = {0};
        for (int j = 0; j < 256; j++)
            steps[j].a[0] = (int16_t)(j % 2 ? 100 : -100);
        for (int j = -4; j < 4; j++)
            steps[(places[i] + j + 256) % 256].a[0] = (int16_t)(j % 2 ? 32767 : -32767);
        assert_int_equal(kq_seam_of(t, steps), places[i]);
    }
    kq_trellis_free(t);
    check_ok(kq_trellis_new(KQ_HYB, 2, KQ_ISA_REF, NULL, &t, &err));
    assert_int_equal(kq_seam_of(t, (kq_step[128]){{{1, 2}, 3}}), 0);
    kq_trellis_free(t);
}

enum { N_KINDS = 4 };
static void make_tile(int kind, kq_rng *rng, float *w)
{
    for (int i = 0; i < 256; i++) {
        double g = kq_rng_normal(rng);
        switch (kind) {
        case 0: w[i] = (float)(0.9 * g); break;
        /* constant; zero */
        case 1: w[i] = i < 128 ? 0.7f : 0.0f; break;
        /* huge */
        case 2:
            w[i] = i % 5 == 0    ? (float)(g * 1e30)
                   : i % 7 == 0  ? INFINITY
                   : i % 11 == 0 ? NAN
                                 : (float)(g * 8);
            break;
        /* tiny */
        default: w[i] = i < 100 ? (float)(g * 1e-30) : (float)(g * 0.01); break;
        }
    }
}

/* Every instruction set gives ref's bits; what is packed is what was decoded, read back by an
 * independent reader. */
static void test_isas_agree(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(21, "tiles");
    static float w[N_KINDS * 256], decoded[2][N_KINDS * 256];
    static uint16_t packed[2][N_KINDS * 64];
    for (int i = 0; i < N_KINDS; i++)
        make_tile(i, &rng, w + 256 * i);
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++) {
            const size_t words = (size_t)(16 * k);
            const int V = kq_code_V((kq_code)code);
            for (size_t isa = 0; isa < 3 && isas[isa] <= kq_isa_best(); isa++) {
                float *d = decoded[isa > 0];
                uint16_t *p = packed[isa > 0];
                encode((kq_code)code, k, isas[isa], w, N_KINDS, p, d);
                if (isa) {
                    assert_memory_equal(p, packed[0], N_KINDS * words * 2);
                    assert_memory_equal(d, decoded[0], sizeof decoded[0]);
                    /* one tile alone, and not decoded: the same */
                    uint16_t alone[64];
                    encode((kq_code)code, k, isas[isa], w + 256, 1, alone, NULL);
                    assert_memory_equal(alone, packed[0] + words, words * 2);
                }
            }
            for (int i = 0; i < N_KINDS; i++) {
                uint16_t states[256];
                read_states(packed[0] + (size_t)i * words, k, V, states);
                for (int t = 0; t < 256 / V; t++) {
                    float v[2];
                    kq_code_value((kq_code)code, kq_hyb_table, states[t], v);
                    assert_memory_equal(v, decoded[0] + i * 256 + t * V, (size_t)V * 4);
                }
            }
        }
}

/* Squared error on unit Gaussian tiles at the scale of the rounding, within 3% of the figures in
 * docs/math.md, "The trellis code" (two standard errors of 300 tiles are 1%); without a vector unit just a
 * few tiles and 15%. */
static void test_squared_error(void **state)
{
    (void)state;
    static const double want[KQ_N_CODE][3] = {{0.0710, 0.0188, 0.0053},
                                              {0.0694, 0.0177, 0.0046},
                                              {0.0695, 0.0178, 0.0047},
                                              {0.0691, 0.0175, 0.0045},
                                              {0.0693, 0.0175, 0.0046}};
    const bool fast = kq_isa_best() >= KQ_ISA_AVX2;
    const size_t n = fast ? 300 : 6;
    float *w = kq_alloc(n * 256, 4), *x = kq_alloc(n * 256, 4), *d = kq_alloc(n * 256, 4),
          *d2 = kq_alloc(n * 256, 4);
    uint16_t *packed = kq_alloc(n * 64, 2);
    assert_true(w && x && d && d2 && packed);
    kq_rng rng = kq_rng_stream(31, "gauss");
    double ms = 0;
    for (size_t i = 0; i < n * 256; i++) {
        w[i] = (float)kq_rng_normal(&rng);
        ms += (double)w[i] * w[i] / (double)(n * 256);
    }
    for (int code = 0; code < KQ_N_CODE; code++)
        for (int k = 2; k <= 4; k++) {
            kq_error err;
            kq_trellis *t;
            check_ok(kq_trellis_new((kq_code)code, k, kq_isa_best(), NULL, &t, &err));
            double s = sqrt(ms) / kq_trellis_weight_rms(t), e = 0;
            for (size_t i = 0; i < n * 256; i++)
                x[i] = (float)(w[i] / s);
            void *scratch = kq_alloc(1, kq_trellis_scratch_bytes(t));
            assert_non_null(scratch);
            kq_trellis_encode(t, x, n, packed, d, scratch);
            kq_trellis_decode(t, packed, n, d2);
            assert_memory_equal(d, d2, n * 1024);
            for (size_t i = 0; i < n * 256; i++)
                e += ((double)d[i] - x[i]) * ((double)d[i] - x[i]);
            e *= s * s / (double)(n * 256) / ms;
            print_message("%s, %d bits: squared error %.5f (want %.5f)\n", kq_code_name((kq_code)code), k, e,
                          want[code][k - 2]);
            assert_true(fabs(e / want[code][k - 2] - 1) < (fast ? 0.03 : 0.15));
            double own; /* on weights of its own: 128 tiles are 1.5% */
            if (fast) {
                check_ok(kq_trellis_error(t, &own, &err));
                assert_true(fabs(own / e - 1) < 0.05);
            }
            kq_free(scratch);
            kq_trellis_free(t);
        }
    kq_free(w);
    kq_free(x);
    kq_free(d);
    kq_free(d2);
    kq_free(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),  cmocka_unit_test(test_golden),        cmocka_unit_test(test_rms),
        cmocka_unit_test(test_symmetry),   cmocka_unit_test(test_costs),         cmocka_unit_test(test_seam),
        cmocka_unit_test(test_isas_agree), cmocka_unit_test(test_squared_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
