#include "quant/job.h"

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
#include "base/hash.h"
#include "base/mem.h"

void kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char buf[4400])
{
    snprintf(buf, 4400, "%s/%s-%05zu.%s", job->work_dir, stem, i, suffix);
}

char *kq_job_shown(const json_t *value)
{
    return value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9)) : strdup("absent");
}

/* Name the first setting that differs between what was asked then and now; settings may hold settings. */
static kq_status compare(const char *path, const char *within, const json_t *then, const json_t *now, kq_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)now, key, value) {
        json_t *old = json_object_get(then, key);
        if (json_equal(old, value))
            continue;
        if (json_is_object(old) && json_is_object(value)) {
            kq_status status = compare(path, key, old, value, err);
            if (status)
                return status;
            continue;
        }
        char *a = kq_job_shown(old), *b = kq_job_shown(value);
        kq_status status = kq_fail(err, KQ_E_MISMATCH,
                                   "%s: the unfinished work there was started with %s%s%s %.200s, now it is %.200s; give the same or remove the output",
                                   path, within, *within ? "." : "", key, a ? a : "?", b ? b : "?");
        free(a);
        free(b);
        return status;
    }
    json_object_foreach ((json_t *)then, key, value)
        if (!json_object_get(now, key))
            return kq_fail(err, KQ_E_MISMATCH, "%s: the unfinished work there was started with %s%s%s, now without; give the same or remove the output", path,
                           within, *within ? "." : "", key);
    return KQ_OK;
}

/* Count the files of the folder that `which` picks (NULL: all), the lock left out, and remove them when asked. */
static size_t clear_folder(const char *dir, bool remove_files, bool (*which)(const char *name))
{
    char path[4400];
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, "lock") || (which && !which(e->d_name)))
            continue;
        n++;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (remove_files)
            unlink(path);
    }
    if (d)
        closedir(d);
    return n;
}

static bool is_work(const char *name)
{
    const char *dot = strrchr(name, '.');
    return strcmp(name, "job.json") && (!dot || strcmp(dot, ".tmp"));
}

/* Take the folder's lock, KQ_E_IO when another process has it. A lock file that was removed while we waited for it locks nothing: try again. */
static kq_status lock_folder(kq_job *job, kq_error *err)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/lock", job->work_dir);
    for (int i = 0; i < 100; i++) {
        struct stat ours, there;
        kq_status status = kq_mkdirs(job->work_dir, err);
        if (status)
            return status;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return kq_fail(err, KQ_E_IO, "%s: %s", path, strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            close(fd);
            return kq_fail(err, KQ_E_IO, "%s: another kronq is at work there", job->work_dir);
        }
        if (!fstat(fd, &ours) && !stat(path, &there) && ours.st_ino == there.st_ino && ours.st_dev == there.st_dev) {
            job->lock = fd;
            return KQ_OK;
        }
        close(fd);
    }
    return kq_fail(err, KQ_E_IO, "%s: cannot be locked", path);
}

kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume, kq_job *job, kq_error *err)
{
    *job = (kq_job){.lock = -1};
    char path[4400];
    kq_status status;
    if (snprintf(job->work_dir, sizeof job->work_dir, "%s", work_dir) >= (int)sizeof job->work_dir)
        return kq_fail(err, KQ_E_ARG, "%s: the path is too long", work_dir);
    if (kq_path_exists(done_path) && !resume)
        return kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it", done_path);
    if (kq_path_exists(done_path)) {
        job->complete = true;
        if (kq_path_is_dir(work_dir))
            lock_folder(job, NULL); /* died between the last rename and the clean-up, unless it is still alive */
        return KQ_OK;
    }
    if ((status = lock_folder(job, err)))
        return status;
    if (kq_path_exists(done_path)) { /* finished by another process just now */
        job->complete = resume;
        if (!resume)
            kq_job_finish(job);
        return resume ? KQ_OK : kq_fail(err, KQ_E_ARG, "%s: exists already; choose another output or remove it", done_path);
    }
    snprintf(path, sizeof path, "%s/job.json", work_dir);
    const bool there = kq_path_exists(path) && clear_folder(work_dir, false, is_work);
    if (there && !resume) {
        kq_job_close(job);
        return kq_fail(err, KQ_E_ARG, "%s: holds unfinished work; --resume continues it, or remove the folder", work_dir);
    }
    if (!there)
        clear_folder(work_dir, true, NULL); /* died before anything was finished, or before its settings were written: not to be trusted */
    json_error_t json_err;
    json_t *now = json_loads(settings, JSON_REJECT_DUPLICATES, &json_err), *then = NULL;
    char *text = NULL, *text_there = NULL;
    if (!now) {
        status = kq_fail(err, KQ_E_ARG, "settings of the job: %s", json_err.text);
    } else if (there) {
        size_t size;
        if (!(status = kq_file_read(path, 1 << 24, &text_there, &size, err))) {
            then = json_loadb(text_there, size, JSON_REJECT_DUPLICATES, &json_err);
            status = json_is_object(then) ? compare(path, "", then, now, err) : kq_fail(err, KQ_E_FORMAT, "%s: %s; remove the output and start again", path, json_err.text);
        }
    } else {
        text = json_dumps(now, JSON_INDENT(2));
        status = text ? kq_file_write(path, text, strlen(text), err) : kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    kq_free(text_there);
    free(text);
    json_decref(now);
    json_decref(then);
    if (status)
        kq_job_close(job);
    return status;
}

void kq_job_finish(kq_job *job)
{
    if (job->lock < 0)
        return;
    char path[4400];
    clear_folder(job->work_dir, true, NULL);
    snprintf(path, sizeof path, "%s/lock", job->work_dir);
    unlink(path); /* last: until then nobody else can have the folder */
    rmdir(job->work_dir);
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
}

static kq_status fingerprint(const char *path, char hex[17], kq_error *err)
{
    kq_map map;
    kq_status status = kq_map_open(path, &map, err);
    if (status)
        return status;
    snprintf(hex, 17, "%016llx", (unsigned long long)kq_hash64(map.data, map.size, 0));
    kq_map_close(&map);
    return KQ_OK;
}

static void seal_path(const char *path, char seal[4408])
{
    snprintf(seal, 4408, "%s.seal", path);
}

kq_status kq_job_seal(const char *path, kq_error *err)
{
    char hex[17], seal[4408];
    kq_status status = fingerprint(path, hex, err);
    seal_path(path, seal);
    return status ? status : kq_file_write(seal, hex, 16, err);
}

bool kq_job_sealed(const char *path)
{
    char seal[4408];
    seal_path(path, seal);
    return kq_path_exists(seal);
}

kq_status kq_job_check_seal(const char *path, kq_error *err)
{
    char hex[17], seal[4408], *text = NULL;
    size_t size;
    kq_status status = fingerprint(path, hex, err);
    seal_path(path, seal);
    if (!status && !(status = kq_file_read(seal, 64, &text, &size, err)) && (size != 16 || memcmp(text, hex, 16)))
        status = kq_fail(err, KQ_E_FORMAT, "%s: is damaged; remove the unfinished output and start again", path);
    kq_free(text);
    return status;
}

bool kq_job_part_done(const kq_job *job, const char *stem, size_t i)
{
    char path[4400];
    kq_job_path(job, stem, i, "safetensors", path);
    return kq_job_sealed(path);
}

kq_status kq_job_check_parts(const kq_job *job, const char *stem, size_t n, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++) {
        char path[4400];
        kq_job_path(job, stem, i, "safetensors", path);
        if (kq_job_sealed(path))
            status = kq_job_check_seal(path, err);
    }
    return status;
}
