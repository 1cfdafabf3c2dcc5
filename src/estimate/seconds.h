/* How many seconds each stage of quantizing a model will take: counted arithmetic divided by
 * measured rates. */
#ifndef KQ_ESTIMATE_SECONDS_H
#define KQ_ESTIMATE_SECONDS_H

#include "estimate/rates.h"

typedef struct kq_stage_seconds {
    double forward, backward, factors;
    double targets; /* of sequential rounding: its two streams and sums */
    double rounding, tuning;
} kq_stage_seconds;

/* The seconds of a sweep as it is set up (way, draws, sequences), of the rounding after it, and of tuning,
 * where p's options ask for it. */
kq_stage_seconds kq_count_seconds(const kq_prepared *p, const kq_sweep *s, const kq_rates *r);
/* How often the backward pass goes over the samples of a block. The early rounds of flipflop count as parts
 * of a pass, because they read fewer samples. */
double kq_count_passes(const kq_prepared *p, const kq_sweep *s);

#endif
