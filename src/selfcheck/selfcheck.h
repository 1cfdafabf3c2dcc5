/* The check that this machine computes what the reference computes: every kernel of every instruction
 * set that the processor has, on random inputs, against plain C. A wrong compiler flag, a broken library
 * or a faulty processor shows here, before it spoils a model. */
#ifndef KQ_SELFCHECK_SELFCHECK_H
#define KQ_SELFCHECK_SELFCHECK_H

#include <jansson.h>

#include "base/isa.h"
#include "kronq.h"

/* The results so far. One kernel is checked with many inputs; the largest error of all of them is kept. */
typedef struct kq_checker {
    const kq_common *common;
    json_t *list;       /* owned: one object a kernel and instruction set */
    size_t done, total; /* groups of kernels, for progress */
    size_t failed;
    char first[160]; /* the first failure, for the message */
} kq_checker;

/* Note that `kernel` of `room` on `isa` came within `error` of the reference, where at most `bound` is
 * allowed (0: the same bits). A NaN fails. */
kq_status kq_checker_note(kq_checker *c, const char *room, const char *kernel, const char *isa, double error,
                          double bound, kq_error *err);
/* A group of kernels is done: progress. */
kq_status kq_checker_step(kq_checker *c, const char *what, kq_error *err);

/* The largest |got - want| over the largest |want| of n values; NaN where one of got is. */
double kq_check_distance(const float *got, const float *want, size_t n);

/* The groups. Each notes all of its kernels for every instruction set up to `best`. */
/* kern/: between the matrix products */
kq_status kq_check_vector_kernels(kq_checker *c, kq_isa best, kq_error *err);
/* kern/: matrix products in f32 and bf16; fisher/: in block integers */
kq_status kq_check_products(kq_checker *c, kq_error *err);
kq_status kq_check_trellis(kq_checker *c, kq_isa best, kq_error *err); /* trellis/: the search */
/* grid/: sixteen scales at once */
kq_status kq_check_grid(kq_checker *c, kq_isa best, kq_error *err);
/* decode/: products from stored weights */
kq_status kq_check_decode(kq_checker *c, kq_isa best, kq_error *err);

#endif
