#include "eval/eval.h"

#include <math.h>
#include <string.h>

/* Order-preserving map from float to unsigned. */
static uint32_t key_of(float x)
{
    uint32_t u;
    x += 0.0f; /* -0 becomes +0 */
    memcpy(&u, &x, 4);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Keep the fewest largest entries of p [n] whose weights reach `need`, where an entry weighs 1 (count) or its value (mass); zero the
 * others. The threshold is found bit by bit over the keys (32 passes, nothing sorted or allocated); among equals at the threshold the
 * lowest ids stay. */
static void keep_largest(float *p, size_t n, bool mass, double need)
{
    uint32_t k = 0;
    for (uint32_t bit = 0x80000000u; bit; bit >>= 1) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            if (key_of(p[i]) >= (k | bit))
                sum += mass ? (double)p[i] : 1.0;
        if (sum >= need)
            k |= bit;
    }
    double above = 0;
    for (size_t i = 0; i < n; i++)
        if (key_of(p[i]) > k)
            above += mass ? (double)p[i] : 1.0;
    for (size_t i = 0; i < n; i++) {
        uint32_t ki = key_of(p[i]);
        if (ki < k || (ki == k && above >= need))
            p[i] = 0;
        else if (ki == k)
            above += mass ? (double)p[i] : 1.0;
    }
}

static double sum_of(const float *p, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += (double)p[i];
    return s;
}

int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u)
{
    size_t top = 0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return -1;
        if (logits[i] > logits[top])
            top = i;
    }
    if (n == 0 || logits[top] == -INFINITY)
        return -1;
    if (!(s->temperature > 0))
        return (int32_t)top;

    double max = logits[top]; /* subtracted before the division: a tiny temperature must not make infinities */
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(((double)logits[i] - max) / s->temperature);
    kq_log_softmax(logits, n);
    float *p = logits;
    for (size_t i = 0; i < n; i++)
        p[i] = expf(logits[i]);
    if (s->top_k > 0 && (size_t)s->top_k < n)
        keep_largest(p, n, false, s->top_k);
    if (s->top_p < 1.0) {
        double need = s->top_p * sum_of(p, n);
        /* need 0 (or less) would keep nothing */
        keep_largest(p, n, need > 0, need > 0 ? need : 1.0);
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
