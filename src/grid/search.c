/* One block of a row: which scales, which codes (docs/math.md, eq. 92 to 94). A group's search tries sixteen
 * scales at a time, each with its own codes and the feedback between them. Around the best one it solves for
 * the scale that suits those codes best (a weighted least squares, eq. 94) and tries again. The idea of
 * searching scales by weighted least squares is llama.cpp's (ggml-quants.c, MIT); the feedback inside the
 * search is not in it. */
#include "grid/internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/f16.h"
#include "kern/gemm.h"

enum { K = KQ_GRID_LANES, G_MAX = 32 };

/* A group's problem and the best answer so far. eta = y - scale r - offset z, with r = q (I + L) and z =
 * 1 (I + L). */
typedef struct group {
    size_t n;
    const float *w, *v, *L, *D;
    size_t ld;
    float y[G_MAX], z[G_MAX];
    float cost, scale, offset, q[G_MAX];
} group;

/* x as F16, with 65504, F16's largest number, for all that is larger. The weights themselves are in range
 * (kq_type_holds has checked them); their targets may lie beyond it. */
static uint16_t offset_f16(double x)
{
    return kq_f32_to_f16((float)(x > 65504 ? 65504 : x < -65504 ? -65504 : x));
}

uint16_t kq_grid_scale_f16(double x)
{
    const uint16_t h = offset_f16(x);
    return (h & 0x7fff) || x == 0 ? h : (uint16_t)(x < 0 ? 0x8001 : 1);
}

static float scale_through(bool f16, float x)
{
    return f16 ? kq_f16_to_f32(kq_grid_scale_f16(x)) : x;
}

static float offset_through(bool f16, float x)
{
    return f16 ? kq_f16_to_f32(offset_f16(x)) : x;
}

void kq_grid_times_unit_l(const float *x, const float *L, size_t ld, size_t n, float *out)
{
    memcpy(out, x, n * sizeof *out);
    for (size_t j = 1; j < n && L; j++)
        for (size_t i = 0; i < j; i++)
            out[i] += x[j] * L[j * ld + i];
}

static void group_begin(group *p, const kq_grid *g, const kq_grid_row *row, size_t at, const float *v)
{
    p->n = (size_t)g->group;
    p->w = row->w + at;
    p->v = v;
    p->L = row->L ? row->L + at * row->ld + at : NULL;
    p->D = row->D ? row->D + at : NULL;
    p->ld = row->ld;
    p->cost = FLT_MAX;
    p->scale = p->offset = 0;
    memset(p->q, 0, sizeof p->q);
    kq_grid_times_unit_l(p->w, p->L, p->ld, p->n, p->y);
    for (size_t j = 0; j < p->n; j++)
        p->y[j] += v[j] - p->w[j];
    if (g->offset) {
        float one[G_MAX];
        for (size_t j = 0; j < p->n; j++)
            one[j] = 1;
        kq_grid_times_unit_l(one, p->L, p->ld, p->n, p->z);
    }
}

/* Try sixteen scales; the best of them replaces the group's answer when it is better. Returns its lane, or
 * -1. */
static int group_try(group *p, const kq_grid *g, kq_grid_lanes_fn *lanes, kq_grid_lanes *x)
{
    int best = -1;
    lanes(g, p->n, p->w, p->v, p->L, p->ld, p->D, x);
    for (int l = 0; l < K; l++)
        if (x->cost[l] < p->cost) {
            p->cost = x->cost[l];
            best = l;
        }
    if (best >= 0) {
        p->scale = x->scale[best];
        p->offset = x->offset[best];
        for (size_t j = 0; j < p->n; j++)
            p->q[j] = x->q[j][best];
    }
    return best;
}

/* Sums of the least squares for codes q: y against r and z, weighted with D. */
typedef struct normal {
    double rr, rz, zz, ry, zy;
} normal;

static normal group_normal(const group *p, const kq_grid *g)
{
    normal s = {0};
    float r[G_MAX];
    kq_grid_times_unit_l(p->q, p->L, p->ld, p->n, r);
    for (size_t j = 0; j < p->n; j++) {
        const double d = p->D ? p->D[j] : 1, z = g->offset ? p->z[j] : 0;
        s.rr += d * r[j] * r[j];
        s.rz += d * r[j] * z;
        s.zz += d * z * z;
        s.ry += d * r[j] * p->y[j];
        s.zy += d * z * p->y[j];
    }
    return s;
}

