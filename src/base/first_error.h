/* The error of a parallel loop: that of its lowest failing index, whatever the threads' timing. */
#ifndef KQ_BASE_FIRST_ERROR_H
#define KQ_BASE_FIRST_ERROR_H

#include "base/error.h"

/* Begin with KQ_FIRST_ERROR. An iteration asks kq_first_error_skip and, unless it says true, does its
 * work and notes how it ended. Iterations below the lowest index that has failed still run: one of them
 * may fail as well, and then its error is the loop's. Any thread may call these. */
typedef struct kq_first_error {
    size_t index; /* of the error; SIZE_MAX: none yet */
    kq_error err;
} kq_first_error;
#define KQ_FIRST_ERROR    \
    {                     \
        .index = SIZE_MAX \
    }

/* an iteration below this one has failed: its own result is of no interest */
bool kq_first_error_skip(const kq_first_error *f, size_t index);
/* nothing on KQ_OK */
void kq_first_error_note(kq_first_error *f, size_t index, kq_status status, const kq_error *err);
/* After the loop: its status, with the error in *err (may be NULL). */
kq_status kq_first_error_get(const kq_first_error *f, kq_error *err);

#endif
