/* The work folder: who holds it (a lock), what it was asked to do (job.json), and when it goes (job.h).
 *
 * Nothing is removed but files whose names kronq itself gives, and a folder only when it is empty: the
 * folder's name comes from the user, who may have pointed it at something else. */
#include "sweep/job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"

kq_status kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char **out,
                      kq_error *err)
{
    return kq_path_in(out, err, job->work_dir, "%s-%05zu.%s", stem, i, suffix);
}

char *kq_job_setting_text(const json_t *value)
{
    return value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9))
                 : strdup("absent");
}

/* The first setting that differs between what was asked then and now, in words ("bits 2, now it is 3");
 * settings may hold settings. False: none does. */
static bool difference(const char *within, const json_t *then, const json_t *now, char words[600])
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)now, key, value) {
        json_t *old = json_object_get(then, key);
        if (json_equal(old, value))
            continue;
        if (json_is_object(old) && json_is_object(value)) {
            if (difference(key, old, value, words))
                return true;
            continue;
        }
        char *a = kq_job_setting_text(old), *b = kq_job_setting_text(value);
        snprintf(words, 600, "%s%s%s %.200s, now it is %.200s", within, *within ? "." : "", key, a ? a : "?",
                 b ? b : "?");
        free(a);
        free(b);
        return true;
    }
    json_object_foreach((json_t *)then, key, value)
        if (!json_object_get(now, key)) {
            char *a = kq_job_setting_text(value);
            snprintf(words, 600, "%s%s%s %.200s, now without", within, *within ? "." : "", key, a ? a : "?");
            free(a);
            return true;
        }
    return false;
}

/* The names that kronq gives files of a work folder; ".seal" and names of temporary files may follow.
 * Nothing else is ever removed. */
static bool is_ours(const char *name)
{
    static const char *const stems[] = {"block-",  "factors-",   "forecast-", "imatrix-", "measured-",
                                        "tokens-", "gradients-", "input-",    "grad-",    "rowfactors-",
                                        "packed-", "teacher-",   "state-",    "stream-"};
    if (!strncmp(name, "job.json", 8) || !strcmp(name, "lock"))
        return true;
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++) {
        const size_t len = strlen(stems[i]);
        if (!strncmp(name, stems[i], len) && name[len] >= '0' && name[len] <= '9')
            return true;
    }
    return false;
}

static bool is_strange(const char *name)
{
    return !is_ours(name);
}

static bool is_work(const char *name)
{
    const char *dot = strrchr(name, '.');
    return is_ours(name) && strcmp(name, "job.json") && (!dot || strcmp(dot, ".tmp"));
}

/* Count the files of the folder that `which` picks, the lock left out, and remove them when asked. */
static size_t clear_folder(const char *dir, bool remove_files, bool (*which)(const char *name))
{
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, "lock") ||
            !which(e->d_name))
            continue;
        n++;
        if (remove_files)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    return n;
}

/* Is there a file of this name in the folder? Nothing is allocated, so that "no" never means "out of memory":
 * work would then be taken for none, and removed. */
static bool has_file(const char *dir, const char *name)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool there = fd >= 0 && !faccessat(fd, name, F_OK, 0);
    if (fd >= 0)
        close(fd);
    return there;
}

static void remove_file(const char *dir, const char *name)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    unlinkat(fd, name, 0);
    close(fd);
}

static bool has_settings(const char *work_dir)
{
    return has_file(work_dir, "job.json");
}

bool kq_job_has_file(const kq_job *job, const char *stem, size_t i, const char *suffix)
{
    char name[96];
    snprintf(name, sizeof name, "%s-%05zu.%s", stem, i, suffix);
    return has_file(job->work_dir, name);
}

void kq_job_remove_file(const kq_job *job, const char *stem, size_t i, const char *suffix)
{
    char name[96];
    snprintf(name, sizeof name, "%s-%05zu.%s", stem, i, suffix);
    remove_file(job->work_dir, name);
}

static bool has_work(const char *work_dir)
{
    return has_settings(work_dir) && clear_folder(work_dir, false, is_work);
}

kq_status kq_job_check_free(const char *done_path, const char *work_dir, bool resume, kq_error *err)
{
    if (kq_path_exists(done_path))
        return resume ? KQ_OK
                      : kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it",
                                done_path);
    if (kq_path_exists(work_dir) && !kq_path_is_dir(work_dir))
        return kq_fail(
            err, KQ_E_ARG,
            "%s: is in the way of the work folder and no folder; choose another output or remove it",
            work_dir);
    if (kq_path_is_dir(work_dir) && !has_settings(work_dir) && clear_folder(work_dir, false, is_strange))
        return kq_fail(
            err, KQ_E_ARG,
            "%s: would be the work folder, but holds files that are not kronq's; choose another output",
            work_dir);
    return KQ_OK;
}

/* Lock the file at path, which is made when it is not there. *again: the file was removed while we waited for
 * it, and so locks nothing. KQ_E_IO: another process holds it. */
static kq_status lock_file(kq_job *job, const char *path, bool *again, kq_error *err)
{
    struct stat ours, there;
    *again = false;
    kq_status status = kq_mkdirs(job->work_dir, err);
    if (status)
        return status;
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 && errno == ENOENT) {
        *again = true;
        return KQ_OK;
    }
    if (fd < 0)
        return kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        return kq_fail(err, KQ_E_IO, "%s: another kronq is at work there", job->work_dir);
    }
    if (!fstat(fd, &ours) && !stat(path, &there) && ours.st_ino == there.st_ino &&
        ours.st_dev == there.st_dev) {
        job->lock = fd;
        return KQ_OK;
    }
    close(fd);
    *again = true;
    return KQ_OK;
}

