/* One block of a row in a type with codewords: which scales, which codewords, which signs (docs/math.md, eq.
 * 96 to 98). A group's scale is chosen by trial as in search.c; each trial goes through the group's octets
 * from the last to the first, with the errors of the later ones fed back into the targets of the earlier
 * ones. */
#include "grid/internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/f16.h"

enum { OCTETS = 4, GROUP_MAX = OCTETS * KQ_OCTET };

/* A group's problem and the best answer so far. */
typedef struct group {
    const kq_words *t;
    size_t n;
    const float *w, *v, *L, *D;
    size_t ld;
    float y[GROUP_MAX]; /* eq. 93 */
    float q[GROUP_MAX]; /* what a squared error of one weight costs, with those before it in its octet made up
                         */
    float cost, scale;
    kq_octet octet[OCTETS];
} group;

static void group_begin(group *p, const kq_words *t, const kq_grid_row *row, size_t at, const float *v)
{
    *p = (group){.t = t, .n = t->c->group, .w = row->w + at, .v = v, .ld = row->ld, .cost = FLT_MAX};
    p->L = row->L ? row->L + at * row->ld + at : NULL;
    p->D = row->D ? row->D + at : NULL;
    kq_grid_times_unit_l(p->w, p->L, p->ld, p->n, p->y);
    for (size_t j = 0; j < p->n; j++) {
        p->y[j] += v[j] - p->w[j];
        p->q[j] = p->D ? p->D[j] : 1;
        for (size_t i = j / KQ_OCTET * KQ_OCTET; i < j && p->L; i++)
            p->q[j] += p->L[j * p->ld + i] * p->L[j * p->ld + i] * (p->D ? p->D[i] : 1);
    }
}

/* Where an octet would have no cost at all: v plus the feedback of w - x, from its last weight to its first.
 */
static void octet_targets(const group *p, size_t at, const float *v, float *x)
{
    memcpy(x, v, KQ_OCTET * sizeof *x);
    for (size_t j = KQ_OCTET; j-- > 1 && p->L;) {
        const float e = p->w[at + j] - x[j], *L = p->L + (at + j) * p->ld + at;
        for (size_t i = 0; i < j; i++)
            x[i] += e * L[i];
    }
}

/* The feedback of an octet's errors into v [at + 8], its own earlier weights included; returns its cost. */
static float octet_feedback(const group *p, size_t at, const kq_octet *o, float scale, float *v)
{
    float cost = 0;
    for (size_t j = KQ_OCTET; j-- > 0;) {
        const float what = scale * o->value[j], eta = v[at + j] - what, e = p->w[at + j] - what;
        cost += (p->D ? p->D[at + j] : 1) * eta * eta;
        for (size_t i = 0; i < at + j && p->L; i++)
            v[i] += e * p->L[(at + j) * p->ld + i];
    }
    return cost;
}

/* Try a scale; it replaces the group's answer when it is better. */
static void group_try(group *p, float scale)
{
    float v[GROUP_MAX], x[KQ_OCTET], cost = 0;
    kq_octet octet[OCTETS];
    memcpy(v, p->v, p->n * sizeof *v);
    for (size_t k = p->n / KQ_OCTET; k-- > 0;) {
        octet_targets(p, k * KQ_OCTET, v + k * KQ_OCTET, x);
        kq_words_nearest(p->t, x, p->q + k * KQ_OCTET, scale, &octet[k]);
        cost += octet_feedback(p, k * KQ_OCTET, &octet[k], scale, v);
        if (!(cost < p->cost))
            return;
    }
    p->cost = cost;
    p->scale = scale;
    memcpy(p->octet, octet, p->n / KQ_OCTET * sizeof *octet);
}

/* Eq. 94 without an offset: the scale that suits the present codewords best. */
static float group_refit(const group *p)
{
    float value[GROUP_MAX], r[GROUP_MAX];
    double rr = 0, ry = 0;
    for (size_t j = 0; j < p->n; j++)
        value[j] = p->octet[j / KQ_OCTET].value[j % KQ_OCTET];
    kq_grid_times_unit_l(value, p->L, p->ld, p->n, r);
    for (size_t j = 0; j < p->n; j++) {
        const double d = p->D ? p->D[j] : 1;
        rr += d * r[j] * r[j];
        ry += d * r[j] * p->y[j];
    }
    return rr > 0 && ry > 0 ? (float)(ry / rr) : p->scale;
}

/* The scale of one group, free of all others. */
static void group_search(group *p)
{
    enum { TRIES = 10 };
    double energy = 0, weight = 0;
    float most = 0;
    for (size_t j = 0; j < p->n; j++) {
        energy += (double)p->q[j] * p->v[j] * p->v[j];
        weight += p->q[j];
        most = fmaxf(most, fabsf(p->v[j]));
    }
    /* from the scale at which the levels' mean square is that of the targets to where the largest fits */
    const float from = 0.6f * (float)sqrt(energy / weight) / p->t->rms,
                to = fmaxf(1.1f * most / (float)p->t->c->level[p->t->c->n_level - 1], 1.5f * from);
    for (int l = 0; l < TRIES; l++)
        group_try(p, from * powf(to / from, (float)l / (TRIES - 1)));
    for (int i = 0; i < 2; i++)
        group_try(p, group_refit(p));
}

