/* A work folder: unfinished work on disk, what it was asked to do, and whether it may be continued.
 *
 * WORK/job.json holds every setting that the result depends on, and --resume compares them, so that nothing
 * stale is ever continued silently. WORK/lock keeps two processes apart. */
#ifndef KQ_SWEEP_JOB_H
#define KQ_SWEEP_JOB_H

#include "base/error.h"

struct json_t; /* jansson's json_t */

typedef struct kq_job {
    char *work_dir; /* owned */
    bool complete;  /* resume was given, and the result exists */
    int lock;       /* file descriptor that holds the folder's lock; -1: none */
    size_t made;    /* folders that did not exist before: the work folder, the folder around it, and so on */
} kq_job;

/* Before any work: is the output free? Nothing is changed. KQ_E_ARG: the result (done_path) exists and resume
 * is false, or the work folder's name is taken by something that is not kronq's. */
kq_status kq_job_check_free(const char *done_path, const char *work_dir, bool resume, kq_error *err);
/* Make the work folder, or take it up again, and lock it.
 * done_path: the file whose presence means that the result is complete. settings: a JSON object as text.
 * resume: unfinished work is continued. fresh: unfinished work is discarded, kronq's own files and no others;
 * a result is never discarded. With resume and a result that exists, job->complete is set and nothing else
 * happens: whether it is the result of these settings is for the caller to check. KQ_E_ARG: what
 * kq_job_check_free refuses, or unfinished work and neither resume nor fresh; KQ_E_MISMATCH: resume, but a
 * setting differs, which the message names; KQ_E_IO: another process holds the lock. A failure leaves no
 * folder that was not there before, and job needs no kq_job_close. */
kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume,
                      bool fresh, kq_job *job, kq_error *err);
/* The result is in place: remove the work folder with all of kronq's files. Nothing is done when this process
 * does not hold the lock. kq_job_close comes after it. */
void kq_job_finish(kq_job *job);
/* Let go of the folder. It stays for a later --resume, or is removed when nothing in it is worth keeping. A
 * zeroed job with lock -1 is fine, and so is closing twice. */
void kq_job_close(kq_job *job);

/* *out = "WORK/STEM-00012.SUFFIX", the caller's (kq_free). KQ_E_MEMORY. */
kq_status kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char **out,
                      kq_error *err);

/* Is WORK/STEM-00012.SUFFIX there? Stem and suffix are short names of kronq's own. */
bool kq_job_has_file(const kq_job *job, const char *stem, size_t i, const char *suffix);
/* Remove it, if it is there. */
void kq_job_remove_file(const kq_job *job, const char *stem, size_t i, const char *suffix);

/* A setting's value as a message shows it: a real with nine digits, "absent" for NULL. The caller's (free);
 * NULL: out of memory. */
char *kq_job_setting_text(const struct json_t *value);

#endif
