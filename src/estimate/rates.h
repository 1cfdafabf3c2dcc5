/* How fast this machine is at what calibrating and rounding spend their time on, measured in about a second.
 */
#ifndef KQ_ESTIMATE_RATES_H
#define KQ_ESTIMATE_RATES_H

#include "prepare/prepare.h"

typedef struct kq_rates {
    double gemm;   /* FLOP/s of products as forward and backward make them, all threads together */
    double factor; /* FLOP/s of the factor step, all threads together; 0 for a method without gradients */
    double ldl;    /* FLOP/s of block LDL in f64, one thread */
    double tile_s; /* seconds a 16x16 tile of the trellis search, all threads at work */
} kq_rates;

/* Measured by processor time, as if nothing else ran on the machine, with p's instruction set, method, code
 * and threads. KQ_E_MEMORY; KQ_E_ARG for an unknown code. */
kq_status kq_rates_measure(const kq_prepared *p, kq_rates *out, kq_error *err);

#endif
