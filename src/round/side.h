/* Inside the room: one side of a linear on its way into the rotated basis: padding, signs, factor. */
#ifndef KQ_ROUND_SIDE_H
#define KQ_ROUND_SIDE_H

#include "round/round.h"

/* n up to the next multiple of a tile's edge. */
static inline size_t kq_padded(size_t n)
{
    return (n + KQ_TILE - 1) / KQ_TILE * KQ_TILE;
}

/* The same up to the next multiple of a block, where there are blocks (kq_round_options.block). */
static inline size_t kq_padded_to(size_t n, size_t block)
{
    return block ? (n + block - 1) / block * block : kq_padded(n);
}

/* The input side (H_in, signs su, U_n) or the output side (H_out, signs sv, U_m) of one linear. */
typedef struct kq_side {
    const char *module; /* the linear's name */
    const char *factor; /* "H_in" or "H_out", for messages */
    const char *suffix; /* ".su" or ".sv": the signs' stream is named module + suffix */
    const float *H;     /* [n, n], borrowed; NULL: the identity */
    size_t n;
    size_t block;   /* kq_round_options.block */
    kq_hadamard *u; /* owned: of order kq_padded_to(n, block) */
    float *scales;  /* owned [n]: random signs times channel scales; half floats hold them exactly */
} kq_side;

kq_side kq_side_in(const kq_round_input *in, size_t block);
kq_side kq_side_out(const kq_round_input *in, size_t block);
/* Make u and scales, which are signs at first. Whatever it returns, kq_side_free releases them. */
kq_status kq_side_begin(kq_side *side, uint64_t seed, kq_error *err);
void kq_side_free(kq_side *side);
/* Multiply the scales of both sides by those that `how` chooses (eq. 68). A side without a factor keeps its
 * signs alone, because with scales its factor would no longer be the identity. */
kq_status kq_sides_scale(const kq_round_input *in, kq_channel_scales how, kq_side *inputs, kq_side *outputs,
                         kq_error *err);

/* Of sides with blocks: bring the blocks of W' to one rms and put the scale into the scales, so that the rms
 * of W' is weight_rms; they become half floats. *zero: W has no weights but 0, or as good as, and the scales
 * are signs. KQ_E_NUMERIC: half floats cannot hold such scales. */
kq_status kq_sides_settle(const kq_round_input *in, double weight_rms, kq_side *inputs, kq_side *outputs,
                          bool *zero, kq_error *err);
/* The scale that a block at the end, which is padded, has beside the others: the root of the share of its
 * entries that are not padding. 1 for whole blocks. i: an entry of a side of n. */
double kq_fill_scale(size_t n, size_t block, size_t i);

/* X <- U_rows^T X U_cols; the way back is U_rows X U_cols^T. X [rows, cols], the orders of the two
 * transforms. */
kq_status kq_rotate_both(const kq_hadamard *u_rows, const kq_hadamard *u_cols, bool back, float *X,
                         int threads, kq_error *err);

/* *out [np, np] (the caller's, kq_free) = the factor with its scales, shrunk (eq. 63), padded with zeros to
 * np = kq_padded_to(n, block), rotated (eq. 51). H may not be NULL. KQ_E_NUMERIC: NaN or Inf in H; messages
 * name the module and the factor. */
kq_status kq_side_rotated_factor(const kq_side *side, double shrink, int threads, float **out, kq_error *err);

/* KQ_E_ARG for a shape that cannot be rounded, KQ_E_NUMERIC for NaN or Inf in W. */
kq_status kq_round_check_weight(const kq_round_input *in, kq_error *err);

#endif
