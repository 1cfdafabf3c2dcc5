/* What a method is to the rest of the room: over whole gradients, a machine that asks for one product
 * after the other. Internal to fisher. */
#ifndef KQ_FISHER_METHOD_H
#define KQ_FISHER_METHOD_H

#include "fisher/product.h"

/* The product that comes next. */
typedef struct kq_step {
    bool adjoint;
    kq_middle kind;
    /* [n,n] or, adjoint, [m,m]; read until the product is there. NULL for KQ_MID_IDENTITY */
    const float *mid;
    float *out;     /* [m,m] or, adjoint, [n,n]: where absorb looks for it. Not mid */
    size_t samples; /* the mean over so many of the first ones; 0: over all */
} kq_step;

/* One layer's estimation. The pass over the samples happens outside, between next and absorb. */
typedef struct kq_search {
    size_t D, m, n;
    const kq_factor_options *opt; /* checked, borrowed */
    int threads;                  /* at least 1 */
    float *H_in, *H_out;          /* the caller's: working matrices, and the result */
    /* products is the driver's, counted before absorb; flop too: an estimator adds its own arithmetic */
    kq_factor_report *report;
    void *state; /* the estimator's own `bytes`, 64-byte aligned */
} kq_search;

/* A method over whole gradients. */
typedef struct kq_machine {
    size_t (*bytes)(size_t m, size_t n, const kq_factor_options *opt); /* of state; 0: overflow */
    void (*start)(kq_search *s);
    /* *more false: there is no product left */
    kq_status (*next)(kq_search *s, kq_step *step, bool *more, kq_error *err);
    /* the step's product is at its `out` */
    kq_status (*absorb)(kq_search *s, kq_error *err);
    /* how much is done, below 1 */
    double (*fraction)(const kq_search *s);
    /* H_in and H_out, positive semidefinite, on any scale */
    kq_status (*finish)(kq_search *s, kq_error *err);
} kq_machine;
extern const kq_machine kq_flipflop, kq_lanczos, kq_power; /* one file each */

/* Of D samples, those that flipflop's half round `half` takes; and how many times all D the half rounds
 * before it took. */
size_t kq_flipflop_samples(const kq_factor_options *opt, size_t D, int half);
double kq_flipflop_passes(const kq_factor_options *opt, size_t D, int half);

typedef struct kq_estimator {
    const char *name;
    kq_needs needs;
    /* f32 products even where block integers are faster: its middle matrices are indefinite, or its
     * residual asks for it */
    bool exact;
    bool diagonal;             /* only the factors' diagonals are kept */
    const kq_machine *machine; /* KQ_NEEDS_GRADIENTS */
} kq_estimator;

const kq_estimator *kq_estimator_of(kq_method method);

/* A step of an iteration is complete: its residual goes to the trace. */
void kq_search_trace(kq_search *s, double residual);

/* The last lines of every finish: both factors are positive semidefinite up to `allowed`. work:
 * kq_psd_work(max(m, n)) floats. */
kq_status kq_search_psd(kq_search *s, double allowed, float *work, kq_error *err);

#endif
