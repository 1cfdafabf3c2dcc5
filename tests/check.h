/* What every test program includes: cmocka, and comparisons that print by how much they failed. */
#ifndef KQ_TESTS_CHECK_H
#define KQ_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

/* The call must succeed; otherwise its message is printed and the test fails. The call must fill in a
 * variable `kq_error err`. */
#define check_ok(call)                              \
    do {                                            \
        if ((call) != KQ_OK)                        \
            fail_msg("%s: %s", #call, err.message); \
    } while (0)

/* The call must fail with this status and a message that contains `words`. */
#define check_fails(call, expected, words)                                                         \
    do {                                                                                           \
        kq_status s_ = (call);                                                                     \
        if (s_ != (expected) || !strstr(err.message, words))                                       \
            fail_msg("%s: status %d (want %d), message \"%s\" (want \"%s\")", #call, s_, expected, \
                     err.message, words);                                                          \
    } while (0)

/* |got - want| <= tol, in double. */
#define check_number(got, want, tol)                                                \
    do {                                                                            \
        if (!(fabs((got) - (want)) <= (tol)))                                       \
            fail_msg("%s is %.9g, want %.9g", #got, (double)(got), (double)(want)); \
    } while (0)

/* The relative error ||a - b|| / ||b|| of n values in the Frobenius norm; NaN when one of the values
 * is NaN. */
static inline double check_rel(const float *a, const float *b, size_t n)
{
    double d = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(d / (s > 0 ? s : 1));
}

#define check_close(a, b, n, tol)                                                                    \
    do {                                                                                             \
        double r_ = check_rel(a, b, n);                                                              \
        if (!(r_ <= (tol)))                                                                          \
            fail_msg("%s against %s: relative error %.3g, allowed %.3g", #a, #b, r_, (double)(tol)); \
    } while (0)

#endif
