/* A copy of a GGUF with other scales: which bytes change, and to what. The file is
 * tests/golden/tune_blocks.gguf (scripts/make_golden_tune.py), whose linears have eleven block types. */
#include <math.h>

#include "check.h"

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "checkpoint/tuned_gguf.h"
#include "format/block_scales.h"

static const char copy[] = "tuned_copy.gguf";

/* Factors of 1, but `by` for one row of one matrix, or for all of a norm. */
typedef struct factors {
    const kq_source *src;
    const char *name;
    size_t row;
    float by, *theta;
} factors;

static const float *factors_of(void *ctx, const char *name)
{
    factors *f = ctx;
    if (strcmp(name, f->name))
        return NULL;
    const kq_tensor *t = kq_source_find(f->src, name);
    const kq_block_scales s = kq_block_scales_of(t->dtype);
    const size_t n = t->rank == 1 ? t->n_elem : t->n_elem / s.elems * s.n,
                 per_row = t->rank == 1 ? 1 : n / t->shape[0];
    kq_free(f->theta);
    f->theta = kq_alloc(n, sizeof(float));
    for (size_t i = 0; i < n; i++)
        f->theta[i] = t->rank == 1 || i / per_row == f->row ? f->by : 1;
    return f->theta;
}

static void open_source(kq_source **src)
{
    char path[512];
    kq_error err;
    snprintf(path, sizeof path, "%s/tune_blocks.gguf", KRONQ_GOLDEN_DIR);
    check_ok(kq_source_open(path, src, &err));
}

static kq_status save(const kq_source *src, factors *f, kq_tuned_gguf_saved *saved, kq_error *err)
{
    f->src = src;
    const kq_status st = kq_tuned_gguf_save(
        &(kq_tuned_gguf){.src = src, .path = copy, .factors = factors_of, .ctx = f}, saved, err);
    kq_free(f->theta);
    f->theta = NULL;
    return st;
}

/* Every linear in turn: one row twice as large (a power of two, so that nothing is rounded), in the order of
 * rows in which a model is read, and everything else as it was. */
static void test_one_row(void **state)
{
    (void)state;
    kq_source *src, *new;
    kq_error err;
    kq_tuned_gguf_saved saved;
    open_source(&src);
    const kq_config *cfg = kq_source_config(src);
    for (size_t i = 0; i < kq_model_n_linears(cfg); i++) {
        const kq_model_tensor linear = kq_model_linear_at(cfg, i);
        factors f = {.name = linear.name, .row = 5 + i, .by = 2};
        check_ok(save(src, &f, &saved, &err));
        assert_int_equal(saved.n_kept, 0);
        check_ok(kq_source_open(copy, &new, &err));
        for (size_t k = 0; k < kq_source_n_tensors(src); k++) {
            const kq_tensor *a = kq_source_tensor(src, k), *b = kq_source_tensor(new, k);
            const size_t rows = a->shape[0], n = a->n_elem;
            float *x = kq_alloc(n, sizeof *x), *y = kq_alloc(n, sizeof *y);
            check_ok(kq_source_read_f32(src, a, 0, rows, x, &err));
            check_ok(kq_source_read_f32(new, b, 0, rows, y, &err));
            for (size_t j = 0; j < n; j++) {
                const bool doubled = !strcmp(a->name, f.name) && j / (n / rows) == f.row;
                if (y[j] != (doubled ? 2 : 1) * x[j])
                    fail_msg("%s[%zu]: %g, was %g", a->name, j, (double)y[j], (double)x[j]);
            }
            kq_free(x);
            kq_free(y);
        }
        kq_source_close(new);
        check_ok(kq_tuned_gguf_compare(src, copy, &err));
    }
    kq_source_close(src);
}

/* Numbers that F16 cannot hold stay as they are; a factor that is no number is refused. */
static void test_beyond_f16(void **state)
{
    (void)state;
    kq_source *src;
    kq_error err;
    kq_tuned_gguf_saved saved;
    open_source(&src);
    const kq_config *cfg = kq_source_config(src);
    const kq_model_tensor v = kq_model_linear(cfg, 0, KQ_V); /* Q6_K: one block a row, one number a block */
    const float beyond[] = {1e12f, 1e-9f, -1e12f, INFINITY};
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        factors f = {.name = v.name, .row = 3, .by = beyond[i]};
        check_ok(save(src, &f, &saved, &err));
        assert_int_equal(saved.n_kept, 1);
        kq_map a, b;
        check_ok(kq_map_open(kq_source_path(src), &a, &err));
        check_ok(kq_map_open(copy, &b, &err));
        assert_int_equal(a.size, b.size);
        assert_int_equal(a.size, saved.file_bytes);
        assert_memory_equal(a.data, b.data, a.size);
        kq_map_close(&a);
        kq_map_close(&b);
    }
    remove(copy);
    factors nan = {.name = v.name, .row = 3, .by = NAN};
    assert_int_equal(save(src, &nan, &saved, &err), KQ_E_NUMERIC);
    factors norm = {.name = "model.norm.weight", .by = INFINITY};
    assert_int_equal(save(src, &norm, &saved, &err), KQ_E_NUMERIC);
    assert_false(kq_path_exists(copy));
    kq_source_close(src);
}

/* A copy with another integer, another key or another length is none. */
static void test_compare(void **state)
{
    (void)state;
    kq_source *src;
    kq_error err;
    kq_map map;
    open_source(&src);
    check_ok(kq_map_open(kq_source_path(src), &map, &err));
    uint8_t *bytes = kq_alloc(map.size, 1);
    const kq_tensor *t = kq_source_find(src, kq_model_linear(kq_source_config(src), 0, KQ_K).name);
    /* the file is mapped twice: find the tensor's place by its bytes */
    size_t at = 0;
    while (memcmp(map.data + at, t->data, t->size_bytes))
        at++;
    const struct {
        size_t at, size;
        kq_status want;
    } cases[] = {
        {at, map.size, KQ_OK}, /* Q4_0's d */
        {at + 1, map.size, KQ_OK},  {at + 2, map.size, KQ_E_MISMATCH}, {at + 17, map.size, KQ_E_MISMATCH},
        {at + 18, map.size, KQ_OK}, {60, map.size, KQ_E_MISMATCH},     {at, map.size - 1, KQ_E_MISMATCH}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(bytes, map.data, map.size);
        bytes[cases[i].at] ^= 1;
        check_ok(kq_file_write(copy, bytes, cases[i].size, &err));
        assert_int_equal(kq_tuned_gguf_compare(src, copy, &err), cases[i].want);
    }
    remove(copy);
    kq_free(bytes);
    kq_map_close(&map);
    kq_source_close(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_row), cmocka_unit_test(test_beyond_f16),
                                       cmocka_unit_test(test_compare)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
