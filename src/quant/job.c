#include "quant/job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

void kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char buf[4400])
{
    snprintf(buf, 4400, "%s/%s-%05zu.%s", job->work_dir, stem, i, suffix);
}

/* Name the first setting that differs between what was asked then and now. */
static kq_status compare(const char *path, const json_t *then, const json_t *now, kq_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)now, key, value) {
        json_t *old = json_object_get(then, key);
        if (json_equal(old, value))
            continue;
        char *a = old ? json_dumps(old, JSON_ENCODE_ANY | JSON_COMPACT) : NULL, *b = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        kq_status status = kq_fail(err, KQ_E_MISMATCH, "%s: the unfinished work there was started with %s %.200s, now it is %.200s; give the same or remove the output",
                                   path, key, a ? a : "absent", b ? b : "?");
        free(a);
        free(b);
        return status;
    }
    if (json_object_size(then) != json_object_size(now))
        return kq_fail(err, KQ_E_MISMATCH, "%s: the unfinished work there has other settings; remove the output and start again", path);
    return KQ_OK;
}

/* An empty folder, or one that is not there, may be used. */
static bool folder_is_empty(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return true;
    bool empty = true;
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            empty = false;
    closedir(d);
    return empty;
}

kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume, kq_job *job, kq_error *err)
{
    *job = (kq_job){.lock = -1};
    char path[4400];
    if (snprintf(job->work_dir, sizeof job->work_dir, "%s", work_dir) >= (int)sizeof job->work_dir)
        return kq_fail(err, KQ_E_ARG, "%s: the path is too long", work_dir);
    if (kq_path_exists(done_path)) {
        if (!resume)
            return kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it", done_path);
        job->complete = true;
        return KQ_OK;
    }
    snprintf(path, sizeof path, "%s/job.json", work_dir);
    const bool there = kq_path_exists(path);
    if (there && !resume)
        return kq_fail(err, KQ_E_ARG, "%s: holds unfinished work; --resume continues it, or remove the folder", work_dir);
    kq_status status;
    if (!there && kq_path_is_dir(work_dir) && !folder_is_empty(work_dir))
        kq_job_finish(job); /* died before its settings were written: nothing in it can be trusted */
    if ((status = kq_mkdirs(work_dir, err)))
        return status;

    char lock[4400];
    snprintf(lock, sizeof lock, "%s/lock", work_dir);
    job->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (job->lock < 0)
        return kq_fail(err, KQ_E_IO, "%s: %s", lock, strerror(errno));
    if (flock(job->lock, LOCK_EX | LOCK_NB)) {
        kq_job_close(job);
        return kq_fail(err, KQ_E_IO, "%s: another kronq is at work there", work_dir);
    }
    json_error_t json_err;
    json_t *now = json_loads(settings, JSON_REJECT_DUPLICATES, &json_err), *then = NULL;
    char *text = NULL;
    if (!now) {
        status = kq_fail(err, KQ_E_ARG, "settings of the job: %s", json_err.text);
    } else if (there) {
        size_t size;
        if (!(status = kq_file_read(path, 1 << 24, &text, &size, err))) {
            then = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_err);
            status = json_is_object(then) ? compare(path, then, now, err) : kq_fail(err, KQ_E_FORMAT, "%s: %s; remove the output and start again", path, json_err.text);
        }
    } else {
        text = json_dumps(now, JSON_INDENT(2));
        status = text ? kq_file_write(path, text, strlen(text), err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    free(text);
    json_decref(now);
    json_decref(then);
    if (status)
        kq_job_close(job);
    return status;
}

void kq_job_finish(kq_job *job)
{
    char path[4400];
    DIR *d = opendir(job->work_dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", job->work_dir, e->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(job->work_dir);
    kq_job_close(job);
}

void kq_job_close(kq_job *job)
{
    if (job->lock >= 0)
        close(job->lock);
    job->lock = -1;
}
