/* Threads that go through the same program together, inside one OpenMP parallel region: work handed out item
 * by item, and a barrier between two phases. The barrier spins, because a pass over a small model has
 * hundreds of them, a few microseconds apart. */
#ifndef KQ_DECODE_TEAM_H
#define KQ_DECODE_TEAM_H

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

typedef struct kq_team {
    int n; /* threads */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_uint round;
    _Alignas(64) atomic_size_t next;
} kq_team;

/* The next item of the present phase. A thread that gets the phase's number of items, or more, goes to the
 * barrier. */
static inline size_t kq_team_next(kq_team *t)
{
    return atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
}

static inline void kq_team_barrier(kq_team *t)
{
    /* rounds of a few dozen microseconds in all; then let others run, for the machine may be shared */
    enum { SPIN = 10000 };
    unsigned round = atomic_load_explicit(&t->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == t->n) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->next, 0, memory_order_relaxed);
        atomic_store_explicit(&t->round, round + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&t->round, memory_order_acquire) == round; i += i < SPIN)
        if (i < SPIN) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        } else {
            sched_yield();
        }
}

#endif
