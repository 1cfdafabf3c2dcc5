/* The one clock. */
#ifndef KQ_BASE_TIME_H
#define KQ_BASE_TIME_H

/* Seconds since an arbitrary start, monotonic. */
double kq_now_s(void);

double kq_cpu_s(void); /* processor time of this process so far, all its threads */

#endif
