/* Factor files: what is written comes back; damage and strangers are refused. */
#include "sweep/common.h"

static kq_lack lack;

/* Random, symmetric, with a diagonal that a factor may have. */
static void symmetric(kq_rng *rng, float *H, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++)
            H[i * n + j] = H[j * n + i] = (float)kq_rng_normal(rng) + (i == j ? 8 : 0);
}

static void factors_come_back(void **state)
{
    (void)state;
    kq_error err;
    enum { M = 5, N = 9 };
    kq_rng rng = kq_rng_stream(2, "factors");
    float H_in[2][N * N], H_out[M * M], in[N * N], out[M * M];
    const kq_factor_report r = {.products = 3, .converged = true, .trace_product = 2.5};
    char paths[2][256], file[256], shard[300];
    char *parts[2] = {paths[0], paths[1]};
    symmetric(&rng, H_in[0], N);
    symmetric(&rng, H_in[1], N);
    symmetric(&rng, H_out, M);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        for (int p = 0; p < 2; p++) {
            kq_factor_part *part = kq_factor_part_new(bf16);
            temp_path(paths[p], p ? "part1" : "part0");
            check_ok(kq_factor_part_add(part, p ? "layers.1.b" : "layers.0.a", H_in[p], N, p ? NULL : H_out,
                                        M, &r, &err));
            check_ok(kq_factor_part_write(part, paths[p], &err));
            kq_factor_part_free(part);
        }
        for (int sharded = 0; sharded < 2; sharded++) {
            size_t bytes;
            kq_factor_file *f;
            bool has_out;
            temp_path(file, sharded ? "f-sharded" : "f-whole");
            check_ok(
                kq_factors_gather(file, parts, 2, "{\"model\": \"m\"}", sharded ? 1 : 1 << 20, &bytes, &err));
            assert_int_equal(bytes, (2 * N * (N + 1) / 2 + M * (M + 1) / 2) * (bf16 ? 2 : 4));
            check_ok(kq_factor_file_open(file, &f, &err));
            assert_string_equal(kq_factor_file_settings(f), "{\"model\": \"m\"}");
            for (int p = 0; p < 2; p++) {
                check_ok(kq_factor_file_read(f, p ? "layers.1.b" : "layers.0.a", M, N, in, out, &has_out,
                                             &lack, &err));
                assert_true(has_out == !p);
                check_close(in, H_in[p], N * N, bf16 ? 0.004 : 0); /* bf16 keeps 8 bits */
                if (has_out)
                    check_close(out, H_out, M * M, bf16 ? 0.004 : 0);
            }
            check_ok(kq_factor_file_check(f, "layers.0.a", M, N, true, &lack, &err));
            check_ok(kq_factor_file_check(f, "layers.1.b", M, N, false, &lack, &err));
            check_fails(kq_factor_file_check(f, "layers.1.b", M, N, true, &lack, &err), KQ_E_MISMATCH,
                        "no layers.1.b.H_out");
            check_fails(kq_factor_file_check(f, "layers.2.c", M, N, false, &lack, &err), KQ_E_MISMATCH,
                        "holds no factors of layers.2.c");
            check_fails(kq_factor_file_check(f, "layers.0.a", M + 1, N, true, &lack, &err), KQ_E_SHAPE,
                        "a triangle of order 6");
            check_fails(kq_factor_file_check(f, "layers.0.a", M, N - 1, true, &lack, &err), KQ_E_SHAPE,
                        "a triangle of order 8");
            check_fails(kq_factor_file_read(f, "layers.2.c", M, N, in, out, &has_out, &lack, &err),
                        KQ_E_MISMATCH, "holds no factors of layers.2.c");
            check_fails(kq_factor_file_read(f, "layers.0.a", M, N - 1, in, out, &has_out, &lack, &err),
                        KQ_E_SHAPE, "a triangle of order 8");
            kq_factor_file_close(f);
            snprintf(shard, sizeof shard, "%s-00002-of-00002.safetensors", file);
            assert_true(kq_path_exists(shard) == (sharded == 1));
            if (sharded) {
                unlink(shard);
                check_fails(kq_factor_file_open(file, &f, &err), KQ_E_IO, "00002-of-00002");
            }
        }
    }
    H_in[0][3] = H_in[0][3 * N] = NAN;
    kq_factor_part *part = kq_factor_part_new(false);
    kq_factor_file *f;
    bool has_out;
    size_t bytes;
    check_ok(kq_factor_part_add(part, "layers.0.a", H_in[0], N, NULL, M, &r, &err));
    check_ok(kq_factor_part_write(part, paths[0], &err));
    kq_factor_part_free(part);
    check_ok(kq_factors_gather(file, parts, 1, "{}", 1 << 20, &bytes, &err));
    check_ok(kq_factor_file_open(file, &f, &err));
    check_fails(kq_factor_file_read(f, "layers.0.a", M, N, in, out, &has_out, &lack, &err), KQ_E_NUMERIC,
                "layers.0.a.H_in[6]");
    kq_factor_file_close(f);
    const char *const bad[] = {"{\"kronq.factors\": \"{}\", \"files\": [\"../x\"]}",
                               "{\"kronq.factors\": \"{}\", \"files\": []}", "{\"files\": [\"x\"]}",
                               "{\"kronq.factors\": \"{}\", \"files\": [7]}",
                               "{\"kronq.factors\": 1, \"files\": [\"x\"]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temp_write(file, bad[i]);
        check_fails(kq_factor_file_open(file, &f, &err), KQ_E_FORMAT, file);
    }
    temp_write(file, "");
    assert_int_not_equal(kq_factor_file_open(file, &f, &err), KQ_OK);
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_come_back),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
