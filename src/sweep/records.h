/* Block inputs and gradients on disk, one file a layer (spill.h). Private to src/sweep. */
#ifndef KQ_SWEEP_RECORDS_H
#define KQ_SWEEP_RECORDS_H

#include "sweep/sweeper.h"

typedef enum kq_record_kind {
    KQ_REC_INPUT, /* the input of a layer [T, d], bf16, a record a sequence; of layer n_layer: the final
                     hidden state */
    KQ_REC_GRAD   /* the gradient of the loss there [T, d], f32, a record a sequence and draw */
} kq_record_kind;

/* Is the layer's file there, complete? */
bool kq_records_there(const kq_sweeper *w, kq_record_kind kind, size_t layer);
/* Remove it. */
void kq_records_drop(const kq_sweeper *w, kq_record_kind kind, size_t layer);
kq_status kq_records_open(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                          kq_error *err);
kq_status kq_records_create(const kq_sweeper *w, kq_record_kind kind, size_t layer, kq_spill **out,
                            kq_error *err);
/* Close f: commit what was written if status is KQ_OK, else remove it. Returns status, or the commit's error.
 * f may be NULL. */
kq_status kq_records_finish(kq_spill *f, kq_status status, kq_error *err);
/* The input of sequence seq, bf16 on disk, f32 in k->x. */
kq_status kq_records_read_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *in, size_t seq,
                                kq_error *err);
kq_status kq_records_write_input(const kq_sweeper *w, kq_sweep_worker *k, kq_spill *out, size_t seq,
                                 kq_error *err);

/* Write the inputs of layer 0, from the embedding of w->head, unless their file is there. */
kq_status kq_sweep_embed(kq_sweeper *w, kq_error *err);

#endif
