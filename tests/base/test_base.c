/* The base room against independent references: converters by arithmetic on the values they stand for,
 * random numbers and hashes by published vectors, files by what the system then shows. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/first_error.h"
#include "base/hash.h"
#include "base/isa.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/rng.h"
#include "base/time.h"
#include "base/warn.h"

static char dir[] = "test_base_XXXXXX"; /* in the working folder; made by setup, removed by teardown */

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(dir); /* fails, rightly, when a test left a file behind */
}

static void in_dir(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", dir, name);
}

/* ---- errors ---- */

static void test_fail(void **state)
{
    (void)state;
    kq_error err = {0};
    assert_int_equal(kq_fail(&err, KQ_E_SHAPE, "%s: %d rows", "a.bin", 7), KQ_E_SHAPE);
    assert_int_equal(err.status, KQ_E_SHAPE);
    assert_string_equal(err.message, "a.bin: 7 rows");
    assert_int_equal(kq_fail(NULL, KQ_E_IO, "%s", "x"), KQ_E_IO);

    /* what a file may have put into a name: line feeds, an escape sequence, delete; letters of other
     * scripts stay */
    kq_fail(&err, KQ_E_FORMAT, "name \"%s\"", "a\nb\r\t\x1b[31mc\x7f\x01 \xc3\xa9");
    assert_string_equal(err.message, "name \"a?b???[31mc?? \xc3\xa9\"");

    /* longer than the message holds: cut, terminated, nothing written past it */
    struct {
        kq_error err;
        char guard[16];
    } room;
    memset(&room, 0x5a, sizeof room);
    char *text = malloc(5001);
    assert_non_null(text);
    memset(text, 'x', 5000);
    text[5000] = 0;
    kq_fail(&room.err, KQ_E_IO, "%s", text);
    free(text);
    assert_int_equal(strlen(room.err.message), sizeof room.err.message - 1);
    for (size_t i = 0; i < sizeof room.guard; i++)
        assert_int_equal(room.guard[i], 0x5a);
}

/* ---- warnings ---- */

static void keep_warning(void *ctx, const char *message)
{
    snprintf(ctx, 1024, "%s", message);
}

static void test_warn(void **state)
{
    (void)state;
    char got[1024] = "";
    kq_warn("nobody listens");
    kq_set_warning_handler(keep_warning, got);
    kq_warn("%s: %d\n\x1b[1m", "a.bin", 7);
    assert_string_equal(got, "a.bin: 7??[1m");
    kq_set_warning_handler(NULL, NULL);
    kq_warn("nobody listens again");
    assert_string_equal(got, "a.bin: 7??[1m");
}

/* ---- memory ---- */

