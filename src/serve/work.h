/* Threads for what takes time and is not the model's: parsing, rendering and encoding a request. */
#ifndef KQ_SERVE_WORK_H
#define KQ_SERVE_WORK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* A piece of work: the first member of the caller's struct, in the caller's memory. */
typedef struct kq_work_item {
    struct kq_work_item *next;
} kq_work_item;

typedef struct kq_work kq_work;
/* Two threads that call run(ctx, item) for each piece, small ones and large ones each in the order of their
 * coming. One thread takes small pieces only, so that a large piece never keeps a small one waiting. run may
 * be called by both threads at once; no lock is held. KQ_E_MEMORY. */
kq_status kq_work_new(void (*run)(void *ctx, kq_work_item *item), void *ctx, kq_work **out, kq_error *err);
/* These may be called by any thread, and under any other lock: the queue's own lock is held only for a few
 * instructions. */
void kq_work_add(kq_work *w, kq_work_item *item, bool small);
size_t kq_work_waiting(kq_work *w); /* not yet begun */
bool kq_work_busy(kq_work *w);      /* anything waits or is at work */
void kq_work_free(kq_work *w);      /* does what waits first. NULL is fine */

#endif
