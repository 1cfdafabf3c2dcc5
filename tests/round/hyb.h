/* The code hyb at 2 bits, for the tests of a program that include this. */
#ifndef KQ_TESTS_ROUND_HYB_H
#define KQ_TESTS_ROUND_HYB_H

#include "common.h"

static kq_error err;
static kq_trellis *hyb;

static int setup(void **state)
{
    (void)state;
    return kq_trellis_new(KQ_HYB, 2, kq_isa_best(), NULL, &hyb, &err) != KQ_OK;
}

static int teardown(void **state)
{
    (void)state;
    kq_trellis_free(hyb);
    return 0;
}

#endif
