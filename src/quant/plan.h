/* What a run will need, before it starts. */
#ifndef KQ_QUANT_PLAN_H
#define KQ_QUANT_PLAN_H

#include "quant/prepare.h"

/* Peak bytes of memory and of disk, of a sweep as it is set up (kq_sweep.way, workers, ...). */
void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);
/* Set s up for the options' memory and gradients: where gradients are kept, how many sequences are
 * worked on at once. Prefers memory, then dir's disk (NULL: however full it is; more_disk comes on top),
 * then no storage. KQ_E_MEMORY names the least that would do. */
kq_status kq_plan_settle(const kq_prepared *p, kq_sweep *s, const char *dir, size_t more_disk,
                         size_t *memory_bytes, size_t *disk_bytes, kq_error *err);
/* A block's factors as a part file has them in f32, and those of every selected linear. */
void kq_plan_kept_factors(const kq_prepared *p, size_t *block_bytes, size_t *all_bytes);

/* "memory", "disk" or "stream". */
const char *kq_gradient_way_name(kq_gradient_way way);
/* Where the gradients will be, in words; "" when the sweep holds none. */
const char *kq_plan_words(const kq_prepared *p, const kq_sweep *s, char buf[160]);

/* KQ_E_IO when the file system of dir has less than `needed` bytes free. */
kq_status kq_check_disk(const char *dir, size_t needed, kq_error *err);

#endif
