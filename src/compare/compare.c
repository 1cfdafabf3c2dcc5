/* kq_compare: passes over the text, and the rows that wait for them. Rows are grouped by pass, because the
 * pass is the dearest part of a row and several rows can share it; factor files go as soon as no row waits
 * for them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/time.h"
#include "compare/compare.h"
#include "prepare/plan.h"

/* Passes on what the library below reports, with the row or pass before it ("row 3/8: rounding"). Its notes,
 * one a module, are not passed on. */
typedef struct watcher {
    const kq_common *to;
    char where[64];
} watcher;

static int report_progress(void *ctx, const char *stage, double fraction, const char *note)
{
    const watcher *w = ctx;
    char text[128];
    (void)note;
    snprintf(text, sizeof text, "%s: %s", w->where, stage);
    return w->to->progress(w->to->ctx, text, fraction, NULL);
}

static kq_common watched(const kq_common *common, watcher *w)
{
    kq_common c = *common;
    w->to = common;
    if (common->progress) {
        c.progress = report_progress;
        c.ctx = w;
    }
    return c;
}

/* ---- passes ---- */

static kq_status factor_path(const kq_cmp *c, const kq_cmp_factors *f, const char *suffix, char **path,
                             kq_error *err)
{
    return kq_cmp_path(path, c->dir, "factors", f->name, suffix, err);
}

static double sum_seconds(const json_t *modules)
{
    const char *key;
    json_t *m;
    double s = 0;
    json_object_foreach((json_t *)modules, key, m)
        s += json_number_value(json_object_get(m, "seconds"));
    return s;
}

/* factors/NAME.json out of the pass's report. whole: nothing of it was done by an earlier, interrupted
 * run, so that its times are known. */
static kq_status keep_report(const kq_cmp *c, const kq_cmp_factors *f, const json_t *report,
                             const json_t *own, size_t shared, bool whole, bool peak, kq_error *err)
{
    const json_t *s = json_object_get(report, "seconds"), *modules = json_object_get(own, "modules");
    json_t *o = json_pack("{s:i, s:O, s:I, s:b, s:O?, s:O?}", "format", 1, "settings", f->settings,
                          "shared_by", (json_int_t)shared, "kept", c->opt->keep_factors, "calibration_nll",
                          json_object_get(report, "calibration_nll"), "modules", modules);
    if (!o)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", f->name);
    const double pass =
        json_number_value(json_object_get(s, "forward")) + json_number_value(json_object_get(s, "backward"));
    json_object_set_new(o, "seconds",
                        json_pack("{s:o, s:o}", "calibration", whole ? json_real(pass) : json_null(),
                                  "factors",
                                  whole && modules ? json_real(sum_seconds(modules)) : json_null()));
    json_object_set(o, "peak_rss_bytes",
                    peak && whole ? json_object_get(report, "peak_rss_bytes") : json_null());
    json_object_set(o, "file_bytes",
                    json_object_get(own, "file_bytes") ? json_object_get(own, "file_bytes") : json_null());
    kq_status status = kq_cmp_store_in(c->dir, "factors", f->name, o, err);
    json_decref(o);
    return status;
}

/* Remove FILE.SUFFIX. */
static kq_status remove_beside(const char *file, const char *suffix, kq_error *err)
{
    char *path;
    kq_status status = kq_format(&path, err, "%s%s", file, suffix);
    if (!status)
        status = kq_remove_tree(path, err);
    kq_free(path);
    return status;
}

/* A pass was interrupted with settings that are no longer asked for: begin it anew. */
static kq_status drop_pass(const kq_estimate *e, size_t n, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++)
        if (!(status = remove_beside(e[i].out_file, ".pass", err)))
            status = remove_beside(e[i].out_file, ".work", err);
    return status;
}

/* Was a part of the pass done by an earlier run? */
static bool has_begun(const kq_estimate *e, size_t n)
{
    bool begun = false;
    for (size_t i = 0; i < n && !begun; i++) {
        char *work;
        begun = kq_path_exists(e[i].out_file);
        /* out of memory: unknown, so that seconds of a whole pass are not claimed */
        const kq_status unknown = kq_format(&work, NULL, "%s.work", e[i].out_file);
        begun = begun || unknown || kq_path_exists(work);
        kq_free(work);
    }
    return begun;
}

