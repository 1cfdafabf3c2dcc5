/* How many threads to work with. */
#ifndef KQ_BASE_THREADS_H
#define KQ_BASE_THREADS_H

#include "kronq.h"

enum { KQ_MOST_THREADS = 1024 };

/* Processors that this process may use: its affinity (taskset, cpuset), and the share of time its
 * control group gives it (docker --cpus), rounded up. */
int kq_processors(void);
/* asked: the value of an option; 0: as many as kq_processors. KQ_E_ARG when it is negative or above
 * KQ_MOST_THREADS. Warns above kq_processors. */
kq_status kq_threads_pick(int asked, int *threads, kq_error *err);

#endif
