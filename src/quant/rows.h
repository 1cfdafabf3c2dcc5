/* Embedding and head in 2 to 4 bits: their factors, kept while the sweep runs, and their rounding after the
 * blocks (docs/math.md, "Rows"). */
#ifndef KQ_QUANT_ROWS_H
#define KQ_QUANT_ROWS_H

#include "quant/work.h"

/* Is a number of bits (--embed-bits, --head-bits) that of a trellis? 8 bits are rows in groups, 16 are plain.
 */
bool kq_rows_in_trellis(int bits);
/* Will the checkpoint hold embedding or head as a trellis? */
bool kq_rows_wanted(const kq_output *o);

/* ---- factors ---- */

/* Keep the factor H_in [d, d] of the head's or the embedding's rows: WORK/rowfactors-0000i.safetensors,
 * sealed. */
kq_status kq_rows_keep_factor(kq_output *o, bool head, const float *H_in, kq_error *err);
/* Append the files of the factors that were kept to the list *parts [*n] of kq_prepared_parts. */
kq_status kq_rows_factor_parts(const kq_output *o, char ***parts, size_t *n, kq_error *err);
/* Before unfinished work is continued: every sealed file of this room's rows is whole. */
kq_status kq_rows_check_parts(const kq_output *o, kq_error *err);
/* Say which rows will be rounded without a factor: the factor file has none, or the method sees no gradients.
 */
void kq_rows_warn(const kq_output *o);

/* *H [d, d] = the factor by which the head's or the embedding's rows are rounded (eq. 141 to 143), the
 * caller's (kq_free); NULL: there is none. */
kq_status kq_rows_factor(const kq_output *o, bool head, float **H, kq_error *err);

/* ---- rounding ---- */

/* Round the head or the embedding with the code t, and keep the result as a sealed part file too, unless the
 * work is only planned. *packed is the caller's (kq_packed_free). */
kq_status kq_rows_pack(const kq_output *o, bool head, const kq_trellis *t, kq_packed *packed, kq_error *err);
/* Round embedding and head, those that the options ask for, with a code of `code`, to part files
 * WORK/packed-000NN.safetensors (KQ_ROWS_PART); one that is there already is left out. */
kq_status kq_rows_round(kq_output *o, kq_code code, kq_error *err);
/* {module: {"shape", "bits", "bpw", "relative_mse"}} of what was rounded, from the part files; new. NULL: err
 * is filled in. */
json_t *kq_rows_describe(const kq_output *o, kq_error *err);
/* Bytes of memory that kq_rows_round takes. */
size_t kq_rows_bytes(const kq_output *o);

#endif
