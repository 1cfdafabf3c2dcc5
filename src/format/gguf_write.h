/* Writing GGUF version 3: metadata first, then the table of tensors, then their bytes in the same order. */
#ifndef KQ_FORMAT_GGUF_WRITE_H
#define KQ_FORMAT_GGUF_WRITE_H

#include "format/gguf.h"

typedef struct kq_gguf_writer kq_gguf_writer;

/* The file appears under PATH only after a successful finish. Metadata and the table of tensors are kept
 * in memory until the first tensor's data come; data are written at once. */
kq_status kq_gguf_writer_new(const char *path, kq_gguf_writer **out, kq_error *err);

/* One metadata pair. Every number type of the format: value points at one element of the type in this
 * machine's form (KQ_GGUF_BOOL: a bool). KQ_E_ARG: a key that is empty, longer than 65535 bytes, or
 * there already; a type that is no number; metadata after the first data. */
kq_status kq_gguf_writer_number(kq_gguf_writer *w, const char *key, kq_gguf_type type, const void *value,
                                kq_error *err);
kq_status kq_gguf_writer_u32(kq_gguf_writer *w, const char *key, uint32_t value, kq_error *err);
kq_status kq_gguf_writer_f32(kq_gguf_writer *w, const char *key, float value, kq_error *err);
kq_status kq_gguf_writer_bool(kq_gguf_writer *w, const char *key, bool value, kq_error *err);
kq_status kq_gguf_writer_str(kq_gguf_writer *w, const char *key, const char *text, kq_error *err);
/* n elements of a number type, and n strings. */
kq_status kq_gguf_writer_array(kq_gguf_writer *w, const char *key, kq_gguf_type type, const void *values,
                               size_t n, kq_error *err);
kq_status kq_gguf_writer_strings(kq_gguf_writer *w, const char *key, const char *const *text, size_t n,
                                 kq_error *err);
/* A pair of another file, unchanged; general.alignment is left out: what is written here is aligned to
 * the format's default. */
kq_status kq_gguf_writer_copy(kq_gguf_writer *w, const kq_gguf_kv *kv, kq_error *err);
/* Was this key written? A caller that changes some pairs of a file writes these first, and then copies those
 * that are not written yet. */
bool kq_gguf_writer_has(const kq_gguf_writer *w, const char *key);

/* The next tensor of the table: name at most 63 bytes, ggml type number, ne[rank] fastest first (a row's
 * length, then the rows). KQ_E_ARG: a name that is there already, rank outside 1..4, a type whose size
 * is not known, rows that are no whole number of the type's blocks. */
kq_status kq_gguf_writer_declare(kq_gguf_writer *w, const char *name, uint32_t type, uint32_t rank,
                                 const uint64_t *ne, kq_error *err);
/* Bytes of a tensor with these dimensions. KQ_E_ARG: what kq_gguf_writer_declare refuses too; name is for the
 * message. */
kq_status kq_gguf_tensor_size(const char *name, uint32_t type, uint32_t rank, const uint64_t *ne,
                              size_t *size_bytes, kq_error *err);
/* The next declared tensor's bytes, in one or more calls; padding is added. KQ_E_ARG when more or fewer
 * come than declared (one call never spans two tensors). After a failure every further call fails too,
 * and finish writes nothing. */
kq_status kq_gguf_writer_data(kq_gguf_writer *w, const void *data, size_t size, kq_error *err);
/* frees w, whether it succeeds or not */
kq_status kq_gguf_writer_finish(kq_gguf_writer *w, kq_error *err);
void kq_gguf_writer_abort(kq_gguf_writer *w); /* NULL is fine */

#endif
