/* The Viterbi search (eq. 73) on vectors of 16-bit lanes, included once per instruction set. internal.h
 * defines the costs, trellis.h the walk.
 *
 * The including file defines FN(name), TARGET, W (lanes), BATCH (tiles at a time), vi (the vector), and
 * v_load, v_store, v_set1, v_add, v_sub, v_subs (saturating), v_min (unsigned), v_mulhrs, v_bc32 / 64 / 128
 * (repeat 2, 4, 8 words), v_nat(x, NS) (from the lane order below to the natural one), v_rev (reverse),
 * v_duplo, v_duphi (each word of the lower, upper half twice), v_hmin (the least lane).
 *
 * One step. With G = 2^(16-R), the states s = (j << (16-R)) | g, j < 2^R, are those that lead to the group g,
 * and they come from the group s >> R: next[g] = min over j of  best[s >> R] + cost(s). Only best[] is kept,
 * G words a step, and no argmin: the walk back recomputes the 2^R sums of the one state it stands at.
 *
 * Lanes. Vector T holds the targets g = T W .. T W + W - 1. They come from NS = max(1, W >> R) neighbouring
 * groups, so lane l is target T W + (l % NS) (W / NS) + l / NS. Then best[] needs only a load that repeats NS
 * words, which is free on the load port, and one permutation a target vector restores the order. With NS = 1
 * every word of best[] is stored twice, because broadcasting a 32-bit word costs no shuffle and broadcasting
 * a 16-bit one does.
 *
 * hyb. n, q and r serve four states (internal.h): (j, T), (j + 2^(R-1), T) and their complements, whose
 * targets are the complements of T's lanes and whose predecessors are best[G-1-x] where (j, T) has best[x].
 * With rev[x] = best[G-1-x] beside best both pairs read alike.
 *
 * Sums are modulo 2^16: base and the normalisation are put into best[] once a step, so that a sum is the true
 * path cost above the lowest, at most KQ_VITERBI_CAP plus a cost. */
#define AI static inline __attribute__((always_inline)) TARGET

#define NS_OF(R) (W >> (R) > 1 ? W >> (R) : 1)
#define UNROLL _Pragma("GCC unroll 4")

/* Bytes of work arrays a tile: the history of n_steps + 1 rows of G words, then 4 G words for what is laid
 * out twice or reversed. */
static size_t FN(tile_bytes)(const kq_trellis *t)
{
    const size_t G = (size_t)1 << (16 - t->R);
    return ((size_t)t->n_steps + 1) * G * 2 + 2 * G * 4;
}

static size_t FN(scratch_bytes)(const kq_trellis *t)
{
    return BATCH * FN(tile_bytes)(t);
}

static size_t FN(lanes_count)(const kq_trellis *t)
{
    return t->V == 2 ? (size_t)65536 / 4 * 3 : 65536;
}

/* [T][j][planes][W]; hyb: T in the lower half, j in the lower half. */
static void FN(lanes_fill)(const kq_trellis *t, int16_t *lanes)
{
    const int R = t->R, half = t->V == 2, NS = NS_OF(R), P = t->planes;
    for (uint32_t T = 0; T < (65536u >> R) / W >> half; T++)
        for (uint32_t j = 0; j < 1u << R >> half; j++)
            for (int l = 0; l < W; l++) {
                uint32_t s = j << (16 - R) | (T * W + (uint32_t)(l % NS * (W / NS) + l / NS));
                int16_t tmp[3];
                int flip;
                const int16_t *e = kq_state_entry(t, s, &flip, tmp);
                for (int v = 0; v < P; v++)
                    lanes[((T << R >> half | j) * (uint32_t)P + (uint32_t)v) * W + (uint32_t)l] = e[v];
            }
}

typedef struct FN(tile) {
    uint16_t *row;   /* natural best[], hyb's with the base of the coming step: the history's latest row */
    uint16_t *best;  /* as the step loads it: row itself, or every word twice */
    uint16_t *rev;   /* the same reversed, hyb only */
    uint16_t *work;  /* [4 G]: best (NS = 1; not hyb: this row's and the next one's) and rev live here */
    uint16_t lowest; /* of row; hyb: not kept */
} FN(tile);

AI vi FN(source)(const uint16_t *p, size_t x, int NS)
{
    return NS == 1 ? v_bc32(p + 2 * x) : NS == 2 ? v_bc32(p + x) : NS == 4 ? v_bc64(p + x) : v_bc128(p + x);
}

