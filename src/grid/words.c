/* The nearest codeword. A codeword's cost is the sum of what its two halves cost, and a half has few values
 * (81 or 64): so both halves' costs are tabled, and codewords are passed over a run of equal upper halves at
 * a time where that half alone already costs more than the best codeword so far. */
#include "grid/words.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The squared distance of two halves, in levels. */
static unsigned distance(const kq_codebook *c, size_t a, size_t b)
{
    unsigned sum = 0;
    for (size_t j = 0; j < c->dim / 2; j++, a /= c->n_level, b /= c->n_level) {
        const int e = (int)(a % c->n_level) - (int)(b % c->n_level);
        sum += (unsigned)(e * e);
    }
    return sum;
}

/* The levels from..to of codeword k as a number in the base n_level. */
static size_t half_of(const kq_codebook *c, size_t k, size_t from, size_t to)
{
    size_t number = 0;
    for (size_t j = to; j-- > from;)
        number = number * c->n_level + (c->word[k] >> (j * c->bits) & ((1u << c->bits) - 1));
    return number;
}

void kq_words_begin(kq_words *t, const kq_codebook *c)
{
    double sum = 0;
    *t = (kq_words){.c = c, .n_half = 1};
    for (size_t j = 0; j < c->dim / 2; j++)
        t->n_half *= c->n_level;
    for (size_t k = 0; k < c->n; k++) {
        const uint8_t high = (uint8_t)half_of(c, k, c->dim / 2, c->dim);
        t->low[k] = (uint8_t)half_of(c, k, 0, c->dim / 2);
        if (!t->n_run || t->high[t->n_run - 1] != high) {
            t->high[t->n_run] = high;
            t->begin[t->n_run++] = (uint16_t)k;
        }
        for (size_t j = 0; j < c->dim; j++) {
            const double level = c->level[half_of(c, k, j, j + 1)];
            sum += level * level;
        }
    }
    t->begin[t->n_run] = (uint16_t)c->n;
    for (size_t i = 0; i < t->n_half; i++)
        for (size_t r = 1; r < t->n_run; r++)
            if (distance(c, i, t->high[r]) < distance(c, i, t->high[t->near[i]]))
                t->near[i] = (uint8_t)r;
    t->rms = (float)sqrt(sum / (double)(c->n * c->dim));
}

/* What the levels of one half cost. */
typedef struct half {
    float cost[KQ_WORDS_HALF]; /* of half a codeword i */
    float flip[KQ_WORDS_HALF]; /* what its cheapest flip of a sign adds to it */
    float least;               /* of cost, and where it is */
    size_t at;
} half;

/* m: the magnitudes of the targets. */
static void half_costs(const kq_codebook *c, const float *m, const float *q, float scale, bool flips, half *h)
{
    size_t size = 1;
    h->cost[0] = h->least = 0;
    h->flip[0] = FLT_MAX;
    h->at = 0;
    for (size_t j = 0; j < c->dim / 2; j++, size *= c->n_level) {
        float least = FLT_MAX;
        size_t at = 0;
        for (size_t l = c->n_level; l-- > 0;) { /* level 0 last: it overwrites what the others begin with */
            const float what = scale * (float)c->level[l], e = m[j] - what, cost = q[j] * e * e,
                        flip = 4 * q[j] * m[j] * what;
            at = cost < least ? l : at;
            least = cost < least ? cost : least;
            for (size_t i = 0; i < size; i++)
                h->cost[l * size + i] = h->cost[i] + cost;
            for (size_t i = 0; i < size && flips; i++)
                h->flip[l * size + i] = h->flip[i] < flip ? h->flip[i] : flip;
        }
        h->least += least;
        h->at += at * size;
    }
}

/* The best codewords of one part: that without a flip, and that with one. */
typedef struct choice {
    float cost[2];
    uint16_t word[2];
} choice;

static void try_run(const kq_words *t, size_t r, const half *low, const half *high, bool flips, choice *best)
{
    const uint8_t above = t->high[r];
    const float cost = high->cost[above];
    for (size_t k = t->begin[r]; k < t->begin[r + 1]; k++) {
        const uint8_t i = t->low[k];
        const float s = cost + low->cost[i];
        if (s < best->cost[0]) {
            best->cost[0] = s;
            best->word[0] = (uint16_t)k;
        }
        if (!flips)
            continue;
        const float a = low->flip[i], b = high->flip[above], flipped = s + (a < b ? a : b);
        if (flipped < best->cost[1]) {
            best->cost[1] = flipped;
            best->word[1] = (uint16_t)k;
        }
    }
}

static void nearest_words(const kq_words *t, const float *m, const float *q, float scale, bool flips,
                          choice *best)
{
    const kq_codebook *c = t->c;
    half low, high;
    half_costs(c, m, q, scale, flips, &low);
    half_costs(c, m + c->dim / 2, q + c->dim / 2, scale, flips, &high);
    *best = (choice){.cost = {FLT_MAX, FLT_MAX}};
    const size_t first = t->near[high.at];
    try_run(t, first, &low, &high, flips, best); /* a promising run, then all in order */
    for (size_t r = 0; r < t->n_run; r++)
        if (high.cost[t->high[r]] + low.least < best->cost[flips] && r != first)
            try_run(t, r, &low, &high, flips, best);
}

static float level_of(const kq_codebook *c, const uint16_t *word, size_t j)
{
    return (float)c->level[c->word[word[j / c->dim]] >> (j % c->dim * c->bits) & ((1u << c->bits) - 1)];
}

/* Flip the sign that costs least among the weights from..to with their codewords. */
static void flip_cheapest(const kq_codebook *c, const float *m, const float *q, size_t from, kq_octet *o)
{
    size_t place = from;
    for (size_t j = from + 1; j < from + c->dim; j++)
        if (q[j] * m[j] * level_of(c, o->word, j) < q[place] * m[place] * level_of(c, o->word, place))
            place = j;
    o->signs ^= (uint8_t)(1u << place);
}

void kq_words_nearest(const kq_words *t, const float *x, const float *q, float scale, kq_octet *o)
{
    const kq_codebook *c = t->c;
    const size_t parts = KQ_OCTET / c->dim;
    float m[KQ_OCTET];
    unsigned minus = 0;
    choice best[2];
    *o = (kq_octet){0};
    for (size_t j = 0; j < KQ_OCTET; j++) {
        m[j] = fabsf(x[j]);
        o->signs |= (uint8_t)((x[j] < 0) << j);
        minus += x[j] < 0;
    }
    const bool flip = c->even && minus % 2;
    for (size_t part = 0; part < parts; part++) {
        nearest_words(t, m + part * c->dim, q + part * c->dim, scale, flip, &best[part]);
        o->word[part] = best[part].word[0];
    }
    if (flip) { /* in the part where it adds less */
        const size_t part =
            parts == 2 && best[1].cost[1] - best[1].cost[0] < best[0].cost[1] - best[0].cost[0];
        o->word[part] = best[part].word[1];
        flip_cheapest(c, m, q, part * c->dim, o);
    }
    for (size_t j = 0; j < KQ_OCTET; j++) {
        const float level = level_of(c, o->word, j);
        o->value[j] = o->signs >> j & 1 ? -level : level;
    }
}
