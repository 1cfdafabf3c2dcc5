/* The parts that a resumable run stands on (spill files, jobs, seals), calibration windows, factor
 * files, the sweep's gradients against PyTorch's, and the whole of kq_quantize: a packed model predicts
 * what its dequantized weights predict. */
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "check.h"
#include "checkpoint/checkpoint.h"
#include "kern/gemm.h"
#include "kronq.h"
#include "factors/file.h"
#include "sweep/job.h"
#include "sweep/spill.h"
#include "sweep/sweep.h"
#include "quant/tokens.h"

static char dir[64];
static kq_lack lack;

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "quant.XXXXXX");
    return mkdtemp(dir) ? 0 : 1;
}

static int remove_dir(void **state)
{
    (void)state;
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static const char *in_dir(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", dir, name);
    return path;
}

static void write_text(const char *path, const char *text)
{
    kq_error err;
    check_ok(kq_file_write(path, text, strlen(text), &err));
}

static void flip(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    int c = fgetc(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    fputc(c ^ 4, f);
    assert_int_equal(fclose(f), 0);
}

/* ---- spill ---- */

static void spill_round_trip_and_damage(void **state)
{
    (void)state;
    kq_error err;
    kq_spill *s;
    char path[256], tmp[300];
    uint8_t record[3][100], back[100];
    in_dir(path, "spill");
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    for (int i = 0; i < 300; i++)
        record[i / 100][i % 100] = (uint8_t)(i * 7);
    check_ok(kq_spill_create(path, 3, 100, &s, &err));
    for (size_t i = 3; i-- > 0;)
        check_ok(kq_spill_write(s, i, record[i], &err));
    assert_true(!kq_path_exists(path)); /* not before all is written */
    check_ok(kq_spill_commit(s, &err));
    assert_true(kq_path_exists(path) && !kq_path_exists(tmp));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    for (size_t i = 0; i < 3; i++) {
        check_ok(kq_spill_read(s, i, back, &err));
        assert_memory_equal(back, record[i], 100);
    }
    kq_spill_close(s);
    check_fails(kq_spill_open(path, 4, 100, &s, &err), KQ_E_FORMAT, "324 bytes, expected 432");
    check_fails(kq_spill_open("nowhere", 3, 100, &s, &err), KQ_E_IO, "nowhere");
    for (long at = 108; at < 216; at += 9) { /* any byte of record 1, its checksum included */
        flip(path, at);
        check_ok(kq_spill_open(path, 3, 100, &s, &err));
        check_ok(kq_spill_read(s, 0, back, &err));
        check_fails(kq_spill_read(s, 1, back, &err), KQ_E_FORMAT, "record 1 is damaged");
        check_ok(kq_spill_read(s, 2, back, &err));
        kq_spill_close(s);
        flip(path, at);
    }
    /* records that changed places are found out too */
    check_ok(kq_spill_create(path, 2, 100, &s, &err));
    check_ok(kq_spill_write(s, 0, record[0], &err));
    kq_spill_close(s); /* not committed: gone, and the old file is as it was */
    assert_true(!kq_path_exists(tmp));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    kq_spill_close(s);
    char *data;
    size_t size;
    check_ok(kq_file_read(path, 1000, &data, &size, &err));
    char swapped[324];
    memcpy(swapped, data + 108, 108);
    memcpy(swapped + 108, data, 108);
    memcpy(swapped + 216, data + 216, 108);
    kq_free(data);
    check_ok(kq_file_write(path, swapped, sizeof swapped, &err));
    check_ok(kq_spill_open(path, 3, 100, &s, &err));
    check_fails(kq_spill_read(s, 0, back, &err), KQ_E_FORMAT, "damaged");
    kq_spill_close(s);
}

/* ---- job ---- */

static void job_life(void **state)
{
    (void)state;
    kq_error err;
    kq_job a, b;
    char done[256], work[256], path[4400];
    in_dir(done, "result");
    in_dir(work, "result.work");
    const char *settings = "{\"bits\": 2, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}";

    check_ok(kq_job_open(done, work, settings, false, false, &a, &err));
    assert_true(!a.complete && kq_path_is_dir(work));
    check_fails(kq_job_open(done, work, settings, true, false, &b, &err), KQ_E_IO,
                "another kronq is at work");
    kq_job_close(&a);
    assert_true(!kq_path_exists(work)); /* nothing in it was worth keeping */

    check_ok(kq_job_open(done, work, settings, false, false, &a, &err));
    kq_job_path(&a, "block", 3, "bin", path);
    assert_non_null(strstr(path, "result.work/block-00003.bin"));
    write_text(path, "work");
    kq_job_close(&a);
    kq_job_close(&a); /* twice is fine */
    assert_true(kq_path_exists(path));
    check_fails(kq_job_open(done, work, settings, false, false, &b, &err), KQ_E_ARG, "--resume continues it");
    check_fails(kq_job_open(done, work, "{\"bits\": 3, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "started with bits 2, now it is 3");
    check_fails(kq_job_open(done, work, "{\"bits\": 2, \"deep\": {\"tol\": 0.2, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "started with deep.tol 0.1");
    check_fails(kq_job_open(done, work, "{\"bits\": 2, \"deep\": {\"tol\": 0.1}}", true, false, &b, &err),
                KQ_E_MISMATCH, "started with deep.name \"x\", now without");
    check_fails(kq_job_open(done, work,
                            "{\"bits\": 2, \"more\": 1, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", true,
                            false, &b, &err),
                KQ_E_MISMATCH, "more absent");
    assert_true(kq_path_exists(path));
    /* without --resume the message tells what differs; --fresh discards the work, and nothing that is
     * not kronq's */
    check_fails(kq_job_open(done, work, "{\"bits\": 4, \"deep\": {\"tol\": 0.1, \"name\": \"x\"}}", false,
                            false, &b, &err),
                KQ_E_ARG,
                "started with bits 2, now it is 4; --resume with the same settings continues it, --fresh "
                "discards it");
    char foreign[400];
    snprintf(foreign, sizeof foreign, "%s/notes.txt", work);
    write_text(foreign, "mine");
    check_ok(kq_job_open(done, work, "{\"bits\": 4}", false, true, &a, &err));
    assert_true(!kq_path_exists(path) && kq_path_exists(foreign));
    write_text(path, "work");
    kq_job_close(&a);
    check_ok(kq_job_open(done, work, settings, true, true, &a, &err));
    assert_true(!kq_path_exists(path));
    unlink(foreign);
    write_text(path, "work");
    kq_job_close(&a);
    check_ok(kq_job_open(done, work, settings, true, false, &a, &err));
    assert_true(kq_path_exists(path));
    write_text(done, "done");
    kq_job_finish(&a);
    assert_true(!kq_path_exists(work));
    check_fails(kq_job_open(done, work, settings, false, false, &b, &err), KQ_E_ARG, "exists already");
    check_ok(kq_job_open(done, work, settings, true, false, &b, &err));
    assert_true(b.complete && b.lock < 0 && !kq_path_exists(work));
    kq_job_close(&b);
    /* --fresh does not touch results */
    check_fails(kq_job_open(done, work, settings, false, true, &b, &err), KQ_E_ARG, "exists already");
    unlink(done);

    /* folders that were made go when nothing stays in them; a folder that is the user's is none to work in */
    char deep[280], above[256];
    snprintf(deep, sizeof deep, "%s/b/c.work", in_dir(above, "a"));
    check_ok(kq_job_open(done, deep, settings, false, false, &a, &err));
    assert_int_equal(a.made, 3);
    kq_job_close(&a);
    assert_true(!kq_path_exists(above));
    check_ok(kq_mkdirs(deep, &err));
    snprintf(foreign, sizeof foreign, "%s/notes.txt", deep);
    write_text(foreign, "mine");
    check_fails(kq_job_open(done, deep, settings, false, true, &a, &err), KQ_E_ARG,
                "files that are not kronq's");
    assert_true(kq_path_exists(foreign));

    /* what died before its settings were written cannot be trusted */
    check_ok(kq_mkdirs(work, &err));
    snprintf(path, sizeof path, "%s/block-00000.bin", work);
    write_text(path, "stale");
    check_ok(kq_job_open(done, work, settings, true, false, &a, &err));
    assert_true(!kq_path_exists(path));
    write_text(path, "work");
    kq_job_close(&a);
    snprintf(path, sizeof path, "%s/job.json", work);
    write_text(path, "{\"bits\": 2,");
    check_fails(kq_job_open(done, work, settings, true, false, &a, &err), KQ_E_FORMAT, "job.json");
}

static void seals(void **state)
{
    (void)state;
    kq_error err;
    char path[256];
    in_dir(path, "sealed");
    write_text(path, "some bytes that matter");
    assert_true(!kq_job_sealed(path));
    check_ok(kq_job_seal(path, &err));
    assert_true(kq_job_sealed(path));
    check_ok(kq_job_check_seal(path, &err));
    for (long at = 0; at < 22; at++) {
        flip(path, at);
        check_fails(kq_job_check_seal(path, &err), KQ_E_FORMAT, "sealed: is damaged");
        flip(path, at);
    }
    check_ok(kq_job_check_seal(path, &err));
    assert_int_equal(truncate(path, 21), 0);
    check_fails(kq_job_check_seal(path, &err), KQ_E_FORMAT, "damaged");
    unlink(path);
    check_fails(kq_job_check_seal(path, &err), KQ_E_IO, "sealed");
}

/* ---- calibration windows ---- */

static void windows_of_texts(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok;
    char a[256], b[256];
    check_ok(kq_tokenizer_open_file(KRONQ_GOLDEN_DIR "/tiny_cli/hf/tokenizer.json", &tok, &err));
    in_dir(a, "a.txt");
    in_dir(b, "b.jsonl");
    write_text(a, "the water of the people and the long day, one by one");
    write_text(b,
               "{\"text\": \"many words for her\"}\n\r\n{\"id\": 3, \"text\": \"what \\u00e9 would he\"}\n");
    const char *const files[] = {a, b}, *const documents[] = {
                                            "the water of the people and the long day, one by one",
                                            "many words for her", "what \u00e9 would he"};
    int32_t all[400], *ids;
    kq_windows w;
    uint32_t picked[100];
    size_t n_all = 0, n;
    for (int i = 0; i < 3; i++) { /* joined by the end-of-text token, which is id 0 here */
        if (i)
            all[n_all++] = 0;
        check_ok(kq_tokenizer_encode(tok, documents[i], strlen(documents[i]), false, false, &ids, &n, &err));
        memcpy(all + n_all, ids, n * sizeof *ids);
        n_all += n;
        kq_free(ids);
    }
    const size_t T = 4, windows = n_all / T;
    assert_true(windows >= 5);
    for (size_t n_seq = 1; n_seq <= windows; n_seq++) {
        for (size_t other = 1; other <= windows; other++) { /* alone, and beside another count */
            const size_t counts[] = {n_seq, other};
            check_ok(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, counts, other == n_seq ? 1 : 2, T,
                                     &w, &err));
            assert_int_equal(w.of, windows);
            assert_true(w.n >= n_seq && w.n >= other && w.n <= n_seq + other);
            for (int c = 0; c < 2; c++) {
                kq_windows_pick(&w, counts[c], picked);
                for (size_t i = 0; i < counts[c]; i++) {
                    assert_int_equal(w.number[picked[i]], i * (windows / counts[c]));
                    assert_memory_equal(w.ids + picked[i] * T, all + i * (windows / counts[c]) * T,
                                        T * sizeof *ids);
                }
            }
            kq_windows_free(&w);
        }
    }
    const size_t one = 1, many = windows + 1;
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &many, 1, T, &w, &err), KQ_E_ARG,
                "are asked for");
    assert_null(w.ids);
    write_text(b, "");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_ARG,
                "b.jsonl: holds no text");
    write_text(b, "{\"text\": \"x\"}\n{\"txt\": \"y\"}\n");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_FORMAT,
                "line 2 has no \"text\" string");
    write_text(b, "{\"text\": \"x\"}\n\n[1,\n");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_FORMAT,
                "line 3");
    kq_tokenizer_close(tok);
}

