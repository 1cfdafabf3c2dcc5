/* Inside the room: what a method is. A method over whole gradients is a machine that asks for one product
 * (eq. 2) after the other; the pass over the samples happens outside, between two of its calls. So Lanczos,
 * power iteration and flip-flop share one driver, and several of them can share a pass. */
#ifndef KQ_FISHER_METHOD_H
#define KQ_FISHER_METHOD_H

#include "fisher/product.h"

/* The product that comes next. */
typedef struct kq_step {
    bool adjoint;
    kq_middle kind;
    /* [n,n] or, adjoint, [m,m]; read until the product is there. NULL for KQ_MID_IDENTITY */
    const float *mid;
    float *out;     /* [m,m] or, adjoint, [n,n]: where absorb finds the product. Not mid */
    size_t samples; /* the product is the mean over the first `samples`; 0: over all */
} kq_step;

/* One layer's estimation. The pass over the samples happens outside, between next and absorb. */
typedef struct kq_search {
    size_t D, m, n;
    const kq_factor_options *opt; /* checked, borrowed */
    int threads;                  /* at least 1 */
    float *H_in, *H_out;          /* the caller's: working matrices, and the result */
    /* The driver counts products (before absorb) and their flop; a method adds the flop of its own algebra.
     */
    kq_factor_report *report;
    void *state; /* the machine's own memory, of the size that `bytes` says, 64-byte aligned */
} kq_search;

/* A method over whole gradients, as the driver calls it: start; next, absorb, next, absorb, ..; finish. */
typedef struct kq_machine {
    size_t (*bytes)(size_t m, size_t n, const kq_factor_options *opt); /* of state; 0: overflow */
    void (*start)(kq_search *s);
    /* *step is the product that is needed next; *more false: none is left */
    kq_status (*next)(kq_search *s, kq_step *step, bool *more, kq_error *err);
    /* The step's product is at its `out`. */
    kq_status (*absorb)(kq_search *s, kq_error *err);
    double (*fraction)(const kq_search *s); /* how much is done, below 1 */
    /* Leave H_in and H_out positive semidefinite, on any scale. */
    kq_status (*finish)(kq_search *s, kq_error *err);
} kq_machine;
extern const kq_machine kq_flipflop, kq_lanczos, kq_power; /* one file each */

/* How many of D samples flipflop's half round `half` takes; and what the half rounds before it took, in
 * passes over all D. */
size_t kq_flipflop_samples(const kq_factor_options *opt, size_t D, int half);
double kq_flipflop_passes(const kq_factor_options *opt, size_t D, int half);

/* One row of the table of methods. */
typedef struct kq_estimator {
    const char *name;
    kq_needs needs;
    /* f32 products even where block integers are faster: the middle matrices are indefinite, or the residual
     * needs the precision */
    bool exact;
    bool diagonal;             /* only the factors' diagonals are kept */
    const kq_machine *machine; /* KQ_NEEDS_GRADIENTS */
} kq_estimator;

const kq_estimator *kq_estimator_of(kq_method method);

/* After a step of an iteration: append its residual to the report's trace. */
void kq_search_trace(kq_search *s, double residual);

/* At the end of every finish: both factors pass kq_psd_check with the tolerance `allowed`. work:
 * kq_psd_work(max(m, n)) floats. */
kq_status kq_search_psd(kq_search *s, double allowed, float *work, kq_error *err);

#endif
