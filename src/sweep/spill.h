/* Records on disk that a sweep writes once and reads once: block inputs and gradients that would not fit
 * in memory. A file appears under its name only when all its records are written. Each record carries a
 * checksum, so that a file that was damaged between an interrupted run and its --resume is found out. */
#ifndef KQ_SWEEP_SPILL_H
#define KQ_SWEEP_SPILL_H

#include "base/error.h"

typedef struct kq_spill kq_spill;

kq_status kq_spill_create(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                          kq_error *err);
kq_status kq_spill_open(const char *path, size_t n_records, size_t record_bytes, kq_spill **out,
                        kq_error *err);
/* Threads may read and write different records at once. */
kq_status kq_spill_write(kq_spill *s, size_t i, const void *data, kq_error *err);
kq_status kq_spill_read(kq_spill *s, size_t i, void *data, kq_error *err);
/* a created one: rename into place; closes s either way */
kq_status kq_spill_commit(kq_spill *s, kq_error *err);
/* a created one that was not committed is removed; NULL is fine */
void kq_spill_close(kq_spill *s);

#endif
