/* `kronq quantize --tune scales`: rounding and tuning, one after the other, each with its own unfinished work
 * and its own --resume. The rounded checkpoint is whole before tuning begins, in a folder inside OUT, so that
 * tuning can always be begun again, and OUT has its config.json only when all is done.
 *
 * Where tuning does not help, the rounded checkpoint's files move to OUT one by one, and the process may die
 * between two of them. The file .kronq-tune/config.json, which is written before the first one moves, says
 * that moving has begun; it becomes OUT's config.json, last. */
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
#include "checkpoint/side_files.h"
#include "source/source.h"
#include "text/text.h"
#include "tune/tune.h"

typedef struct both {
    const char *model, *out;
    const kq_quantize_options *opt;
    kq_rounding *round;
    size_t seq_len;               /* of tuning */
    char *done, *within, *report; /* owned paths: OUT/config.json, OUT/.kronq-tune, its report.json */
    char *rounded, *rounded_done; /* owned paths: the rounded checkpoint, its config.json */
    char *moving;                 /* owned path: its config.json as OUT gets it; there: files move */
    char *others_work;            /* owned path: what kronq quantize without --tune leaves unfinished */
} both;

bool kq_tune_wanted(const kq_quantize_options *opt)
{
    const kq_calibration *c = &opt->calibration;
    const bool no_text = !opt->factors && !c->n_text && !strcmp(c->method, "none");
    if (opt->tune && strcmp(opt->tune, "auto"))
        return !strcmp(opt->tune, "scales");
    return !opt->only && !no_text;
}

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
    t.seq_len = b->seq_len;
    return t;
}

/* There is no option for the length of the sequences to tune on: it is the default, or the model's context
 * where that is shorter. */
static kq_status choose_length(both *b, kq_error *err)
{
    kq_source *src;
    kq_status st = kq_source_open(b->model, &src, err);
    if (st)
        return st;
    const size_t context = kq_source_config(src)->max_position;
    kq_source_close(src);
    b->seq_len = kq_tune_defaults().seq_len;
    if (context && context < b->seq_len)
        b->seq_len = context;
    return KQ_OK;
}

static kq_status name_paths(both *b, kq_error *err)
{
    const struct {
        char **path;
        const char *name;
    } names[] = {{&b->done, "config.json"},
                 {&b->within, KQ_TUNE_WORK},
                 {&b->report, KQ_TUNE_WORK "/report.json"},
                 {&b->rounded, KQ_TUNE_WORK "/rounded"},
                 {&b->rounded_done, KQ_TUNE_WORK "/rounded/config.json"},
                 {&b->moving, KQ_TUNE_WORK "/config.json"},
                 {&b->others_work, ".kronq-work/job.json"}};
    kq_status st = KQ_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names && !st; i++)
        st = kq_path_in(names[i].path, err, b->out, "%s", names[i].name);
    return st;
}

/* Is there unfinished work that this call must not touch, or that --fresh discards? */
static kq_status check_unfinished(const both *b, kq_error *err)
{
    const bool resume = b->opt->resume, fresh = b->opt->fresh && !resume;
    if (fresh)
        return kq_remove_tree(b->within, err);
    if (!resume && kq_path_exists(b->within))
        return kq_fail(
            err, KQ_E_ARG,
            "%s: holds unfinished work; --resume continues it, --fresh discards it and starts anew", b->out);
    if (!kq_path_exists(b->rounded_done) && kq_path_exists(b->others_work))
        return kq_fail(err, resume ? KQ_E_MISMATCH : KQ_E_ARG,
                       "%s: holds unfinished work, which was started without --tune scales; give the same "
                       "settings, or --fresh to discard it and start anew",
                       b->out);
    return KQ_OK;
}

/* Round, unless that is done. The report is kept for a resumed run. */
static kq_status make_rounded(const both *b, kq_error *err)
{
    char *text = NULL;
    kq_quantize_options rounding = *b->opt;
    rounding.tune = "none";
    kq_status st = check_unfinished(b, err);
    if (!st)
        st = b->round(b->model, b->rounded, &rounding, &text, err);
    json_t *report = st ? NULL : json_loads(text, 0, NULL);
    if (!st && !json_is_true(json_object_get(report, "complete")))
        st = kq_file_write(b->report, text, strlen(text), err);
    json_decref(report);
    free(text);
    return st;
}

/* Decide for the rounded checkpoint: its config.json with what tuning found, in the file `moving`. */
static kq_status decide_for_rounded(const both *b, json_t *no_gain, kq_error *err)
{
    char *text;
    size_t size;
    kq_status st = kq_file_read(b->rounded_done, 1 << 26, &text, &size, err);
    if (st)
        return st;
    json_t *config = json_loadb(text, size, 0, NULL);
    kq_free(text);
    st = json_object_set(json_object_get(config, "quantization_config"), "tuned", no_gain)
             ? kq_fail(err, KQ_E_FORMAT, "%s: has no \"quantization_config\"", b->rounded_done)
             : kq_write_config(b->within, config, err);
    json_decref(config);
    return st;
}

/* Move what is still there of the rounded checkpoint to OUT, but for config.json. */
static kq_status move_files(const both *b, kq_error *err)
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
    return st;
}

static kq_status keep_rounded(const both *b, kq_error *err)
{
    kq_status st = move_files(b, err);
    if (!st && rename(b->moving, b->done))
        st = kq_fail(err, KQ_E_IO, "%s: cannot be renamed from %s: %s", b->done, b->moving, strerror(errno));
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

/* OUT is complete: the rounding says whether that was expected, and both compare their settings. */
static kq_status check_complete(const both *b, const kq_tune_options *t, char **report, kq_error *err)
{
    kq_status st = b->round(b->model, b->out, b->opt, report, err);
    return st ? st : kq_tune_check_complete(b->done, t, err);
}

/* Tune the rounded checkpoint, or keep it. *tuned: the report of tuning, NULL where it did not help. */
static kq_status tune_rounded(const both *b, const kq_tune_options *t, char **tuned, kq_error *err)
{
    json_t *no_gain = NULL;
    kq_status st = kq_path_exists(b->moving) ? kq_tune_check_complete(b->moving, t, err)
                                             : kq_tune_rounded(b->rounded, b->out, t, tuned, &no_gain, err);
    if (st == KQ_E_NO_GAIN)
        st = decide_for_rounded(b, no_gain, err);
    json_decref(no_gain);
    return st || *tuned ? st : keep_rounded(b, err);
}

static kq_status run(const both *b, char **report, kq_error *err)
{
    char *tuned = NULL;
    const kq_tune_options t = tune_options(b);
    if (kq_path_exists(b->done))
        return check_complete(b, &t, report, err);
    kq_status st = kq_tune_check_text(&t, err);
    if (!st)
        st = make_rounded(b, err);
    if (!st)
        st = tune_rounded(b, &t, &tuned, err);
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
    kq_text_keep(); /* a pipe is read by the rounding and by the tuning */
    kq_status st = name_paths(&b, err);
    if (!st)
        st = choose_length(&b, err);
    if (!st)
        st = run(&b, &report, err);
    kq_text_forget();
    if (!st)
        st = kq_remove_tree(b.within, err);
    else if (b.within && !kq_path_exists(b.rounded)) { /* refused: nothing is left that was not there */
        kq_remove_folders(b.within, 1);
        kq_remove_folders(out, made);
    }
    if (!st && report_json)
        *report_json = report;
    else
        free(report);
    void *const paths[] = {b.done, b.within, b.report, b.rounded, b.rounded_done, b.moving, b.others_work};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        kq_free(paths[i]);
    return st;
}
