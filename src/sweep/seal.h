/* Finished files of a work folder. Each is sealed: PATH.seal holds its fingerprint, and only a sealed file
 * counts as done. The check before work is continued finds damage anywhere in the file. */
#ifndef KQ_SWEEP_SEAL_H
#define KQ_SWEEP_SEAL_H

#include "sweep/job.h"

kq_status kq_seal_write(const char *path, kq_error *err);
/* KQ_E_FORMAT: the file is damaged. */
kq_status kq_seal_check(const char *path, kq_error *err);

/* WORK/STEM-i.SUFFIX is sealed. */
bool kq_job_part_done(const kq_job *job, const char *stem, size_t i, const char *suffix);
/* Before unfinished work is continued: every sealed WORK/STEM-i.SUFFIX, i < n, is whole; else KQ_E_FORMAT. */
kq_status kq_job_check_parts(const kq_job *job, const char *stem, size_t n, const char *suffix,
                             kq_error *err);

#endif