/* ---- factor files ---- */

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
            in_dir(paths[p], p ? "part1" : "part0");
            check_ok(kq_factor_part_add(part, p ? "layers.1.b" : "layers.0.a", H_in[p], N, p ? NULL : H_out,
                                        M, &r, &err));
            check_ok(kq_factor_part_write(part, paths[p], &err));
            kq_factor_part_free(part);
        }
        for (int sharded = 0; sharded < 2; sharded++) {
            size_t bytes;
            kq_factor_file *f;
            bool has_out;
            in_dir(file, sharded ? "f-sharded" : "f-whole");
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
        write_text(file, bad[i]);
        check_fails(kq_factor_file_open(file, &f, &err), KQ_E_FORMAT, file);
    }
    write_text(file, "");
    assert_int_not_equal(kq_factor_file_open(file, &f, &err), KQ_OK);
}

/* ---- the sweep against PyTorch ---- */

typedef struct norms {
    kq_st_file *golden;
    size_t seen, layers;
    double worst;
    kq_method method;
} norms;

static bool never_done(void *ctx, size_t layer)
{
    (void)ctx, (void)layer;
    return false;
}

/* With one sequence there is one gradient G: tr(H_in) tr(H_out) is its squared norm. With flipflop and G
 * of full rank each factor also has a shape to check: for one sample H_out after a whole round is
 * proportional to G Hi^-1 G^T. The norm is what is checked here. */
