/* kq_eval_tasks, the library's multiple-choice evaluation of any MODEL on any of the tasks. Results and
 * samples have the keys of lm-evaluation-harness, so that scripts that were made for the harness can read
 * them. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/text.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "settings/settings.h"
#include "tasks/tasks.h"
#include "text/text.h"

/* One task: its documents, their requests, and the scores so far. */
typedef struct task_run {
    const kq_task *task;
    const char *path;
    kq_document *docs;
    size_t n, n_file;
    kq_encoded *req;
    size_t n_req;         /* requests of all documents, one document after the other */
    size_t *first;        /* [n + 1]: document i has the requests first[i] .. first[i + 1] - 1 */
    kq_loglikelihood *ll; /* [n_req] */
    bool *done;           /* [n]: which documents have scores */
} task_run;

typedef struct run {
    const kq_eval_tasks_options *opt;
    task_run *t;
    size_t n;
    kq_journal *journal;
    /* for progress: the rows that the model has gone over, and all of them */
    const char *stage;
    double rows_done, rows_now, rows_all;
} run;

/* ---- documents and ids --------------------------------------------------------------------------------- */

static void task_close(task_run *t)
{
    for (size_t i = 0; t->req && i < t->n_req; i++)
        kq_free(t->req[i].ids);
    kq_free(t->req);
    kq_free(t->first);
    kq_free(t->ll);
    kq_free(t->done);
    kq_documents_free(t->docs, t->n);
}

static kq_status task_open(task_run *t, const kq_task_file *file, size_t limit, const kq_tokenizer *tok,
                           size_t max_length, kq_error *err)
{
    *t = (task_run){.task = kq_task_find(file->name), .path = file->file};
    if (!t->task)
        return kq_fail(err, KQ_E_ARG, "--task %s: unknown; there are %s", file->name, kq_task_names());
    kq_status st = kq_documents_read(t->task, file->file, limit, &t->docs, &t->n, &t->n_file, err);
    if (st)
        return st;
    size_t n_req = 0;
    for (size_t i = 0; i < t->n; i++)
        n_req += t->docs[i].n;
    t->first = kq_calloc(t->n + 1, sizeof *t->first);
    t->req = kq_calloc(n_req, sizeof *t->req);
    t->ll = kq_calloc(n_req, sizeof *t->ll);
    t->done = kq_calloc(t->n, sizeof *t->done);
    if (!t->first || !t->req || !t->ll || !t->done)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", file->file);
    for (size_t i = 0; i < t->n; i++) {
        t->first[i + 1] = t->first[i] + t->docs[i].n;
        for (size_t k = 0; k < t->docs[i].n; k++) {
            kq_encoded *e = &t->req[t->n_req++];
            char where[64];
            st = kq_request_encode(tok, &t->docs[i].req[k], e, err);
            if (!st && e->n_cont > max_length)
                st =
                    kq_fail(err, KQ_E_FORMAT, "a choice has %zu tokens, more than the model's context of %zu",
                            e->n_cont, max_length);
            if (st) {
                snprintf(where, sizeof where, "line %zu", t->docs[i].line);
                kq_fail_within(err, st, where);
                return kq_fail_within(err, st, t->path);
            }
        }
    }
    return KQ_OK;
}

/* ---- scoring ------------------------------------------------------------------------------------------- */

static int report_progress(void *ctx, double fraction)
{
    const run *r = ctx;
    const kq_common *c = &r->opt->common;
    return c->progress
               ? c->progress(c->ctx, r->stage, (r->rows_done + fraction * r->rows_now) / r->rows_all, NULL)
               : 0;
}

static kq_status restore_scores(void *ctx, size_t task, size_t doc, const kq_loglikelihood *ll, size_t n,
                                kq_error *err)
{
    const run *r = ctx;
    if (task >= r->n || doc >= r->t[task].n || n != r->t[task].docs[doc].n)
        return kq_fail(err, KQ_E_FORMAT, "%s: a kept document does not exist", r->opt->samples_file);
    memcpy(r->t[task].ll + r->t[task].first[doc], ll, n * sizeof *ll);
    r->t[task].done[doc] = true;
    return KQ_OK;
}