static kq_status lock_folder(kq_job *job, kq_error *err)
{
    char *path;
    bool again = true;
    kq_status status = kq_path_in(&path, err, job->work_dir, "lock");
    for (int i = 0; i < 100 && again && !status; i++)
        status = lock_file(job, path, &again, err);
    if (!status && again)
        status = kq_fail(err, KQ_E_IO, "%s: cannot be locked", path);
    kq_free(path);
    return status;
}

/* What is there was asked for with the settings `then`. */
static kq_status check_settings(const char *path, const char *work_dir, const json_t *now, bool resume,
                                kq_error *err)
{
    json_error_t json_err = {.text = "is no JSON object"};
    char *text, words[600];
    size_t size;
    kq_status status = kq_file_read(path, 1 << 24, &text, &size, err);
    if (status)
        return status;
    json_t *then = json_loadb(text, size, JSON_REJECT_DUPLICATES, &json_err);
    const bool differs = json_is_object(then) && difference("", then, now, words);
    if (!json_is_object(then))
        status = kq_fail(err, KQ_E_FORMAT, "%s: %s; --fresh discards the unfinished work and starts anew",
                         path, json_err.text);
    else if (differs && resume)
        status = kq_fail(err, KQ_E_MISMATCH,
                         "%s: the unfinished work there was started with %s; give the same settings, or "
                         "--fresh to discard it and start anew",
                         path, words);
    else if (differs)
        status = kq_fail(err, KQ_E_ARG,
                         "%s: holds unfinished work, started with %s; --resume with the same settings "
                         "continues it, --fresh discards it and "
                         "starts anew",
                         work_dir, words);
    else if (!resume)
        status =
            kq_fail(err, KQ_E_ARG,
                    "%s: holds unfinished work; --resume continues it, --fresh discards it and starts anew",
                    work_dir);
    kq_free(text);
    json_decref(then);
    return status;
}

/* job.json: written for new work, compared for unfinished work. The lock is held. */
static kq_status settle_settings(const kq_job *job, const char *settings, bool resume, bool fresh,
                                 kq_error *err)
{
    const bool unfinished = has_work(job->work_dir) && !fresh;
    if (!unfinished) /* not asked for, or without anything finished, or without settings: not to be trusted */
        clear_folder(job->work_dir, true, is_ours);
    json_error_t json_err;
    json_t *now = json_loads(settings, JSON_REJECT_DUPLICATES, &json_err);
    char *text = NULL, *path = NULL;
    kq_status status = now ? kq_path_in(&path, err, job->work_dir, "job.json")
                           : kq_fail(err, KQ_E_ARG, "settings of the job: %s", json_err.text);
    if (!status && unfinished)
        status = check_settings(path, job->work_dir, now, resume, err);
    else if (!status)
        status = (text = json_dumps(now, JSON_INDENT(2)))
                     ? kq_file_write(path, text, strlen(text), err)
                     : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    free(text);
    kq_free(path);
    json_decref(now);
    return status;
}

static kq_status open_folder(kq_job *job, const char *done_path, const char *settings, bool resume,
                             bool fresh, kq_error *err)
{
    kq_status status = kq_job_check_free(done_path, job->work_dir, resume, err);
    if (status)
        return status;
    if (kq_path_exists(done_path)) {
        job->complete = true;
        if (kq_path_is_dir(job->work_dir)) /* a process died between the last rename and the clean-up, unless
                                              it is still alive */
            lock_folder(job, NULL);
        return KQ_OK;
    }
    job->made = kq_missing_folders(job->work_dir);
    if ((status = lock_folder(job, err))) {
        if (job->made)
            kq_remove_folders(job->work_dir, job->made);
        return status;
    }
    if (kq_path_exists(done_path)) { /* finished by another process just now */
        job->complete = resume;
        if (!resume)
            kq_job_finish(job);
        return resume ? KQ_OK
                      : kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it",
                                done_path);
    }
    return settle_settings(job, settings, resume, fresh, err);
}

kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume,
                      bool fresh, kq_job *job, kq_error *err)
{
    *job = (kq_job){.lock = -1};
    kq_status status = kq_format(&job->work_dir, err, "%s", work_dir);
    if (!status)
        status = open_folder(job, done_path, settings, resume, fresh, err);
    if (status)
        kq_job_close(job);
    return status;
}

void kq_job_finish(kq_job *job)
{
    if (job->lock < 0)
        return;
    clear_folder(job->work_dir, true, is_ours);
    remove_file(job->work_dir, "lock"); /* last: until then nobody else can have the folder */
    /* those above it only when nothing is in them */
    kq_remove_folders(job->work_dir, job->made > 1 ? job->made : 1);
    close(job->lock);
    job->lock = -1;
}

void kq_job_close(kq_job *job)
{
    if (job->lock >= 0 && !job->complete && !clear_folder(job->work_dir, false, is_work))
        kq_job_finish(job);
    if (job->lock >= 0)
        close(job->lock);
    job->lock = -1;
    kq_free(job->work_dir);
    job->work_dir = NULL;
}