/* One step of V = 2: sums into out[b] (natural order), lowest[b]. */
AI void FN(step2)(const kq_trellis *t, const FN(tile) * tile, const kq_step *const *step,
                  uint16_t *const *out, uint16_t *lowest, int R, int B)
{
    const size_t G = (size_t)1 << (16 - R), J2 = (size_t)1 << (R - 1);
    const int NS = NS_OF(R);
    const int16_t *tab = t->lanes;
    vi a0[BATCH], a1[BATCH], low[BATCH], accN[BATCH], accM[BATCH];
    const uint16_t *best[BATCH], *rev[BATCH];
    for (int b = 0; b < B; b++) {
        a0[b] = v_set1(step[b]->a[0]);
        a1[b] = v_set1(step[b]->a[1]);
        low[b] = v_set1(-1);
        best[b] = tile[b].best;
        rev[b] = tile[b].rev;
    }
    for (size_t T = 0; T < G / W / 2; T++) {
        for (int b = 0; b < B; b++)
            accN[b] = accM[b] = v_set1(-1);
        for (size_t j = 0; j < J2; j++, tab += 3 * W) {
            const vi n = v_load(tab), c0 = v_load(tab + W), c1 = v_load(tab + 2 * W);
            const size_t x = (j << (16 - R) | T * W) >> R;
            for (int b = 0; b < B; b++) {
                const vi p = v_sub(n, v_mulhrs(c1, a1[b])), q = v_mulhrs(c0, a0[b]);
                const vi m = v_sub(p, q), s = v_add(p, q);
                accN[b] = v_min(accN[b], v_add(m, FN(source)(best[b], x, NS)));
                accM[b] = v_min(accM[b], v_add(m, FN(source)(rev[b], x, NS)));
                accN[b] = v_min(accN[b], v_add(s, FN(source)(best[b], x + G / 2, NS)));
                accM[b] = v_min(accM[b], v_add(s, FN(source)(rev[b], x + G / 2, NS)));
            }
        }
        for (int b = 0; b < B; b++) {
            low[b] = v_min(low[b], v_min(accN[b], accM[b]));
            v_store(out[b] + T * W, v_nat(accN[b], NS));
            v_store(out[b] + G - W - T * W, v_rev(v_nat(accM[b], NS)));
        }
    }
    for (int b = 0; b < B; b++)
        lowest[b] = v_hmin(low[b]);
}

/* The other half of `work`, for the coming row twice. */
AI uint16_t *FN(other_twice)(const FN(tile) * tile, size_t G)
{
    return tile->best == tile->work ? tile->work + 2 * G : tile->work;
}

/* One step of V = 1: the next row is stored less the lowest of this one, cut off at CAP_1, as sums are made.
 */
AI void FN(step1)(const kq_trellis *t, FN(tile) * tile, const kq_step *const *step, uint16_t *const *out,
                  int R, int B)
{
    const size_t G = (size_t)1 << (16 - R), J = (size_t)1 << R;
    const int NS = NS_OF(R);
    const int16_t *tab = t->lanes;
    vi a[BATCH], low[BATCH], acc[BATCH], shift[BATCH], top[BATCH];
    const uint16_t *best[BATCH];
    uint16_t *twice[BATCH];
    UNROLL for (int b = 0; b < B; b++)
    {
        a[b] = v_set1(step[b]->a[0]);
        low[b] = v_set1(-1);
        shift[b] = v_set1(tile[b].lowest);
        top[b] = v_set1((int16_t)(uint16_t)(tile[b].lowest + KQ_VITERBI_CAP_1));
        best[b] = tile[b].best;
        twice[b] = FN(other_twice)(tile + b, G);
    }
    for (size_t T = 0; T < G / W; T++) {
        for (size_t j = 0; j < J; j++, tab += W) {
            const vi c = v_load(tab);
            const size_t x = (T * W >> R) + (j << (16 - 2 * R));
            UNROLL for (int b = 0; b < B; b++)
            {
                const vi d = v_subs(c, a[b]), sum = v_add(v_mulhrs(d, d), FN(source)(best[b], x, NS));
                acc[b] = j ? v_min(acc[b], sum) : sum;
            }
        }
        UNROLL for (int b = 0; b < B; b++)
        {
            const vi y = v_sub(v_min(acc[b], top[b]), shift[b]), z = v_nat(y, NS);
            low[b] = v_min(low[b], y);
            v_store(out[b] + T * W, z);
            if (NS == 1) {
                v_store(twice[b] + 2 * T * W, v_duplo(z));
                v_store(twice[b] + 2 * T * W + W, v_duphi(z));
            }
        }
    }
    UNROLL for (int b = 0; b < B; b++)
    {
        tile[b].lowest = v_hmin(low[b]);
        tile[b].row = out[b];
        tile[b].best = NS == 1 ? twice[b] : out[b];
    }
}