/* The factors that one pass over the text makes. */
typedef struct pass {
    const kq_cmp_factors **f; /* owned [n] */
    kq_estimate *e;           /* owned [n]; out_file is owned too */
    size_t n, bytes;          /* of the factor files */
} pass;

/* Does the folder have these factors, with their report? *file: their factor file's path. */
static kq_status find_factor_file(const kq_cmp *c, const kq_cmp_factors *f, char **file, bool *there,
                                  kq_error *err)
{
    char *report = NULL;
    kq_status status = factor_path(c, f, ".safetensors", file, err);
    if (!status)
        status = factor_path(c, f, ".json", &report, err);
    *there = !status && kq_path_exists(report) && kq_path_exists(*file);
    kq_free(report);
    return status;
}

/* The factors of pass p that rows wait for and that are not there yet. */
static kq_status open_pass(const kq_cmp *c, size_t p, pass *a, kq_error *err)
{
    *a = (pass){0};
    kq_status status = kq_alloc_for((void **)&a->f, c->n_factors, sizeof *a->f, "factors", err);
    if (!status)
        status = kq_alloc_for((void **)&a->e, c->n_factors, sizeof *a->e, "factors", err);
    for (size_t i = 0; i < c->n_factors && !status; i++) {
        const kq_cmp_factors *f = &c->factors[i];
        char *file;
        bool there;
        if (f->pass != p || !f->waiting)
            continue;
        if ((status = find_factor_file(c, f, &file, &there, err)) || there) {
            kq_free(file);
            continue;
        }
        a->f[a->n] = f;
        a->e[a->n++] = (kq_estimate){.out_file = file, .calibration = f->calibration};
        a->bytes += f->bytes;
    }
    return status;
}

static void close_pass(pass *a)
{
    for (size_t i = 0; i < a->n; i++)
        kq_free((char *)a->e[i].out_file);
    kq_free(a->f);
    kq_free(a->e);
}

/* The settings of the first factors are those of all, as far as the pass is concerned. (Methods over inputs
 * ignore how labels are drawn.) */
static kq_quantize_options pass_options(const kq_cmp *c, const pass *a, const kq_common *common)
{
    const kq_cmp_row *r = c->row;
    while (r->factors < 0 || &c->factors[r->factors] != a->f[0])
        r++;
    kq_quantize_options opt = r->opt;
    opt.calibration = a->f[0]->calibration;
    opt.common = *common;
    opt.common.seed = a->f[0]->seed;
    opt.shard_size = SIZE_MAX; /* one file, to be removed as one */
    return opt;
}

/* Make the factors and write their reports. */
static kq_status calibrate_pass(const kq_cmp *c, const pass *a, const kq_common *common, kq_error *err)
{
    const kq_quantize_options opt = pass_options(c, a, common);
    json_t *report = NULL;
    char *text = NULL;
    bool whole = !has_begun(a->e, a->n);
    kq_status status = whole ? kq_check_disk(c->dir, a->bytes, err) : KQ_OK;
    const bool peak = kq_peak_rss_reset();
    if (!status)
        status = kq_calibrate_all(c->model, a->e, a->n, &opt, c->opt->factor_bf16, &text, err);
    if (status == KQ_E_MISMATCH && !(status = drop_pass(a->e, a->n, err))) {
        whole = true;
        status = kq_calibrate_all(c->model, a->e, a->n, &opt, c->opt->factor_bf16, &text, err);
    }
    if (!status && !(report = json_loads(text, 0, NULL)))
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: the calibration's report");
    for (size_t i = 0; i < a->n && !status; i++) {
        const json_t *own = a->n > 1 ? json_array_get(json_object_get(report, "estimates"), i) : report;
        status = keep_report(c, a->f[i], report, own, a->n, whole, peak, err);
    }
    json_decref(report);
    free(text);
    return status;
}

