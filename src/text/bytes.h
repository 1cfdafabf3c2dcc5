/* Bytes of a file, or of a pipe that may be asked for them again. Internal to the text room. */
#ifndef KQ_TEXT_BYTES_H
#define KQ_TEXT_BYTES_H

#include "base/error.h"

typedef struct kq_bytes kq_bytes;

/* PATH, or "-" for standard input. Regular files are read from the beginning (standard input from where
 * it stands). What is no regular file (a pipe, a FIFO, a terminal) can be read once only: within
 * kq_text_keep ... kq_text_forget what it gave is kept in an unlinked file in TMPDIR (/tmp), as far as
 * it has been asked for, and whoever opens it again gets the same bytes. KQ_E_IO: missing, a folder,
 * unreadable. */
kq_status kq_bytes_open(const char *path, kq_bytes **out, kq_error *err);
/* Up to cap bytes into buf; *n is 0 only at the end. Waits for a pipe; meanwhile `stop` (NULL: none) is
 * asked five times a second, and nonzero ends the wait with KQ_E_INTERRUPTED. */
kq_status kq_bytes_read(kq_bytes *b, void *buf, size_t cap, size_t *n, int (*stop)(void *ctx), void *ctx,
                        kq_error *err);
/* Bytes of the regular file; UINT64_MAX for anything else. */
uint64_t kq_bytes_size(const kq_bytes *b);
void kq_bytes_close(kq_bytes *b);

#endif
