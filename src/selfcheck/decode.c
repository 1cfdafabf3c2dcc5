/* The products of decoding: rows in f32, bf16, f16, 8 and 4 bits within rounding, packed trellis rows
 * bit for bit. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "decode/kernels.h"
#include "decode/packed.h"
#include "selfcheck/selfcheck.h"

enum { ROWS = 6, MAX = 259, T = 3, GROUP = 32, TILES = 9 };
static const double bound = 64 * 0x1p-24;

typedef struct inputs {
    float W[ROWS * MAX], x[T * MAX], scales[ROWS * MAX / GROUP + ROWS];
    uint16_t b[ROWS * MAX], h[ROWS * MAX];
    int8_t q8[ROWS * MAX];
    uint8_t q4[ROWS * MAX];
} inputs;

static void fill(inputs *in)
{
    kq_rng rng = kq_rng_stream(1, "selfcheck/decode");
    for (size_t i = 0; i < T * MAX; i++)
        in->x[i] = (float)kq_rng_normal(&rng);
    for (size_t i = 0; i < ROWS * MAX; i++) {
        in->W[i] = (float)kq_rng_normal(&rng);
        in->b[i] = kq_f32_to_bf16(in->W[i]);
        in->h[i] = kq_f32_to_f16(in->W[i]);
        in->q8[i] = (int8_t)(kq_rng_u64(&rng) % 255 - 127);
        in->q4[i] = (uint8_t)kq_rng_u64(&rng);
    }
    for (size_t i = 0; i < sizeof in->scales / sizeof *in->scales; i++)
        in->scales[i] = (float)(0.01 + kq_rng_uniform(&rng));
}

/* One kernel on rows of n values: y [T * MAX]. Returns how many values of y count. */
typedef size_t run_fn(const kq_decode_kern *k, const inputs *in, size_t n, float *y);

static size_t run_dots_f32(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->dots_f32(in->W, n, ROWS, n, in->x, MAX, T, y, ROWS), T * ROWS;
}
static size_t run_dots_bf16(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->dots_bf16(in->b, n, ROWS, n, in->x, MAX, T, y, ROWS), T * ROWS;
}
static size_t run_dots_f16(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->dots_f16(in->h, n, ROWS, n, in->x, MAX, T, y, ROWS), T * ROWS;
}
static size_t run_mix_f32(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->mix_f32(in->W, n, ROWS, n, in->x, MAX, T, y, n), T * n;
}
static size_t run_mix_bf16(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->mix_bf16(in->b, n, ROWS, n, in->x, MAX, T, y, n), T * n;
}
static size_t run_mix_f16(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->mix_f16(in->h, n, ROWS, n, in->x, MAX, T, y, n), T * n;
}
static size_t run_to_f16(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    uint16_t h[MAX];
    k->to_f16(in->x, h, n);
    for (size_t i = 0; i < n; i++)
        y[i] = h[i]; /* the bits as numbers */
    return n;
}
static size_t run_sylvester(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    memcpy(y, in->x, n * sizeof *y);
    k->sylvester(y, n, n / 32);
    return n;
}
static size_t run_dots_q8(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->dots_q8(in->q8, in->scales, ROWS, n, GROUP, in->x, MAX, T, y, ROWS), T * ROWS;
}
static size_t run_dots_q4(const kq_decode_kern *k, const inputs *in, size_t n, float *y)
{
    return k->dots_q4(in->q4, in->scales, ROWS, n, GROUP, in->x, MAX, T, y, ROWS), T * ROWS;
}

static const struct {
    const char *name;
    run_fn *run;
    bool exact, groups;
} kernels[] = {
    {"dots_f32", run_dots_f32, false, false}, {"dots_bf16", run_dots_bf16, false, false},
    {"dots_f16", run_dots_f16, false, false}, {"mix_f32", run_mix_f32, false, false},
    {"mix_bf16", run_mix_bf16, false, false}, {"mix_f16", run_mix_f16, false, false},
    {"to_f16", run_to_f16, true, false},      {"sylvester", run_sylvester, false, true},
    {"dots_q8", run_dots_q8, false, true},    {"dots_q4", run_dots_q4, false, true},
};

