/* Makes the calibration's sequences from texts, or lets the model write them. Both depend on the settings
 * alone, so that a resumed run sees the same tokens. A pipe is read once and kept for the second reading
 * (kq_text_keep). */
#include "prepare/sequences.h"

#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "eval/eval.h"
#include "generate/self_text.h"
#include "prepare/plan.h"
#include "sweep/spill.h"

kq_status kq_text_fingerprint(const kq_quantize_options *opt, const kq_tokenizer *tok, size_t tokens,
                              char hex[33], kq_error *err)
{
    const kq_calibration *c = &opt->calibration;
    const kq_text_how how = {
        .options = c->reading, .tok = tok, .reach = kq_text_reach(tokens), .common = &opt->common};
    const char *rendered;
    hex[0] = 0;
    if (!c->n_text)
        return KQ_OK;
    kq_hash *h = kq_hash_new();
    if (!h)
        return kq_fail(err, KQ_E_MEMORY, "out of memory");
    kq_status status = KQ_OK;
    for (size_t i = 0; i < c->n_text && !status; i++) {
        kq_text_info info;
        status = kq_text_hash(c->text[i], &how, true, h, &info, err);
        if (!status && info.conversations && tok && (rendered = kq_tokenizer_chat_template(tok)))
            kq_hash_add(h, rendered, strlen(rendered));
    }
    kq_hash_finish(h, hex);
    return status;
}

static int self_text_progress(void *ctx, const char *stage, double fraction)
{
    (void)stage;
    const kq_common *c = ctx;
    return c->progress ? c->progress(c->ctx, "sampling text", fraction, NULL) : 0;
}

/* Read the sequences from the file that an interrupted run has left. */
static kq_status read_own_text(const kq_prepared *p, const char *path, size_t bytes, int32_t *ids,
                               kq_error *err)
{
    kq_spill *file = NULL;
    kq_status status = kq_spill_open(path, 1, bytes, &file, err);
    if (!status)
        status = kq_spill_read(file, 0, ids, err);
    kq_spill_close(file);
    for (size_t i = 0; i < bytes / sizeof *ids && !status; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= p->cfg->vocab_size)
            status = kq_fail(err, KQ_E_FORMAT,
                             "%s: token %zu is %d, outside the vocabulary; --fresh discards the "
                             "unfinished work and starts anew",
                             path, i, (int)ids[i]);
    return status;
}

/* Sample n sequences from the model, and keep them in the file for a resumed run. */
static kq_status write_own_text(const kq_prepared *p, const char *path, size_t n, int32_t *ids, kq_error *err)
{
    const size_t seq_len = p->opt->calibration.seq_len;
    kq_spill *file = NULL;
    kq_eval_options o = kq_eval_defaults();
    o.threads = p->threads;
    o.isa = p->isa;
    o.memory = kq_plan_writing_room(p);
    o.progress = self_text_progress;
    o.progress_ctx = (void *)&p->opt->common;
    kq_status status =
        kq_self_text(kq_model_file_weights(p->model), p->tok, n, seq_len, &o, p->opt->common.seed, ids, err);
    if (status || (status = kq_spill_create(path, 1, n * seq_len * sizeof *ids, &file, err)))
        return status;
    if (!(status = kq_spill_write(file, 0, ids, err)))
        return kq_spill_commit(file, err);
    kq_spill_close(file);
    return status;
}

/* Get n sequences that the model writes itself, or has written before an interruption. */
static kq_status self_windows(kq_prepared *p, const kq_job *job, size_t n, kq_windows *out, kq_error *err)
{
    const size_t bytes = n * p->opt->calibration.seq_len * sizeof *out->ids;
    char *path;
    out->n = n;
    kq_status status = kq_job_path(job, "tokens", 0, "i32", &path, err);
    if (!status)
        status = kq_alloc_for((void **)&out->ids, bytes, 1, "token ids", err);
    if (!status)
        status = kq_alloc_for((void **)&out->number, n, sizeof *out->number, "windows", err);
    for (size_t i = 0; i < n && !status; i++)
        out->number[i] = (uint32_t)i;
    if (!status)
        status = kq_path_exists(path) ? read_own_text(p, path, bytes, out->ids, err)
                                      : write_own_text(p, path, n, out->ids, err);
    kq_free(path);
    return status;
}

kq_status kq_prepare_sequences(kq_prepared *p, const kq_job *job, const size_t *counts, size_t n_counts,
                               kq_error *err)
{
    const kq_calibration *c = &p->opt->calibration;
    size_t most = 0;
    if (p->windows.n) /* kq_check_texts has made them already */
        return KQ_OK;
    if (c->n_text)
        return kq_text_windows(
            &(kq_text_how){.options = c->reading, .tok = p->tok, .common = &p->opt->common}, c->text,
            c->n_text, counts, n_counts, c->seq_len, &p->windows, err);
    for (size_t i = 0; i < n_counts; i++)
        most = counts[i] > most ? counts[i] : most;
    return self_windows(p, job, most, &p->windows, err);
}

void kq_report_texts(const kq_prepared *p, json_t *report)
{
    if (!p->windows.report)
        return;
    json_object_set(report, "texts", p->windows.report);
    json_object_set_new(report, "parse_special", json_boolean(!p->opt->calibration.reading.spell_special));
}
