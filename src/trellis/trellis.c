/* Making a trellis, rounding tiles to walks, packing walks and unpacking them. internal.h defines the integer
 * costs of the search; the search itself is in viterbi_ref.c and viterbi_template.h. */
#include "trellis/internal.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"

/* Half the length of the first pass: 256 bits for hyb, which at 2 bits is half the sequence, and 64 steps for
 * the other codes. A shorter first pass makes the squared error larger, by (against a pass over the whole
 * sequence)
 *
 *   hyb, half the length    96     128    160    192    224 bits      (600 Gaussian tiles)
 *     2 bits                0.62   0.39   0.22   0.10   0.04 %
 *     3 bits                0.62   0.39   0.25   0.16   0.13 %
 *     4 bits                0.35   0.28   0.17   0.11   0.07 %
 *   mul1, half the length   32     48     64     80     96 steps      (1000 Gaussian tiles)
 *     2 bits                1.13   0.75   0.50   0.40   0.24 %
 *     3 bits                0.86   0.53   0.37   0.26   0.14 %
 *     4 bits                0.70   0.45   0.34   0.23   0.11 %
 *
 * mul1's seam lies where kq_seam_of puts it. At step 0 the same passes cost 1.80, 1.12, 0.73, 0.39, 0.23 % at
 * 2 bits, and 1.26, 0.79, 0.49, 0.29, 0.13 % at 4 bits, against a pass over the whole sequence with the seam
 * at step 0, whose error is 0.07 to 0.16 % larger. */
enum { HALF_WINDOW_BITS = 256, HALF_WINDOW_STEPS = 64, HALF_WINDOW_WIDE = 32 };

const kq_viterbi *kq_viterbi_for(kq_isa isa)
{
#ifdef __x86_64__
    if (isa >= KQ_ISA_AVX512)
        return &kq_viterbi_avx512;
    if (isa == KQ_ISA_AVX2)
        return &kq_viterbi_avx2;
#endif
    (void)isa;
    return NULL;
}

/* The units U, S and W of internal.h. A and C of a code of one value a step must fit in 16 bits: W S < 2^15.
 * A cost of hyb is at most U (W + c_max)^2 + 32, which must leave room for KQ_VITERBI_CAP below 2^16; its A
 * must fit in 16 bits: W U 65536 / S < 2^15. The more bits, the smaller the errors and the finer the unit
 * must be, the earlier targets are cut off. */
static kq_status choose_units(kq_trellis *t, kq_error *err)
{
    /* W by bits a weight, in standard deviations of weights at 0.9 times the code's rms */
    static const double reach[5] = {0, 0, 9.0, 6.5, 4.8};
    double sum = 0, longest = 0, largest = 0;
    for (size_t s = 0; s < 65536; s++) {
        double len = 0;
        for (int v = 0; v < t->V; v++) {
            double c = t->value[s * (size_t)t->V + (size_t)v];
            len += c * c;
            largest = fmax(largest, fabs(c));
            if (!isfinite(c))
                return kq_fail(err, KQ_E_ARG, "the hyb table holds a value that is not finite");
        }
        sum += len;
        longest = fmax(longest, sqrt(len));
    }
    t->rms = sqrt(sum / (65536.0 * t->V));
    if (!(t->rms > 1e-3 && largest < 1e3))
        return kq_fail(err, KQ_E_ARG, "the hyb table has rms %g and largest value %g, want about 1", t->rms,
                       largest);
    if (kq_is_wide(t->k))
        return KQ_OK;
    t->W = reach[t->k] * 0.9 * t->rms;
    if (t->V == 1) {
        t->S = 32767 / fmax(t->W, largest);
        t->U = t->S * t->S / 32768;
        return KQ_OK;
    }
    t->S = floor(32767 / largest);
    t->U = (65535 - KQ_VITERBI_CAP - 32) / ((t->W + longest) * (t->W + longest));
    t->W = fmin(t->W, 32767 * t->S / (65536 * t->U));
    return KQ_OK;
}

