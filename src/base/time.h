/* Clocks: all times of the library come from here. */
#ifndef KQ_BASE_TIME_H
#define KQ_BASE_TIME_H

/* Seconds since an arbitrary start, monotonic. */
double kq_now_s(void);

double kq_cpu_s(void); /* processor time of this process so far, all its threads */

/* For people, into buf: "90 s", "43 min", "2.5 h". */
const char *kq_duration(double seconds, char buf[32]);

#endif
