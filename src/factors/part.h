/* Writing factor files (docs/format.md, "Factors"): one block's factors as a part file, and the parts
 * gathered. */
#ifndef KQ_FACTORS_PART_H
#define KQ_FACTORS_PART_H

#include "factors/lacks.h"

/* One block's factors while they are collected. */
typedef struct kq_factor_part kq_factor_part;
/* bf16: how they are stored; else f32. NULL: out of memory. */
kq_factor_part *kq_factor_part_new(bool bf16);
/* Add a module's factors, copied: H_in [n, n], H_out [m, m]. NULL: the identity, which is not stored
 * (report->lack says why H_in is). KQ_E_MEMORY. */
kq_status kq_factor_part_add(kq_factor_part *p, const char *module, const float *H_in, size_t n,
                             const float *H_out, size_t m, const kq_factor_report *report, kq_error *err);
kq_status kq_factor_part_write(const kq_factor_part *p, const char *path, kq_error *err);
/* A part file of one module that has an H_in [n, n] alone. */
kq_status kq_factor_part_write_input(const char *path, const char *module, const float *H_in, size_t n,
                                     kq_error *err);
/* NULL is fine. */
void kq_factor_part_free(kq_factor_part *p);
/* Add to lacks the modules of a part file that have no factors of their own. */
kq_status kq_factor_part_lacks(const char *path, kq_lacks *lacks, kq_error *err);

/* Gather part files into PATH. Above shard_size bytes: one file a block beside it, and PATH is an index of
 * them. settings: JSON text that is kept in the metadata. *file_bytes: of all matrices. */
kq_status kq_factors_gather(const char *path, char *const *parts, size_t n_parts, const char *settings,
                            size_t shard_size, size_t *file_bytes, kq_error *err);

#endif