/* hyb's n, C0 and C1. */
static void set_entry(const kq_trellis *t, const float v[2], int16_t *e)
{
    double len = 0;
    for (int i = 0; i < 2; i++) {
        len += (double)v[i] * v[i];
        e[1 + i] = (int16_t)lrint(v[i] * t->S);
    }
    e[0] = (int16_t)(uint16_t)lrint(t->U * len);
}

/* t->value: eq. 71 and 72 of all states; then the units, which depend on them. */
static kq_status make_values(kq_trellis *t, const float (*table)[2], kq_error *err)
{
    const size_t V = (size_t)t->V;
    kq_status st = kq_alloc_for((void **)&t->value, 65536 * V, sizeof *t->value, "a trellis code", err);
    if (st != KQ_OK)
        return st;
    for (uint32_t s = 0; s < 65536; s++)
        kq_code_value(t->code, table, s, t->value + s * V);
    return choose_units(t, err);
}

/* t->entry: n and C of each entry of hyb's table, or C of each state of the other codes. */
static kq_status make_entries(kq_trellis *t, const float (*table)[2], kq_error *err)
{
    const size_t count = t->code == KQ_HYB ? 4 * KQ_HYB_ENTRIES : 65536;
    kq_status st = kq_alloc_for((void **)&t->entry, count, sizeof *t->entry, "a trellis code", err);
    if (st != KQ_OK)
        return st;
    memset(t->entry, 0, count * sizeof *t->entry);
    if (t->code == KQ_HYB)
        for (size_t i = 0; i < KQ_HYB_ENTRIES; i++)
            set_entry(t, table[i], t->entry + 4 * i);
    else
        for (size_t s = 0; s < 65536; s++)
            t->entry[s] = (int16_t)lrint(t->value[s] * t->S);
    return KQ_OK;
}

/* t->trace: the same by groups of states that share their last 16 - R bits, in which order the walk back
 * reads them. */
static kq_status make_trace(kq_trellis *t, kq_error *err)
{
    const size_t P = (size_t)t->planes, J = (size_t)1 << t->R, G = 65536 / J;
    kq_status st = kq_alloc_for((void **)&t->trace, 65536 * P, sizeof *t->trace, "a trellis code", err);
    if (st != KQ_OK)
        return st;
    for (size_t g = 0; g < G; g++)
        for (size_t j = 0; j < J; j++) {
            int16_t tmp[3];
            int flip;
            const int16_t *e = kq_state_entry(t, (uint32_t)(j * G + g), &flip, tmp);
            for (size_t i = 0; i < P; i++)
                t->trace[(g * P + i) * J + j] = e[i];
        }
    return KQ_OK;
}

/* t->lanes, in the order of the instruction set's kernel; none for the search in plain C. */
static kq_status make_lanes(kq_trellis *t, kq_error *err)
{
    const kq_viterbi *vit = kq_viterbi_for(t->isa);
    t->batch = vit ? vit->batch : 1;
    if (!vit)
        return KQ_OK;
    kq_status st =
        kq_alloc_for((void **)&t->lanes, vit->lanes_count(t), sizeof *t->lanes, "a trellis code", err);
    if (st == KQ_OK)
        vit->lanes_fill(t, t->lanes);
    return st;
}