/* Run pass p, unless all its factors are there. line announces it. */
static kq_status run_pass(const kq_cmp *c, size_t p, const char *line, const kq_common *common, kq_error *err)
{
    pass a;
    kq_status status = open_pass(c, p, &a, err);
    if (!status && a.n)
        status = kq_progress_note(&c->opt->common, line, err);
    if (!status && a.n)
        status = calibrate_pass(c, &a, common, err);
    close_pass(&a);
    return status;
}

/* The factor file, once no row waits for it any more; one that this run or the run that made it was told
 * to keep stays. */
static kq_status release(const kq_cmp *c, const kq_cmp_factors *f, kq_error *err)
{
    char *path = NULL;
    json_t *report;
    if (f->waiting || c->opt->keep_factors)
        return KQ_OK;
    kq_status status = kq_cmp_load_if_there(c->dir, "factors", f->name, &report, err);
    if (report && !json_is_true(json_object_get(report, "kept")) &&
        !(status = factor_path(c, f, ".safetensors", &path, err)))
        status = kq_remove_tree(path, err);
    kq_free(path);
    json_decref(report);
    return status;
}

/* What a run that died left behind: it had written a row, and not removed what only that row needed. */
static kq_status tidy(const kq_cmp *c, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < c->n && !status; i++)
        if (c->row[i].done)
            status = kq_cmp_row_tidy(c, &c->row[i], err);
    for (size_t i = 0; i < c->n_factors && !status; i++)
        status = release(c, &c->factors[i], err);
    return status;
}

/* ---- the whole ---- */

typedef struct pace {
    size_t done, left; /* rows: of this run */
    double rows_s;     /* their time */
    size_t passes_done, passes_left;
    double passes_s;
} pace;

static kq_status announce_row(const kq_cmp *c, const kq_cmp_row *r, const pace *p, kq_error *err)
{
    char line[600], left[32];
    int n = snprintf(line, sizeof line, "row %zu of %zu: %.300s, %g bits, seed %llu", c->n - p->left + 1,
                     c->n, r->spec, r->opt.bits, (unsigned long long)r->opt.common.seed);
    if (p->done && (p->passes_done || !p->passes_left)) {
        double s = p->rows_s / (double)p->done * (double)p->left;
        if (p->passes_left)
            s += p->passes_s / (double)p->passes_done * (double)p->passes_left;
        snprintf(line + n, sizeof line - (size_t)n, " (about %s to go)", kq_duration(s, left));
    }
    return kq_progress_note(&c->opt->common, line, err);
}

static kq_status run_row(kq_cmp *c, size_t i, pace *p, char **text, kq_error *err)
{
    kq_cmp_row *r = &c->row[i];
    watcher w;
    const double start = kq_now_s();
    kq_common common = watched(&c->opt->common, &w);
    snprintf(w.where, sizeof w.where, "row %zu/%zu", c->n - p->left + 1, c->n);
    kq_status status = announce_row(c, r, p, err);
    if (!status)
        status = kq_cmp_row_run(c, r, &common, err);
    if (status)
        return kq_fail_within(err, status, r->spec);
    r->done = true;
    if (r->factors >= 0) {
        c->factors[r->factors].waiting--;
        if ((status = release(c, &c->factors[r->factors], err)))
            return status;
    }
    free(*text);
    p->done++;
    p->left--;
    p->rows_s += kq_now_s() - start;
    return kq_cmp_tables(c->dir, text, err);
}

/* Pass p = n_passes stands for the rows that need no factors. */
static kq_status run_rows(kq_cmp *c, size_t p, pace *pc, char **text, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < c->n && !status; i++) {
        const kq_cmp_row *r = &c->row[i];
        if (!r->done && (r->factors < 0 ? c->n_passes : c->factors[r->factors].pass) == p)
            status = run_row(c, i, pc, text, err);
    }
    return status;
}

static bool pass_waits(const kq_cmp *c, size_t p)
{
    for (size_t i = 0; i < c->n_factors; i++)
        if (c->factors[i].pass == p && c->factors[i].waiting)
            return true;
    return false;
}

