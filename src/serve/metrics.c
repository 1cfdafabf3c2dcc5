/* Counters for Prometheus. Text by printf: the format is a line a number. */
#include "serve/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const double bound[KQ_METRIC_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60};

static void observe(kq_histogram *h, double x)
{
    int i = 0;
    while (i < KQ_METRIC_BUCKETS && x > bound[i])
        i++;
    h->count[i]++;
    h->sum += x;
    h->n++;
}

void kq_metrics_answer(kq_metrics *m, int path, int status, double seconds, double first_token)
{
    pthread_mutex_lock(&m->lock);
    m->answers[path][status / 100 < 6 ? status / 100 : 5]++;
    observe(&m->seconds, seconds);
    if (first_token >= 0)
        observe(&m->first_token, first_token);
    pthread_mutex_unlock(&m->lock);
}

static void histogram(FILE *f, const char *name, const char *help, const kq_histogram *h)
{
    uint64_t sum = 0;
    fprintf(f, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (int i = 0; i < KQ_METRIC_BUCKETS; i++)
        fprintf(f, "%s_bucket{le=\"%g\"} %llu\n", name, bound[i], (unsigned long long)(sum += h->count[i]));
    fprintf(f, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name, (unsigned long long)h->n,
            name, h->sum, name, (unsigned long long)h->n);
}

char *kq_metrics_page(kq_metrics *m, const kq_batch_stats *s, const char *const *paths, size_t *size)
{
    static const char *const status[6] = {"client_left", "1xx", "2xx", "3xx", "4xx", "5xx"};
    char *text = NULL;
    FILE *f = open_memstream(&text, size);
    if (!f)
        return NULL;
    const struct {
        const char *name, *type, *help;
        double now;
    } value[] = {
        {"kronq_requests_active", "gauge", "Requests that wait or run.", (double)s->queries},
        {"kronq_sequences_active", "gauge", "Answers being computed.", (double)s->active},
        {"kronq_sequences_waiting", "gauge", "Answers waiting for a slot.", (double)s->waiting},
        {"kronq_prompt_tokens_total", "counter", "Prompt tokens computed.", (double)s->prompt_tokens},
        {"kronq_prompt_tokens_reused_total", "counter",
         "Prompt tokens taken from an earlier request's cache.", (double)s->reused_tokens},
        {"kronq_prompt_tokens_scored_total", "counter",
         "Prompt tokens whose log-probabilities were asked for and computed.", (double)s->scored_tokens},
        {"kronq_generated_tokens_total", "counter", "Tokens generated.", (double)s->made_tokens},
        {"kronq_engine_steps_total", "counter", "Steps of the model.", (double)s->steps},
        {"kronq_engine_busy_seconds_total", "counter", "Time the model worked.", s->busy_s},
        {"kronq_requests_done_total", "counter", "Requests answered by the model.", (double)s->queries_done},
        {"kronq_requests_cancelled_total", "counter", "Requests whose client left.",
         (double)s->queries_cancelled},
        {"kronq_requests_failed_total", "counter", "Requests that failed or ran out of time.",
         (double)s->queries_failed},
    };
    for (size_t i = 0; i < sizeof value / sizeof *value; i++)
        fprintf(f, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", value[i].name, value[i].help, value[i].name,
                value[i].type, value[i].name, value[i].now);
    pthread_mutex_lock(&m->lock);
    fputs("# HELP kronq_http_answers_total HTTP answers.\n# TYPE kronq_http_answers_total counter\n", f);
    for (int p = 0; p < KQ_METRIC_PATHS; p++)
        for (int k = 0; k < 6; k++)
            if (m->answers[p][k])
                fprintf(f, "kronq_http_answers_total{path=\"%s\",status=\"%s\"} %llu\n", paths[p], status[k],
                        (unsigned long long)m->answers[p][k]);
    histogram(f, "kronq_request_seconds", "Time from a request's first byte to the end of its answer.",
              &m->seconds);
    histogram(f, "kronq_first_token_seconds", "Time from a request's first byte to its first token.",
              &m->first_token);
    pthread_mutex_unlock(&m->lock);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    return text; /* malloc's, which is kq_free's */
}
