/* How fast this machine does the work that calibrating and rounding consist of, measured in about
 * a second. */
#ifndef KQ_ESTIMATE_RATES_H
#define KQ_ESTIMATE_RATES_H

#include "prepare/prepare.h"

typedef struct kq_rates {
    double gemm;   /* FLOP/s of products as forward and backward make them, all threads together */
    double factor; /* FLOP/s of estimating factors, all threads together; 0 for a method without gradients */
    double ldl;    /* FLOP/s of block LDL in f64, one thread */
    double tile_s; /* seconds a 16x16 tile of the trellis search, all threads at work */
} kq_rates;

/* Measure the rates with p's instruction set, method, code and threads. They are measured by processor time,
 * as if nothing else ran on the machine. KQ_E_MEMORY; KQ_E_ARG: the code is unknown. */
kq_status kq_rates_measure(const kq_prepared *p, kq_rates *out, kq_error *err);

#endif