/* The best offset for a scale, and the best of both together; an offset above 0 where the type has none
 * becomes 0. */
static double offset_for(const normal *s, const kq_grid *g, double scale)
{
    if (!g->offset || !(s->zz > 0))
        return 0;
    const double m = (s->zy - scale * s->rz) / s->zz;
    return g->min_max && m > 0 ? 0 : m;
}

static double best_scale(const normal *s, const kq_grid *g, double otherwise)
{
    if (!(s->rr > 0))
        return otherwise;
    const double det = s->rr * s->zz - s->rz * s->rz;
    if (g->offset && det > 1e-9 * s->rr * s->zz) {
        const double scale = (s->ry * s->zz - s->zy * s->rz) / det;
        if (!g->min_max || offset_for(s, g, scale) < 0)
            return scale;
    }
    return s->ry / s->rr;
}

/* Around the least squares solution for the present codes: scales a step apart, each with its best offset. */
static void group_refit(group *p, const kq_grid *g, kq_grid_lanes_fn *lanes, double step, bool f16)
{
    const normal s = group_normal(p, g);
    const double scale = best_scale(&s, g, p->scale);
    kq_grid_lanes x;
    for (int l = 0; l < K; l++) {
        const float a = (float)(scale * (1 + (l - K / 2) * step));
        x.scale[l] = scale_through(f16, a);
        const float b = (float)offset_for(&s, g, x.scale[l]);
        x.offset[l] = offset_through(f16, b);
    }
    group_try(p, g, lanes, &x);
}

/* Scale and offset of one group, free but for F16 where f16 is set. */
static void group_search(group *p, const kq_grid *g, kq_grid_lanes_fn *lanes, bool f16)
{
    const int levels = g->nonlinear ? 16 : g->q_max - g->q_min + 1;
    kq_grid_lanes x;
    float lo = p->v[0], hi = p->v[0];
    for (size_t j = 1; j < p->n; j++) {
        lo = fminf(lo, p->v[j]);
        hi = fmaxf(hi, p->v[j]);
    }
    if (f16 && fmaxf(-lo, hi) < 0x1p-20f * (float)-g->q_min) { /* scales near F16's least number: none at all
                                                                  may be the best (IQ4_NL has no level 0) */
        memset(&x, 0, sizeof x);
        group_try(p, g, lanes, &x);
    }
    if (g->offset) {
        /* Both ends of the range pulled in by up to a quarter, less where there are more levels. */
        const float pull = levels <= 4 ? 0.10f : levels <= 16 ? 0.05f : 0.025f;
        lo = g->min_max && lo > 0 ? 0 : lo;
        for (int l = 0; l < K; l++) {
            const float b = lo + (hi - lo) * pull * (float)(l / 4),
                        a = (hi - b - (hi - lo) * pull * (float)(l % 4)) / (float)(levels - 1);
            x.offset[l] = offset_through(f16, b);
            x.scale[l] = scale_through(f16, a);
        }
        group_try(p, g, lanes, &x);
    } else {
        /* Where the grid reaches further below 0 than above, both ways round; where it does not (Q8_0),
         * finer steps instead: the error is rugged. */
        const float most = -lo > hi ? lo : hi, from = levels <= 8    ? 0.5f
                                                      : levels <= 16 ? 0.65f
                                                      : levels <= 64 ? 0.8f
                                                                     : 0.97f;
        const float to = levels > 64 ? 1.06f : 1.12f;
        const int tries = -g->q_min == g->q_max ? 6 : 2;
        for (int k = 0; k < tries; k++) {
            for (int l = 0; l < K; l++) {
                const float at = tries > 2 ? (float)(k * K + l) / (float)(tries * K - 1) : (float)l / (K - 1);
                const float a =
                    (tries == 2 && k ? -1.0f : 1.0f) * most / (float)g->q_min * (from + (to - from) * at);
                x.scale[l] = scale_through(f16, a);
                x.offset[l] = 0;
            }
            group_try(p, g, lanes, &x);
        }
    }
    group_refit(p, g, lanes, 0.012, f16);
    group_refit(p, g, lanes, 0.003, f16);
}

static int clamp(double x, int lo, int hi)
{
    return x < lo ? lo : x > hi ? hi : (int)lrint(x);
}

/* ---- types with groups ---- */

