/* Factor files: what `kronq calibrate` leaves and `kronq quantize --factors` reads (docs/format.md,
 * "Factors"). */
#ifndef KQ_FACTORS_FILE_H
#define KQ_FACTORS_FILE_H

#include "fisher/fisher.h"
#include "format/safetensors_write.h"
#include "factors/lacks.h"

/* One block's factors while they are collected. H_in / H_out as found (copied); NULL: the identity, not
 * stored (report->lack says why H_in is). */
typedef struct kq_factor_part kq_factor_part;
kq_factor_part *kq_factor_part_new(bool bf16);
kq_status kq_factor_part_add(kq_factor_part *p, const char *module, const float *H_in, size_t n,
                             const float *H_out, size_t m, const kq_factor_report *report, kq_error *err);
kq_status kq_factor_part_write(const kq_factor_part *p, const char *path, kq_error *err);
void kq_factor_part_free(kq_factor_part *p);
/* Add the modules of a part file that have no factors of their own. */
kq_status kq_factor_part_lacks(const char *path, kq_lacks *lacks, kq_error *err);

/* Gather part files into PATH (or, above shard_size bytes, one file a block beside it and
 * PATH.index.json). settings: JSON text kept in the metadata. */
kq_status kq_factors_gather(const char *path, char *const *parts, size_t n_parts, const char *settings,
                            size_t shard_size, size_t *file_bytes, kq_error *err);

/* An opened factor file, the index of several, or an imatrix of llama.cpp (factors/imatrix.h). */
typedef struct kq_factor_file kq_factor_file;
kq_status kq_factor_file_open(const char *path, kq_factor_file **out, kq_error *err);
/* Part files that were not gathered; settings as kq_factors_gather takes them. */
kq_status kq_factor_file_open_parts(char *const *parts, size_t n, const char *settings, kq_factor_file **out,
                                    kq_error *err);
void kq_factor_file_close(kq_factor_file *f);                 /* NULL is fine */
const char *kq_factor_file_settings(const kq_factor_file *f); /* the JSON text of its metadata */
/* An imatrix belongs to no model in particular: its settings have method "imatrix" and no "model". */
bool kq_factor_file_is_imatrix(const kq_factor_file *f);
/* Does it hold factors of this module [m, n], with H_out when `both`, of the right type and shape, with
 * finite values? To know before the work begins. *lack: it says that the module has none. KQ_E_MISMATCH,
 * KQ_E_SHAPE, KQ_E_NUMERIC. */
kq_status kq_factor_file_check(const kq_factor_file *f, const char *module, size_t m, size_t n, bool both,
                               kq_lack *lack, kq_error *err);
/* Factors of a module, checked for shape and finite values: H_in [n,n], H_out [m,m]; *has_out false when
 * H_out is the identity; with *lack both are, and H_in is not filled in. KQ_E_MISMATCH when the file
 * does not hold the module. */
kq_status kq_factor_file_read(const kq_factor_file *f, const char *module, size_t m, size_t n, float *H_in,
                              float *H_out, bool *has_out, kq_lack *lack, kq_error *err);

#endif
