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
    char work_dir[4096];
    bool complete; /* the result is already there (with resume) */
    int lock;      /* file descriptor that holds the folder's lock, -1 */
    size_t made;   /* folders that were not there before: the work folder, the one that holds it, ... */
} kq_job;

/* Before any work: is the output free? KQ_E_ARG: the result exists and resume is false, or the work
 * folder's name is taken by something that is not kronq's. Changes nothing. */
kq_status kq_job_look(const char *done_path, const char *work_dir, bool resume, kq_error *err);
/* done_path: the file whose presence means the result is complete. settings: a JSON object as text.
 * fresh: unfinished work is discarded (kronq's own files, no others), a result that exists never is. The
 * messages name the first setting that differs, and the option that goes on. KQ_E_ARG: as kq_job_look,
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

/* A finished file of the work folder is sealed: PATH.seal holds its fingerprint, and only a sealed file
 * counts as done. The check before work is continued finds damage anywhere in the file. */
bool kq_job_part_done(const kq_job *job, const char *stem, size_t i); /* STEM-i.safetensors is sealed */
/* Before unfinished work is continued: every sealed STEM-i.safetensors, i < n, is whole; else KQ_E_FORMAT. */
kq_status kq_job_check_parts(const kq_job *job, const char *stem, size_t n, kq_error *err);
kq_status kq_job_seal(const char *path, kq_error *err);
bool kq_job_sealed(const char *path);
kq_status kq_job_check_seal(const char *path, kq_error *err); /* KQ_E_FORMAT: damaged */

/* "WORK/STEM-00012.SUFFIX" */
void kq_job_path(const kq_job *job, const char *stem, size_t i, const char *suffix, char buf[4400]);

/* A setting's value as a message shows it: nine digits of a real, "absent" for NULL. free() it; NULL:
 * out of memory. */
char *kq_job_shown(const struct json_t *value);

#endif
