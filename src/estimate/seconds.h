/* Seconds of each stage of quantizing a model, by counted arithmetic over measured rates. */
#ifndef KQ_ESTIMATE_SECONDS_H
#define KQ_ESTIMATE_SECONDS_H

#include "estimate/rates.h"

typedef struct kq_stage_seconds {
    double forward, backward, factors, rounding;
} kq_stage_seconds;

/* Of a sweep as it is settled (way, draws, sequences) and of the rounding after it. */
kq_stage_seconds kq_count_seconds(const kq_prepared *p, const kq_sweep *s, const kq_rates *r);
/* How often the backward pass goes over a block's samples; early rounds of flipflop are parts of a pass. */
double kq_count_passes(const kq_prepared *p, const kq_sweep *s);

#endif