/* hyb: cut row off at lowest + CAP, put the coming base in place of lowest, and lay best and rev out as the
 * step wants them. */
AI void FN(finish2)(FN(tile) * tile, uint16_t *row, uint16_t lowest, uint16_t base, int R)
{
    const size_t G = (size_t)1 << (16 - R);
    const int NS = NS_OF(R);
    const vi top = v_set1((int16_t)(uint16_t)(lowest + KQ_VITERBI_CAP)),
             shift = v_set1((int16_t)(uint16_t)(base - lowest));
    uint16_t *twice = tile->work, *rev = tile->work + (NS == 1 ? 2 * G : 0);
    for (size_t i = 0; i < G; i += W) {
        const vi x = v_add(v_min(v_load(row + i), top), shift), y = v_rev(x);
        v_store(row + i, x);
        if (NS == 1) {
            v_store(twice + 2 * i, v_duplo(x));
            v_store(twice + 2 * i + W, v_duphi(x));
            v_store(rev + 2 * (G - W - i), v_duplo(y));
            v_store(rev + 2 * (G - W - i) + W, v_duphi(y));
        } else
            v_store(rev + (G - W - i), y);
    }
    tile->row = row;
    tile->best = NS == 1 ? twice : row;
    tile->rev = rev;
}

/* The other codes: cut row off at the lowest of the row before + CAP_1 and lay it out. */
AI void FN(finish1)(FN(tile) * tile, uint16_t *row, uint16_t lowest, int R)
{
    const size_t G = (size_t)1 << (16 - R);
    const int NS = NS_OF(R);
    const vi top = v_set1((int16_t)(uint16_t)(tile->lowest + KQ_VITERBI_CAP_1)), shift = v_set1(tile->lowest);
    uint16_t *twice = FN(other_twice)(tile, G);
    for (size_t i = 0; i < G; i += W) {
        const vi x = v_sub(v_min(v_load(row + i), top), shift);
        v_store(row + i, x);
        if (NS == 1) {
            v_store(twice + 2 * i, v_duplo(x));
            v_store(twice + 2 * i + W, v_duphi(x));
        }
    }
    tile->lowest = (uint16_t)(lowest - tile->lowest);
    tile->row = row;
    tile->best = NS == 1 ? twice : row;
}

/* A row on which no step has run: lowest is its least value. */
AI void FN(finish)(FN(tile) * tile, uint16_t *row, uint16_t lowest, uint16_t next_base, int R, int sym)
{
    if (sym)
        FN(finish2)(tile, row, lowest, next_base, R);
    else
        FN(finish1)(tile, row, lowest, R);
}

AI void FN(step)(const kq_trellis *t, FN(tile) * tile, const kq_step *const *step, const uint16_t *next_base,
                 uint16_t *const *out, int R, int sym, int B)
{
    uint16_t lowest[BATCH];
    if (!sym) {
        FN(step1)(t, tile, step, out, R, B);
        return;
    }
    FN(step2)(t, tile, step, out, lowest, R, B);
    for (int b = 0; b < B; b++)
        FN(finish2)(tile + b, out[b], lowest[b], next_base[b], R);
}

/* A step near the start of the closed walk, i.e. (i + 1) R < 16: only the states whose high bits are those of
 * the group in which it begins can be met. */
AI void FN(first_step)(const kq_trellis *t, FN(tile) * tile, int i, uint32_t group, const kq_step *step,
                       uint16_t next_base, uint16_t *out, int R, int sym)
{
    const uint32_t G = 1u << (16 - R), from = group << (i + 1) * R & 0xFFFF, n = 1u << (i + 1) * R;
    const kq_step plain = {{step->a[0], step->a[1]}, 0}; /* row holds the base already */
    uint16_t lowest = 0xFFFF;
    memset(out, 0xFF, G * sizeof *out);
    for (uint32_t s = from; s < from + n; s++) {
        const uint16_t c = (uint16_t)(tile->row[s >> R] + kq_state_cost(t, &plain, s));
        uint16_t *o = out + (s & (G - 1));
        if (c < *o)
            *o = c;
        if (c < lowest)
            lowest = c;
    }
    FN(finish)(tile, out, lowest, next_base, R, sym);
}

/* The state before group g: the lowest j among those of the least sum over row (the step before's
 * best[]). free_bits < 16: only states that agree with `from` above these bits. */