static void test_sizes(void **state)
{
    (void)state;
    size_t r = 42;
    assert_true(kq_mul_size(6, 7, &r) && r == 42);
    assert_true(kq_mul_size(SIZE_MAX, 1, &r) && r == SIZE_MAX);
    assert_true(kq_mul_size(SIZE_MAX, 0, &r) && r == 0);
    r = 42;
    assert_false(kq_mul_size(SIZE_MAX / 2 + 1, 2, &r));
    assert_false(kq_mul_size((size_t)1 << 32, (size_t)1 << 32, &r));
    assert_false(kq_add_size(SIZE_MAX, 1, &r));
    assert_int_equal(r, 42);
    assert_true(kq_add_size(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX);
}

static void test_alloc(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *a = kq_alloc(sizes[i], 1), *b = kq_calloc(sizes[i], 1);
        assert_non_null(a);
        assert_non_null(b);
        assert_int_equal((uintptr_t)a % 64, 0);
        assert_int_equal((uintptr_t)b % 64, 0);
        memset(a, 1, sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++)
            assert_int_equal(b[j], 0);
        kq_free(a);
        kq_free(b);
    }
    kq_free(NULL);
    assert_null(kq_alloc(SIZE_MAX, 2));
    assert_null(kq_alloc(SIZE_MAX - 10, 1)); /* overflows only when rounded up to 64 */
    assert_null(kq_calloc(SIZE_MAX / 8, 16));
    kq_error err = {0};
    void *block = &err;
    check_fails(kq_alloc_for(&block, SIZE_MAX / 4, 8, "a layer", &err), KQ_E_MEMORY, "a layer");
    assert_null(block);
    check_ok(kq_alloc_for(&block, 3, 8, "a layer", &err));
    kq_free(block);

    /* injected failures: the third allocation from now, once */
    kq_alloc_fail_after(3);
    void *a = kq_alloc(1, 1), *b = kq_calloc(1, 1), *c = kq_alloc(1, 1), *d = kq_alloc(1, 1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    kq_alloc_fail_after(1);
    check_fails(kq_alloc_for(&block, 1, 1, "a thing", &err), KQ_E_MEMORY, "a thing");
    kq_alloc_fail_after(1);
    kq_alloc_fail_after(0);
    void *e = kq_alloc(1, 1);
    assert_non_null(e);
    kq_free(a);
    kq_free(b);
    kq_free(d);
    kq_free(e);
}

static void test_peak(void **state)
{
    (void)state;
    size_t before = kq_peak_rss_bytes(), size = (size_t)64 << 20;
    assert_true(before > 100000);
    volatile char *block = kq_alloc(size, 1);
    assert_non_null(block);
    for (size_t i = 0; i < size; i += 4096)
        block[i] = 1;
    size_t during = kq_peak_rss_bytes();
    kq_free((void *)block);
    size_t after = kq_peak_rss_bytes();
    if (during < before + size / 2 ||
        after < before + size / 2) /* the system counts pages in batches: not exact to the byte */
        fail_msg("peak %zu, with 64 MB more %zu, freed %zu", before, during, after);

    /* Started anew it forgets what was given back: to the system, since an allocator may keep it (ASan's
     * does). */
    volatile char *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    for (size_t i = 0; i < size; i += 4096)
        pages[i] = 1;
    during = kq_peak_rss_bytes();
    munmap((void *)pages, size);
    if (kq_peak_rss_reset())
        assert_true(kq_peak_rss_bytes() < during - size / 2);
    else
        print_message("the system does not let the peak be reset\n");
}

static void test_time(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(kq_duration(599.4, text), "599 s");
    assert_string_equal(kq_duration(600, text), "10 min");
    assert_string_equal(kq_duration(7199, text), "120 min");
    assert_string_equal(kq_duration(9000, text), "2.5 h");
    double t0 = kq_now_s();
    usleep(20000);
    double t1 = kq_now_s();
    assert_true(t1 - t0 >= 0.0199 && t1 - t0 < 30);
}

/* ---- half floats ---- */

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* The value a pattern stands for, from the definition: `e` exponent bits with bias 2^(e-1) - 1, `m`
 * mantissa bits. */
static double value_of(uint16_t h, int e, int m)
{
    int exponent = (h >> m) & ((1 << e) - 1), mantissa = h & ((1 << m) - 1), bias = (1 << (e - 1)) - 1;
    double v = exponent == 0              ? ldexp(mantissa, 1 - bias - m)
               : exponent == (1 << e) - 1 ? (mantissa ? (double)NAN : (double)INFINITY)
                                          : ldexp((1 << m) + mantissa, exponent - bias - m);
    return h & 0x8000 ? -v : v;
}

static void check_half(const char *name, int e, int m, float (*to_f32)(uint16_t), uint16_t (*from_f32)(float))
{
    uint16_t inf = (uint16_t)(((1 << e) - 1) << m);
    for (uint32_t h = 0; h < 65536; h++) {
        double want = value_of((uint16_t)h, e, m);
        float got = to_f32((uint16_t)h);
        if (isnan(want)) {
            if (!isnan(got) || !isnan(to_f32(from_f32(got))))
                fail_msg("%s 0x%04x: a NaN became %g", name, h, (double)got);
            continue;
        }
        if ((double)got != want || !!signbit(got) != !!(h & 0x8000))
            fail_msg("%s 0x%04x is %.9g, want %.9g", name, h, (double)got, want);
        if (from_f32(got) != h)
            fail_msg("%s 0x%04x comes back as 0x%04x", name, h, from_f32(got));
        if ((h & 0x7fff) >= inf)
            continue;
        /* Rounding between h and its neighbour away from zero: the middle goes to the even pattern, one
         * float beside it to the nearer. Beyond the largest finite value the neighbour counts as the
         * next power of two (IEEE 754, 4.3.1). */
        double next = (h & 0x7fff) + 1 == inf ? (h & 0x8000 ? -1 : 1) * ldexp(1, 1 << (e - 1))
                                              : value_of((uint16_t)(h + 1), e, m);
        double middle = want + (next - want) / 2;
        float mid = (float)middle;
        assert_true((double)mid == middle); /* one mantissa bit more than h: exact in f32 */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        if (from_f32(mid) != even || from_f32(nextafterf(mid, (float)want)) != h ||
            from_f32(nextafterf(mid, (float)(2 * next))) != h + 1)
            fail_msg("%s: rounding around %.9g gives 0x%04x 0x%04x 0x%04x, want 0x%04x 0x%04x 0x%04x", name,
                     middle, from_f32(nextafterf(mid, (float)want)), from_f32(mid),
                     from_f32(nextafterf(mid, (float)(2 * next))), h, even, h + 1);
    }
    assert_int_equal(from_f32(INFINITY), inf);
    assert_int_equal(from_f32(-INFINITY), inf | 0x8000);
    assert_int_equal(from_f32(3.4028234664e38f), inf);
    assert_int_equal(from_f32(-0.0f), 0x8000);
    assert_int_equal(from_f32(1e-45f), 0); /* far below half the smallest */
    for (uint32_t payload = 1; payload < 0x800000;
         payload = payload * 3 + 1) { /* every NaN stays one, also with low bits only */
        uint32_t u = 0x7f800000u | payload;
        float f;
        memcpy(&f, &u, 4);
        if (!isnan(to_f32(from_f32(f))))
            fail_msg("%s: NaN 0x%08x became 0x%04x", name, u, from_f32(f));
    }
}

/* inline and out-of-line converters alike */
static float bf16_to(uint16_t h)
{
    return kq_bf16_to_f32(h);
}
static uint16_t bf16_from(float f)
{
    return kq_f32_to_bf16(f);
}

static void test_f16(void **state)
{
    (void)state;
    check_half("f16", 5, 10, kq_f16_to_f32, kq_f32_to_f16);
}

static void test_bf16(void **state)
{
    (void)state;
    check_half("bf16", 8, 7, bf16_to, bf16_from);
}

static void test_half_arrays(void **state)
{
    (void)state;
    enum { N = 1031 }; /* odd, so that vector tails are met */
    uint16_t src[N + 1], back[N + 1];
    float dst[N + 1];
    for (size_t i = 0; i <= N; i++)
        src[i] = (uint16_t)(i * 40503u);
    for (size_t n = 0; n <= N; n += n < 40 ? 1 : 191) {
        dst[n] = 123.0f;
        kq_bf16_to_f32_n(src, dst, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(bits_of(dst[i]), bits_of(kq_bf16_to_f32(src[i])));
        assert_true(dst[n] == 123.0f);
        back[n] = 99;
        kq_f32_to_bf16_n(dst, back, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(back[i], kq_f32_to_bf16(dst[i]));
        assert_int_equal(back[n], 99);
        kq_f16_to_f32_n(src, dst, n);
        for (size_t i = 0; i < n; i++)
            assert_true(bits_of(dst[i]) == bits_of(kq_f16_to_f32(src[i])) || isnan(dst[i]));
        assert_true(dst[n] == 123.0f);
    }
}

/* ---- random numbers ---- */

static void test_rng_golden(void **state)
{
    (void)state;
    /* key 0 is Vigna's SplitMix64 with seed 0, whose first outputs are published */
    kq_rng rng = {0};
    assert_int_equal(kq_rng_u64(&rng), 0xe220a8397b1dcdafu);
    assert_int_equal(kq_rng_u64(&rng), 0x6e789e6aa1b965f4u);
    assert_int_equal(kq_rng_u64(&rng), 0x06c45d188009454fu);

    /* streams: by seed and by label, both; the same again; copied, they go on alike (nothing is hidden) */
    kq_rng a = kq_rng_stream(1, "model.layers.0"), b = kq_rng_stream(1, "model.layers.0");
    kq_rng c = kq_rng_stream(2, "model.layers.0"), d = kq_rng_stream(1, "model.layers.1"),
           e = kq_rng_stream(1, "");
    uint64_t x = kq_rng_u64(&a);
    assert_int_equal(x, kq_rng_u64(&b));
    assert_true(x != kq_rng_u64(&c) && x != kq_rng_u64(&d) && x != kq_rng_u64(&e));
    kq_rng copy = a;
    assert_int_equal(kq_rng_u64(&a), kq_rng_u64(&copy));

    /* value i needs no value before it: set the counter and draw */
    kq_rng far = kq_rng_stream(7, "x"), jump = far;
    for (int i = 0; i < 1000; i++)
        kq_rng_u64(&far);
    jump.counter += 1000;
    assert_int_equal(kq_rng_u64(&far), kq_rng_u64(&jump));
}

static void test_rng_distribution(void **state)
{
    (void)state;
    enum { N = 200000, BINS = 64 };
    kq_rng rng = kq_rng_stream(5, "uniform"), other = kq_rng_stream(5, "other"),
           normal = kq_rng_stream(5, "normal");
    size_t bin[BINS] = {0};
    double cross = 0, lag = 0, before = 0, m1 = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double u = kq_rng_uniform(&rng), v = kq_rng_uniform(&other), z = kq_rng_normal(&normal);
        assert_true(u >= 0 && u < 1);
        assert_true(isfinite(z));
        bin[(size_t)(u * BINS)]++;
        cross += (u - 0.5) * (v - 0.5);
        lag += (u - 0.5) * before;
        before = u - 0.5;
        m1 += z;
        m2 += z * z;
        m4 += z * z * z * z;
    }
    double chi2 = 0, want = (double)N / BINS;
    for (int i = 0; i < BINS; i++)
        chi2 += ((double)bin[i] - want) * ((double)bin[i] - want) / want;
    /* 63 degrees of freedom: above 118 with probability 3e-5. Correlations and moments: six standard
     * deviations. Seeds are fixed. */
    if (chi2 > 118)
        fail_msg("uniform numbers: chi-square %g over 64 bins", chi2);
    double sd = sqrt(N) / 12;
    if (fabs(cross) > 6 * sd || fabs(lag) > 6 * sd)
        fail_msg("streams correlate: %g between two, %g with the value before; one standard deviation is %g",
                 cross, lag, sd);
    if (fabs(m1 / N) > 6 / sqrt(N) || fabs(m2 / N - 1) > 6 * sqrt(2.0 / N) ||
        fabs(m4 / N - 3) > 6 * sqrt(96.0 / N))
        fail_msg("normal numbers: moments %g %g %g, want 0 1 3", m1 / N, m2 / N, m4 / N);
}

static void test_rng_signs(void **state)
{
    (void)state;
    enum { N = 100000 };
    static int8_t s[N + 1];
    kq_rng rng = kq_rng_stream(3, "signs");
    s[N] = 77;
    kq_rng_signs(&rng, s, N);
    assert_int_equal(s[N], 77);
    long sum = 0, lag = 0;
    for (int i = 0; i < N; i++) {
        assert_true(s[i] == 1 || s[i] == -1);
        sum += s[i];
        lag += i ? s[i] * s[i - 1] : 0;
    }
    if (labs(sum) > 6 * 317 || labs(lag) > 6 * 317) /* sqrt(N) = 316.2 */
        fail_msg("signs: sum %ld, correlation with the neighbour %ld", sum, lag);
}

/* ---- instruction sets ---- */

static void test_isa(void **state)
{
    (void)state;
    kq_error err = {0};
    kq_isa best = kq_isa_best(), isa;
    assert_int_equal(kq_isa_best(), best);
    const char *had = getenv("KRONQ_ISA");
    char *saved = had ? strdup(had) : NULL;
    for (int i = KQ_ISA_REF; i <= KQ_ISA_AMX; i++) {
        const char *name = kq_isa_name((kq_isa)i);
        if (i <= (int)best) {
            check_ok(kq_isa_pick(name, &isa, &err));
            assert_int_equal(isa, i);
            setenv("KRONQ_ISA", name, 1);
            check_ok(kq_isa_pick(NULL, &isa, &err));
            assert_int_equal(isa, i);
            check_ok(kq_isa_pick("ref", &isa, &err)); /* a name given goes before the environment */
            assert_int_equal(isa, KQ_ISA_REF);
        } else {
            check_fails(kq_isa_pick(name, &isa, &err), KQ_E_UNSUPPORTED, name);
        }
    }
    check_fails(kq_isa_pick("sse9", &isa, &err), KQ_E_ARG, "sse9");
    check_fails(kq_isa_pick("AVX2", &isa, &err), KQ_E_ARG, "AVX2");
    setenv("KRONQ_ISA", "fast", 1);
    check_fails(kq_isa_pick(NULL, &isa, &err), KQ_E_ARG, "KRONQ_ISA");
    unsetenv("KRONQ_ISA");
    check_ok(kq_isa_pick(NULL, &isa, &err));
    assert_int_equal(isa, best);
    if (saved)
        setenv("KRONQ_ISA", saved, 1);
    free(saved);
}

/* ---- files ---- */

static void test_file_round_trip(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], tmp[300];
    in_dir(path, "a.bin");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    /* pieces around the size of a write buffer, so that every path through it is met */
    static const size_t pieces[] = {1, 0, 7, (1 << 20) - 9, 1, 1 << 20, (3 << 20) + 5, 2};
    size_t total = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        total += pieces[i];
    uint8_t *data = malloc(total);
    assert_non_null(data);
    for (size_t i = 0; i < total; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    kq_out *out;
    check_ok(kq_out_open(path, &out, &err));
    size_t at = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; at += pieces[i], i++)
        check_ok(kq_out_write(out, data + at, pieces[i], &err));
    assert_false(kq_path_exists(path)); /* not before it is whole */
    assert_true(kq_path_exists(tmp));
    check_ok(kq_out_commit(out, &err));
    assert_true(kq_path_exists(path));
    assert_false(kq_path_exists(tmp));

    kq_map map;
    check_ok(kq_map_open(path, &map, &err));
    assert_int_equal(map.size, total);
    assert_memory_equal(map.data, data, total);
    assert_string_equal(map.path, path);
    kq_map_close(&map);
    kq_map_close(&map); /* zeroed by the first */
    free(data);

    /* replaced as a whole; and an aborted writer leaves the old file alone and nothing beside it */
    check_ok(kq_file_write(path, "second", 6, &err));
    check_ok(kq_out_open(path, &out, &err));
    check_ok(kq_out_write(out, "third", 5, &err));
    kq_out_abort(out);
    kq_out_abort(NULL);
    assert_false(kq_path_exists(tmp));
    char *text;
    size_t size = 0;
    check_ok(kq_file_read(path, 6, &text, &size, &err));
    assert_int_equal(size, 6);
    assert_string_equal(text, "second"); /* the NUL behind it included */
    kq_free(text);
    check_fails(kq_file_read(path, 5, &text, &size, &err), KQ_E_FORMAT, "a.bin");
    assert_int_equal(unlink(path), 0);
}

static void test_file_refused(void **state)
{
    (void)state;
    kq_error err = {0};
    kq_map map;
    char path[256], *text;
    size_t size = 1;
    in_dir(path, "missing");
    check_fails(kq_map_open(path, &map, &err), KQ_E_IO, "missing");
    assert_non_null(strstr(err.message, strerror(ENOENT)));
    check_fails(kq_map_open(dir, &map, &err), KQ_E_IO, "folder");
    check_fails(kq_map_open("/dev/null", &map, &err), KQ_E_IO, "/dev/null");
    check_fails(kq_map_open("", &map, &err), KQ_E_IO, "");
    check_fails(kq_file_read(path, 100, &text, &size, &err), KQ_E_IO, "missing");
    in_dir(path, "empty");
    check_ok(kq_file_write(path, "", 0, &err));
    check_ok(kq_map_open(path, &map, &err));
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    kq_map_close(&map);
    check_ok(kq_file_read(path, 0, &text, &size, &err));
    assert_int_equal(size, 0);
    assert_string_equal(text, "");
    kq_free(text);
    assert_int_equal(unlink(path), 0);
    kq_out *out;
    in_dir(path, "no/such/folder/x");
    check_fails(kq_out_open(path, &out, &err), KQ_E_IO, "no/such/folder/x");
    in_dir(path, "is_folder"); /* the target is a folder: the rename fails, the temporary goes */
    assert_int_equal(mkdir(path, 0777), 0);
    check_fails(kq_file_write(path, "x", 1, &err), KQ_E_IO, "is_folder");
    assert_int_equal(rmdir(path), 0);
}

static void test_disk_full(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], tmp[300];
    in_dir(path, "big");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    size_t size = 3 << 20;
    char *data = calloc(size, 1);
    assert_non_null(data);
    check_ok(kq_file_write(path, "old", 3, &err));

    /* the temporary is in truth a device without room */
    if (access("/dev/full", W_OK) == 0) {
        for (size_t n = 10; n <= size;
             n += size - 10) { /* found while buffering's last flush, and in the first large write */
            assert_int_equal(symlink("/dev/full", tmp), 0);
            check_fails(kq_file_write(path, data, n, &err), KQ_E_IO, "big");
            assert_non_null(strstr(err.message, strerror(ENOSPC)));
            assert_int_not_equal(access(tmp, F_OK), 0);
        }
    }
    /* a file that may grow to 1 MB and no further */
    struct rlimit was, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    limit = was;
    limit.rlim_cur = 1 << 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    kq_status st = kq_file_write(path, data, size, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    free(data);
    assert_int_equal(st, KQ_E_IO);
    assert_non_null(strstr(err.message, strerror(EFBIG)));
    assert_int_not_equal(access(tmp, F_OK), 0);

    char *text;
    check_ok(kq_file_read(path, 10, &text, &size, &err)); /* the old one is still there, whole */
    assert_string_equal(text, "old");
    kq_free(text);
    assert_int_equal(unlink(path), 0);
}

static void test_paths(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], deep[300], buf[16];
    in_dir(path, "p");
    snprintf(deep, sizeof deep, "%s/q//r/", path);
    check_ok(kq_mkdirs(deep, &err));
    check_ok(kq_mkdirs(deep, &err)); /* again: nothing to do */
    assert_true(kq_path_is_dir(deep));
    snprintf(deep, sizeof deep, "%s/q/r/file", path);
    check_ok(kq_file_write(deep, "x", 1, &err));
    assert_true(kq_path_exists(deep));
    assert_false(kq_path_is_dir(deep));
    check_fails(kq_mkdirs(deep, &err), KQ_E_IO, "file");
    strcat(deep, "/below");
    check_fails(kq_mkdirs(deep, &err), KQ_E_IO, "file");
    snprintf(deep, sizeof deep, "%s/q/r/file", path);
    assert_int_equal(unlink(deep), 0);
    snprintf(deep, sizeof deep, "%s/q/r", path);
    assert_int_equal(rmdir(deep), 0);
    snprintf(deep, sizeof deep, "%s/q", path);
    assert_int_equal(rmdir(deep), 0);
    assert_int_equal(rmdir(path), 0);

    check_ok(kq_path_join(buf, sizeof buf, "a", "b", &err));
    assert_string_equal(buf, "a/b");
    check_ok(kq_path_join(buf, sizeof buf, "a/", "b", &err));
    assert_string_equal(buf, "a/b");
    check_ok(kq_path_join(buf, sizeof buf, "1234567", "1234567", &err)); /* 15 and a NUL: just fits */
    check_fails(kq_path_join(buf, sizeof buf, "1234567", "12345678", &err), KQ_E_ARG, "too long");
}

