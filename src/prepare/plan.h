/* How much memory and disk a sweep will take, before it starts, and which way of keeping gradients fits. */
#ifndef KQ_PREPARE_PLAN_H
#define KQ_PREPARE_PLAN_H

#include "prepare/prepare.h"

/* Peak bytes of memory, and bytes of disk, of a sweep as it is set up (way, workers, chunk_bytes,
 * stream_bytes). The mapped model, the program itself and the token ids are counted. */
void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);
/* Set s up as the options `memory` and `gradients` ask: where gradients are kept, and how many sequences are
 * worked on at once. Memory is preferred, then the disk of dir (NULL: a disk without bounds), on which
 * more_disk bytes of other files must fit too, then no storage at all. *disk_bytes includes more_disk.
 * KQ_E_ARG: `gradients` is no known word; KQ_E_MEMORY names the least memory that would be enough. A disk
 * that is too small is no error here (see kq_check_disk). */
kq_status kq_plan_settle(const kq_prepared *p, kq_sweep *s, const char *dir, size_t more_disk,
                         size_t *memory_bytes, size_t *disk_bytes, kq_error *err);
/* Bytes of factors in f32 as part files hold them: of the largest block, and of all selected linears. */
void kq_plan_kept_factors(const kq_prepared *p, size_t *block_bytes, size_t *all_bytes);

/* Bytes that a model which writes its own text may take of --memory; 0: as much as it likes. */
size_t kq_plan_writing_room(const kq_prepared *p);

/* "memory", "disk" or "stream". */
const char *kq_gradient_way_name(kq_gradient_way way);
/* "; a block's gradients in memory, 2 sequences at once" for an announcement, into buf; "" when the sweep
 * keeps no gradients. */
const char *kq_plan_words(const kq_prepared *p, const kq_sweep *s, char buf[160]);

/* KQ_E_IO when fewer than `needed` bytes are free on the file system of path, which need not exist yet. */
kq_status kq_check_disk(const char *path, size_t needed, kq_error *err);

#endif
