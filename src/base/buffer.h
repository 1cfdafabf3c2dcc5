/* Arrays that grow: every list whose length is not known beforehand is one of these. */
#ifndef KQ_BASE_BUFFER_H
#define KQ_BASE_BUFFER_H

#include "base/error.h"

/* Make *block (kq_free) hold at least `needed` elements of `elem` bytes, keeping the first `used`; the
 * capacity at least doubles. *block may be NULL with *cap 0. `what` names the array in the message of
 * KQ_E_MEMORY; *block and *cap are then unchanged. */
kq_status kq_grow(void **block, size_t *cap, size_t used, size_t needed, size_t elem, const char *what,
                  kq_error *err);

/* Bytes that grow: zeroed at first, data is the owner's (kq_free). */
typedef struct kq_buffer {
    char *data;
    size_t size, cap;
} kq_buffer;

/* Append size bytes. KQ_E_MEMORY: *buf is unchanged. */
kq_status kq_buffer_add(kq_buffer *buf, const void *data, size_t size, kq_error *err);

#endif