typedef struct super {
    const kq_grid *g;
    kq_grid_lanes_fn *lanes;
    const kq_grid_row *row;
    /* by order of rounding, before feedback from the block's other groups */
    float ideal_scale[KQ_GRID_GROUPS], ideal_offset[KQ_GRID_GROUPS];
    double cost;
    kq_grid_code best;
} super;

/* Integer scales near those that would be best, tried on group p. */
static void try_integers(group *p, const super *s, float d, float m, double scale, double offset)
{
    const kq_grid *g = s->g;
    kq_grid_lanes x;
    const int a0 = d != 0 ? clamp(scale / d, g->scale_min, g->scale_max) : 0,
              b0 = g->offset && m > 0 ? clamp(-offset / m, 0, g->min_max) : 0;
    for (int l = 0; l < K; l++) {
        const int a = g->offset ? a0 - 1 + l % 4 : a0 - 8 + l, b = g->offset ? b0 - 1 + l / 4 : 0;
        x.scale[l] = d * (float)clamp(a, g->scale_min, g->scale_max);
        x.offset[l] = g->offset ? -(m * (float)clamp(b, 0, g->min_max)) : 0;
    }
    group_try(p, g, s->lanes, &x);
}

/* All groups of the block, last to first, with the block's two scales given. */
static void super_pass(super *s, uint16_t d16, uint16_t m16)
{
    const kq_grid *g = s->g;
    const kq_grid_row *row = s->row;
    const size_t n = (size_t)g->group, n_group = (size_t)g->elems / n;
    const float d = kq_f16_to_f32(d16), m = kq_f16_to_f32(m16);
    float v[KQ_GRID_BLOCK];
    kq_grid_code c = {.d = d16, .m = m16};
    double cost = 0;
    memcpy(v, row->v, (size_t)g->elems * sizeof *v);
    for (size_t k = n_group; k-- > 0;) {
        const size_t at = k * n;
        group p;
        group_begin(&p, g, row, at, v + at);
        try_integers(&p, s, d, m, s->ideal_scale[k], s->ideal_offset[k]);
        if (g->offset) {
            const normal nm = group_normal(&p, g);
            const double scale = best_scale(&nm, g, p.scale);
            try_integers(&p, s, d, m, scale, offset_for(&nm, g, scale));
        }
        const size_t k_stored = row->slot[at] / n; /* the group's index in the block */
        c.scale[k_stored] = (int16_t)clamp(d != 0 ? p.scale / d : 0, g->scale_min, g->scale_max);
        c.min[k_stored] = (int16_t)clamp(g->offset && m > 0 ? -p.offset / m : 0, 0, g->min_max);
        cost += p.cost;
        for (size_t j = 0; j < n; j++) {
            const float e = p.w[j] - (p.scale * p.q[j] + p.offset);
            c.q[row->slot[at + j]] = (int8_t)p.q[j];
            if (row->L)
                for (size_t i = 0; i < at; i++)
                    v[i] += e * row->L[(at + j) * row->ld + i];
        }
    }
    if (cost < s->cost) {
        s->cost = cost;
        s->best = c;
    }
}

/* The block's two scales by least squares, everything else as in the best answer so far. */
static void super_refit(const super *s, const float *y, uint16_t *d16, uint16_t *m16)
{
    const kq_grid *g = s->g;
    const kq_grid_row *row = s->row;
    const size_t N = (size_t)g->elems, n = (size_t)g->group;
    float x[KQ_GRID_BLOCK], r[KQ_GRID_BLOCK], z[KQ_GRID_BLOCK] = {0};
    for (size_t j = 0; j < N; j++)
        x[j] = (float)s->best.q[row->slot[j]] * (float)s->best.scale[row->slot[j] / n];
    kq_grid_times_unit_l(x, row->L, row->ld, N, r);
    if (g->offset) {
        for (size_t j = 0; j < N; j++)
            x[j] = -(float)s->best.min[row->slot[j] / n];
        kq_grid_times_unit_l(x, row->L, row->ld, N, z);
    }
    normal t = {0};
    for (size_t j = 0; j < N; j++) {
        const double D = row->D ? row->D[j] : 1;
        t.rr += D * r[j] * r[j];
        t.rz += D * r[j] * z[j];
        t.zz += D * z[j] * z[j];
        t.ry += D * r[j] * y[j];
        t.zy += D * z[j] * y[j];
    }
    const double det = t.rr * t.zz - t.rz * t.rz;
    *d16 = s->best.d;
    *m16 = s->best.m;
    if (g->offset && det > 1e-9 * t.rr * t.zz) {
        const double d = (t.ry * t.zz - t.zy * t.rz) / det, m = (t.rr * t.zy - t.rz * t.ry) / det;
        if (d > 0 && m > 0) {
            *d16 = kq_grid_scale_f16(d);
            *m16 = kq_grid_scale_f16(m);
        }
    } else if (t.rr > 0) {
        *d16 = kq_grid_scale_f16((t.ry - kq_f16_to_f32(*m16) * t.rz) / t.rr);
    }
}

