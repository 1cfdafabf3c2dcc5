/* kq_imatrix: one forward pass over the calibration text that keeps the squares of every linear's inputs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/time.h"
#include "format/gguf.h"
#include "format/safetensors_write.h"
#include "quant/check.h"
#include "factors/imatrix.h"
#include "quant/plan.h"
#include "quant/prepare.h"

enum { NAME = 128 };

typedef struct collector {
    kq_prepared p;
    kq_job job;
    float *sum[KQ_N_LINEAR]; /* of the block at work, owned; NULL: not wanted */
} collector;

static void part_path(const collector *c, size_t layer, char path[4400])
{
    kq_job_path(&c->job, "imatrix", layer, "safetensors", path);
}

static bool block_done(void *ctx, size_t layer)
{
    return kq_job_part_done(&((collector *)ctx)->job, "imatrix", layer);
}

static size_t inputs(const collector *c, int id)
{
    size_t m, n;
    kq_linear_shape(c->p.cfg, (kq_linear_id)id, &m, &n);
    return n;
}

static void drop_block(collector *c)
{
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_free(c->sum[id]);
        c->sum[id] = NULL;
    }
}

static kq_status keep(void *ctx, size_t layer, kq_linear_id id, const float *squares, const float *H_out,
                      const kq_factor_report *r, kq_error *err)
{
    (void)H_out, (void)r;
    collector *c = ctx;
    const size_t n = inputs(c, id);
    char name[NAME];
    kq_linear_name(name, sizeof name, layer, id);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(squares[i]))
            return kq_fail(err, KQ_E_NUMERIC, "%s: the sum of squares of input %zu is %g", name, i,
                           (double)squares[i]);
    kq_status status = kq_alloc_for((void **)&c->sum[id], n, sizeof(float), name, err);
    if (!status)
        memcpy(c->sum[id], squares, n * sizeof(float));
    return status;
}

static kq_status finish_block(void *ctx, size_t layer, kq_error *err)
{
    collector *c = ctx;
    char path[4400];
    part_path(c, layer, path);
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    for (int data = 0; data < 2; data++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            const size_t n = inputs(c, id);
            char name[NAME];
            kq_linear_name(name, sizeof name, layer, (kq_linear_id)id);
            if (c->sum[id])
                status = data ? kq_st_writer_data(w, c->sum[id], n * sizeof(float), err)
                              : kq_st_writer_declare(w, name, KQ_T_F32, 1, &n, err);
        }
    drop_block(c);
    if (status) {
        kq_st_writer_abort(w);
        return status;
    }
    status = kq_st_writer_finish(w, err);
    return status ? status : kq_job_seal(path, err);
}

/* llama-imatrix puts the beginning token in place of each chunk's first, where the tokenizer adds one to
 * a text. */
static kq_status put_beginning_tokens(collector *c, kq_error *err)
{
    int32_t *ids;
    size_t n;
    kq_status status = kq_tokenizer_encode(c->p.tok, "", 0, true, false, &ids, &n, err);
    if (status)
        return status;
    if (n && ids[0] == kq_tokenizer_bos(c->p.tok))
        for (size_t i = 0; i < c->p.n_seq; i++)
            c->p.windows.ids[i * c->p.opt->calibration.seq_len] = ids[0];
    kq_free(ids);
    return KQ_OK;
}

static kq_status gather(collector *c, const char *out_file, const char *settings, kq_error *err)
{
    const size_t L = c->p.cfg->n_layer;
    const kq_calibration *cal = &c->p.opt->calibration;
    kq_st_file **parts = kq_calloc(L, sizeof *parts);
    kq_imatrix_entry *entries = kq_calloc(c->p.n_wanted, sizeof *entries);
    const char **texts = kq_calloc(cal->n_text + 1, sizeof *texts);
    size_t n = 0;
    kq_status status =
        parts && entries && texts ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", out_file);
    for (size_t l = 0; l < L && !status; l++) {
        char path[4400];
        if (!c->p.wanted[l])
            continue;
        part_path(c, l, path);
        status = kq_st_open(path, &parts[l], err);
        for (size_t i = 0; !status && i < kq_st_n_tensors(parts[l]); i++) {
            const kq_tensor *t = kq_st_tensor(parts[l], i);
            if (n == c->p.n_wanted || (uintptr_t)t->data % _Alignof(float))
                status = kq_fail(
                    err, KQ_E_FORMAT,
                    "%s: is not what this run wrote; --fresh discards the unfinished work and starts anew",
                    path);
            else
                entries[n++] = (kq_imatrix_entry){
                    .module = t->name, .n = t->n_elem, .sum = (const float *)(const void *)t->data};
        }
    }
    if (!status) {
        for (size_t i = 0; i < cal->n_text; i++)
            texts[i] = kq_text_name(cal->text[i]);
        if (!cal->n_text)
            texts[0] = "sampled from the model";
        status = kq_imatrix_write(out_file, entries, n, c->p.n_seq, cal->seq_len, texts,
                                  cal->n_text ? cal->n_text : 1, settings, err);
    }
    for (size_t l = 0; parts && l < L; l++)
        kq_st_close(parts[l]);
    kq_free(parts);
    kq_free(entries);
    kq_free(texts);
    return status;
}