static kq_status compare_norm(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                              const kq_factor_report *r, kq_error *err)
{
    norms *c = ctx;
    char name[128], tensor[160];
    (void)err;
    kq_linear_name(name, sizeof name, layer, id);
    snprintf(tensor, sizeof tensor, "%s.weight.grad", name);
    const kq_tensor *t = kq_st_find(c->golden, tensor);
    assert_non_null(t);
    const size_t m = t->shape[0], n = t->shape[1];
    double norm = 0, in = 0, out = 0;
    for (size_t i = 0; i < t->n_elem; i++) {
        float g;
        memcpy(&g, t->data + 4 * i, 4);
        norm += (double)g * g;
    }
    for (size_t i = 0; i < n; i++)
        in += H_in[i * n + i];
    for (size_t i = 0; i < m; i++)
        out += H_out[i * m + i];
    c->worst = fmax(c->worst, fabs(in * out / norm - 1));
    c->worst = fmax(c->worst, fabs(r->trace_product / norm - 1));
    c->seen++;
    return KQ_OK;
}

static kq_status count_block(void *ctx, size_t layer, kq_error *err)
{
    (void)layer, (void)err;
    ((norms *)ctx)->layers++;
    return KQ_OK;
}

static void sweep_gradients_are_pytorchs(void **state)
{
    (void)state;
    const char *const models[] = {"tiny_llama2", "tiny_llama3", "tiny_qwen3", "tiny_llama3", "tiny_qwen3"};
    const kq_method methods[] = {KQ_FLIPFLOP, KQ_FLIPFLOP, KQ_FLIPFLOP, KQ_KFAC, KQ_YAQA_A};
    for (int i = 0; i < 5; i++) {
        kq_error err;
        kq_source *src;
        norms c = {0};
        char path[512], work[256], done[256], name[40];
        snprintf(path, sizeof path, "%s/%s.safetensors", KRONQ_GOLDEN_DIR, models[i]);
        check_ok(kq_st_open(path, &c.golden, &err));
        snprintf(path, sizeof path, "%s/%s", KRONQ_GOLDEN_DIR, models[i]);
        check_ok(kq_source_open(path, &src, &err));
        const kq_weights w = kq_weights_from_source(src);
        const kq_tensor *ids = kq_st_find(c.golden, "ids");
        int32_t *copy = kq_alloc(ids->n_elem, sizeof *copy);
        memcpy(copy, ids->data, ids->size_bytes);
        kq_job job;
        snprintf(name, sizeof name, "sweep-%d", i);
        in_dir(done, name);
        snprintf(name, sizeof name, "sweep-%d.work", i);
        in_dir(work, name);
        check_ok(kq_job_open(done, work, "{}", false, false, &job, &err));
        const uint8_t wanted[2] = {127, 127};
        kq_factor_options factor = kq_factor_defaults();
        factor.threads = 2;
        factor.method = methods[i];
        const kq_sweep_estimate estimate = {.factor = &factor, .batch = 1, .n_seq = 1};
        kq_sweep s = {.weights = &w,
                      .ids = copy,
                      .n_seq = 1,
                      .T = ids->n_elem,
                      .estimates = &estimate,
                      .n_estimates = 1,
                      .draws = 1,
                      .isa = kq_isa_best(),
                      .compute = KQ_F32,
                      .threads = 2,
                      .wanted = wanted,
                      .job = &job,
                      .ctx = &c,
                      .done = never_done,
                      .linear = compare_norm,
                      .block = count_block};
        kq_sweep_report report;
        check_ok(kq_sweep_run(&s, &report, &err));
        assert_int_equal(c.seen, 14);
        assert_int_equal(c.layers, 2);
        if (!(c.worst < 0.01)) /* block inputs and gradients are kept in bf16 on the way: 2^-9 each, squared,
                                  over two blocks */
            fail_msg("%s: squared gradient norms are off by up to %.3g", models[i], c.worst);
        const kq_tensor *nll = kq_st_find(c.golden, "nll");
        double mean = 0;
        for (size_t k = 0; k < nll->n_elem; k++) {
            float x;
            memcpy(&x, nll->data + 4 * k, 4);
            mean += x / (double)nll->n_elem;
        }
        if (!(fabs(report.nll - mean) < 0.01))
            fail_msg("%s: nll %.5f, PyTorch says %.5f", models[i], report.nll, mean);
        kq_job_finish(&job);
        kq_free(copy);
        kq_source_close(src);
        kq_st_close(c.golden);
    }
}