kq_status kq_trellis_new(kq_code code, int k, kq_isa isa, const float (*table)[2], kq_trellis **out,
                         kq_error *err)
{
    *out = NULL;
    if (code < 0 || code >= KQ_N_CODE)
        return kq_fail(err, KQ_E_ARG, "unknown trellis code %d", (int)code);
    const int most = kq_code_V(code) == 1 ? KQ_TRELLIS_BITS_MAX : 4;
    if (k < (most > 4 ? 1 : 2) || k > most)
        return kq_fail(err, KQ_E_ARG, "%d bits a weight (a trellis of the code %s has %s)", k,
                       kq_code_name(code), most > 4 ? "1 to 8" : "2, 3 or 4");
    if (!table)
        table = kq_hyb_table;
    kq_trellis *t = kq_calloc(1, sizeof *t);
    if (!t)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a trellis");
    t->code = code;
    t->isa = isa;
    t->k = k;
    t->V = kq_code_V(code);
    t->R = k * t->V;
    t->n_steps = KQ_TILE_SIZE / t->V;
    t->planes = t->V == 1 ? 1 : 3;
    t->half_window = t->V == 2 ? HALF_WINDOW_BITS / t->R : k > 4 ? HALF_WINDOW_WIDE : HALF_WINDOW_STEPS;
    t->batch = 1;
    kq_status st;
    if ((st = make_values(t, table, err)) != KQ_OK ||
        (!kq_is_wide(k) && ((st = make_entries(t, table, err)) != KQ_OK ||
                            (st = make_trace(t, err)) != KQ_OK || (st = make_lanes(t, err)) != KQ_OK))) {
        kq_trellis_free(t);
        return st;
    }
    *out = t;
    return KQ_OK;
}

void kq_trellis_free(kq_trellis *t)
{
    if (!t)
        return;
    kq_free(t->value);
    kq_free(t->entry);
    kq_free(t->trace);
    kq_free(t->lanes);
    kq_free(t);
}

int kq_trellis_k(const kq_trellis *t)
{
    return t->k;
}
kq_code kq_trellis_code(const kq_trellis *t)
{
    return t->code;
}
size_t kq_trellis_words(const kq_trellis *t)
{
    return 16 * (size_t)t->k;
}
const float *kq_trellis_values(const kq_trellis *t)
{
    return t->value;
}
double kq_trellis_rms(const kq_trellis *t)
{
    return t->rms;
}

/* The weights on either side of the seam that its choice looks at. Between 1 and 12 the result is the same.
 */
enum { SEAM_REACH = 4 };

int kq_seam_of(const kq_trellis *t, const kq_step *steps)
{
    const int n = t->n_steps;
    int64_t sum = 0, most = -1;
    int at = 0;
    if (t->V == 2)
        return 0;
    for (int i = -SEAM_REACH; i < SEAM_REACH; i++)
        sum += steps[(i + n) % n].a[0] * steps[(i + n) % n].a[0];
    for (int i = 0; i < n; i++) {
        if (sum > most) {
            most = sum;
            at = i;
        }
        const int64_t leaves = steps[(i + n - SEAM_REACH) % n].a[0],
                      enters = steps[(i + SEAM_REACH) % n].a[0];
        sum += enters * enters - leaves * leaves;
    }
    return at;
}

double kq_trellis_weight_rms(const kq_trellis *t)
{
    /* A code's values are spread a little wider than the weights that it stands for, the wider the finer the
     * code. bench_scale measures the loss of Gaussian tiles; where factors feed errors back, what is searched
     * for is wider than the weights, and the best number smaller: at 2 bits 0.98 becomes 0.94. */
    static const double fit[KQ_N_CODE][3] = {[KQ_HYB] = {0.93, 0.90, 0.84},
                                             [KQ_1MAD] = {0.94, 0.92, 0.89},
                                             [KQ_3INST] = {0.94, 0.93, 0.90},
                                             [KQ_MUL1] = {0.94, 0.93, 0.90},
                                             [KQ_MCG] = {0.94, 0.93, 0.90}};
    /* of mul1, whose largest value is 3.4 times its rms; that of the others is greater */
    static const double wide[] = {[1] = 0.96, [5] = 0.88, [6] = 0.85, [7] = 0.82, [8] = 0.80};
    return t->rms * (kq_is_wide(t->k) ? wide[t->k] : fit[t->code][t->k - 2]);
}