static double super_round(const kq_grid *g, kq_grid_lanes_fn *lanes, const kq_grid_row *row, kq_grid_code *c)
{
    const size_t N = (size_t)g->elems, n = (size_t)g->group;
    super s = {.g = g, .lanes = lanes, .row = row, .cost = DBL_MAX};
    float most = 0, most_min = 0, y[KQ_GRID_BLOCK];
    for (size_t k = 0; k < N / n; k++) {
        group p;
        group_begin(&p, g, row, k * n, row->v + k * n);
        group_search(&p, g, lanes, false);
        s.ideal_scale[k] = p.scale;
        s.ideal_offset[k] = p.offset;
        most = fabsf(p.scale) > fabsf(most) ? p.scale : most;
        most_min = fmaxf(most_min, -p.offset);
    }
    kq_grid_times_unit_l(row->w, row->L, row->ld, N, y);
    for (size_t j = 0; j < N; j++)
        y[j] += row->v[j] - row->w[j];
    /* The largest scale gets the largest integer, or nearly: finer steps for the others against less
     * reach for this one. */
    static const float reach[] = {1, 0.93f, 1.07f};
    const size_t tries = g->scale_max <= 31 ? 3 : 1;
    for (size_t i = 0; i < tries; i++)
        super_pass(&s,
                   kq_grid_scale_f16(reach[i] * most / (float)(g->scale_min ? g->scale_min : g->scale_max)),
                   kq_grid_scale_f16(reach[i] * most_min / (float)(g->min_max ? g->min_max : 1)));
    for (int i = 0; i < 2; i++) {
        uint16_t d, m;
        super_refit(&s, y, &d, &m);
        if (d == s.best.d && m == s.best.m)
            break;
        super_pass(&s, d, m);
    }
    *c = s.best;
    return s.cost;
}

void kq_grid_search_begin(kq_grid_search *s, kq_dtype type)
{
    *s = (kq_grid_search){.g = kq_grid_of(type), .lanes = kq_grid_lanes_for(kq_kern_isa())};
    if (s->g->codewords)
        kq_words_begin(&s->words, kq_codebook_of(type));
}

static double scalar_round(const kq_grid_search *s, const kq_grid_row *row, kq_grid_code *c)
{
    const kq_grid *g = s->g;
    memset(c, 0, sizeof *c);
    if (g->group < g->elems)
        return super_round(g, s->lanes, row, c);
    group p;
    group_begin(&p, g, row, 0, row->v);
    group_search(&p, g, s->lanes, true);
    c->d = kq_grid_scale_f16(p.scale);
    c->m = offset_f16(p.offset);
    for (size_t j = 0; j < (size_t)g->elems; j++)
        c->q[row->slot[j]] = (int8_t)p.q[j];
    return p.cost;
}

double kq_grid_row_round(const kq_grid_search *s, const kq_grid_row *row, uint8_t *bytes, float *what)
{
    const size_t N = (size_t)s->g->elems;
    double cost;
    if (s->g->codewords) {
        kq_codebook_block block;
        cost = kq_words_round(&s->words, row, &block);
        kq_codebook_pack(s->words.c, &block, bytes);
    } else {
        kq_grid_code code;
        cost = scalar_round(s, row, &code);
        kq_grid_pack(s->g, &code, bytes);
    }
    float values[KQ_GRID_BLOCK];
    kq_dequantize(s->g->type, bytes, N, values); /* what was packed is what counts */
    for (size_t j = 0; j < N; j++)
        what[j] = cost < FLT_MAX ? values[row->slot[j]]
                                 : NAN; /* no scale that F16 can hold: the caller looks for NaN at the end */
    return cost;
}