/* The end of the group of documents that begins at `from` and is scored in one call. It depends on the
 * documents alone, so that a resumed run computes the same products. */
static size_t group_end(const task_run *t, size_t from, size_t max_length, size_t *rows)
{
    size_t to = from;
    *rows = 0;
    while (to < t->n) {
        const size_t more = kq_document_rows(t->req + t->first[to], t->docs[to].n, max_length);
        if (to > from && *rows + more > KQ_SCORER_ROWS)
            break;
        *rows += more;
        to++;
    }
    return to;
}

static kq_status score_task(run *r, size_t index, kq_scorer *scorer, size_t max_length, kq_error *err)
{
    task_run *t = &r->t[index];
    kq_status st = KQ_OK;
    size_t *n_req;
    r->stage = t->task->name;
    if ((st = kq_alloc_for((void **)&n_req, t->n, sizeof *n_req, "requests", err)))
        return st;
    for (size_t i = 0; i < t->n; i++)
        n_req[i] = t->docs[i].n;
    for (size_t from = 0, to, rows; from < t->n && !st; from = to) {
        bool done = true;
        to = group_end(t, from, max_length, &rows);
        for (size_t i = from; i < to; i++)
            done = done && t->done[i];
        r->rows_now = (double)rows;
        if (!done)
            st = kq_scorer_run(scorer, t->req + t->first[from], n_req + from, to - from, max_length,
                               t->ll + t->first[from], report_progress, r, err);
        r->rows_done += (double)rows;
        for (size_t i = from; i < to && !st && !done && r->journal; i++)
            st = kq_journal_add(r->journal, index, i, t->ll + t->first[i], t->docs[i].n, err);
        if (!st && !done && r->journal)
            st = kq_journal_sync(r->journal, err);
    }
    kq_free(n_req);
    return st;
}

/* ---- results ------------------------------------------------------------------------------------------- */

typedef struct mean {
    double sum, sum2;
    size_t n;
} mean; /* a mean of zeros and ones is exact */

static void mean_add(mean *m, bool hit)
{
    m->sum += hit;
    m->sum2 += hit;
    m->n++;
}

/* Set "NAME,none" to the mean, and "NAME_stderr,none" to the sample standard deviation / sqrt(n), as
 * lm_eval.api.metrics.mean_stderr computes it; "N/A" for one document. */
static void set_metric(json_t *o, const char *name, const mean *m)
{
    char key[64];
    const double n = (double)m->n, p = m->sum / n;
    snprintf(key, sizeof key, "%s,none", name);
    json_object_set_new(o, key, json_real(p));
    snprintf(key, sizeof key, "%s_stderr,none", name);
    json_object_set_new(
        o, key, m->n > 1 ? json_real(sqrt((m->sum2 - n * p * p) / (n - 1)) / sqrt(n)) : json_string("N/A"));
}

static json_t *task_result(const task_run *t)
{
    mean acc = {0}, acc_norm = {0};
    for (size_t i = 0; i < t->n; i++) {
        const kq_answer a = kq_document_answer(&t->docs[i], t->ll + t->first[i]);
        mean_add(&acc, a.pick == t->docs[i].gold);
        mean_add(&acc_norm, a.pick_norm == t->docs[i].gold);
    }
    json_t *o = json_pack("{s:s, s:s, s:I}", "name", t->task->name, "alias", t->task->name, "sample_len",
                          (json_int_t)t->n);
    set_metric(o, "acc", &acc);
    if (t->task->acc_norm)
        set_metric(o, "acc_norm", &acc_norm);
    return o;
}

