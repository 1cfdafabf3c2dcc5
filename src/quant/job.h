/* An unfinished piece of work on disk: its folder, what it was asked to do, and whether it may be continued.
 *
 * WORK/job.json holds every setting that the result depends on. --resume compares them; nothing stale is ever continued silently. */
#ifndef KQ_QUANT_JOB_H
#define KQ_QUANT_JOB_H

#include "base/error.h"

typedef struct kq_job {
    char work_dir[4096];
    bool complete; /* the result is already there (with resume) */
    int lock;      /* file descriptor that holds the folder's lock, -1 */
} kq_job;

/* done_path: the file whose presence means the result is complete. settings: a JSON object as text.
 * KQ_E_ARG: the result exists, or an unfinished job is there and resume is false; KQ_E_MISMATCH: resume, but a setting differs (named). */
kq_status kq_job_open(const char *done_path, const char *work_dir, const char *settings, bool resume, kq_job *job, kq_error *err);
/* The result is in place: remove the work folder and all in it. */
void kq_job_finish(kq_job *job);
/* Leave everything for a later --resume. A zeroed job with lock -1 is fine. */
void kq_job_close(kq_job *job);

/* "WORK/STEM-00012.SUFFIX" */
void kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char buf[4400]);

#endif