static kq_status run_all(kq_cmp *c, char **text, kq_error *err)
{
    pace p = {0};
    if (c->n_same) {
        char note[600];
        snprintf(note, sizeof note, "%zu rows are left out, being others again (%.200s is %.200s)", c->n_same,
                 c->same[0], c->same[1]);
        kq_status status = kq_progress_note(&c->opt->common, note, err);
        if (status)
            return status;
    }
    for (size_t i = 0; i < c->n; i++)
        p.left += !c->row[i].done;
    for (size_t i = 0; i < c->n_passes; i++)
        p.passes_left += pass_waits(c, i);
    const size_t passes = p.passes_left;
    kq_status status = run_rows(c, c->n_passes, &p, text, err);
    for (size_t i = 0; i < c->n_passes && !status; i++) {
        if (!pass_waits(c, i))
            continue;
        watcher w;
        const double start = kq_now_s();
        kq_common common = watched(&c->opt->common, &w);
        snprintf(w.where, sizeof w.where, "pass %zu/%zu", p.passes_done + 1, passes);
        char line[100];
        snprintf(line, sizeof line, "pass %zu of %zu over the text", p.passes_done + 1, passes);
        if ((status = run_pass(c, i, line, &common, err)))
            break;
        p.passes_done++;
        p.passes_left--;
        p.passes_s += kq_now_s() - start;
        status = run_rows(c, i, &p, text, err);
    }
    return status;
}

static kq_status lock_folder(const char *dir, int *fd, kq_error *err)
{
    char *path;
    kq_status status = kq_cmp_path(&path, dir, NULL, "lock", "", err);
    if (status)
        return status;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0)
        status = kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
    kq_free(path);
    if (status)
        return status;
    if (flock(*fd, LOCK_EX | LOCK_NB))
        return kq_fail(err, KQ_E_IO, "%s: another kronq is at work there", dir);
    return KQ_OK;
}

static const char *const folder[] = {"rows", "factors", "models", "reference"};
enum { N_FOLDER = sizeof folder / sizeof *folder };

static kq_status make_folders(const char *dir, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < N_FOLDER && !status; i++) {
        char *path;
        if (!(status = kq_cmp_path(&path, dir, NULL, folder[i], "", err)))
            status = kq_mkdirs(path, err);
        kq_free(path);
    }
    return status;
}

/* Nothing could be stored: what was made for it goes, the last n parts of dir's path too when they are
 * empty. */
static void remove_folders(const char *dir, size_t n)
{
    char *path;
    for (size_t i = 0; i < N_FOLDER; i++) {
        if (!kq_cmp_path(&path, dir, NULL, folder[i], "", NULL))
            kq_remove_folders(path, 1);
        kq_free(path);
    }
    if (n && !kq_cmp_path(&path, dir, NULL, "lock", "", NULL)) {
        remove(path);
        kq_free(path);
    }
    kq_remove_folders(dir, n);
}

kq_status kq_compare(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                     const kq_compare_options *options, char **result_json, kq_error *err)
{
    KQ_C_LOCALE;
    kq_cmp c;
    char *text = NULL;
    int lock = -1;
    kq_compare_options guarded;
    const kq_compare_options *opt = &guarded;
    kq_progress guard;
    if (result_json)
        *result_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_compare_options, &guarded, options, err);
    if (status)
        return status;
    const kq_common common = guarded.common;
    guarded.common = kq_progress_guard(&common, &guard);
    if (!opt->n_text && !opt->n_tasks)
        return kq_fail(err, KQ_E_ARG,
                       "nothing to measure: a text (--ppl FILE) or a task (--task NAME=FILE) is needed");
    status = kq_cmp_open(model, dir, rows, n_rows, opt, &c, err);
    if (status)
        return status;
    const size_t new_folders = kq_missing_folders(dir);
    if ((status = make_folders(dir, err)) || (status = lock_folder(dir, &lock, err)))
        goto out;
    if ((status = kq_cmp_store_in(dir, NULL, "compare", c.about, err))) {
        remove_folders(dir, new_folders);
        goto out;
    }
    if ((status = tidy(&c, err)) || (status = run_all(&c, &text, err)))
        goto out;
    if (!text)
        status = kq_cmp_tables(dir, &text, err);
    if (!status && result_json) {
        *result_json = text;
        text = NULL;
    }
out:
    free(text);
    if (lock >= 0)
        close(lock);
    kq_cmp_close(&c);
    return status;
}