static json_t *results(const run *r, const char *model, const kq_eval_options *o, size_t max_length,
                       double seconds)
{
    json_t *res = json_object(), *configs = json_object(), *versions = json_object(), *shots = json_object(),
           *higher = json_object(), *samples = json_object();
    for (size_t i = 0; i < r->n; i++) {
        const task_run *t = &r->t[i];
        const char *name = t->task->name;
        json_object_set_new(res, name, task_result(t));
        json_object_set_new(configs, name,
                            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s}", "task", name, "data_file",
                                      t->path, "output_type", "multiple_choice", "doc_to_text",
                                      t->task->doc_to_text, "doc_to_target", t->task->doc_to_target,
                                      "doc_to_choice", t->task->doc_to_choice, "num_fewshot", 0,
                                      "target_delimiter", " "));
        json_object_set_new(versions, name, json_real(t->task->version));
        json_object_set_new(shots, name, json_integer(0));
        json_object_set_new(higher, name,
                            t->task->acc_norm ? json_pack("{s:b, s:b}", "acc", 1, "acc_norm", 1)
                                              : json_pack("{s:b}", "acc", 1));
        json_object_set_new(
            samples, name,
            json_pack("{s:I, s:I}", "original", (json_int_t)t->n_file, "effective", (json_int_t)t->n));
    }
    json_t *config = json_pack("{s:s, s:s, s:s, s:s, s:o, s:i}", "model", "kronq", "model_args", model,
                               "compute", o->compute == KQ_BF16 ? "bf16" : "f32", "isa", kq_isa_name(o->isa),
                               "limit", r->opt->limit ? json_integer((json_int_t)r->opt->limit) : json_null(),
                               "bootstrap_iters", 0);
    char took[32];
    snprintf(took, sizeof took, "%.3f", seconds);
    return json_pack("{s:o, s:{}, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:s, s:s, s:I, s:s, s:I}", "results",
                     res, "group_subtasks", "configs", configs, "versions", versions, "n-shot", shots,
                     "higher_is_better", higher, "n-samples", samples, "config", config, "date",
                     (json_int_t)time(NULL), "model_name", model, "model_source", "kronq", "max_length",
                     (json_int_t)max_length, "total_evaluation_time_seconds", took, "peak_rss_bytes",
                     (json_int_t)kq_peak_rss_bytes());
}

/* One document as lm_eval's --log_samples writes it (without the hashes), and the name of its task. */
static json_t *sample(const task_run *t, size_t i, const char *file)
{
    const kq_document *doc = &t->docs[i];
    const kq_loglikelihood *ll = t->ll + t->first[i];
    const kq_answer a = kq_document_answer(doc, ll);
    const bool winogrande = !strcmp(t->task->name, "winogrande");
    json_t *arguments = json_object(), *resps = json_array(), *filtered = json_array();
    for (size_t k = 0; k < doc->n; k++) {
        char key[32], value[40];
        snprintf(key, sizeof key, "gen_args_%zu", k);
        snprintf(value, sizeof value, "%.17g", ll[k].value);
        json_object_set_new(
            arguments, key,
            json_pack("{s:s, s:s}", "arg_0", doc->req[k].context, "arg_1", doc->req[k].continuation));
        json_t *pair = json_pack("[s, s]", value, ll[k].greedy ? "True" : "False");
        json_array_append_new(resps, json_pack("[O]", pair));
        json_array_append_new(filtered, pair);
    }
    char gold[32];
    snprintf(gold, sizeof gold, "%zu", doc->gold);
    json_t *o = json_pack("{s:s, s:I, s:o, s:s, s:o, s:o, s:o, s:s}", "task", t->task->name, "doc_id",
                          (json_int_t)i, "doc", json_loadb(file + doc->offset, doc->size, 0, NULL), "target",
                          winogrande ? doc->req[0].continuation + 1 : gold, "arguments", arguments, "resps",
                          resps, "filtered_resps", filtered, "filter", "none");
    json_t *metrics = json_pack("[s]", "acc");
    if (t->task->acc_norm)
        json_array_append_new(metrics, json_string("acc_norm"));
    json_object_set_new(o, "metrics", metrics);
    json_object_set_new(o, "acc", json_real(a.pick == doc->gold));
    if (t->task->acc_norm)
        json_object_set_new(o, "acc_norm", json_real(a.pick_norm == doc->gold));
    return o;
}