/* ---- methods over tokens ---- */

/* H_in and H_out of every linear, kept as the sweep hands them out. */
typedef struct kept {
    float *in[3][KQ_N_LINEAR], *out[3][KQ_N_LINEAR];
    kq_config cfg;
} kept;

static kq_status keep_factors(void *ctx, size_t layer, kq_linear_id id, const float *H_in, const float *H_out,
                              const kq_factor_report *r, kq_error *err)
{
    kept *k = ctx;
    size_t m, n;
    (void)r, (void)err;
    kq_linear_shape(&k->cfg, id, &m, &n);
    k->in[layer][id] = kq_alloc(n * n, sizeof(float));
    memcpy(k->in[layer][id], H_in, n * n * sizeof(float));
    if (H_out) {
        k->out[layer][id] = kq_alloc(m * m, sizeof(float));
        memcpy(k->out[layer][id], H_out, m * m * sizeof(float));
    }
    return KQ_OK;
}

static kq_status block_kept(void *ctx, size_t layer, kq_error *err)
{
    (void)ctx, (void)layer, (void)err;
    return KQ_OK;
}

/* Both unit traces: the largest difference over the largest entry. */
static double apart(const float *a, const float *b, size_t n)
{
    double ta = 0, tb = 0, most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        ta += a[i * n + i];
        tb += b[i * n + i];
    }
    for (size_t i = 0; i < n * n; i++) {
        most = fmax(most, fabs(b[i] / tb));
        worst = fmax(worst, fabs(a[i] / ta - b[i] / tb));
    }
    return worst / most;
}

static void token_sweep(const char *name, kq_method method, int passes, size_t draws, const uint8_t *wanted,
                        int threads, kept *k)
{
    kq_error err;
    kq_source *src;
    kq_job job;
    char work[256], done[256], stem[40];
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_cli/hf", &src, &err));
    const kq_weights w = kq_weights_from_source(src);
    k->cfg = *kq_source_config(src);
    enum { SEQ = 11, T = 32 }; /* more than one group of sequences */
    int32_t ids[SEQ * T];
    for (int i = 0; i < SEQ * T; i++)
        ids[i] = (i * 7919 + i / 5) % (int)k->cfg.vocab_size;
    in_dir(done, name);
    snprintf(stem, sizeof stem, "%s.work", name);
    in_dir(work, stem);
    check_ok(kq_job_open(done, work, "{}", false, false, &job, &err));
    kq_factor_options factor = kq_factor_defaults();
    factor.method = method;
    factor.passes = passes;
    factor.threads = threads;
    const kq_sweep_estimate estimate = {.factor = &factor, .batch = 1, .n_seq = SEQ};
    kq_sweep s = {.weights = &w,
                  .ids = ids,
                  .n_seq = SEQ,
                  .T = T,
                  .estimates = &estimate,
                  .n_estimates = 1,
                  .draws = draws,
                  .sampled_labels = draws > 1,
                  .isa = kq_isa_best(),
                  .compute = KQ_F32,
                  .threads = threads,
                  .wanted = wanted,
                  .job = &job,
                  .ctx = k,
                  .done = never_done,
                  .linear = keep_factors,
                  .block = block_kept};
    kq_sweep_report report;
    check_ok(kq_sweep_run(&s, &report, &err));
    kq_job_finish(&job);
    kq_source_close(src);
}

static void free_kept(kept *k)
{
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            kq_free(k->in[l][id]);
            kq_free(k->out[l][id]);
        }
    memset(k, 0, sizeof *k);
}

/* ---- gradients in memory, on disk, made again ---- */

enum { WAYS_SEQ = 12 };

