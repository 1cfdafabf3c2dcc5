/* Importance matrices ("imatrix") of llama.cpp: for every linear, the sum of squares of each of its
 * inputs over a calibration text, and over how many tokens. To kronq the mean squares are an input-only
 * factor of which only the diagonal is known: H_in = diag(sum / count), H_out = I.
 *
 * Two forms are read: GGUF (general.type "imatrix"; `<tensor>.in_sum2` F32 [n] and `<tensor>.counts` F32
 * [1]) and the older .dat, which has no magic number (little-endian: i32 entries; each: i32 length,
 * name, i32 calls, i32 n, f32 [n] = calls times the mean; then i32 chunks, i32 length, text's name, or
 * nothing). GGUF is written. Layouts: tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp of
 * llama.cpp (MIT). */
#ifndef KQ_FACTORS_IMATRIX_H
#define KQ_FACTORS_IMATRIX_H

#include "fisher/fisher.h"

typedef struct kq_imatrix_file kq_imatrix_file;

/* Do these bytes begin as an imatrix does? Any GGUF counts: opening it says what it is instead. */
bool kq_imatrix_recognise(const uint8_t *data, size_t size);

/* Map and check everything. KQ_E_FORMAT names the entry that has no values, sums without counts, counts
 * without sums, another type than F32, or a name that another entry has. KQ_E_UNSUPPORTED: experts, several
 * matrices in one. KQ_E_NUMERIC: a sum that is NaN, Inf or negative, or a count that is NaN or Inf. */
kq_status kq_imatrix_open(const char *path, kq_imatrix_file **out, kq_error *err);
/* The same on bytes in memory, borrowed until kq_imatrix_close; path is only for messages. */
kq_status kq_imatrix_open_memory(const uint8_t *data, size_t size, const char *path, kq_imatrix_file **out,
                                 kq_error *err);
/* NULL is fine. */
void kq_imatrix_close(kq_imatrix_file *f);

/* What it says about itself, as JSON text (owned by f): "method" "imatrix", "imatrix" (the file's name
 * and hash), "calibration" with "text", "tokens" and, when the file tells, "seq_len". */
const char *kq_imatrix_settings(const kq_imatrix_file *f);
size_t kq_imatrix_n_entries(const kq_imatrix_file *f);

/* mean [n]: the mean squares of the inputs of a module (Hugging Face name, "model.layers.3.mlp.up_proj"); may
 * be NULL. *lack other than KQ_LACK_NOTHING: the file tells nothing of this module (it has no entry, an entry
 * with a count of 0, or one that is zero throughout), and mean means nothing. llama-quantize goes on without
 * such entries, and so does kronq. KQ_E_SHAPE: the entry has another number of inputs. */
kq_status kq_imatrix_read(const kq_imatrix_file *f, const char *module, size_t n, float *mean, kq_lack *lack,
                          kq_error *err);

/* One linear's statistics, for writing. */
typedef struct kq_imatrix_entry {
    const char *module;
    size_t n;
    const float *sum;
} kq_imatrix_entry;

/* Write the GGUF form: entries in any order (they are sorted by tensor name, as llama-imatrix does),
 * each counted over n_chunks * chunk_size tokens. texts: names of the calibration texts; settings: JSON
 * kept as "kronq.imatrix", which llama.cpp ignores. */
kq_status kq_imatrix_write(const char *path, const kq_imatrix_entry *entries, size_t n, size_t n_chunks,
                           size_t chunk_size, const char *const *texts, size_t n_texts, const char *settings,
                           kq_error *err);

#endif