static kq_status write_samples(const run *r, const char *path, kq_error *err)
{
    kq_out *out;
    kq_status st = kq_out_open(path, &out, err);
    if (st)
        return st;
    for (size_t i = 0; i < r->n && !st; i++) {
        char *data;
        size_t size;
        if ((st = kq_text_load(r->t[i].path, KQ_TEXT_MOST_DOCUMENT, &data, &size, err)))
            break;
        for (size_t d = 0; d < r->t[i].n && !st; d++) {
            const kq_document *doc = &r->t[i].docs[d];
            json_t *o = doc->offset + doc->size <= size ? sample(&r->t[i], d, data) : NULL;
            char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
            st = !text
                     ? kq_fail(err, KQ_E_IO, "%s: changed while it was read, or out of memory", r->t[i].path)
                     : kq_out_write(out, text, strlen(text), err);
            if (!st)
                st = kq_out_write(out, "\n", 1, err);
            free(text);
            json_decref(o);
        }
        kq_free(data);
    }
    if (st)
        kq_out_abort(out);
    return st ? st : kq_out_commit(out, err);
}

/* ---- the journal of a job ------------------------------------------------------------------------------ */

/* *text = the settings on which scores depend, as one line of JSON, the caller's (free). A resumed run uses
 * the scores of a journal only when this line is the same. */
static kq_status settings_text(const run *r, const kq_source *src, const kq_eval_options *o, char **text,
                               kq_error *err)
{
    char hex[33];
    kq_status st = kq_source_fingerprint(src, hex, err);
    if (st)
        return st;
    json_t *j =
        json_pack("{s:s, s:s, s:s, s:s, s:o}", "kronq", kq_version(), "model", hex, "compute",
                  o->compute == KQ_BF16 ? "bf16" : "f32", "isa", kq_isa_name(o->isa), "tasks", json_array());
    for (size_t i = 0; i < r->n && !st; i++) {
        char *data;
        size_t size;
        if ((st = kq_text_load(r->t[i].path, KQ_TEXT_MOST_DOCUMENT, &data, &size, err)))
            break;
        kq_hash *hash = kq_hash_new();
        if (hash) {
            kq_hash_add(hash, data, size);
            kq_hash_finish(hash, hex);
            json_array_append_new(json_object_get(j, "tasks"),
                                  json_pack("{s:s, s:s, s:I}", "task", r->t[i].task->name, "file", hex,
                                            "documents", (json_int_t)r->t[i].n));
        }
        kq_free(data);
    }
    *text = st ? NULL : json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return st || *text ? st : kq_fail(err, KQ_E_MEMORY, "out of memory: the job's settings");
}

static kq_status open_journal(run *r, const kq_source *src, const kq_eval_options *o, kq_error *err)
{
    char *path = NULL, *settings = NULL;
    if (!r->opt->samples_file)
        return r->opt->resume ? kq_fail(err, KQ_E_ARG,
                                        "--resume needs the --log-samples FILE of the interrupted run: what "
                                        "it had scored is kept beside it")
                              : KQ_OK;
    kq_status st = settings_text(r, src, o, &settings, err);
    if (!st)
        st = kq_format(&path, err, "%s.partial", r->opt->samples_file);
    if (!st)
        st = kq_journal_open(path, settings, r->opt->resume, restore_scores, r, &r->journal, err);
    kq_free(path);
    free(settings);
    return st;
}

/* Everything kq_eval_tasks opens. */
typedef struct job {
    run r;
    kq_model_file *m;
    kq_tokenizer *tok;
    kq_scorer *scorer;
    kq_eval_options o;
    size_t max_length; /* most tokens that the model takes */
} job;

static kq_status check_names(const kq_task_file *tasks, size_t n_tasks, kq_error *err)
{
    for (size_t i = 0; i < n_tasks; i++)
        for (size_t k = 0; k < i; k++)
            if (!strcmp(tasks[i].name, tasks[k].name))
                return kq_fail(err, KQ_E_ARG, "--task %s: given twice", tasks[i].name);
    return n_tasks ? KQ_OK : kq_fail(err, KQ_E_ARG, "no task is given");
}

