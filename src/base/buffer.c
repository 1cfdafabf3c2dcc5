/* Growing arrays: capacity at least doubles, so that adding n elements one by one copies O(n) of them. */
#include "base/buffer.h"

#include <string.h>

#include "base/mem.h"

kq_status kq_grow(void **block, size_t *cap, size_t used, size_t need, size_t elem, const char *what,
                  kq_error *err)
{
    if (need <= *cap && *block)
        return KQ_OK;
    size_t next = *cap > SIZE_MAX / 2 ? need : *cap * 2;
    if (next < need)
        next = need;
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
    size_t need;
    if (!kq_add_size(buf->size, size, &need))
        return kq_fail(err, KQ_E_MEMORY, "out of memory: a text of %zu bytes", size);
    if (need > buf->cap || !buf->data) {
        void *block = buf->data;
        kq_status status = kq_grow(&block, &buf->cap, buf->size, need, 1, "a text", err);
        if (status)
            return status;
        buf->data = block;
    }
    if (size)
        memcpy(buf->data + buf->size, data, size);
    buf->size = need;
    return KQ_OK;
}
