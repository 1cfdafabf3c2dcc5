/* Two threads and two queues. One thread takes small pieces only, so that a long text never makes a short
 * request wait; the other takes large pieces first, then small ones. */
#include "serve/work.h"

#include <pthread.h>

#include "base/mem.h"

typedef struct lane {
    kq_work_item *first, **end;
} lane;

struct kq_work {
    void (*run)(void *ctx, kq_work_item *item);
    void *ctx;
    pthread_t thread[2];
    size_t n_threads;
    pthread_mutex_t lock; /* all that follows */
    size_t n, n_running;  /* pieces that wait; pieces at work */
    pthread_cond_t more;
    lane small, large;
    bool stop, first_started;
};

static kq_work_item *pop_item(lane *l)
{
    kq_work_item *item = l->first;
    if (item && !(l->first = item->next))
        l->end = &l->first;
    return item;
}

static void *work_thread(void *ctx)
{
    kq_work *w = ctx;
    pthread_mutex_lock(&w->lock);
    const bool all = w->first_started; /* the first thread is for small ones */
    w->first_started = true;
    for (;;) {
        kq_work_item *item = all ? pop_item(&w->large) : NULL;
        if (!item)
            item = pop_item(&w->small);
        if (item) {
            w->n--;
            w->n_running++;
            pthread_mutex_unlock(&w->lock);
            w->run(w->ctx, item);
            pthread_mutex_lock(&w->lock);
            w->n_running--;
        } else if (w->stop) {
            break;
        } else {
            pthread_cond_wait(&w->more, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

kq_status kq_work_new(void (*run)(void *ctx, kq_work_item *item), void *ctx, kq_work **out, kq_error *err)
{
    kq_work *w = kq_calloc(1, sizeof *w);
    *out = NULL;
    if (!w)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the server's threads");
    w->run = run;
    w->ctx = ctx;
    w->small.end = &w->small.first;
    w->large.end = &w->large.first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    for (; w->n_threads < 2; w->n_threads++)
        if (pthread_create(&w->thread[w->n_threads], NULL, work_thread, w)) {
            kq_work_free(w);
            return kq_fail(err, KQ_E_MEMORY, "cannot start a thread");
        }
    *out = w;
    return KQ_OK;
}

void kq_work_add(kq_work *w, kq_work_item *item, bool small)
{
    pthread_mutex_lock(&w->lock);
    lane *l = small ? &w->small : &w->large;
    item->next = NULL;
    *l->end = item;
    l->end = &item->next;
    w->n++;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
}

size_t kq_work_waiting(kq_work *w)
{
    pthread_mutex_lock(&w->lock);
    const size_t n = w->n;
    pthread_mutex_unlock(&w->lock);
    return n;
}

bool kq_work_busy(kq_work *w)
{
    pthread_mutex_lock(&w->lock);
    const bool busy = w->n || w->n_running;
    pthread_mutex_unlock(&w->lock);
    return busy;
}

void kq_work_free(kq_work *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < w->n_threads; i++)
        pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    kq_free(w);
}
