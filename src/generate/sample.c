/* Drawing a token (docs/math.md, eq. 87): temperature, then top-k, top-p and min-p as thresholds over the
 * probabilities, found without sorting; then one uniform number. */
#include "generate/sample.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/warn.h"
#include "kern/kern.h"
#include "source/generation_config.h"
#include "kern/gemm.h"

/* The bits of a probability as an integer: ordered as the probabilities are, since none is negative. */
static uint32_t key_of(float p)
{
    uint32_t u;
    memcpy(&u, &p, 4);
    return u;
}

/* Keep the fewest largest entries of p [n] (none negative) whose weights reach `need`, where an entry
 * weighs 1 (count) or its value (mass); zero the others. The threshold is found a byte at a time over
 * the keys (four passes, nothing sorted or allocated); among equals at the threshold the lowest ids
 * stay. */
static void keep_largest(float *p, size_t n, bool mass, double need)
{
    uint32_t threshold = 0;
    double above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        double weight[256] = {0};
        for (size_t i = 0; i < n; i++) {
            uint32_t k = key_of(p[i]);
            if (shift == 24 || (k ^ threshold) >> (shift + 8) == 0)
                weight[k >> shift & 255] += mass ? (double)p[i] : 1.0;
        }
        int b = 255;
        while (b > 0 && above + weight[b] < need)
            above += weight[b--];
        threshold |= (uint32_t)b << shift;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t k = key_of(p[i]);
        if (k < threshold || (k == threshold && above >= need))
            p[i] = 0;
        else if (k == threshold)
            above += mass ? (double)p[i] : 1.0;
    }
}

static double sum_of(const float *p, size_t n)
{
    double s[8] = {0};
    size_t i = 0;
    for (; n - i >= 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            s[j] += (double)p[i + j];
    for (; i < n; i++)
        s[0] += (double)p[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

kq_status kq_sampling_recommended(const kq_source *src, const kq_sampling *otherwise, kq_sampling *out,
                                  kq_error *err)
{
    kq_generation_config g = {0};
    *out = *otherwise;
    if (kq_source_kind_of(src) != KQ_SOURCE_HF)
        return KQ_OK;
    kq_status st = kq_generation_config_read(kq_source_path(src), kq_source_config(src)->vocab_size, &g, err);
    if (*g.unread)
        kq_warn("%s/generation_config.json: these settings are not applied, as kronq has none like them: %s",
                kq_source_path(src), g.unread);
    if (st || !(g.has_temperature || g.has_top_p || g.has_top_k || g.has_min_p || g.has_repetition_penalty))
        return st;
    *out = (kq_sampling){.temperature = g.has_temperature ? g.temperature : 1,
                         .top_k = g.has_top_k ? g.top_k : 0,
                         .top_p = g.has_top_p ? g.top_p : 1,
                         .min_p = g.has_min_p ? g.min_p : 0,
                         .repetition_penalty = g.has_repetition_penalty ? g.repetition_penalty : 0,
                         .seed = otherwise->seed};
    return KQ_OK;
}

kq_status kq_penalize(float *logits, size_t n, const int32_t *ids, size_t n_ids, double penalty,
                      kq_error *err)
{
    if (!(penalty > 0) || penalty == 1 || n_ids == 0)
        return KQ_OK;
    uint8_t *seen = kq_calloc((n + 7) / 8, 1);
    if (!seen)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: repetition penalty");
    for (size_t i = 0; i < n_ids; i++) {
        const size_t id = (size_t)ids[i];
        if (ids[i] < 0 || id >= n || seen[id / 8] >> id % 8 & 1)
            continue;
        seen[id / 8] |= (uint8_t)(1u << id % 8);
        logits[id] = (float)(logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty);
    }
    kq_free(seen);
    return KQ_OK;
}

int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u)
{
    const kq_kern *kern = kq_kern_pick(kq_kern_isa());
    if (n == 0)
        return -1;
    const float max = kern->max(logits, n);
    if (!isfinite(max))
        return -1;
    size_t top = 0;
    while (logits[top] < max)
        top++;
    if (!(s->temperature > 1e-30)) /* 0, or so near that division would overflow */
        return (int32_t)top;

    const float temperature = (float)fmin(s->temperature, 1e30);
    for (size_t i = 0; i < n; i++)
        logits[i] = (logits[i] - max) / temperature;
    float *p = logits; /* relative to the most likely one's */
    kern->exp_sum(p, n, 0);
    if (s->top_k > 0 && (size_t)s->top_k < n)
        keep_largest(p, n, false, s->top_k);
    if (s->top_p < 1.0) {
        double need = s->top_p * sum_of(p, n);
        /* a sum of 0 or less would keep nothing: keep one then */
        keep_largest(p, n, need > 0, need > 0 ? need : 1.0);
    }
    if (s->min_p > 0) {
        const float least = (float)fmin(s->min_p, 1.0);
        for (size_t i = 0; i < n; i++)
            p[i] = p[i] < least ? 0 : p[i];
    }

    double x = u * sum_of(p, n), cum = 0;
    size_t last = top;
    for (size_t i = 0; i < n; i++) {
        if (!(p[i] > 0))
            continue;
        cum += (double)p[i];
        last = i;
        if (x < cum)
            break;
    }
    return (int32_t)last;
}
