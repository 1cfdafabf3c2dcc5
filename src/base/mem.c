/* Memory. Blocks are aligned for vector loads. One allocation can be told to fail, so that tests can walk
 * through every path that a lack of memory opens. */
#include "base/mem.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Countdown to a failure that a test asked for; 0 is off. */
static size_t fail_after;

void kq_alloc_fail_after(size_t n)
{
    fail_after = n;
}

void *kq_alloc(size_t count, size_t size)
{
    size_t bytes;
    if (!kq_mul_size(count, size, &bytes) || !kq_add_size(bytes, 63, &bytes))
        return NULL;
    if (fail_after && --fail_after == 0)
        return NULL;
    bytes &= ~(size_t)63;
    return aligned_alloc(64, bytes ? bytes : 64);
}

void *kq_calloc(size_t count, size_t size)
{
    void *block = kq_alloc(count, size);
    if (block)
        memset(block, 0, count * size);
    return block;
}

void kq_free(void *block)
{
    free(block);
}

kq_status kq_alloc_for(void **out, size_t count, size_t size, const char *what, kq_error *err)
{
    *out = kq_alloc(count, size);
    if (*out)
        return KQ_OK;
    char bytes[32];
    return kq_fail(err, KQ_E_MEMORY, "out of memory: %s needs %s", what,
                   kq_bytes_text((double)count * (double)size, bytes));
}

size_t kq_peak_rss_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    if (!f)
        return 0;
    char line[256];
    size_t kb = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %zu kB", &kb) == 1)
            break;
    fclose(f);
    return kb * 1024;
}

void kq_mem_give_back(void)
{
#ifdef __GLIBC__
    /* oneDNN takes a buffer of about a megabyte for every product and frees it after that. If each of them
     * came from the system, a tenth of the time of tuning would be page faults. So smaller ones stay. */
    mallopt(M_MMAP_THRESHOLD, 2 << 20);
    mallopt(M_TRIM_THRESHOLD, 4 << 20);
#endif
}

bool kq_peak_rss_reset(void)
{
    malloc_trim(0);
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return false;
    const bool written = fputs("5", f) >= 0;
    return fclose(f) == 0 && written;
}

const char *kq_bytes_text(double bytes, char buf[32])
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    while (bytes >= 1000 && u < 4) {
        bytes /= 1000;
        u++;
    }
    snprintf(buf, 32, u ? "%.2f %s" : "%.0f %s", bytes, unit[u]);
    return buf;
}
