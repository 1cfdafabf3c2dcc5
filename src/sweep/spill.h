/* Records on disk that a sweep writes once and reads in any order: block inputs and gradients that would not
 * fit in memory. A file appears under its name only when all its records are written. Each record carries a
 * checksum, so that damage between an interrupted run and its --resume is found. */
#ifndef KQ_SWEEP_SPILL_H
#define KQ_SWEEP_SPILL_H

#include "base/error.h"

typedef struct kq_spill kq_spill;

/* A new file PATH.tmp with room for n_records of record_bytes. KQ_E_IO: it cannot be created, or the disk has
 * not enough room. */
kq_status kq_spill_create(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                          kq_error *err);
/* A committed file, for reading. KQ_E_IO: it is not there; KQ_E_FORMAT: its size is not that of n_records. */
kq_status kq_spill_open(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                        kq_error *err);
/* Write or read record i. Threads may do it at once for different records. KQ_E_IO; reading also KQ_E_FORMAT:
 * the record does not match its checksum. */
kq_status kq_spill_write(kq_spill *s, size_t i, const void *data, kq_error *err);
kq_status kq_spill_read(kq_spill *s, size_t i, void *data, kq_error *err);
/* Rename a created spill into place, and close it in any case. */
kq_status kq_spill_commit(kq_spill *s, kq_error *err);
/* A created spill that was not committed is removed. NULL is fine. */
void kq_spill_close(kq_spill *s);

#endif
