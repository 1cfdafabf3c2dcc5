/* `kronq quantize --tune scales`: rounding and tuning, one after the other, each with its own unfinished work
 * and its own --resume. The rounded checkpoint is whole before tuning begins, in a folder inside OUT, so that
 * tuning can always be begun again, and OUT has its config.json only when all is done. */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/text.h"
#include "tune/tune.h"

typedef struct both {
    const char *model, *out;
    const kq_quantize_options *opt;
    kq_rounding *round;
    char *done, *within, *rounded, *rounded_done, *report; /* owned paths */
} both;

static kq_tune_options tune_options(const both *b)
{
    const kq_calibration *c = &b->opt->calibration;
    kq_tune_options t = kq_tune_defaults();
    t.common = b->opt->common;
    t.reference = b->model;
    t.text = c->text;
    t.n_text = c->n_text;
    t.reading = c->reading;
    t.tokens = b->opt->tune_tokens;
    t.shard_size = b->opt->shard_size;
    t.resume = b->opt->resume;
    t.fresh = b->opt->fresh;
    t.memory = b->opt->memory;
    return t;
}

static kq_status name_paths(both *b, kq_error *err)
{
    kq_status st = kq_path_in(&b->done, err, b->out, "config.json");
    if (!st)
        st = kq_path_in(&b->within, err, b->out, ".kronq-tune");
    if (!st)
        st = kq_path_in(&b->rounded, err, b->out, ".kronq-tune/rounded");
    if (!st)
        st = kq_path_in(&b->rounded_done, err, b->out, ".kronq-tune/rounded/config.json");
    return st ? st : kq_path_in(&b->report, err, b->out, ".kronq-tune/report.json");
}

/* Round, unless that is done. The report is kept for a resumed run. */
static kq_status make_rounded(const both *b, kq_error *err)
{
    char *text = NULL;
    if (b->opt->fresh && !b->opt->resume) {
        kq_status st = kq_remove_tree(b->within, err);
        if (st)
            return st;
    } else if (!b->opt->resume && kq_path_exists(b->within)) {
        return kq_fail(
            err, KQ_E_ARG,
            "%s: holds unfinished work; --resume continues it, --fresh discards it and starts anew", b->out);
    }
    kq_status st = b->round(b->model, b->rounded, b->opt, &text, err);
    json_t *report = st ? NULL : json_loads(text, 0, NULL);
    if (!st && !json_is_true(json_object_get(report, "complete")))
        st = kq_file_write(b->report, text, strlen(text), err);
    json_decref(report);
    free(text);
    return st;
}

/* Move the entries of the rounded checkpoint to OUT, config.json last. */
static kq_status keep_rounded(const both *b, kq_error *err)
{
    kq_status st = KQ_OK;
    DIR *d = opendir(b->rounded);
    if (!d)
        return kq_fail(err, KQ_E_IO, "%s: %s", b->rounded, strerror(errno));
    for (struct dirent *e; !st && (e = readdir(d));) {
        char *from = NULL, *to = NULL;
        if (*e->d_name == '.' || !strcmp(e->d_name, "config.json"))
            continue;
        if (!(st = kq_path_in(&from, err, b->rounded, "%s", e->d_name)) &&
            !(st = kq_path_in(&to, err, b->out, "%s", e->d_name)) && rename(from, to))
            st = kq_fail(err, KQ_E_IO, "%s: cannot be renamed from %s: %s", to, from, strerror(errno));
        kq_free(from);
        kq_free(to);
    }
    closedir(d);
    if (!st && rename(b->rounded_done, b->done))
        st = kq_fail(err, KQ_E_IO, "%s: cannot be renamed from %s: %s", b->done, b->rounded_done,
                     strerror(errno));
    return st;
}

/* The report of the rounding with what tuning says (NULL: it did not help). */
static kq_status join_reports(const both *b, const char *tuned, char **out, kq_error *err)
{
    char *text = NULL;
    size_t size;
    /* without the file when the process died just after the rounding: its figures are lost */
    const bool kept = kq_path_exists(b->report);
    kq_status st = kept ? kq_file_read(b->report, 1 << 26, &text, &size, err) : KQ_OK;
    json_t *all = st ? NULL : kept ? json_loads(text, 0, NULL) : json_object();
    kq_free(text);
    if (st)
        return st;
    json_t *more = tuned ? json_loads(tuned, 0, NULL) : json_null();
    if (tuned && json_object_get(more, "file_bytes"))
        json_object_set(all, "file_bytes", json_object_get(more, "file_bytes"));
    if (json_object_get(more, "peak_rss_bytes"))
        json_object_set(all, "peak_rss_bytes", json_object_get(more, "peak_rss_bytes"));
    json_object_set_new(all, "tuned", more);
    *out = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(8));
    json_decref(all);
    return *out ? KQ_OK : kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
}

static kq_status run(const both *b, char **report, kq_error *err)
{
    char *tuned = NULL;
    const kq_tune_options t = tune_options(b);
    if (kq_path_exists(b->done)) /* done, or not ours: the rounding says which */
        return b->round(b->model, b->out, b->opt, report, err);
    kq_status st = kq_tune_check_text(b->model, &t, err);
    if (st || (st = make_rounded(b, err)))
        return st;
    st = kq_tune(b->rounded, b->out, &t, &tuned, err);
    if (st == KQ_E_NO_GAIN)
        st = keep_rounded(b, err);
    if (!st)
        st = join_reports(b, tuned, report, err);
    free(tuned);
    return st;
}

kq_status kq_round_and_tune(const char *model, const char *out, const kq_quantize_options *opt,
                            kq_rounding *round, char **report_json, kq_error *err)
{
    KQ_C_LOCALE;
    both b = {.model = model, .out = out, .opt = opt, .round = round};
    const size_t made = kq_missing_folders(out);
    char *report = NULL;
    kq_status st = name_paths(&b, err);
    if (!st)
        st = run(&b, &report, err);
    if (!st)
        st = kq_remove_tree(b.within, err);
    else if (b.within && !kq_path_exists(b.rounded)) { /* refused: nothing is left that was not there */
        kq_remove_folders(b.within, 1);
        kq_remove_folders(out, made);
    }
    if (report_json)
        *report_json = report;
    else
        free(report);
    void *const paths[] = {b.done, b.within, b.rounded, b.rounded_done, b.report};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        kq_free(paths[i]);
    return st;
}
