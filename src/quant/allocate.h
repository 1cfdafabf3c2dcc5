/* Sharing out bits: 2, 3 or 4 a weight for each module, so that the sum of their losses is small and the
 * average is what was asked for. */
#ifndef KQ_QUANT_ALLOCATE_H
#define KQ_QUANT_ALLOCATE_H

#include "base/error.h"

enum { KQ_BITS_MIN = 2, KQ_BITS_MAX = 4, KQ_N_BITS = 3 };

typedef struct kq_share {
    double weights;         /* how many, a whole number: what a bit costs */
    double loss[KQ_N_BITS]; /* at 2, 3, 4 bits */
    int fixed;              /* 2, 3 or 4: not to be chosen; 0 */
    int bits;               /* out */
} kq_share;

typedef struct kq_allocation {
    /* of bits, over all weights: at most what was asked for, and short of it by less than a bit of the
     * smallest module that more bits would still help */
    double average;
    double loss;  /* the sum */
    double bound; /* no assignment with the asked average has a lower sum than this */
} kq_allocation;

/* Eq. 67: from 2 bits everywhere up, one step of one module at a time, the steps that save most a bit
 * first. Where no module's loss at 3 bits lies above the chord between 2 and 4 (a code's does not) and
 * the steps taken are a whole prefix of that order, the assignment is the best of all with at most its
 * average; else loss - bound says how far it may be from it. Ties go to the first module.
 * KQ_E_ARG: the fixed ones alone need more than the average; KQ_E_NUMERIC: a loss that is negative or
 * not finite. */
kq_status kq_allocate_bits(kq_share *shares, size_t n, double average, kq_allocation *out, kq_error *err);

#endif
