/* Threads for what takes time and is not the model's: parsing, rendering and encoding a request. */
#ifndef KQ_SERVE_WORK_H
#define KQ_SERVE_WORK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* A piece of work; part of the caller's struct, and the caller's memory. */
typedef struct kq_work_item {
    struct kq_work_item *next;
} kq_work_item;

typedef struct kq_work kq_work;
/* Two threads, each piece in the order of its coming: one takes what is small only, so that a large
 * piece never keeps a small one waiting. */
kq_status kq_work_new(void (*run)(void *ctx, kq_work_item *item), void *ctx, kq_work **out, kq_error *err);
void kq_work_add(kq_work *w, kq_work_item *item, bool small);
size_t kq_work_waiting(kq_work *w); /* not yet begun */
bool kq_work_busy(kq_work *w);      /* anything waits or is at work */
void kq_work_free(kq_work *w);      /* does what waits first. NULL is fine */

#endif