/* Targets of one tile as the integers of a step. */
static void quantize_steps(const kq_trellis *t, const float *w, kq_step *steps)
{
    const double scale = t->V == 1 ? t->S : t->U * 65536 / t->S;
    for (int i = 0; i < t->n_steps; i++) {
        double x[2] = {0, 0}, len = 0;
        for (int v = 0; v < t->V; v++) {
            double y = w[i * t->V + v];
            x[v] = y > 1e6 ? 1e6 : y > -1e6 ? y : y <= -1e6 ? -1e6 : 0; /* the last for NaN */
            len += x[v] * x[v];
        }
        double shrink = len > t->W * t->W ? t->W / sqrt(len) : 1;
        steps[i].a[0] = (int16_t)lrint(x[0] * shrink * scale);
        steps[i].a[1] = (int16_t)lrint(x[1] * shrink * scale);
        steps[i].base = t->V == 1 ? 0 : (uint16_t)(lrint(t->U * len * shrink * shrink) + 8);
    }
}

/* The 256 k bits: step t's new R bits stand at t R + 16 - R .. t R + 15 of the circle. */
static void pack(const kq_trellis *t, const uint16_t *states, uint16_t *words)
{
    const size_t n_bits = KQ_TILE_SIZE * (size_t)t->k, R = (size_t)t->R;
    memset(words, 0, n_bits / 8);
    for (size_t i = 0; i < (size_t)t->n_steps; i++)
        for (size_t b = 0; b < R; b++) {
            size_t pos = (i * R + 16 - R + b) % n_bits;
            words[pos / 16] |= (uint16_t)((states[i] >> (R - 1 - b) & 1) << (15 - pos % 16));
        }
}

void kq_trellis_decode(const kq_trellis *t, const uint16_t *packed, size_t n_tiles, float *decoded)
{
    const size_t n_words = kq_trellis_words(t), V = (size_t)t->V;
    for (size_t tile = 0; tile < n_tiles; tile++, packed += n_words, decoded += KQ_TILE_SIZE)
        for (size_t i = 0; i < (size_t)t->n_steps; i++) {
            size_t pos = i * (size_t)t->R, word = pos / 16;
            uint32_t two = (uint32_t)packed[word] << 16 | packed[word + 1 < n_words ? word + 1 : 0];
            memcpy(decoded + i * V, t->value + V * (two >> (16 - pos % 16) & 0xFFFF), V * sizeof(float));
        }
}

static uint32_t step_cost(const void *ctx, int step, uint32_t state)
{
    const kq_trellis *const *t = ctx;
    return kq_state_cost(*t, (const kq_step *)(const void *)(t + 1) + step, state);
}

/* Scratch before the search's own: the trellis' address, the steps and the states of a batch; a multiple
 * of 64. */
enum { HEAD_BYTES = KQ_TRELLIS_BATCH * KQ_VITERBI_MAX_STEPS * (sizeof(kq_step) + sizeof(uint16_t)) + 64 };

size_t kq_trellis_scratch_bytes(const kq_trellis *t)
{
    const kq_viterbi *vit = kq_viterbi_for(t->isa);
    if (kq_is_wide(t->k))
        return HEAD_BYTES + 64 + kq_viterbi_wide_scratch(t->R);
    return HEAD_BYTES + 64 + (vit ? vit->scratch_bytes(t) : kq_viterbi_ref_scratch(16, t->R, t->n_steps));
}

static void encode_wide(const kq_trellis *t, const float *tiles, size_t n_tiles, uint16_t *packed,
                        float *decoded, char *scratch)
{
    uint16_t states[KQ_TILE_SIZE];
    float *w = (float *)(void *)scratch; /* the head of the scratch has room for more */
    const float most = (float)(16 * t->rms);
    for (size_t i = 0; i < n_tiles; i++) {
        for (size_t j = 0; j < KQ_TILE_SIZE; j++) {
            const float x = tiles[i * KQ_TILE_SIZE + j];
            w[j] = x > most ? most : x > -most ? x : x <= -most ? -most : 0; /* the last for NaN */
        }
        kq_viterbi_wide(t, w, states, scratch + HEAD_BYTES);
        pack(t, states, packed + i * kq_trellis_words(t));
        for (size_t j = 0; decoded && j < KQ_TILE_SIZE; j++)
            decoded[i * KQ_TILE_SIZE + j] = t->value[states[j]];
    }
}

