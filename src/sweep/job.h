/* An unfinished piece of work on disk: its folder, what it was asked to do, and whether it may be
 * continued.
 *
 * WORK/job.json holds every setting that the result depends on. --resume compares them; nothing stale is
 * ever continued silently. */
#ifndef KQ_SWEEP_JOB_H
#define KQ_SWEEP_JOB_H

#include "base/error.h"

struct json_t; /* jansson's json_t */

typedef struct kq_job {
    char *work_dir; /* owned */
    bool complete;  /* the result is already there (with resume) */
    int lock;       /* file descriptor that holds the folder's lock, -1 */
    size_t made;    /* folders that were not there before: the work folder, the one that holds it, ... */
} kq_job;

/* Before any work: is the output free? KQ_E_ARG: the result exists and resume is false, or the work
 * folder's name is taken by something that is not kronq's. Changes nothing. */
kq_status kq_job_check_free(const char *done_path, const char *work_dir, bool resume, kq_error *err);
/* done_path: the file whose presence means the result is complete. settings: a JSON object as text.
 * fresh: unfinished work is discarded (kronq's own files, no others), a result that exists never is. The
 * messages name the first setting that differs, and the option that goes on. KQ_E_ARG: as kq_job_check_free,
 * or an unfinished job is there and neither resume nor fresh is given; KQ_E_MISMATCH: resume, but a
 * setting differs; KQ_E_IO: another process holds the folder's lock. With resume and a result that
 * exists, complete is true and nothing else was looked at: whether it is the result of these settings is
 * the caller's to check. A failure leaves no folder that was not there before. */
kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume,
                      bool fresh, kq_job *job, kq_error *err);
/* The result is in place: remove the work folder and all of kronq's in it. Does nothing when this
 * process does not hold the lock. */
void kq_job_finish(kq_job *job);
/* Leave everything for a later --resume, or remove the folder when there is nothing in it worth keeping.
 * A zeroed job with lock -1 is fine. */
void kq_job_close(kq_job *job);

/* *out = "WORK/STEM-00012.SUFFIX", the caller's (kq_free). KQ_E_MEMORY. */
kq_status kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char **out,
                      kq_error *err);

/* A setting's value as a message shows it: nine digits of a real, "absent" for NULL. free() it; NULL:
 * out of memory. */
char *kq_job_setting_text(const struct json_t *value);

#endif