/* An imatrix is there: it must be what these settings would have made. */
static kq_status check_complete(const char *path, const char *settings, kq_error *err)
{
    kq_gguf *g;
    kq_status status = kq_gguf_open(path, &g, err);
    if (status)
        return status;
    if (!kq_gguf_str_is(kq_gguf_find(g, "kronq.imatrix"), 0, settings))
        status = kq_fail(
            err, KQ_E_MISMATCH,
            "%s: the imatrix there was made with other settings; choose another output or remove it", path);
    kq_gguf_close(g);
    return status;
}

kq_status kq_imatrix(const char *model, const char *out_file, const kq_quantize_options *opt,
                     char **report_json, kq_error *err)
{
    KQ_C_LOCALE;
    collector c = {.job.lock = -1};
    kq_quantize_options o = *opt;
    kq_progress guard;
    json_t *settings = NULL, *report = NULL;
    char *text = NULL, work[4300];
    kq_sweep_report sr = {.nll = NAN};
    const double start = kq_now_s();
    size_t memory, disk;
    if (report_json)
        *report_json = NULL;
    o.common = kq_progress_guard(&opt->common, &guard);
    o.calibration.method = "input-only";
    o.calibration.batch = o.calibration.draws = 1;
    o.calibration.sampled_labels = false;
    kq_status status = KQ_OK;
    if (snprintf(work, sizeof work, "%s.work", out_file) >= (int)sizeof work)
        status = kq_fail(err, KQ_E_ARG, "%s: the path is too long", out_file);
    else if (kq_path_is_dir(out_file))
        status = kq_fail(err, KQ_E_ARG, "%s: is a folder, expected the name of a file to write", out_file);
    if (!status && !(status = kq_job_look(out_file, work, opt->resume, err)))
        status = kq_prepare(model, &o, true, &c.p, err);
    if (!status)
        status = kq_prepare_fingerprint(&c.p, err);
    if (status)
        goto out;
    if (!(settings = kq_prepare_settings(&c.p, err))) {
        status = KQ_E_MEMORY;
        goto out;
    }
    json_object_set_new(settings, "only", json_string(opt->only ? opt->only : ""));
    text = json_dumps(settings, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) {
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: settings");
        goto out;
    }
    if ((!kq_path_exists(out_file) && (status = kq_check_inputs(&c.p, NULL, false, &c.p.n_seq, 1, err))) ||
        (status = kq_job_open(out_file, work, text, opt->resume, opt->fresh, &c.job, err)))
        goto out;
    if (c.job.complete) {
        if ((status = check_complete(out_file, text, err)))
            goto out;
        if ((status = kq_progress_note(&o.common, "the imatrix is complete already", err)))
            goto out;
        kq_job_finish(&c.job);
        if (report_json && !(*report_json = strdup("{\"complete\": true}")))
            status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
        goto out;
    }
    if ((status = kq_job_check_parts(&c.job, "imatrix", c.p.cfg->n_layer, err)) ||
        (status = kq_prepare_ids(&c.p, &c.job, err)) || (status = put_beginning_tokens(&c, err)))
        goto out;
    kq_sweep s = kq_prepare_sweep(&c.p, &c.job);
    s.diagonal = true;
    s.ctx = &c;
    s.done = block_done;
    s.linear = keep;
    s.block = finish_block;
    kq_plan_sweep(&c.p, &s, &memory, &disk);
    if ((status = kq_sweep_run(&s, &sr, err)) || (status = gather(&c, out_file, text, err)))
        goto out;
    kq_job_finish(&c.job);
    report =
        json_pack("{s:I, s:I, s:I, s:{s:f, s:f}, s:I, s:I, s:O}", "entries", (json_int_t)c.p.n_wanted,
                  "chunks", (json_int_t)c.p.n_seq, "chunk_size", (json_int_t)o.calibration.seq_len, "seconds",
                  "forward", sr.forward_s, "total", kq_now_s() - start, "peak_rss_bytes",
                  (json_int_t)kq_peak_rss_bytes(), "planned_bytes", (json_int_t)memory, "settings", settings);
    kq_prepare_report_texts(&c.p, report);
    if (report_json &&
        (!report || !(*report_json = json_dumps(report, JSON_INDENT(1) | JSON_REAL_PRECISION(8)))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
out:
    drop_block(&c);
    kq_job_close(&c.job);
    kq_prepared_free(&c.p);
    json_decref(settings);
    json_decref(report);
    free(text);
    return status;
}