/* ---- hashes ---- */

/* A tree goes whole; what a link in it points at stays. */
static void test_remove_tree(void **state)
{
    (void)state;
    kq_error err = {0};
    char path[256], kept[256], name[300];
    in_dir(path, "tree");
    in_dir(kept, "kept");
    check_ok(kq_file_write(kept, "x", 1, &err));
    snprintf(name, sizeof name, "%s/a/b", path);
    check_ok(kq_mkdirs(name, &err));
    strcat(name, "/file");
    check_ok(kq_file_write(name, "x", 1, &err));
    snprintf(name, sizeof name, "%s/link", path);
    assert_int_equal(symlink("../kept", name), 0);
    snprintf(name, sizeof name, "%s/a/up", path);
    assert_int_equal(symlink("../..", name), 0);
    check_ok(kq_remove_tree(path, &err));
    assert_false(kq_path_exists(path));
    assert_true(kq_path_exists(kept));
    check_ok(kq_remove_tree(path, &err)); /* nothing there */
    check_ok(kq_remove_tree(kept, &err)); /* a file */
    assert_false(kq_path_exists(kept));
}

static void test_hash(void **state)
{
    (void)state;
    char hex[33], other[33];
    /* the XXH3 of nothing, as the xxHash project publishes it */
    kq_hash *h = kq_hash_new();
    assert_non_null(h);
    kq_hash_finish(h, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    assert_int_equal(kq_hash64("", 0, 0), 0x2d06800538d394c2u);
    assert_true(kq_hash64("", 0, 1) != kq_hash64("", 0, 0));

    /* pieces or whole, the same; one bit changed, or a byte moved over a boundary: another */
    uint8_t data[1000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37);
    h = kq_hash_new();
    assert_non_null(h);
    kq_hash_add(h, data, sizeof data);
    kq_hash_finish(h, hex);
    h = kq_hash_new();
    assert_non_null(h);
    for (size_t i = 0, n = 1; i<sizeof data; i += n, n = n * 2> sizeof data - i ? sizeof data - i : n * 2)
        kq_hash_add(h, data + i, n > sizeof data - i ? sizeof data - i : n);
    kq_hash_finish(h, other);
    assert_string_equal(hex, other);
    data[999] ^= 1;
    h = kq_hash_new();
    assert_non_null(h);
    kq_hash_add(h, data, sizeof data);
    kq_hash_finish(h, other);
    assert_string_not_equal(hex, other);
}

/* Four items fail, the lowest of them last; all below it run whatever is known by then. */
static void test_first_error(void **state)
{
    (void)state;
    enum { N = 24 };
    static const size_t bad[] = {21, 13, 8, 3};
    for (int threads = 1; threads <= 8; threads *= 2) {
        kq_first_error f = KQ_FIRST_ERROR;
        kq_error err;
        int ran[N] = {0};
#pragma omp parallel for schedule(static, 1) num_threads(threads)
        for (size_t i = 0; i < N; i++) {
            kq_error e;
            if (kq_first_error_skip(&f, i))
                continue;
            ran[i] = 1;
            for (size_t k = 0; k < 4; k++)
                if (i == bad[k]) {
                    usleep((useconds_t)(5000 * k));
                    kq_first_error_note(&f, i, kq_fail(&e, k % 2 ? KQ_E_IO : KQ_E_NUMERIC, "item %zu", i),
                                        &e);
                }
            kq_first_error_note(&f, i, KQ_OK, NULL);
        }
        assert_int_equal(kq_first_error_get(&f, &err), KQ_E_IO);
        assert_int_equal(err.status, KQ_E_IO);
        assert_string_equal(err.message, "item 3");
        assert_int_equal(kq_first_error_get(&f, NULL), KQ_E_IO);
        for (size_t i = 0; i <= 3; i++)
            assert_true(ran[i]);
    }
    const kq_first_error none = KQ_FIRST_ERROR;
    assert_true(!kq_first_error_skip(&none, SIZE_MAX - 1));
    assert_int_equal(kq_first_error_get(&none, NULL), KQ_OK);
}

static void test_format(void **state)
{
    (void)state;
    kq_error err;
    char *text, *twice;
    assert_int_equal(kq_format(&text, &err, "%s/%s-%05d", "dir", "block", 12), KQ_OK);
    assert_string_equal(text, "dir/block-00012");
    assert_int_equal(kq_format(&twice, &err, "%s%5000s", text, "x"), KQ_OK);
    assert_int_equal(strlen(twice), 5015);
    kq_free(text);
    kq_free(twice);
    kq_alloc_fail_after(1);
    assert_int_equal(kq_format(&text, &err, "%d", 1), KQ_E_MEMORY);
    assert_null(text);
    kq_alloc_fail_after(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_warn),
        cmocka_unit_test(test_first_error),
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_half_arrays),
        cmocka_unit_test(test_rng_golden),
        cmocka_unit_test(test_rng_distribution),
        cmocka_unit_test(test_rng_signs),
        cmocka_unit_test(test_isa),
        cmocka_unit_test(test_file_round_trip),
        cmocka_unit_test(test_file_refused),
        cmocka_unit_test(test_disk_full),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_remove_tree),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
