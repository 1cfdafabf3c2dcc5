/* Samples from memory, from a file, or made again give the same factors; sources that fail; threads and
 * memory. */
#include "fisher/samples.h"

static void threads_and_memory(void **state)
{
    (void)state;
    size_t D = 3, m = 400, n = 100;
    sample_set s = samples(D, m, n, 60);
    float *H[3][2];
    for (int method = 0; method < 2; method++)
        for (int way = 0; way < 3; way++) {
            kq_factor_options opt = kq_factor_defaults();
            opt.method = method ? KQ_FASTKRON : KQ_FLIPFLOP;
            opt.compute = way == 1 ? KQ_BF16 : KQ_F32;
            opt.exact = way == 0;
            opt.max_iter = 2;
            opt.rounds = 2;
            for (int t = 0; t < 3; t++) {
                H[t][0] = zeroed(n * n, sizeof(float));
                H[t][1] = zeroed(m * m, sizeof(float));
                opt.threads = t + 1;
                allocated = 0;
                check_ok(kq_factors(&s.G, &opt, H[t][0], H[t][1], NULL, NULL, NULL, &err));
                assert_int_equal(allocated, kq_factors_bytes(&s.G, &opt));
                assert_memory_equal(H[t][0], H[0][0], n * n * sizeof(float));
                assert_memory_equal(H[t][1], H[0][1], m * m * sizeof(float));
            }
            for (int t = 0; t < 3; t++) {
                free(H[t][0]);
                free(H[t][1]);
            }
        }
    kq_factor_options opt = kq_factor_defaults();
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 10000, .m = 576, .n = 1536}, &opt) <= (size_t)300
                                                                                                << 20);
    opt.exact = true;
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 10000, .m = 576, .n = 1536}, &opt) <= (size_t)300
                                                                                                << 20);
    opt.compute = KQ_BF16;
    assert_true(kq_factors_bytes(&(kq_gradients){.D = 96, .m = 1536, .n = 576}, &opt) <= (size_t)300 << 20);
    free_samples(s);
}

/* A source that keeps nothing in memory: a file, or samples made again from their number. */
typedef struct other_source {
    const sample_set *s;
    FILE *file;
    size_t next, longest;
} other_source;

static kq_status read_samples(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *e)
{
    other_source *o = ctx;
    const size_t mn = o->s->G.m * o->s->G.n;
    /* in order, all of them or as many as are asked for */
    assert_true((!first || first == o->next) && first + count <= o->s->G.D);
    o->next = (first + count) % o->s->G.D;
    o->longest = count > o->longest ? count : o->longest;
    if (!o->file) {
        memcpy(g, o->s->bits + first * mn, count * mn * 2);
        return KQ_OK;
    }
    if (fseek(o->file, (long)(first * mn * 2), SEEK_SET) || fread(g, mn * 2, count, o->file) != count)
        return kq_fail(e, KQ_E_IO, "the file ends early");
    return KQ_OK;
}

/* Samples of several sources in uneven groups, taken in turn. */
typedef struct many_sources {
    const sample_set *s;
    size_t count, group[3], passes, given[3];
} many_sources;

static kq_status pass_over(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    many_sources *o = ctx;
    size_t at[3] = {0}, D = o->s[0].G.D;
    o->passes++;
    kq_status status = KQ_OK;
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < o->count && !status; i++) {
            size_t count = D - at[i] < o->group[i] ? D - at[i] : o->group[i];
            if (!(to->wanted >> i & 1) || at[i] == D)
                continue;
            status = to->add(to, i, o->s[i].bits + at[i] * o->s[i].G.m * o->s[i].G.n, count, e);
            at[i] += count;
            o->given[i] += count;
            more = more || (at[i] < D && to->wanted >> i & 1);
            if (status)
                return status;
        }
    }
    return KQ_OK;
}

/* In memory, from a file, made again, and side by side with other layers in groups of any size: the same
 * bytes, at any number of threads. */
