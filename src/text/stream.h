/* A file as a stream of UTF-8: unpacked, decoded, checked. Internal to the text room. */
#ifndef KQ_TEXT_STREAM_H
#define KQ_TEXT_STREAM_H

#include "base/error.h"

typedef struct kq_stream kq_stream;

/* Open PATH ("-": standard input) and look at its first bytes. gzip (also several members) and zstd
 * (also several frames, and skippable ones) are unpacked as they are read; a byte order mark says UTF-8,
 * UTF-16 or UTF-32 and is taken off. KQ_E_UNSUPPORTED names what is no text. */
kq_status kq_stream_open(const char *path, kq_stream **out, int (*stop)(void *ctx), void *ctx, kq_error *err);
/* Up to cap (at least 4) bytes of valid UTF-8 without NULs into buf, whole characters; *n is 0 only at
 * the end. KQ_E_FORMAT: a damaged or cut archive, a byte that is no UTF-8, a NUL, each with its line and
 * place; KQ_E_INTERRUPTED as kq_bytes_read. */
kq_status kq_stream_read(kq_stream *s, char *buf, size_t cap, size_t *n, int (*stop)(void *ctx), void *ctx,
                         kq_error *err);
const char *kq_stream_packing(const kq_stream *s);  /* "gzip", "zstd", or NULL */
const char *kq_stream_encoding(const kq_stream *s); /* "UTF-8", "UTF-16LE", ... */
/* of the file as it is; UINT64_MAX: no regular file */
uint64_t kq_stream_file_bytes(const kq_stream *s);
void kq_stream_close(kq_stream *s);

#endif
