/* Counters of the server in Prometheus' text format (version 0.0.4). Internal to the serve room. */
#ifndef KQ_SERVE_METRICS_H
#define KQ_SERVE_METRICS_H

#include <pthread.h>

#include "serve/batch.h"

enum { KQ_METRIC_PATHS = 10, KQ_METRIC_BUCKETS = 12 };

typedef struct kq_histogram {
    uint64_t count[KQ_METRIC_BUCKETS + 1];
    double sum;
    uint64_t n;
} kq_histogram;

typedef struct kq_metrics {
    pthread_mutex_t lock;                 /* the rest. The owner makes and destroys it */
    uint64_t answers[KQ_METRIC_PATHS][6]; /* by path and hundreds of the status (0: the client left) */
    kq_histogram seconds, first_token;
} kq_metrics;

/* Count an answer. seconds: from the request's first byte to the end of its answer; first_token: to its first
 * token, below 0: there was none. Takes m's lock and no other, so it may be called under another one (the
 * door does). */
void kq_metrics_answer(kq_metrics *m, int path, int status, double seconds, double first_token);
/* The page as text [size]; paths [KQ_METRIC_PATHS] are the values of its label "path". kq_free; NULL: out of
 * memory. */
char *kq_metrics_page(kq_metrics *m, const kq_batch_stats *s, const char *const *paths, size_t *size);

#endif
