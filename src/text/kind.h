/* What a file is, by its first bytes. Internal to the text room. */
#ifndef KQ_TEXT_KIND_H
#define KQ_TEXT_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kq_byte_kind { KQ_BYTES_PLAIN, KQ_BYTES_GZIP, KQ_BYTES_ZSTD, KQ_BYTES_OTHER } kq_byte_kind;

/* head [n]: the file's first bytes, 512 where it has as many. KQ_BYTES_OTHER: something that is no text;
 * *what is its name ("a Parquet file") and *hint what to do about it, both static. */
kq_byte_kind kq_byte_kind_of(const uint8_t *head, size_t n, const char **what, const char **hint);

#endif
