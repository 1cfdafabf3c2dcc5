/* Reading factor files: what `kronq calibrate` leaves and `kronq quantize --factors` reads (docs/format.md,
 * "Factors"). part.h writes them. */
#ifndef KQ_FACTORS_FILE_H
#define KQ_FACTORS_FILE_H

#include "fisher/fisher.h"

/* An opened factor file, the index of several, or an imatrix of llama.cpp (factors/imatrix.h). */
typedef struct kq_factor_file kq_factor_file;
/* KQ_E_FORMAT: it is none of the three; KQ_E_MISMATCH: an index that lists a file of another calibration. */
kq_status kq_factor_file_open(const char *path, kq_factor_file **out, kq_error *err);
/* Part files that were not gathered; settings as kq_factors_gather takes them. */
kq_status kq_factor_file_open_parts(char *const *parts, size_t n, const char *settings, kq_factor_file **out,
                                    kq_error *err);
/* NULL is fine. */
void kq_factor_file_close(kq_factor_file *f);
/* The JSON text of its metadata, owned by f. */
const char *kq_factor_file_settings(const kq_factor_file *f);
/* An imatrix belongs to no model in particular: its settings have method "imatrix" and no "model". */
bool kq_factor_file_is_imatrix(const kq_factor_file *f);
/* Does it hold an H_in of this module? */
bool kq_factor_file_has(const kq_factor_file *f, const char *module);
/* H [n, n] += the H_in of a module that the file has. */
kq_status kq_factor_file_add(const kq_factor_file *f, const char *module, size_t n, float *H, kq_error *err);
/* Does it hold factors of this module [m, n], with H_out when `both`, of the right type and shape, with
 * finite values? To be asked before long work begins. *lack: why the file has none for the module;
 * KQ_LACK_NOTHING: it has. KQ_E_MISMATCH: the module is not in it; KQ_E_SHAPE; KQ_E_NUMERIC. */
kq_status kq_factor_file_check(const kq_factor_file *f, const char *module, size_t m, size_t n, bool both,
                               kq_lack *lack, kq_error *err);
/* Read the factors of a module, checked as by kq_factor_file_check: H_in [n, n], H_out [m, m]. *has_out
 * false: H_out is the identity and not filled in. *lack other than KQ_LACK_NOTHING: both are the identity,
 * and neither is filled in. */
kq_status kq_factor_file_read(const kq_factor_file *f, const char *module, size_t m, size_t n, float *H_in,
                              float *H_out, bool *has_out, kq_lack *lack, kq_error *err);

#endif
