/* The one clock. */
#ifndef KQ_BASE_TIME_H
#define KQ_BASE_TIME_H

/* Seconds since an arbitrary start, monotonic. */
double kq_now_s(void);

#endif
