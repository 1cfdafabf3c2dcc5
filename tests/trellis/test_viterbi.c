/* The plain C Viterbi search against exhaustive search on small trellises. */
#include "check.h"

#include "base/rng.h"
#include "trellis/internal.h"

enum { MAX_STEPS = 12 };

typedef struct small {
    int L, R, n;
    uint32_t cost[MAX_STEPS][64];
} small;

static uint32_t small_cost(const void *ctx, int step, uint32_t state)
{
    const small *p = ctx;
    return p->cost[step][state];
}

/* range 4 makes many ties, a large one none */
static void fill(small *p, kq_rng *rng, uint32_t range)
{
    for (int i = 0; i < p->n; i++)
        for (int s = 0; s < 1 << p->L; s++)
            p->cost[i][s] = (uint32_t)(kq_rng_u64(rng) % range);
}

static uint32_t walk_cost(const small *p, const uint16_t *states)
{
    uint32_t sum = 0;
    for (int i = 0; i < p->n; i++)
        sum += p->cost[i][states[i]];
    return sum;
}

/* Is it a walk (and a circle when closed)? */
static void check_walk(const small *p, const uint16_t *states, bool closed)
{
    const uint32_t mask = (1u << p->L) - 1, low = (1u << p->R) - 1;
    for (int i = closed ? 0 : 1; i < p->n; i++) {
        uint32_t before = states[(i + p->n - 1) % p->n];
        assert_int_equal(states[i] & ~low, (before << p->R) & mask);
    }
}

/* Cheapest closed walk with s_at >> R == group (group < 0: any), by trying every circle of n R bits; lowest
 * in bit order among equals. */
static uint32_t exhaust_closed_at(const small *p, int at, long group)
{
    const int n_bits = p->n * p->R;
    uint32_t least = UINT32_MAX;
    for (uint64_t bits = 0; bits < (uint64_t)1 << n_bits; bits++) {
        uint16_t states[2 * MAX_STEPS] = {0};
        for (int i = 0; i < p->n; i++) {
            uint32_t s = 0;
            for (int b = 0; b < p->L; b++)
                s = s << 1 | (uint32_t)(bits >> (n_bits - 1 - (i * p->R + b) % n_bits) & 1);
            states[i] = (uint16_t)s;
        }
        if (group >= 0 && states[at] >> p->R != group)
            continue;
        uint32_t c = walk_cost(p, states);
        least = c < least ? c : least;
    }
    return least;
}

static uint32_t exhaust_closed(const small *p, long group)
{
    return exhaust_closed_at(p, 0, group);
}

static uint32_t exhaust_free(const small *p)
{
    const int n_bits = p->L + (p->n - 1) * p->R;
    uint32_t least = UINT32_MAX;
    for (uint64_t bits = 0; bits < (uint64_t)1 << n_bits; bits++) {
        uint32_t c = 0;
        for (int i = 0; i < p->n; i++)
            c += p->cost[i][bits >> (n_bits - p->L - i * p->R) & ((1u << p->L) - 1)];
        least = c < least ? c : least;
    }
    return least;
}

static void test_exhaustive(void **state)
{
    (void)state;
    static const int shapes[][3] = {{4, 1, 10}, {4, 2, 6}, {5, 2, 6}, {6, 2, 5},
                                    {6, 3, 4},  {4, 3, 4}, {6, 4, 3}};
    kq_rng rng = kq_rng_stream(11, "small");
    uint32_t scratch[1024];
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++)
        for (int rep = 0; rep < 6; rep++) {
            small p = {.L = shapes[shape][0], .R = shapes[shape][1], .n = shapes[shape][2]};
            uint16_t states[2 * MAX_STEPS];
            assert_true(kq_viterbi_ref_scratch(p.L, p.R, p.n) <= sizeof scratch);
            fill(&p, &rng, rep % 2 ? 4 : 100000);

            const kq_walk_problem w = {p.L, p.R, p.n, UINT32_MAX, rep > 2, small_cost, &p};
            kq_viterbi_ref_pass(&w, 0, p.n, -1, states, scratch);
            check_walk(&p, states, false);
            assert_int_equal(walk_cost(&p, states), exhaust_free(&p));

            for (long seam = 0; seam < 1 << (p.L - p.R); seam++) {
                kq_viterbi_ref_pass(&w, 0, p.n, seam, states, scratch);
                check_walk(&p, states, true);
                assert_int_equal(states[0] >> p.R, seam);
                assert_int_equal(walk_cost(&p, states), exhaust_closed(&p, seam));
            }
            for (int half = 1; half <= p.n / 2; half++) {
                kq_viterbi_ref(&w, 0, half, states, scratch);
                check_walk(&p, states, true);
                uint32_t c = walk_cost(&p, states);
                assert_int_equal(c, exhaust_closed(&p, states[0] >> p.R));
                assert_true(c >= exhaust_closed(&p, -1));
                /* the seam elsewhere */
                kq_viterbi_ref(&w, p.n - 2, half, states, scratch);
                check_walk(&p, states, true);
                c = walk_cost(&p, states);
                assert_int_equal(c, exhaust_closed_at(&p, p.n - 2, states[p.n - 2] >> p.R));
                assert_true(c >= exhaust_closed(&p, -1));
            }
        }
}

/* Equal costs everywhere: the lowest state wins at every choice. */
static void test_ties(void **state)
{
    (void)state;
    small p = {.L = 6, .R = 2, .n = 6};
    uint32_t scratch[1024];
    uint16_t states[2 * MAX_STEPS] = {0};
    kq_viterbi_ref(&(kq_walk_problem){p.L, p.R, p.n, UINT32_MAX, false, small_cost, &p}, 0, 3, states,
                   scratch);
    for (int i = 0; i < p.n; i++)
        assert_int_equal(states[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exhaustive), cmocka_unit_test(test_ties)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
