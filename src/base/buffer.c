/* Growing arrays: capacity at least doubles, so that adding n elements one by one copies O(n) of them. */
#include "base/buffer.h"

#include <string.h>

#include "base/mem.h"

kq_status kq_grow(void **block, size_t *cap, size_t used, size_t needed, size_t elem, const char *what,
                  kq_error *err)
{
    if (needed <= *cap && *block)
        return KQ_OK;
    size_t next = *cap > SIZE_MAX / 2 ? needed : *cap * 2;
    if (next < needed)
        next = needed;
    if (next < 16)
        next = 16;
    void *fresh = NULL;
    kq_status status = kq_alloc_for(&fresh, next, elem, what, err);
    if (status)
        return status;
    if (used)
        memcpy(fresh, *block, used * elem);
    kq_free(*block);
    *block = fresh;
    *cap = next;
    return KQ_OK;
}

kq_status kq_buffer_add(kq_buffer *buf, const void *data, size_t size, kq_error *err)
{
    size_t needed;
    if (!kq_add_size(buf->size, size, &needed))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a text of %zu bytes", size);
    if (needed > buf->cap || !buf->data) {
        void *block = buf->data;
        kq_status status = kq_grow(&block, &buf->cap, buf->size, needed, 1, "a text", err);
        if (status)
            return status;
        buf->data = block;
    }
    if (size)
        memcpy(buf->data + buf->size, data, size);
    buf->size = needed;
    return KQ_OK;
}
