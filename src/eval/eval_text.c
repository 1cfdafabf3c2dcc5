/* kq_eval_text: any MODEL, any text file. */
#include <jansson.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "eval/eval.h"

kq_eval_text_options kq_eval_text_defaults(void)
{
    return (kq_eval_text_options){.ctx = 2048};
}

static int forward_progress(void *ctx, const char *stage, double fraction)
{
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, stage, fraction, NULL) : 0;
}

kq_status kq_eval_options_of(const kq_common *common, kq_eval_options *out, kq_error *err)
{
    kq_eval_options o = kq_eval_defaults();
    kq_status status = kq_isa_pick(common->isa, &o.isa, err);
    if (!status)
        status = kq_compute_pick(common->compute, o.isa, &o.compute, err);
    if (status)
        return status;
    o.threads = common->threads > 0 ? common->threads : omp_get_num_procs();
    o.progress = forward_progress;
    o.progress_ctx = (void *)common;
    kq_kern_init(o.isa);
    *out = o;
    return KQ_OK;
}

static kq_status text_ids(const kq_source *src, const char *path, int32_t **ids, size_t *n, kq_error *err)
{
    kq_tokenizer *tok;
    kq_map map;
    kq_status status = kq_tokenizer_open(src, &tok, err);
    if (status)
        return status;
    if (!(status = kq_map_open(path, &map, err))) {
        if (!map.size)
            status = kq_fail(err, KQ_E_ARG, "%s: holds no text", path);
        else
            status = kq_tokenizer_encode(tok, (const char *)map.data, map.size, true, true, ids, n, err);
        kq_map_close(&map);
    }
    kq_tokenizer_close(tok);
    return status;
}

/* The first window's ids [ctx] and logits [ctx, vocab]. */
static kq_status write_logits(const char *path, const int32_t *ids, const float *logits, size_t ctx, size_t vocab, kq_error *err)
{
    kq_st_writer *w;
    kq_status status = kq_st_writer_new(path, &w, err);
    if (status)
        return status;
    if ((status = kq_st_writer_declare(w, "ids", KQ_T_I32, 1, &ctx, err)) ||
        (status = kq_st_writer_declare(w, "logits", KQ_T_F32, 2, (size_t[]){ctx, vocab}, err)) ||
        (status = kq_st_writer_data(w, ids, ctx * sizeof *ids, err)) ||
        (status = kq_st_writer_data(w, logits, ctx * vocab * sizeof *logits, err))) {
        kq_st_writer_abort(w);
        return status;
    }
    return kq_st_writer_finish(w, err);
}

/* A value with its standard errors, tokens taken as independent ("..._stderr") and windows ("..._stderr_windows"; null with one window). */
static void set_measure(json_t *o, const char *name, double value, double error, double error_windows)
{
    char key[64];
    json_object_set_new(o, name, json_real(value));
    snprintf(key, sizeof key, "%s_stderr", name);
    json_object_set_new(o, key, json_real(error));
    snprintf(key, sizeof key, "%s_stderr_windows", name);
    json_object_set_new(o, key, isfinite(error_windows) ? json_real(error_windows) : json_null());
}

kq_status kq_eval_text(const char *model, const char *reference, const char *text_file, const kq_eval_text_options *opt, char **result_json, kq_error *err)
{
    kq_model_file *m = NULL, *r = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    kq_eval_options o;
    kq_eval_result res;
    const double start = kq_now_s();
    *result_json = NULL;
    if (opt->ctx < 2)
        return kq_fail(err, KQ_E_ARG, "--ctx %zu: at least 2 tokens are needed", opt->ctx);
    kq_status status = kq_eval_options_of(&opt->common, &o, err);
    if (status)
        return status;
    o.ctx = opt->ctx;
    o.chunks = opt->chunks;
    if ((status = kq_model_file_open(model, o.isa, &m, err)) || (reference && (status = kq_model_file_open(reference, o.isa, &r, err))) ||
        (status = text_ids(kq_model_file_source(m), text_file, &ids, &n_ids, err)))
        goto out;
    const size_t vocab = kq_source_config(kq_model_file_source(m))->vocab_size;
    if (opt->logits) {
        size_t n;
        status = kq_mul_size(o.ctx, vocab, &n) ? kq_alloc_for((void **)&o.logits, n, sizeof *o.logits, "the first window's logits", err)
                                               : kq_fail(err, KQ_E_ARG, "--ctx %zu is too large", o.ctx);
        if (status)
            goto out;
    }
    if ((status = kq_evaluate(kq_model_file_weights(m), r ? kq_model_file_weights(r) : NULL, ids, n_ids, &o, &res, err)) ||
        (opt->logits && (status = write_logits(opt->logits, ids, o.logits, o.ctx, vocab, err))))
        goto out;
    json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:I}", "model", model, "text", text_file, "ctx", (json_int_t)o.ctx, "windows", (json_int_t)res.windows,
                          "tokens", (json_int_t)res.tokens);
    if (j) {
        set_measure(j, "ppl", res.ppl, res.ppl_stderr, res.ppl_stderr_windows);
        set_measure(j, "nll", res.nll, res.nll_stderr, res.nll_stderr_windows);
        if (res.has_kld) {
            json_object_set_new(j, "reference", json_string(reference));
            set_measure(j, "kld", res.kld, res.kld_stderr, res.kld_stderr_windows);
            set_measure(j, "top1", res.top1, res.top1_stderr, res.top1_stderr_windows);
        }
        json_object_set_new(j, "compute", json_string(o.compute == KQ_BF16 ? "bf16" : "f32"));
        json_object_set_new(j, "isa", json_string(kq_isa_name(o.isa)));
        json_object_set_new(j, "seconds", json_real(kq_now_s() - start));
        json_object_set_new(j, "peak_rss_bytes", json_integer((json_int_t)kq_peak_rss_bytes()));
    }
    if (!j || !(*result_json = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(9))))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
    json_decref(j);
out:
    kq_free(ids);
    kq_free(o.logits);
    kq_model_file_close(m);
    kq_model_file_close(r);
    return status;
}
