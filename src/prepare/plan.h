/* What a sweep will take of memory and of disk, before it starts, and the way of keeping gradients that fits.
 */
#ifndef KQ_PREPARE_PLAN_H
#define KQ_PREPARE_PLAN_H

#include "prepare/prepare.h"

/* Peak bytes of memory, and bytes of disk, of a sweep as it is set up (way, workers, chunk_bytes,
 * stream_bytes). The mapped model, the program itself and the token ids are counted. */
void kq_plan_sweep(const kq_prepared *p, const kq_sweep *s, size_t *memory_bytes, size_t *disk_bytes);
/* Set s up as the options memory and gradients ask: where gradients are kept and how many sequences are
 * worked on at once. Memory is preferred, then the disk of dir (NULL: a disk without bounds) beside more_disk
 * bytes of other files, then no storage at all. *disk_bytes counts more_disk too. KQ_E_ARG: unknown
 * gradients; KQ_E_MEMORY names the least memory that would do. A disk that is too small is no error here
 * (kq_check_disk). */
kq_status kq_plan_settle(const kq_prepared *p, kq_sweep *s, const char *dir, size_t more_disk,
                         size_t *memory_bytes, size_t *disk_bytes, kq_error *err);
/* Bytes of factors in f32 as part files hold them: of the largest block, and of all selected linears. */
void kq_plan_kept_factors(const kq_prepared *p, size_t *block_bytes, size_t *all_bytes);

/* "memory", "disk" or "stream". */
const char *kq_gradient_way_name(kq_gradient_way way);
/* "; a block's gradients in memory, 2 sequences at once" for an announcement; "" when the sweep holds none.
 */
const char *kq_plan_words(const kq_prepared *p, const kq_sweep *s, char buf[160]);

/* KQ_E_IO when fewer than `needed` bytes are free on the file system of path, which need not exist yet. */
kq_status kq_check_disk(const char *path, size_t needed, kq_error *err);

#endif