typedef struct super {
    const kq_words *t;
    const kq_grid_row *row;
    float ideal[KQ_CODEBOOK_SCALES]; /* by order of rounding, before feedback from the block's other groups */
    double cost;
    kq_codebook_block best;
    float value[KQ_GRID_BLOCK], step[KQ_GRID_BLOCK]; /* of the best, by order: w = d step value */
} super;

/* The integer of 0..15 whose scale d (2 s + 1) unit is nearest. */
static int nearest_integer(float scale, float unit)
{
    const float s = 0.5f * (scale / unit - 1);
    return !(s > 0) ? 0 : s > 15 ? 15 : (int)lrintf(s);
}

/* A group with the block's d given: the integers around the best scale, then around that of its codewords. */
static int try_integers(group *p, float unit, float ideal)
{
    unsigned tried = 0;
    int best = 0;
    for (int round = 0; round < 2; round++) {
        const int s0 = nearest_integer(round ? group_refit(p) : ideal, unit);
        for (int s = s0 - 1; s <= s0 + 1; s++) {
            const float before = p->cost;
            if (s < 0 || s > 15 || tried >> s & 1)
                continue;
            tried |= 1u << s;
            group_try(p, unit * (float)(2 * s + 1));
            if (p->cost < before)
                best = s;
        }
    }
    return best;
}

/* All groups of the block, last to first, with d given. */
static void super_pass(super *s, uint16_t d16)
{
    const kq_codebook *c = s->t->c;
    const kq_grid_row *row = s->row;
    const size_t n = c->group;
    const float unit = kq_f16_to_f32(d16) * c->unit;
    float v[KQ_GRID_BLOCK], value[KQ_GRID_BLOCK], step[KQ_GRID_BLOCK];
    kq_codebook_block b = {.d = d16};
    double cost = 0;
    memcpy(v, row->v, sizeof v);
    for (size_t k = KQ_GRID_BLOCK / n; k-- > 0;) {
        const size_t at = k * n;
        group p;
        group_begin(&p, s->t, row, at, v + at);
        const int integer = try_integers(&p, unit, s->ideal[k]);
        cost += p.cost;
        if (!(cost < s->cost))
            return;
        b.scale[row->slot[at] / n] = (uint8_t)integer;
        for (size_t j = 0; j < n; j++) {
            const kq_octet *o = &p.octet[j / KQ_OCTET];
            const size_t slot = row->slot[at + j];
            const float e = p.w[j] - p.scale * o->value[j % KQ_OCTET];
            value[at + j] = o->value[j % KQ_OCTET];
            step[at + j] = (float)(2 * integer + 1) * c->unit;
            b.word[slot / c->dim] = o->word[j % KQ_OCTET / c->dim];
            b.signs[slot / KQ_OCTET] = o->signs;
            for (size_t i = 0; i < at && row->L; i++)
                v[i] += e * row->L[(at + j) * row->ld + i];
        }
    }
    s->cost = cost;
    s->best = b;
    memcpy(s->value, value, sizeof value);
    memcpy(s->step, step, sizeof step);
}

/* d by least squares, everything else as in the best answer so far. */
static uint16_t super_refit(const super *s, const float *y)
{
    const kq_grid_row *row = s->row;
    float x[KQ_GRID_BLOCK], r[KQ_GRID_BLOCK];
    double rr = 0, ry = 0;
    for (size_t j = 0; j < KQ_GRID_BLOCK; j++)
        x[j] = s->value[j] * s->step[j];
    kq_grid_times_unit_l(x, row->L, row->ld, KQ_GRID_BLOCK, r);
    for (size_t j = 0; j < KQ_GRID_BLOCK; j++) {
        const double D = row->D ? row->D[j] : 1;
        rr += D * r[j] * r[j];
        ry += D * r[j] * y[j];
    }
    return rr > 0 && ry > 0 ? kq_grid_scale_f16(ry / rr) : s->best.d;
}

double kq_words_round(const kq_words *t, const kq_grid_row *row, kq_codebook_block *c)
{
    static const float reach[] = {1, 0.93f, 1.07f};
    const size_t n = t->c->group;
    super s = {.t = t, .row = row, .cost = FLT_MAX};
    float most = 0, y[KQ_GRID_BLOCK];
    for (size_t k = 0; k < KQ_GRID_BLOCK / n; k++) {
        group p;
        group_begin(&p, t, row, k * n, row->v + k * n);
        group_search(&p);
        s.ideal[k] = p.scale;
        most = fmaxf(most, p.scale);
    }
    kq_grid_times_unit_l(row->w, row->L, row->ld, KQ_GRID_BLOCK, y);
    for (size_t j = 0; j < KQ_GRID_BLOCK; j++)
        y[j] += row->v[j] - row->w[j];
    /* The largest scale gets the largest integer, or nearly. */
    for (size_t i = 0; i < sizeof reach / sizeof *reach; i++)
        super_pass(&s, kq_grid_scale_f16(reach[i] * most / (31 * t->c->unit)));
    for (int i = 0; i < 2; i++) {
        const uint16_t d = super_refit(&s, y);
        if (d == s.best.d)
            break;
        super_pass(&s, d);
    }
    *c = s.best;
    return s.cost;
}