static kq_status check_rows(kq_checker *c, kq_isa isa, const inputs *in, kq_error *err)
{
    /* whole groups, and 32 rows of sylvester's */
    static const size_t any[] = {1, 8, 17, 64, MAX}, whole[] = {32, 64, 256};
    const kq_decode_kern *k = kq_decode_kern_pick(isa);
    kq_status status = KQ_OK;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels && !status; i++) {
        double error = 0;
        for (size_t s = 0; s < (kernels[i].groups ? 3 : 5); s++) {
            float got[T * MAX] = {0}, want[T * MAX] = {0};
            const size_t n = kernels[i].groups ? whole[s] : any[s],
                         count = kernels[i].run(&kq_decode_kern_ref, in, n, want);
            kernels[i].run(k, in, n, got);
            error = fmax(error, kq_check_distance(got, want, count));
        }
        status =
            kq_checker_note(c, "decode", kernels[i].name, k->name, error, kernels[i].exact ? 0 : bound, err);
    }
    return status;
}

/* One code: decode, quantize, dot and dots against plain C; how many values differ. */
static kq_status differences(const kq_packed_kern *p, kq_code code, int k, const inputs *in, size_t *differ,
                             kq_error *err)
{
    kq_trellis *t;
    kq_packed_code *c = NULL;
    uint16_t words[TILES * 64];
    int16_t panel[2][TILES * KQ_PANEL_TILE], q[2][TILES * 16];
    float y[2][16], step[2];
    kq_status status = kq_trellis_new(code, k, KQ_ISA_REF, NULL, &t, err);
    if (status)
        return status;
    status = kq_packed_code_new(t, &c, err);
    kq_rng rng = kq_rng_stream((uint64_t)k, "selfcheck/packed");
    for (size_t i = 0; i < TILES * 64; i++)
        words[i] = (uint16_t)kq_rng_u64(&rng);
    for (int way = 0; way < 2 && !status; way++) {
        const kq_packed_kern *one = way ? p : &kq_packed_kern_ref;
        one->decode(c, words, TILES, panel[way]);
        step[way] = one->quantize(in->x, TILES * 16, c->x_max, q[way]);
        one->dot(c, words, TILES, q[way], y[way]);
        float dots[16];
        one->dots(panel[way], TILES, q[way], TILES * 16, 1, dots, 16);
        *differ += memcmp(dots, y[way], sizeof dots) != 0;
    }
    if (!status)
        *differ += (memcmp(panel[0], panel[1], sizeof panel[0]) != 0) +
                   (memcmp(q[0], q[1], sizeof q[0]) != 0) + (memcmp(y[0], y[1], sizeof y[0]) != 0) +
                   (step[0] != step[1]);
    kq_packed_code_free(c);
    kq_trellis_free(t);
    return status;
}

kq_status kq_check_decode(kq_checker *c, kq_isa best, kq_error *err)
{
    inputs *in = kq_alloc(1, sizeof *in);
    kq_status status = in ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the inputs of the self-check");
    const kq_packed_kern *last = &kq_packed_kern_ref;
    if (in)
        fill(in);
    for (int isa = KQ_ISA_AVX2; isa <= (int)best && isa <= KQ_ISA_AVX512 && !status; isa++) {
        status = check_rows(c, (kq_isa)isa, in, err);
        const kq_packed_kern *p = kq_packed_kern_pick((kq_isa)isa);
        for (int code = 0; p != last && code < KQ_N_CODE && !status; code++)
            for (int k = 2; k <= 4 && !status; k++) {
                char name[48];
                size_t differ = 0;
                snprintf(name, sizeof name, "packed_%s_%d_bits", kq_code_name((kq_code)code), k);
                if (!(status = differences(p, (kq_code)code, k, in, &differ, err)))
                    status = kq_checker_note(c, "decode", name, p->name, (double)differ, 0, err);
            }
        last = p;
    }
    kq_free(in);
    return status;
}