AI uint32_t FN(back)(const kq_trellis *t, const uint16_t *row, const kq_step *step, uint32_t g, int free_bits,
                     uint32_t from, int R, int sym)
{
    const uint32_t J = 1u << R, G = 1u << (16 - R);
    const int16_t *n = t->trace + (size_t)g * J * (sym ? 3 : 1), *c0 = n + J,
                  *c1 = c0 + J; /* not hyb: n is C */
    row += g >> R;
    uint16_t sum[256];
    if (sym) {
        /* q is subtracted in the half where bit 15 of the standing state is clear: the lower for g in
         * the lower half */
        const int minus_low = !(g >> (15 - R));
        for (uint32_t h = 0; h < 2; h++) {
            const int16_t a0 = step->a[0], a1 = step->a[1], sign = (h == 0) == minus_low ? -1 : 1;
            for (uint32_t j = h * (J / 2); j < (h + 1) * (J / 2); j++)
                sum[j] = (uint16_t)(row[(size_t)j << (16 - 2 * R)] + n[j] - (int16_t)kq_mulhrs(c1[j], a1) +
                                    sign * (int16_t)kq_mulhrs(c0[j], a0));
        }
    } else
        for (uint32_t j = 0; j < J; j++) {
            int d = n[j] - step->a[0];
            d = d > 32767 ? 32767 : d < -32768 ? -32768 : d;
            sum[j] = (uint16_t)(row[(size_t)j << (16 - 2 * R)] + kq_mulhrs(d, d));
        }
    uint32_t at = 0;
    if (free_bits < 16) {
        while (((at * G | g) ^ from) >> free_bits && at + 1 < J)
            at++;
        for (uint32_t j = at + 1; j < J; j++)
            if (!(((j * G | g) ^ from) >> free_bits) && sum[j] < sum[at])
                at = j;
    } else {
        uint16_t least = 0xFFFF;
        for (uint32_t j = 0; j < J; j++)
            least = sum[j] < least ? sum[j] : least;
        while (sum[at] != least)
            at++;
    }
    return at * G + g;
}

/* B tiles on their way through the search. */
typedef struct FN(search_state) {
    const kq_step *steps; /* [B, n] */
    uint16_t *states;     /* [B, n]: the result */
    int n;                /* steps of a tile */
    FN(tile) tile[BATCH];
    uint16_t *history[BATCH]; /* [n + 1, G]: row i is best[] before step i of the pass */
    int seam[BATCH];          /* the step before which the walk's ends meet */
    uint32_t group[BATCH];    /* the group in which they meet */
} FN(search_state);

/* Step i of a pass that begins at step `first` of tile b's circle. */
AI const kq_step *FN(step_at)(const FN(search_state) * z, int b, int first, int i)
{
    const int x = first + i;
    return z->steps + (size_t)b * (size_t)z->n + (x < z->n ? x : x < 2 * z->n ? x - z->n : x - 2 * z->n);
}

/* Steps i, i + 1, .. of a pass, whose rows follow each other in the history. */
AI void FN(one_step)(const kq_trellis *t, FN(search_state) * z, const int *first, int i, bool last, int R,
                     int sym, int B)
{
    const size_t G = (size_t)1 << (16 - R);
    const kq_step *step[BATCH];
    uint16_t *out[BATCH], next_base[BATCH];
    for (int b = 0; b < B; b++) {
        step[b] = FN(step_at)(z, b, first[b], i);
        next_base[b] = last ? 0 : FN(step_at)(z, b, first[b], i + 1)->base;
        out[b] = z->history[b] + (size_t)(i + 1) * G;
    }
    FN(step)(t, z->tile, step, next_base, out, R, sym, B);
}

/* The free pass over the 2 h steps around the seam, and the walk back to the seam's group. */
AI void FN(find_seams)(const kq_trellis *t, FN(search_state) * z, int R, int sym, int B)
{
    const size_t G = (size_t)1 << (16 - R);
    const int n = z->n, h = t->half_window;
    int first[BATCH];
    for (int b = 0; b < B; b++) {
        z->seam[b] = kq_seam_of(t, z->steps + b * n);
        first[b] = z->seam[b] + n - h;
        z->tile[b].work = z->history[b] + ((size_t)n + 1) * G;
        z->tile[b].best = NULL;
        z->tile[b].lowest = 0;
        memset(z->history[b], 0, G * 2);
        FN(finish)(z->tile + b, z->history[b], 0, FN(step_at)(z, b, first[b], 0)->base, R, sym);
    }
    for (int i = 0; i < 2 * h; i++)
        FN(one_step)(t, z, first, i, i + 1 == 2 * h, R, sym, B);
    for (int b = 0; b < B; b++) {
        const uint16_t lowest = sym ? 0 : z->tile[b].lowest;
        uint32_t g = 0;
        while (z->tile[b].row[g] != lowest)
            g++;
        for (int i = 2 * h; i-- > h;)
            g = FN(back)(t, z->history[b] + (size_t)i * G, FN(step_at)(z, b, first[b], i), g, 16, 0, R,
                         sym) >>
                R;
        z->group[b] = g;
    }
}