/* Three blocks of the tiny model; two estimates where case_ says so. */
static void way_sweep(const char *name, int case_, kq_gradient_way way, int threads, int workers,
                      size_t chunk_bytes, size_t stream_bytes, kept k[2])
{
    kq_error err;
    kq_source *src;
    kq_job job;
    char work[256], done[256], stem[60];
    check_ok(kq_source_open(KRONQ_GOLDEN_DIR "/tiny_cli/hf", &src, &err));
    const kq_weights w = kq_weights_from_source(src);
    k[0].cfg = k[1].cfg = *kq_source_config(src);
    const size_t T = case_ == 0 ? 100 : 32; /* 100: whole gradients; 32: in part factored */
    int32_t ids[WAYS_SEQ * 100];
    static const uint32_t some[] = {0, 2, 3, 7, 8, 11};
    for (int i = 0; i < WAYS_SEQ * 100; i++)
        ids[i] = (i * 7919 + i / 5) % (int)k->cfg.vocab_size;
    in_dir(done, name);
    snprintf(stem, sizeof stem, "%s.work", name);
    in_dir(work, stem);
    check_ok(kq_job_open(done, work, "{}", false, false, &job, &err));
    kq_factor_options f[2] = {kq_factor_defaults(), kq_factor_defaults()};
    f[0].method = case_ == 3 ? KQ_YAQA_B : KQ_FLIPFLOP;
    f[1].method = KQ_FASTKRON;
    f[0].max_iter = f[1].max_iter = 3;
    f[0].early = 5; /* of 12 */
    f[0].threads = f[1].threads = threads;
    const kq_sweep_estimate e[2] = {
        {.factor = &f[0], .batch = case_ == 3 ? 3 : 1, .n_seq = WAYS_SEQ, .ctx = &k[0]},
        {.factor = &f[1], .batch = 2, .n_seq = 6, .seq = some, .ctx = &k[1]}};
    const uint8_t wanted[3] = {127, 0, 1 << KQ_UP | 1 << KQ_DOWN | 1 << KQ_V};
    const bool sampled = case_ == 2;
    kq_sweep s = {.weights = &w,
                  .ids = ids,
                  .n_seq = WAYS_SEQ,
                  .T = T,
                  .draws = sampled ? 2 : 1,
                  .sampled_labels = sampled,
                  .isa = kq_isa_best(),
                  .compute = KQ_F32,
                  .threads = threads,
                  .workers = workers,
                  .way = way,
                  .chunk_bytes = chunk_bytes,
                  .stream_bytes = stream_bytes,
                  .estimates = e,
                  .n_estimates = case_ == 0 || case_ == 3 ? 1 : 2,
                  .wanted = wanted,
                  .job = &job,
                  .done = never_done,
                  .linear = keep_factors,
                  .block = block_kept};
    size_t memory, disk, other_memory, other_disk;
    kq_sweep_plan(&k->cfg, &s, &memory, &disk);
    s.way = KQ_WAY_MEMORY;
    kq_sweep_plan(&k->cfg, &s, &other_memory, &other_disk);
    s.way = way;
    assert_true(way == KQ_WAY_DISK ? disk > other_disk : disk == other_disk);
    kq_sweep_report report;
    check_ok(kq_sweep_run(&s, &report, &err));
    DIR *d = opendir(work); /* nothing of the gradients is left */
    for (struct dirent *entry; d && (entry = readdir(d));)
        assert_null(strstr(entry->d_name, "gradients"));
    closedir(d);
    kq_job_finish(&job);
    kq_source_close(src);
}

static void same_factors(const kept *a, const kept *b, double tolerance)
{
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(&a->cfg, (kq_linear_id)id, &m, &n);
            assert_int_equal(a->in[l][id] != NULL, b->in[l][id] != NULL);
            if (!a->in[l][id])
                continue;
            if (tolerance > 0) {
                check_close(b->in[l][id], a->in[l][id], n * n, tolerance);
                check_close(b->out[l][id], a->out[l][id], m * m, tolerance);
            } else {
                assert_memory_equal(b->in[l][id], a->in[l][id], n * n * sizeof(float));
                assert_memory_equal(b->out[l][id], a->out[l][id], m * m * sizeof(float));
            }
        }
}

/* One estimate over whole gradients; a flipflop of all sequences beside a fastkron of pairs of some of
 * them; the same with two draws of the labels; batches of three. On disk and made again, all estimates
 * together or one by one, at any number of threads: the bytes of memory. With fewer samples at a time:
 * the same to 1e-3. */
static void gradient_ways_agree(void **state)
{
    (void)state;
    for (int c = 0; c < 4; c++) {
        kept want[2], got[2];
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        way_sweep("way-memory", c, KQ_WAY_MEMORY, 2, 0, 0, 0, want);
        for (int k = 0; k < 5; k++) {
            static const struct {
                kq_gradient_way way;
                int threads, workers;
                size_t chunk, stream;
            } ways[] = {{KQ_WAY_MEMORY, 3, 1, 0, 0},
                        {KQ_WAY_DISK, 2, 1, 0, 0},
                        {KQ_WAY_DISK, 1, 0, 0, 0},
                        {KQ_WAY_STREAM, 2, 0, 0, 0},
                        {KQ_WAY_STREAM, 3, 2, 0, 1}};
            way_sweep("way-other", c, ways[k].way, ways[k].threads, ways[k].workers, ways[k].chunk,
                      ways[k].stream, got);
            for (int e = 0; e < 2; e++) {
                same_factors(&want[e], &got[e], 0);
                free_kept(&got[e]);
            }
        }
        way_sweep("way-short", c, KQ_WAY_STREAM, 2, 0, 1, 0, got);
        for (int e = 0; e < 2; e++) {
            same_factors(&want[e], &got[e], 1e-3);
            free_kept(&got[e]);
            free_kept(&want[e]);
        }
    }
}

/* kfac's and yaqa-a's first H_in are input-only's, found going down instead of up; yaqa-a's second pass
 * weights kfac's H_out; and no method's result depends on the threads. */
