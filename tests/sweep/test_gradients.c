/* The sweep's gradients against PyTorch's norms (golden); gradients in memory, on disk and made again give
 * the same factors. */
#include "sweep/common.h"

typedef struct norms {
    kq_st_file *golden;
    size_t seen, layers;
    double worst;
    kq_method method;
} norms;

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
        temp_path(done, name);
        snprintf(name, sizeof name, "sweep-%d.work", i);
        temp_path(work, name);
        check_ok(kq_job_open(done, work, "{}", false, false, &job, &err));
        const uint8_t selected[2] = {127, 127};
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
                      .selected = selected,
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
        kq_job_close(&job);
        kq_free(copy);
        kq_source_close(src);
        kq_st_close(c.golden);
    }
}

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
    temp_path(done, name);
    snprintf(stem, sizeof stem, "%s.work", name);
    temp_path(work, stem);
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
    const uint8_t selected[3] = {127, 0, 1 << KQ_UP | 1 << KQ_DOWN | 1 << KQ_V};
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
                  .selected = selected,
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
    kq_job_close(&job);
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

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sweep_gradients_are_pytorchs),
        cmocka_unit_test(gradient_ways_agree),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