/* The closed pass, which begins and ends in the seam's group. Its last step is left to the walk back. */
AI void FN(closed_pass)(const kq_trellis *t, FN(search_state) * z, int R, int sym, int B)
{
    const size_t G = (size_t)1 << (16 - R);
    const int n = z->n, *first = z->seam;
    for (int b = 0; b < B; b++) {
        z->tile[b].row = z->history[b];
        z->tile[b].lowest = 0;
        z->history[b][z->group[b]] = FN(step_at)(z, b, first[b], 0)->base;
    }
    for (int i = 0; i < n - 1; i++)
        if ((i + 1) * R < 16)
            for (int b = 0; b < B; b++)
                FN(first_step)
    (t, z->tile + b, i, z->group[b], FN(step_at)(z, b, first[b], i), FN(step_at)(z, b, first[b], i + 1)->base,
     z->history[b] + (size_t)(i + 1) * G, R, sym);
    else FN(one_step)(t, z, first, i, false, R, sym, B);
    for (int b = 0; b < B; b++) {
        uint32_t g = z->group[b];
        for (int i = n; i-- > 0;) {
            const int free_bits = (i + 1) * R < 16 ? (i + 1) * R : 16;
            const uint32_t s = FN(back)(t, z->history[b] + (size_t)i * G, FN(step_at)(z, b, first[b], i), g,
                                        free_bits, z->group[b] << free_bits & 0xFFFF, R, sym);
            z->states[b * n + (first[b] + i) % n] = (uint16_t)s;
            g = s >> R;
        }
    }
}

AI void FN(run)(const kq_trellis *t, const kq_step *steps, uint16_t *states, char *scratch, int R, int sym,
                int B)
{
    const size_t bytes = FN(tile_bytes)(t);
    FN(search_state) z;
    z.steps = steps;
    z.states = states;
    z.n = sym ? KQ_TILE_SIZE / 2 : KQ_TILE_SIZE;
    for (int b = 0; b < B; b++)
        z.history[b] = (uint16_t *)(void *)(scratch + (size_t)b * bytes);
    FN(find_seams)(t, &z, R, sym, B);
    FN(closed_pass)(t, &z, R, sym, B);
}

#define KQ_RUN(name, R, sym)                                                                     \
    static TARGET void FN(name##_1)(const kq_trellis *t, const kq_step *steps, uint16_t *states, \
                                    char *scratch)                                               \
    {                                                                                            \
        FN(run)(t, steps, states, scratch, R, sym, 1);                                           \
    }                                                                                            \
    static TARGET void FN(name##_n)(const kq_trellis *t, const kq_step *steps, uint16_t *states, \
                                    char *scratch)                                               \
    {                                                                                            \
        FN(run)(t, steps, states, scratch, R, sym, BATCH);                                       \
    }
KQ_RUN(run12, 2, 0)
KQ_RUN(run13, 3, 0)
KQ_RUN(run14, 4, 0)
KQ_RUN(run24, 4, 1)
KQ_RUN(run26, 6, 1)
KQ_RUN(run28, 8, 1)
#undef KQ_RUN

static void FN(search)(const kq_trellis *t, const kq_step *steps, int n_tiles, uint16_t *states,
                       void *scratch)
{
    typedef void (*run_fn)(const kq_trellis *, const kq_step *, uint16_t *, char *);
    static const run_fn one[2][3] = {{FN(run12_1), FN(run13_1), FN(run14_1)},
                                     {FN(run24_1), FN(run26_1), FN(run28_1)}};
    static const run_fn many[2][3] = {{FN(run12_n), FN(run13_n), FN(run14_n)},
                                      {FN(run24_n), FN(run26_n), FN(run28_n)}};
    if (n_tiles == BATCH)
        many[t->V - 1][t->k - 2](t, steps, states, scratch);
    else
        for (int b = 0; b < n_tiles; b++)
            one[t->V - 1][t->k - 2](t, steps + b * t->n_steps, states + b * t->n_steps, scratch);
}

const kq_viterbi FN(kq_viterbi) = {BATCH, FN(lanes_count), FN(lanes_fill), FN(scratch_bytes), FN(search)};

#undef AI
#undef NS_OF
#undef UNROLL
#undef FN
#undef TARGET
#undef W
#undef BATCH