static void sources_agree(void **state)
{
    (void)state;
    static const size_t sizes[3][2] = {{80, 200}, {130, 30}, {1, 9}};
    enum { D = 41, EARLY = 12 };
    sample_set s[3];
    float *want[4][2], *got[4][2];
    for (size_t i = 0; i < 3; i++)
        s[i] = samples(D, sizes[i][0], sizes[i][1], 300 + i);
    for (int variant = 0; variant < 4; variant++) {
        kq_factor_options opt[4];
        static const kq_method methods[4] = {KQ_FLIPFLOP, KQ_FASTKRON, KQ_YAQA_B, KQ_DIAG};
        kq_factor_report report[4];
        kq_stream_linear linears[4];
        for (size_t i = 0; i < 4; i++) { /* the fourth is another estimate of the first layer */
            opt[i] = kq_factor_defaults();
            opt[i].method = methods[(i + (size_t)variant) % 4];
            opt[i].compute = variant == 2 ? KQ_BF16 : KQ_F32;
            opt[i].exact = variant == 3;
            opt[i].max_iter = 3;
            opt[i].rounds = 2;
            opt[i].early = EARLY;
            opt[i].chunk_bytes = (size_t)300 << 10; /* several chunks, the last shorter */
            opt[i].threads = 1;
            const sample_set *mine = &s[i % 3];
            const size_t m = mine->G.m, n = mine->G.n;
            for (int k = 0; k < 2; k++) {
                want[i][k] = zeroed(k ? m * m : n * n, sizeof(float));
                got[i][k] = zeroed(k ? m * m : n * n, sizeof(float));
            }
            check_ok(kq_factors(&mine->G, &opt[i], want[i][0], want[i][1], &report[i], NULL, NULL, &err));
            kq_product_plan plan;
            assert_true(kq_product_size(&plan, &mine->G, opt[i].compute, true, 1, opt[i].chunk_bytes, false));
            assert_true(i % 3 != 0 || plan.chunk < D);
            for (int way = 0; way < 2; way++) {
                other_source o = {.s = mine, .file = way ? tmpfile() : NULL};
                if (o.file)
                    assert_int_equal(fwrite(mine->bits, m * n * 2, D, o.file), D);
                kq_gradients G = {.D = D, .m = m, .n = n, .read = read_samples, .ctx = &o};
                kq_factor_report r;
                opt[i].threads = 2 + way;
                allocated = 0;
                check_ok(kq_factors(&G, &opt[i], got[i][0], got[i][1], &r, NULL, NULL, &err));
                assert_int_equal(allocated, kq_factors_bytes(&G, &opt[i]));
                assert_memory_equal(got[i][0], want[i][0], n * n * sizeof(float));
                assert_memory_equal(got[i][1], want[i][1], m * m * sizeof(float));
                assert_true(r.products == report[i].products && r.residual == report[i].residual &&
                            r.flop == report[i].flop);
                assert_int_equal(o.longest, kq_product_size(&plan, &mine->G, opt[i].compute,
                                                            opt[i].exact || opt[i].method != KQ_FLIPFLOP, 1,
                                                            opt[i].chunk_bytes, false)
                                                ? plan.chunk
                                                : 0);
                if (o.file)
                    fclose(o.file);
                memset(got[i][0], 0, n * n * sizeof(float));
            }
            linears[i] = (kq_stream_linear){.source = i % 3,
                                            .D = D,
                                            .m = m,
                                            .n = n,
                                            .opt = &opt[i],
                                            .H_in = got[i][0],
                                            .H_out = got[i][1]};
        }
        for (size_t g = 0; g < 3; g++) {
            many_sources o = {.s = s, .count = 3, .group = {1 + 3 * g, g == 1 ? D : 2, 5}};
            size_t longest = 0;
            for (size_t i = 0; i < 4; i++) {
                opt[i].threads = 1 + (int)g;
                longest = (size_t)report[i].products > longest ? (size_t)report[i].products : longest;
            }
            allocated = 0;
            check_ok(kq_factors_stream(linears, 4, pass_over, &o, NULL, NULL, &err));
            assert_int_equal(allocated, kq_factors_stream_bytes(linears, 4));
            assert_int_equal(o.passes, longest);
            size_t first =
                (size_t)(report[0].products > report[3].products ? report[0].products : report[3].products);
            assert_int_equal(o.given[0], D * first); /* a finished layer is asked for no more */
            const size_t early = (EARLY + o.group[1] - 1) / o.group[1] * o.group[1];
            assert_int_equal(o.given[1], opt[1].method == KQ_FLIPFLOP ? 2 * D + 2 * (early < D ? early : D)
                                                                      : D * (size_t)report[1].products);
            for (size_t i = 0; i < 4; i++) {
                const size_t m = linears[i].m, n = linears[i].n;
                assert_memory_equal(got[i][0], want[i][0], n * n * sizeof(float));
                assert_memory_equal(got[i][1], want[i][1], m * m * sizeof(float));
                assert_int_equal(linears[i].report.products, report[i].products);
                assert_true(linears[i].report.trace_product == report[i].trace_product);
            }
        }
        for (size_t i = 0; i < 4; i++)
            for (int k = 0; k < 2; k++) {
                free(want[i][k]);
                free(got[i][k]);
            }
    }
    for (size_t i = 0; i < 3; i++)
        free_samples(s[i]);
}

static kq_status short_pass(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    const sample_set *s = ctx;
    return to->add(to, 0, s->bits, s->G.D - 1, e);
}

static kq_status long_pass(void *ctx, kq_gradient_sink *to, kq_error *e)
{
    const sample_set *s = ctx;
    kq_status status = to->add(to, 0, s->bits, s->G.D, e);
    return status ? status : to->add(to, 0, s->bits, 1, e);
}

static kq_status no_samples(void *ctx, size_t first, size_t count, uint16_t *g, kq_error *e)
{
    (void)ctx, (void)first, (void)count, (void)g;
    return kq_fail(e, KQ_E_IO, "the disk is gone");
}

static void sources_fail(void **state)
{
    (void)state;
    sample_set s = samples(5, 4, 3, 310);
    float H_in[9], H_out[16];
    kq_factor_options opt = kq_factor_defaults();
    kq_stream_linear l = {.D = 5, .m = 4, .n = 3, .opt = &opt, .H_in = H_in, .H_out = H_out};
    check_fails(kq_factors_stream(&l, 1, short_pass, &s, NULL, NULL, &err), KQ_E_ARG,
                "5 samples ends after 4");
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "is given 1 after 5");
    l.D = 4;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "is given 5");
    l.D = 5;
    l.source = 64;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_ARG, "source 64");
    check_fails(kq_factors(&(kq_gradients){.D = 5, .m = 4, .n = 3, .read = no_samples}, &opt, H_in, H_out,
                           NULL, NULL, NULL, &err),
                KQ_E_IO, "disk is gone");
    check_fails(
        kq_factors(&(kq_gradients){.D = 5, .m = 4, .n = 3}, &opt, H_in, H_out, NULL, NULL, NULL, &err),
        KQ_E_ARG, "neither");
    l.source = 0;
    s.bits[4 * 12 + 5] = 0x7fc0;
    check_fails(kq_factors_stream(&l, 1, long_pass, &s, NULL, NULL, &err), KQ_E_NUMERIC, "sample 4 ");
    free_samples(s);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_and_memory),
        cmocka_unit_test(sources_agree),
        cmocka_unit_test(sources_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