static void token_methods_agree(void **state)
{
    (void)state;
    const uint8_t all[3] = {127, 127, 127};
    kept input = {0}, kfac = {0}, one = {0}, two = {0}, other = {0};
    token_sweep("tok-input", KQ_INPUT_ONLY, 2, 1, all, 2, &input);
    token_sweep("tok-kfac", KQ_KFAC, 2, 1, all, 2, &kfac);
    token_sweep("tok-yaqa2", KQ_YAQA_A, 2, 1, all, 2, &two);
    token_sweep("tok-yaqa2b", KQ_YAQA_A, 2, 1, all, 1, &other);
    token_sweep("tok-flip", KQ_FLIPFLOP_TOKENS, 2, 3, all, 2, &one);
    for (int l = 0; l < 3; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n;
            kq_linear_shape(&input.cfg, (kq_linear_id)id, &m, &n);
            assert_true(apart(kfac.in[l][id], input.in[l][id], n) < 1e-5);
            assert_true(apart(two.in[l][id], input.in[l][id], n) < 1e-5);
            assert_true(apart(two.out[l][id], kfac.out[l][id], m) > 1e-4); /* the weights are there */
            assert_memory_equal(two.in[l][id], other.in[l][id], n * n * sizeof(float));
            assert_memory_equal(two.out[l][id], other.out[l][id], m * m * sizeof(float));
            for (size_t i = 0; i < m; i++)
                assert_true(one.out[l][id][i * m + i] >= 0 && isfinite(one.out[l][id][i * m + i]));
        }
    free_kept(&kfac);
    /* not the first of those that share an input */
    const uint8_t some[3] = {0, 1 << KQ_K | 1 << KQ_UP, 0};
    token_sweep("tok-some", KQ_KFAC, 2, 1, some, 2, &kfac);
    assert_null(kfac.in[1][KQ_Q]);
    assert_true(apart(kfac.in[1][KQ_K], input.in[1][KQ_K], 64) < 1e-5 &&
                apart(kfac.in[1][KQ_UP], input.in[1][KQ_UP], 64) < 1e-5);
    free_kept(&input);
    free_kept(&kfac);
    free_kept(&one);
    free_kept(&two);
    free_kept(&other);
}

/* ---- kq_quantize as a whole ---- */

static int stop_at(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)stage, (void)fraction, (void)note;
    return --*(int *)ctx <= 0;
}

static kq_quantize_options small(const char *const *text)
{
    kq_quantize_options o = kq_quantize_defaults();
    o.common.threads = 2;
    o.common.compute = "f32";
    o.calibration.text = text;
    o.calibration.n_text = 1;
    o.calibration.tokens = 256;
    o.calibration.seq_len = 32;
    return o;
}

static void packed_predicts_as_dequantized(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    const struct {
        int bits, embed_bits;
        const char *code;
    } cases[] = {{2, 8, "hyb"}, {4, 4, "1mad"}, {3, 16, "3inst"}};
    for (int i = 0; i < 3; i++) {
        char out[256], dense[256], path[300], cmd[1200], name[32];
        kq_model_file *m;
        kq_st_writer *w;
        kq_quantize_options o = small(text);
        o.bits = cases[i].bits;
        o.code = cases[i].code;
        o.embed_bits = cases[i].embed_bits;
        snprintf(name, sizeof name, "q%d", i);
        check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", in_dir(out, name), &o, NULL, &err));
        /* the same model with every weight in f32, as a plain folder */
        snprintf(name, sizeof name, "dense%d", i);
        in_dir(dense, name);
        snprintf(cmd, sizeof cmd,
                 "cp -r '%s/tiny_cli/hf' '%s' && chmod -R u+w '%s' && rm '%s/model.safetensors'",
                 KRONQ_GOLDEN_DIR, dense, dense, dense);
        assert_int_equal(system(cmd), 0);
        check_ok(kq_model_file_open(out, KQ_ISA_REF, &m, &err));
        const kq_weights *p = kq_model_file_weights(m);
        snprintf(path, sizeof path, "%s/model.safetensors", dense);
        check_ok(kq_st_writer_new(path, &w, &err));
        for (int pass = 0; pass < 2; pass++) {
            float *x = kq_alloc(384 * 64, sizeof *x);
            char tensor[160];
            const char *const rows[] = {"model.embed_tokens.weight", "model.norm.weight",
                                        "model.layers.%d.input_layernorm.weight",
                                        "model.layers.%d.post_attention_layernorm.weight"};
            for (int r = 0; r < 4; r++) {
                for (int l = 0; l < (r < 2 ? 1 : 3); l++) {
                    snprintf(tensor, sizeof tensor, "%s", rows[r]);
                    if (r >= 2)
                        snprintf(tensor, sizeof tensor,
                                 r == 2 ? "model.layers.%d.input_layernorm.weight"
                                        : "model.layers.%d.post_attention_layernorm.weight",
                                 l);
                    const size_t n = r ? 64 : 384, cols = r ? 1 : 64;
                    if (pass == 0) {
                        check_ok(
                            kq_st_writer_declare(w, tensor, KQ_T_F32, r ? 1 : 2, (size_t[]){n, cols}, &err));
                    } else {
                        check_ok(p->rows(p->ctx, tensor, 0, n, x, &err));
                        check_ok(kq_st_writer_data(w, x, n * cols * sizeof *x, &err));
                    }
                }
            }
            for (size_t l = 0; l < 3; l++) {
                for (int id = 0; id < KQ_N_LINEAR; id++) {
                    size_t shape[2];
                    kq_linear_shape(p->cfg, (kq_linear_id)id, &shape[0], &shape[1]);
                    kq_linear_name(tensor, 128, l, (kq_linear_id)id);
                    strcat(tensor, ".weight");
                    if (pass == 0) {
                        check_ok(kq_st_writer_declare(w, tensor, KQ_T_F32, 2, shape, &err));
                    } else {
                        check_ok(p->linear(p->ctx, l, (kq_linear_id)id, x, &err));
                        check_ok(kq_st_writer_data(w, x, shape[0] * shape[1] * sizeof *x, &err));
                    }
                }
            }
            kq_free(x);
        }
        check_ok(kq_st_writer_finish(w, &err));
        kq_model_file_close(m);
        kq_eval_text_options e = kq_eval_text_defaults();
        e.ctx = 64;
        e.chunks = 4;
        e.common.threads = 2;
        e.common.compute = "f32";
        char *json;
        check_ok(kq_eval_text(out, dense, text[0], &e, &json, &err));
        json_t *a = json_loads(json, 0, NULL);
        free(json);
        check_ok(kq_eval_text(dense, NULL, text[0], &e, &json, &err));
        json_t *b = json_loads(json, 0, NULL);
        free(json);
        const double ppl_a = json_number_value(json_object_get(a, "ppl")),
                     ppl_b = json_number_value(json_object_get(b, "ppl"));
        if (!(fabs(ppl_a / ppl_b - 1) < 0.005) ||
            !(fabs(json_number_value(json_object_get(a, "kld"))) < 1e-4))
            fail_msg("%g bits: perplexity %.4f packed, %.4f dequantized, KL divergence %.3g", o.bits, ppl_a,
                     ppl_b, json_number_value(json_object_get(a, "kld")));
        json_decref(a);
        json_decref(b);
    }
}

