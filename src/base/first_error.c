/* The error of a parallel loop. One lock serves all loops: it is taken only when an error is noted, which is
 * rare, and a lock in each loop would have to be made and destroyed. */
#include "base/first_error.h"

#include <pthread.h>

/* taken when an error is noted, which is rare */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

bool kq_first_error_skip(const kq_first_error *f, size_t index)
{
    return index > __atomic_load_n(&f->index, __ATOMIC_ACQUIRE);
}

void kq_first_error_note(kq_first_error *f, size_t index, kq_status status, const kq_error *err)
{
    if (!status)
        return;
    pthread_mutex_lock(&lock);
    if (index < f->index) {
        f->err = *err;
        f->err.status = status;
        __atomic_store_n(&f->index, index, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
}

kq_status kq_first_error_get(const kq_first_error *f, kq_error *err)
{
    if (f->index == SIZE_MAX)
        return KQ_OK;
    if (err)
        *err = f->err;
    return f->err.status;
}
