/* What a run will need, before it starts. */
#ifndef KQ_QUANT_PLAN_H
#define KQ_QUANT_PLAN_H

#include "quant/bits.h"

/* Peak bytes of memory (the mapped model file included) and of disk: of a sweep that only finds factors, and of quantize as a whole. */
void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);
void kq_plan_resources(const kq_prepared *p, const kq_bits *bits, size_t *memory_bytes, size_t *disk_bytes);

/* KQ_E_IO when the file system of dir has less than `needed` bytes free. */
kq_status kq_check_disk(const char *dir, size_t needed, kq_error *err);

#endif