/* Open the model and its tokenizer, and read the requests of all tasks. */
static kq_status open_tasks(job *j, const char *model, const kq_task_file *tasks, kq_error *err)
{
    run *r = &j->r;
    kq_status st;
    if ((st = kq_model_file_open(model, j->o.isa, &j->m, err)) ||
        (st = kq_tokenizer_open(kq_model_file_source(j->m), &j->tok, err)))
        return st;
    j->max_length = kq_model_file_weights(j->m)->cfg->max_position;
    for (size_t i = 0; i < r->n && !st; i++)
        st = task_open(&r->t[i], &tasks[i], r->opt->limit, j->tok, j->max_length, err);
    return st;
}

/* Make a scorer for the longest request and the largest document, and count r->rows_all for progress. */
static kq_status make_scorer(job *j, kq_error *err)
{
    run *r = &j->r;
    size_t longest = 1, largest = 1;
    for (size_t i = 0; i < r->n; i++) {
        const task_run *t = &r->t[i];
        for (size_t k = 0; k < t->n_req; k++) {
            const size_t n = t->req[k].n - 1 < j->max_length ? t->req[k].n - 1 : j->max_length;
            longest = n > longest ? n : longest;
        }
        for (size_t k = 0; k < t->n; k++) {
            const size_t rows = kq_document_rows(t->req + t->first[k], t->docs[k].n, j->max_length);
            largest = rows > largest ? rows : largest;
        }
        for (size_t from = 0, rows; from < t->n; r->rows_all += (double)rows)
            from = group_end(t, from, j->max_length, &rows);
    }
    return kq_scorer_new(kq_model_file_weights(j->m), longest, largest, &j->o, &j->scorer, err);
}

static kq_status score_tasks(job *j, kq_error *err)
{
    kq_status st;
    if ((st = make_scorer(j, err)) || (st = open_journal(&j->r, kq_model_file_source(j->m), &j->o, err)))
        return st;
    for (size_t i = 0; i < j->r.n && !st; i++)
        st = score_task(&j->r, i, j->scorer, j->max_length, err);
    if (!st && j->r.opt->samples_file)
        st = write_samples(&j->r, j->r.opt->samples_file, err);
    return st;
}

static kq_status write_result(const job *j, const char *model, double seconds, char **out, kq_error *err)
{
    json_t *o = results(&j->r, model, &j->o, j->max_length, seconds);
    *out = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(o);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the result");
}

kq_status kq_eval_tasks(const char *model, const kq_task_file *tasks, size_t n_tasks,
                        const kq_eval_tasks_options *given, char **result_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_eval_tasks_options whole;
    const kq_eval_tasks_options *opt = &whole;
    const double start = kq_now_s();
    job j = {.r = {.opt = opt, .n = n_tasks}};
    if (result_json)
        *result_json = NULL;
    kq_status st = KQ_OPTIONS_READ(kq_eval_tasks_options, &whole, given, err);
    if (st || (st = kq_settings_check(KQ_EVAL_TASKS_OPTIONS, KQ_FOR_EVAL_TASKS, opt, err)) ||
        (st = check_names(tasks, n_tasks, err)) || (st = kq_eval_options_of(&opt->common, &j.o, err)))
        return st;
    j.o.memory = opt->memory;
    if (!(j.r.t = kq_calloc(n_tasks, sizeof *j.r.t)))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: tasks");
    kq_text_keep();
    if (!(st = open_tasks(&j, model, tasks, err)) && !(st = score_tasks(&j, err))) {
        kq_journal_close(j.r.journal, true); /* the results are written: nothing is left to resume */
        j.r.journal = NULL;
        if (result_json)
            st = write_result(&j, model, kq_now_s() - start, result_json, err);
    }
    kq_text_forget();
    kq_journal_close(j.r.journal, false);
    kq_scorer_free(j.scorer);
    for (size_t i = 0; i < n_tasks; i++)
        task_close(&j.r.t[i]);
    kq_free(j.r.t);
    kq_tokenizer_close(j.tok);
    kq_model_file_close(j.m);
    return st;
}