static void same_files(const char *a, const char *b)
{
    kq_error err;
    kq_map x, y;
    check_ok(kq_map_open(a, &x, &err));
    check_ok(kq_map_open(b, &y, &err));
    if (x.size != y.size || memcmp(x.data, y.data, x.size))
        fail_msg("%s and %s differ", a, b);
    kq_map_close(&x);
    kq_map_close(&y);
}

/* Factors of several methods, numbers of tokens and settings out of one pass are the bytes of as many
 * calibrations; also after interruptions, and when some of the files are there already. */
static void several_from_one_pass(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    enum { N = 7 };
    static const struct {
        const char *method;
        size_t tokens;
        double rho;
        bool input;
    } rows[N] = {{"flipflop", 256, 1e-2, 0},  {"flipflop", 96, 1e-2, 0}, {"flipflop", 256, 1e-1, 0},
                 {"fastkron", 160, 1e-2, 0},  {"kfac", 96, 1e-2, 0},     {"yaqa-a", 256, 1e-2, 0},
                 {"input-only", 160, 1e-2, 1}};
    for (int kind = 0; kind < 3; kind++) { /* text; labels drawn from the model; text the model writes */
        kq_estimate all[N];
        char files[N][256], alone[256], name[48];
        kq_quantize_options o = small(text);
        o.calibration.n_text = kind != 2;
        o.calibration.sampled_labels = kind == 1;
        o.calibration.draws = kind == 1 ? 2 : 1;
        o.only = "layers\\.(0|2)\\.(self_attn\\.[qo]|mlp\\.down)_proj";
        for (int i = 0; i < N; i++) {
            snprintf(name, sizeof name, "pass%d-%d.safetensors", kind, i);
            in_dir(files[i], name);
            all[i] = (kq_estimate){.out_file = files[i], .calibration = o.calibration};
            all[i].calibration.method = rows[i].method;
            all[i].calibration.tokens = rows[i].tokens;
            all[i].calibration.rho = rows[i].rho;
        }
        int left = 25, stops = 0;
        kq_quantize_options p = o;
        p.common.progress = stop_at;
        p.common.ctx = &left;
        kq_status status;
        char *report = NULL;
        while ((status = kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, &report,
                                          &err)) == KQ_E_INTERRUPTED) {
            assert_null(report);
            p.resume = true;
            left = 25 + 20 * ++stops;
        }
        check_ok(status);
        assert_true(stops > 2);
        free(report);
        for (int i = 0; i < N; i++) {
            kq_quantize_options q = o;
            q.calibration = all[i].calibration;
            if (rows[i].input) {
                q.calibration.sampled_labels = false;
                q.calibration.draws = 1;
            }
            snprintf(name, sizeof name, "alone%d-%d.safetensors", kind, i);
            check_ok(
                kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", in_dir(alone, name), &q, false, NULL, &err));
            same_files(files[i], alone);
        }
        if (kind)
            continue;
        /* one is gone: it is made again, the others are recognised */
        in_dir(alone, "alone0-2.safetensors");
        unlink(files[2]);
        left = 1 << 30;
        check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err));
        same_files(files[2], alone);
        char pass[300], part[320]; /* died between the last file and the clean-up */
        snprintf(pass, sizeof pass, "%s.pass", files[0]);
        assert_true(!kq_path_exists(pass) && !mkdir(pass, 0777));
        check_ok(kq_file_write((snprintf(part, sizeof part, "%s/job.json", pass), part), "{}", 2, &err));
        check_ok(
            kq_file_write((snprintf(part, sizeof part, "%s/input-00000.bf16", pass), part), "x", 1, &err));
        check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err));
        assert_false(kq_path_exists(pass));
        all[3].calibration.tokens = 192;
        check_fails(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err),
                    KQ_E_MISMATCH, "with other settings");
    }
}

typedef struct stages {
    const char *stop;
    double at;
    bool forward, loss, stopped;
} stages;

static int watch_stages(void *ctx, const char *stage, double fraction, const char *note)
{
    stages *s = ctx;
    (void)note;
    if (stage) {
        s->forward = s->forward || !strcmp(stage, "forward");
        s->loss = s->loss || !strcmp(stage, "loss");
        s->stopped = s->stopped || (s->stop && !strcmp(stage, s->stop) && fraction > s->at);
    }
    return s->stopped;
}

/* A run that was stopped on the way down goes on from there: neither the forward pass nor the loss is
 * done again, also where the blocks that were left behind are not wanted. */
static void resumes_on_the_way_down(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"}, *const only[] = {NULL,
                                                                                         "layers\\.0\\."};
    for (int i = 0; i < 2; i++)
        for (int third = 1; third < 3; third++) {
            char out[256], name[32];
            kq_quantize_options o = small(text);
            stages s = {.stop = "backward", .at = third / 3.0 + 0.1};
            o.only = only[i];
            o.common.progress = watch_stages;
            o.common.ctx = &s;
            snprintf(name, sizeof name, "down-%d-%d.f", i, third);
            check_fails(
                kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", in_dir(out, name), &o, false, NULL, &err),
                KQ_E_INTERRUPTED, "stopped");
            assert_true(s.forward && s.loss);
            s = (stages){0};
            o.resume = true;
            check_ok(kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, false, NULL, &err));
            assert_true(!s.forward && !s.loss);
        }
}

