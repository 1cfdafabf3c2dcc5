/* kq_export: opens any MODEL, prepares the output and writes it. A folder that is being written holds a lock
 * file. Only such a folder or an empty one is written into, so that no file of the user's is lost, and a
 * second export into the same folder is refused. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <jansson.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/text.h"
#include "base/time.h"
#include "export/rows.h"
#include "kern/gemm.h"
#include "settings/settings.h"

/* the lock file of a folder that is being written; it is removed when the folder is complete */
static const char unfinished[] = ".kronq-export";

/* Remove the weight files of an interrupted export, because the new one may have fewer of them. */
static void drop_leftovers(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, "model", 5) && strstr(e->d_name, ".safetensors"))
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

/* Make the folder, or take one that is empty or was left by an export that did not finish. The lock is held
 * until *lock is closed. */
static kq_status begin_folder(const char *out, bool *new_folder, int *lock, kq_error *err)
{
    char *lock_path = NULL, *config = NULL;
    bool ours = false, others = false;
    if (kq_path_exists(out) && !kq_path_is_dir(out))
        return kq_fail(err, KQ_E_IO, "%s: is a file, expected a folder to write the model into", out);
    *new_folder = !kq_path_exists(out);
    DIR *d = opendir(out);
    for (struct dirent *e; d && (e = readdir(d));) {
        ours = ours || !strcmp(e->d_name, unfinished);
        others = others || (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."));
    }
    if (d)
        closedir(d);
    if (others && !ours)
        return kq_fail(err, KQ_E_ARG,
                       "%s: is not empty and holds no unfinished export; choose another output or remove it",
                       out);
    kq_status status;
    if ((status = kq_mkdirs(out, err)) || (status = kq_path_in(&lock_path, err, out, "%s", unfinished)) ||
        (status = kq_path_in(&config, err, out, "config.json")))
        goto out;
    *lock = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0)
        status = kq_fail(err, KQ_E_IO, "%s: cannot be created", lock_path);
    else if (flock(*lock, LOCK_EX | LOCK_NB))
        status = kq_fail(err, KQ_E_IO, "%s: another export is writing there", out);
    if (!status) {
        unlink(config);
        drop_leftovers(out);
    }
out:
    kq_free(lock_path);
    kq_free(config);
    return status;
}

static kq_status write_folder(kq_export_job *x, bool *new_folder, int *lock, kq_error *err)
{
    char *lock_path = NULL;
    kq_status status = begin_folder(x->out, new_folder, lock, err);
    if (!status && !(status = kq_export_hf(x, err)) &&
        !(status = kq_path_in(&lock_path, err, x->out, "%s", unfinished)))
        unlink(lock_path);
    kq_free(lock_path);
    return status;
}

static char *make_report(const kq_export_job *x, double seconds, kq_error *err)
{
    const bool gguf = !strcmp(x->opt->to, "gguf");
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I}", "out", x->out, "to", x->opt->to, "type",
                          !gguf          ? "BF16"
                          : x->opt->type ? x->opt->type
                                         : "F16",
                          "tensors", (json_int_t)x->n_tensors, "fallback_tensors", (json_int_t)x->n_fallback,
                          "file_bytes", (json_int_t)x->file_bytes, "seconds", seconds, "peak_rss_bytes",
                          (json_int_t)kq_peak_rss_bytes());
    if (o && isfinite(x->relative_mse)) {
        json_object_set_new(o, "relative_mse", json_real(x->relative_mse));
        json_object_set_new(o, "second_rounding", json_boolean(kq_source_is_kronq(x->src)));
    }
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(o);
    if (!text)
        kq_fail(err, KQ_E_MEMORY, "out of memory: the report");
    return text;
}

kq_status kq_export(const char *model, const char *out, const kq_export_options *given, char **report_json,
                    kq_error *err)
{
    KQ_C_LOCALE;
    kq_export_options whole;
    const kq_export_options *opt = &whole;
    kq_model_file *file = NULL;
    kq_isa isa;
    bool new_folder = false;
    int lock = -1;
    const size_t made = kq_missing_folders(out);
    const double start = kq_now_s();
    if (report_json)
        *report_json = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_export_options, &whole, given, err);
    if (!status)
        status = kq_settings_check(KQ_EXPORT_OPTIONS, KQ_FOR_EXPORT_FOLDER | KQ_FOR_EXPORT_GGUF, &whole, err);
    if (status)
        return status;
    const char *to = opt->to ? opt->to : "";
    const bool gguf = !strcmp(to, "gguf");
    if (!gguf && strcmp(to, "bf16"))
        return kq_fail(err, KQ_E_ARG, "--to %s is not known; bf16 (a Hugging Face folder) and gguf are",
                       *to ? to : "''");
    if (!gguf && (opt->type || opt->fallback))
        return kq_fail(err, KQ_E_ARG, "--%s goes with --to gguf", opt->type ? "type" : "fallback");
    if ((status = kq_isa_pick(opt->common.isa, &isa, err)) ||
        (status = kq_model_file_open(model, isa, &file, err)))
        return status;
    kq_kern_init(isa);
    kq_export_job x = {.opt = opt,
                       .src = kq_model_file_source(file),
                       .weights = kq_model_file_weights(file),
                       .out = out,
                       .relative_mse = NAN};
    if (gguf) {
        status = kq_path_exists(out)
                     ? kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it", out)
                     : kq_export_gguf(&x, err);
    } else {
        status = write_folder(&x, &new_folder, &lock, err);
    }
    if (!status && report_json && !(*report_json = make_report(&x, kq_now_s() - start, err)))
        status = KQ_E_MEMORY;
    if (status && new_folder && lock >= 0) /* this run has made everything in it */
        kq_remove_tree(out, NULL);
    if (status && new_folder)
        kq_remove_folders(out, made);
    if (lock >= 0)
        close(lock);
    kq_model_file_close(file);
    return status;
}
