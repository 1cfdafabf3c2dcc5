/* One line of progress for each finished block, instead of one for each of its linears.
 *
 * Seven lines a block would scroll the line of progress away; what stands in them is in the JSON report. */
#ifndef KQ_QUANT_BLOCK_NOTE_H
#define KQ_QUANT_BLOCK_NOTE_H

#include "fisher/fisher.h"

/* Sums over the linears of the block at work. All zero at the beginning; kq_block_note_give clears it. */
typedef struct kq_block_note {
    size_t linears, lacking; /* lacking: rounded with identity factors, or without factors */
    size_t unconverged;      /* linears whose iteration stopped before --tol */
    double residual;         /* the largest; 0 where the method does not iterate */
    double weights, error;   /* sum of m n, and of relative_mse m n */
    double predicted_loss;   /* nats a token; NaN: nothing is predicted */
    double seconds;
} kq_block_note;

/* One linear's factors. iterates: kq_method_iterates of their method. */
void kq_block_note_factors(kq_block_note *b, const kq_factor_report *factor, bool iterates);
/* The same linear was rounded. predicted_loss: nats a token, NaN for nothing. */
void kq_block_note_rounded(kq_block_note *b, size_t m, size_t n, double relative_mse, double predicted_loss);
/* Give "block 12: 7 linears, relative error 0.0713, predicted loss 0.00125 nats/token [3.4 s]" to the
 * progress function. Nothing is given for a block without linears. KQ_E_INTERRUPTED: it asks to stop. */
kq_status kq_block_note_give(kq_block_note *b, size_t layer, const kq_common *common, kq_error *err);

#endif
