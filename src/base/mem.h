/* Memory: 64-byte aligned blocks, checked sizes, and the process's own peak. */
#ifndef KQ_BASE_MEM_H
#define KQ_BASE_MEM_H

#include "base/error.h"

/* *out = a * b or a + b; false (and *out untouched) on overflow. For every size that depends on
 * what a file says. */
static inline bool kq_mul_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}
static inline bool kq_add_size(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

/* count * size bytes, 64-byte aligned, not cleared; NULL when it overflows or memory is out. count 0
 * gives a valid block. Free with kq_free. */
void *kq_alloc(size_t count, size_t size);
/* kq_alloc, cleared to zero. */
void *kq_calloc(size_t count, size_t size);
/* free(); NULL is fine. */
void kq_free(void *block);

/* kq_alloc with the error filled in: "out of memory: WHAT needs N MB". *out is NULL on failure. */
kq_status kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *err);

/* What every plan of memory begins with: the program, its libraries, BLAS's packing buffers and the
 * tokenizer. Measured, SmolLM2, two threads. */
#define KQ_PROGRAM_BYTES ((size_t)100 << 20)

/* Peak resident set of this process so far (VmHWM), bytes; 0 if the system does not say. */
size_t kq_peak_rss_bytes(void);
/* Let the peak start anew from what is in use now (what malloc holds free is returned first). False
 * where the system does not allow it. */
bool kq_peak_rss_reset(void);

/* From now on freed memory goes back to the system at once, from 2 MB on, where malloc has a setting for it
 * (glibc). Without this, the peak was up to twice the plan. */
void kq_mem_give_back(void);

/* Let the n-th allocation from now fail (tests of the out-of-memory paths); 0 turns it off. Not
 * thread-safe. */
void kq_alloc_fail_after(size_t n);

/* "512 B", "1.23 GB", into buf: never rounded to nothing. */
const char *kq_bytes_text(double bytes, char buf[32]);

#endif