void kq_trellis_encode(const kq_trellis *t, const float *tiles, size_t n_tiles, uint16_t *packed,
                       float *decoded, void *scratch)
{
    const kq_viterbi *vit = kq_viterbi_for(t->isa);
    const size_t n_words = kq_trellis_words(t), n_steps = (size_t)t->n_steps;
    char *aligned = (char *)scratch + (64 - (uintptr_t)scratch % 64) % 64;
    /* the trellis, then the steps: step_cost reads both */
    const kq_trellis **ctx = (const kq_trellis **)(void *)aligned;
    kq_step *steps = (kq_step *)(void *)(ctx + 1);
    uint16_t *states = (uint16_t *)(steps + KQ_TRELLIS_BATCH * KQ_VITERBI_MAX_STEPS);
    void *rest = aligned + HEAD_BYTES;
    const kq_walk_problem problem = {.L = KQ_TRELLIS_L,
                                     .R = t->R,
                                     .n_steps = t->n_steps,
                                     .cap = t->V == 1 ? KQ_VITERBI_CAP_1 : KQ_VITERBI_CAP,
                                     .before = t->V == 1,
                                     .cost = step_cost,
                                     .ctx = ctx};
    *ctx = t;

    if (kq_is_wide(t->k)) {
        encode_wide(t, tiles, n_tiles, packed, decoded, aligned);
        return;
    }
    for (size_t i = 0, n; i < n_tiles; i += n) {
        n = n_tiles - i < (size_t)t->batch ? n_tiles - i : (size_t)t->batch;
        for (size_t b = 0; b < n; b++)
            quantize_steps(t, tiles + (i + b) * KQ_TILE_SIZE, steps + b * n_steps);
        if (vit)
            vit->search(t, steps, (int)n, states, rest);
        else
            kq_viterbi_ref(&problem, kq_seam_of(t, steps), t->half_window, states, rest);
        for (size_t b = 0; b < n; b++)
            pack(t, states + b * n_steps, packed + (i + b) * n_words);
        if (decoded)
            for (size_t b = 0; b < n * n_steps; b++)
                memcpy(decoded + i * KQ_TILE_SIZE + b * (size_t)t->V, t->value + (size_t)t->V * states[b],
                       (size_t)t->V * sizeof(float));
    }
}

kq_status kq_trellis_error(const kq_trellis *t, double *out, kq_error *err)
{
    enum { TILES = 128, N = KQ_TRELLIS_BATCH * KQ_TILE_SIZE };
    const double rms = kq_trellis_weight_rms(t);
    float x[N], y[N];
    uint16_t packed[KQ_TRELLIS_BATCH * 16 * KQ_TRELLIS_BITS_MAX];
    void *scratch;
    double sum = 0;
    kq_status st = kq_alloc_for(&scratch, kq_trellis_scratch_bytes(t), 1, "trellis scratch", err);
    if (st != KQ_OK)
        return st;
    kq_rng rng = kq_rng_stream(0, "the error of a trellis code");
    for (size_t i = 0; i < TILES; i += KQ_TRELLIS_BATCH) {
        for (size_t j = 0; j < N; j++)
            x[j] = (float)(rms * kq_rng_normal(&rng));
        kq_trellis_encode(t, x, KQ_TRELLIS_BATCH, packed, y, scratch);
        for (size_t j = 0; j < N; j++)
            sum += ((double)x[j] - y[j]) * ((double)x[j] - y[j]);
    }
    kq_free(scratch);
    *out = sum / (TILES * (double)KQ_TILE_SIZE * rms * rms);
    return KQ_OK;
}