/* Sums over batches: from stored sums when all estimates share the batch, else from each sequence's
 * gradient, which was rounded to bf16 once. */
static void batches_beside_each_other(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    static const size_t batch[3] = {1, 2, 4};
    kq_estimate all[3];
    char files[3][256], alone[256], name[48];
    kq_quantize_options o = small(text);
    o.only = "layers\\.1\\.mlp\\.down_proj";
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "batch-%d.safetensors", i);
        in_dir(files[i], name);
        all[i] = (kq_estimate){.out_file = files[i], .calibration = o.calibration};
        all[i].calibration.batch = batch[i];
    }
    check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, 3, &o, false, NULL, &err));
    for (int i = 0; i < 3; i++) {
        kq_quantize_options q = o;
        kq_factor_file *a, *b;
        bool has_out;
        q.calibration = all[i].calibration;
        snprintf(name, sizeof name, "batch-alone-%d.safetensors", i);
        check_ok(kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", in_dir(alone, name), &q, false, NULL, &err));
        check_ok(kq_factor_file_open(files[i], &a, &err));
        check_ok(kq_factor_file_open(alone, &b, &err));
        enum { IN = 112, OUT = 64 };
        static float H[4][IN * IN];
        check_ok(kq_factor_file_read(a, "model.layers.1.mlp.down_proj", OUT, IN, H[0], H[1], &has_out, &lack,
                                     &err));
        check_ok(kq_factor_file_read(b, "model.layers.1.mlp.down_proj", OUT, IN, H[2], H[3], &has_out, &lack,
                                     &err));
        assert_true(apart(H[0], H[2], IN) < (i ? 3e-3 : 1e-12) &&
                    apart(H[1], H[3], OUT) < (i ? 3e-3 : 1e-12));
        kq_factor_file_close(a);
        kq_factor_file_close(b);
    }
}

/* Wherever an allocation fails: a message, no result, no crash; and afterwards the same call succeeds. */
static void quantizing_without_memory(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    kq_quantize_options o = small(text);
    o.common.threads = 1; /* the counter of the injection is not for threads */
    o.only = "layers\\.2\\.self_attn\\.k_proj";
    for (int kind = 0; kind < 2; kind++) {
        o.bits = kind ? 2.5 : 2;
        size_t failed = 0;
        bool finished = false;
        for (size_t n = 1; n < 100000 && !finished; n += 1 + n / 16) {
            char out[256], path[300], name[32], *report = NULL;
            snprintf(name, sizeof name, "memory-%d-%zu", kind, n);
            in_dir(out, name);
            kq_alloc_fail_after(n);
            kq_status status = kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, &report, &err);
            kq_alloc_fail_after(0);
            snprintf(path, sizeof path, "%s/config.json", out);
            if (status == KQ_OK) {
                finished = true;
                assert_true(kq_path_exists(path));
                free(report);
            } else {
                if (status != KQ_E_MEMORY)
                    fail_msg("allocation %zu: status %d, %s", n, status, err.message);
                assert_null(report);
                assert_true(!kq_path_exists(path));
                failed++;
                kq_quantize_options again = o;
                again.resume = true;
                if (failed % 8 == 0)
                    check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &again, NULL, &err));
            }
        }
        assert_true(finished && failed > 20);
    }
}

/* Stopped at every call of progress in turn: KQ_E_INTERRUPTED, and a resumed run gives the bytes of an
 * uninterrupted one. Also where bits are shared out, which has more stages: factors of all blocks,
 * forecasts, rounding. */
static void interrupted_anywhere(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    for (int kind = 0; kind < 2; kind++) {
        kq_quantize_options o = small(text);
        o.only = "layers\\.(0|2)\\.self_attn\\.[ko]_proj";
        o.bits = kind ? 2.7 : 2;
        char whole[256], out[256], cmd[1200], name[32];
        check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", in_dir(whole, kind ? "whole-shared" : "whole"),
                             &o, NULL, &err));
        int stops = 0;
        for (int n = 1;; n += 5) {
            int left = n;
            kq_quantize_options p = o;
            p.common.progress = stop_at;
            p.common.ctx = &left;
            snprintf(name, sizeof name, "stop-%d-%d", kind, n);
            in_dir(out, name);
            kq_status status = kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &p, NULL, &err);
            if (status == KQ_OK)
                break;
            assert_int_equal(status, KQ_E_INTERRUPTED);
            stops++;
            p = o;
            p.resume = true;
            check_ok(kq_quantize(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &p, NULL, &err));
            snprintf(cmd, sizeof cmd, "diff -r '%s' '%s'", whole, out);
            assert_int_equal(system(cmd), 0);
        }
        assert_true(stops > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spill_round_trip_and_damage),
        cmocka_unit_test(job_life),
        cmocka_unit_test(seals),
        cmocka_unit_test(windows_of_texts),
        cmocka_unit_test(factors_come_back),
        cmocka_unit_test(sweep_gradients_are_pytorchs),
        cmocka_unit_test(gradient_ways_agree),
        cmocka_unit_test(token_methods_agree),
        cmocka_unit_test(several_from_one_pass),
        cmocka_unit_test(batches_beside_each_other),
        cmocka_unit_test(resumes_on_the_way_down),
        cmocka_unit_test(packed_predicts_as_dequantized),
        cmocka_unit_test(quantizing_without_memory),
        cmocka_unit_test(interrupted_anywhere),
    };
    kq_kern_init(kq_isa_best());
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
