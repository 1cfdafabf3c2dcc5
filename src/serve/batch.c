#include "serve/batch.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "eval/score.h"
#include "generate/generate.h"

enum {
    SCORE_ROWS = 64,   /* rows of logits a step has room for, beside one for each slot */
    BUSY_ROWS = 128,   /* prompt tokens in a step that others wait for */
    WORTH_WAITING = 32 /* tokens of a common beginning */
};

/* What a slot holds, and the scores of its tokens where they are known (token i given those before, and
 * the most likely one there). */
typedef struct record {
    double logprob, top_logprob;
    int32_t top;
} record;
typedef struct slot {
    int32_t *ids;
    size_t n; /* owned [max_T] */
    record *rec;
    size_t n_rec; /* owned [max_T]; entries 1 .. n_rec - 1 are good */
    kq_sequence *seq;
    kq_query *job; /* NULL: free */
    uint64_t used; /* larger: later */
} slot;

struct kq_batch {
    kq_batch_options opt;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool stop;
    kq_query *first; /* jobs in order of arrival, finished ones taken out */
    size_t n_jobs;
    slot *slots;
    uint64_t clock;
    /* in order of admission; entry i of both belong together */
    kq_sequence **active;
    kq_query **active_job;
    size_t n_active;
    float *logits, *raw; /* [n_slots + SCORE_ROWS, vocab]; [vocab] */
    size_t logit_rows;
    /* of the step at work */
    kq_engine_piece *piece;
    size_t *piece_active;
    kq_status *piece_status;
    int32_t *piece_next;
    kq_batch_stats stats;
};

static void engine_truncate(void *ctx, size_t s, size_t length)
{
    kq_engine_truncate(ctx, s, length);
}
static kq_status engine_copy(void *ctx, size_t from, size_t to, size_t length, kq_error *err)
{
    return kq_engine_copy(ctx, from, to, length, err);
}
static kq_status engine_run(void *ctx, const kq_engine_piece *p, size_t n, kq_error *err)
{
    return kq_engine_run(ctx, p, n, err);
}

kq_stepper kq_stepper_engine(kq_engine *e)
{
    return (kq_stepper){.ctx = e,
                        .n_slots = kq_engine_n_slots(e),
                        .max_T = kq_engine_max_T(e),
                        .vocab_size = kq_engine_config(e)->vocab_size,
                        .truncate = engine_truncate,
                        .copy = engine_copy,
                        .run = engine_run};
}

/* ---- jobs ---- */

kq_query *kq_query_new(void)
{
    kq_query *j = kq_calloc(1, sizeof *j);
    if (j)
        j->refs = 1;
    return j;
}

static void free_sequences(kq_query *j)
{
    for (size_t i = 0; i < j->n_seq; i++) {
        kq_text_clear(&j->seq[i].text);
        kq_free(j->seq[i].score);
        kq_free(j->seq[i].top);
        kq_free(j->seq[i].made);
        kq_free(j->seq[i].made_from);
        kq_free(j->seq[i].said);
        kq_free(j->seq[i].count);
    }
    kq_free(j->seq);
    j->seq = NULL;
    j->n_seq = 0;
}

static void job_free(kq_query *j)
{
    free_sequences(j);
    for (size_t i = 0; i < j->n_prompt; i++) {
        kq_free(j->prompt[i].text);
        kq_free(j->prompt[i].ids);
        kq_free(j->prompt[i].offset);
    }
    kq_free(j->prompt);
    kq_api_request_clear(&j->request);
    kq_free(j);
}

static void release_locked(kq_query *j)
{
    if (--j->refs == 0)
        job_free(j);
}

void kq_query_release(kq_batch *b, kq_query *j)
{
    if (!j)
        return;
    pthread_mutex_lock(&b->lock);
    release_locked(j);
    pthread_mutex_unlock(&b->lock);
}

static bool penalizes(const kq_sampling *s)
{
    return s->repetition_penalty > 0 && s->repetition_penalty != 1;
}
static bool counts(const kq_api_request *r)
{
    return r->frequency_penalty != 0 || r->presence_penalty != 0;
}

static int by_id(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* What the penalties of a sequence need, so that a token costs them no more than the different ones
 * before it. */
static bool make_penalties(const kq_api_request *r, const kq_prompt *p, kq_sequence *s)
{
    if (counts(r) && !(s->count = kq_alloc(s->max_tokens, sizeof *s->count)))
        return false;
    if (!penalizes(&r->sampling))
        return true;
    if (!(s->said = kq_alloc(p->n + s->max_tokens, sizeof *s->said)))
        return false;
    memcpy(s->said, p->ids, p->n * sizeof *s->said);
    qsort(s->said, p->n, sizeof *s->said, by_id);
    for (size_t i = 0; i < p->n; i++)
        if (!i || s->said[i] != s->said[s->n_said - 1])
            s->said[s->n_said++] = s->said[i];
    return true;
}

static void note_made(kq_sequence *s, int32_t id)
{
    size_t i = 0;
    while (s->said && i < s->n_said && s->said[i] != id)
        i++;
    if (s->said && i == s->n_said)
        s->said[s->n_said++] = id;
    for (i = 0; s->count && i < s->n_count && s->count[i].id != id;)
        i++;
    if (s->count && i == s->n_count)
        s->count[s->n_count++] = (struct kq_count){id, 0};
    if (s->count)
        s->count[i].n++;
}

/* The sequences of a job. */
static bool make_sequences(kq_batch *b, kq_query *j, kq_api_error *e)
{
    const kq_api_request *r = &j->request;
    const size_t n = j->n_prompt * r->n;
    if (!(j->seq = kq_calloc(n, sizeof *j->seq)))
        goto memory;
    for (j->n_seq = 0; j->n_seq < n; j->n_seq++) {
        kq_sequence *s = &j->seq[j->n_seq];
        const kq_prompt *p = &j->prompt[j->n_seq / r->n];
        kq_error err;
        *s = (kq_sequence){.index = j->n_seq,
                           .prompt = p->ids,
                           .n_prompt = p->n,
                           .max_tokens = r->max_tokens,
                           .sent_text = SIZE_MAX};
        if (s->max_tokens > b->opt.stepper.max_T -
                                p->n) /* callers have checked what was asked for; this is "as many as fit" */
            s->max_tokens = b->opt.stepper.max_T - p->n;
        /* the last token's logits are only for what follows */
        s->feed = s->max_tokens ? p->n : j->score_prompt ? p->n - 1 : 0;
        s->rng = kq_rng_stream(r->sampling.seed + j->n_seq, "serve");
        const size_t scores = (j->score_prompt ? p->n : 0) + (r->logprobs ? s->max_tokens : 0);
        s->score = kq_alloc(scores, sizeof *s->score);
        s->top = kq_alloc(scores * (size_t)r->n_top, sizeof *s->top);
        s->made = kq_alloc(s->max_tokens, sizeof *s->made);
        s->made_from = kq_alloc(s->max_tokens, sizeof *s->made_from);
        if (!s->score || !s->top || !s->made || !s->made_from || !make_penalties(r, p, s) ||
            kq_text_begin(&s->text, b->opt.tok, p->ids, p->n, &err)) {
            j->n_seq++;
            goto memory;
        }
        if (j->score_prompt)
            s->score[s->n_score++] = (kq_score){p->ids[0], NAN};
    }
    return true;
memory:
    return kq_api_fail(e, 503, NULL, "out_of_memory", "out of memory; try again later");
}

bool kq_batch_submit(kq_batch *b, kq_query *j, kq_api_error *e)
{
    if (!make_sequences(b, j, e)) {
        free_sequences(j);
        return false;
    }
    pthread_mutex_lock(&b->lock);
    bool ok = !b->stop && b->n_jobs < b->opt.max_jobs;
    if (ok) {
        kq_query **at = &b->first;
        while (*at)
            at = &(*at)->next_job;
        *at = j;
        j->refs++;
        j->start_s = kq_now_s();
        b->n_jobs++;
        pthread_cond_signal(&b->work);
    } else if (b->stop) {
        kq_api_fail(e, 503, NULL, "shutting_down", "the server is shutting down");
    } else {
        kq_api_fail(e, 429, NULL, "queue_full", "%zu requests wait or run already; try again later",
                    b->n_jobs);
    }
    pthread_mutex_unlock(&b->lock);
    if (!ok)
        free_sequences(j);
    return ok;
}

/* The model thread looks before every step, and it only sleeps when there is no job. */
void kq_batch_cancel(kq_query *j)
{
    atomic_store(&j->give_up, true);
}

void kq_batch_lock(kq_batch *b)
{
    pthread_mutex_lock(&b->lock);
}
void kq_batch_unlock(kq_batch *b)
{
    pthread_mutex_unlock(&b->lock);
}

kq_batch_stats kq_batch_statistics(kq_batch *b)
{
    pthread_mutex_lock(&b->lock);
    kq_batch_stats s = b->stats;
    s.jobs = b->n_jobs;
    s.active = b->n_active;
    for (const kq_query *j = b->first; j; j = j->next_job)
        s.waiting += j->n_seq - j->n_admitted;
    pthread_mutex_unlock(&b->lock);
    return s;
}

/* ---- ends (all under the lock) ---- */

static void wake(kq_query *j)
{
    if (j->parked) {
        j->parked = false;
        j->wake(j->wake_ctx);
    }
}

/* The job leaves the list; the caller still holds a pointer only if it has a reference. */
static void job_done(kq_batch *b, kq_query *j)
{
    kq_query **at = &b->first;
    while (*at != j)
        at = &(*at)->next_job;
    *at = j->next_job;
    b->n_jobs--;
    j->done = true;
    j->end_s = kq_now_s();
    *(j->failed ? &b->stats.jobs_failed : j->cancelled ? &b->stats.jobs_cancelled : &b->stats.jobs_done) += 1;
    wake(j);
    release_locked(j);
}

static void seq_end(kq_batch *b, kq_query *j, kq_sequence *s, kq_finish how)
{
    if (s->finish)
        return;
    s->finish = how;
    if (s->state != KQ_SEQ_WAITS) {
        slot *sl = &b->slots[s->slot];
        sl->seq = NULL;
        sl->job = NULL;
        sl->used = ++b->clock;
        j->n_active--;
    }
    s->state = KQ_SEQ_ENDED;
    j->n_done++;
}

static void job_stop(kq_batch *b, kq_query *j)
{
    for (size_t i = 0; i < j->n_seq; i++)
        seq_end(b, j, &j->seq[i], KQ_FINISH_ERROR);
    j->n_admitted = j->n_seq;
}

static void job_fail(kq_batch *b, kq_query *j, const kq_api_error *e)
{
    if (!j->failed)
        j->error = *e;
    j->failed = true;
    job_stop(b, j);
}

/* Take ended sequences out of the active ones, and jobs out of the list whose last has ended. */
static void sweep(kq_batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n_active; i++)
        if (b->active[i]->state != KQ_SEQ_ENDED) {
            b->active[n] = b->active[i];
            b->active_job[n++] = b->active_job[i];
        }
    b->n_active = n;
    for (kq_query *j = b->first, *next; j; j = next) {
        next = j->next_job;
        if (j->n_done == j->n_seq)
            job_done(b, j);
    }
}

static void cancel_and_expire(kq_batch *b)
{
    const double now = kq_now_s();
    for (kq_query *j = b->first; j; j = j->next_job) {
        kq_api_error e;
        if (atomic_load(&j->give_up) || b->stop) {
            j->cancelled = true;
            job_stop(b, j);
        } else if (j->deadline_s > 0 && now > j->deadline_s) {
            kq_api_fail(&e, 503, NULL, "timeout", "the request took longer than the server's limit");
            job_fail(b, j, &e);
        }
    }
}

/* ---- what a slot still holds ---- */

static size_t common(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    size_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Tokens of s's prompt that need not be run when slot sl's are taken over. At least one token is run,
 * for its logits; a prompt that is scored needs the scores of what it skips, and of the first it runs. */
static size_t usable(const slot *sl, const kq_query *j, const kq_sequence *s)
{
    size_t n = common(sl->ids, sl->n, s->prompt, s->feed);
    if (n >= s->feed)
        n = s->feed - 1;
    if (j->score_prompt) {
        if (j->request.n_top > 1)
            return 0;
        if (n + 1 > common(sl->ids, sl->n, s->prompt, s->feed))
            n = n ? n - 1 : 0;
        if (n >= sl->n_rec)
            n = sl->n_rec ? sl->n_rec - 1 : 0;
    }
    return n;
}

/* Take over the longest beginning there is. False: it pays to wait for another sequence that is just
 * computing a longer one. */
static bool begin(kq_batch *b, kq_query *j, kq_sequence *s)
{
    size_t best = s->slot, n = usable(&b->slots[s->slot], j, s);
    for (size_t i = 0; i < b->opt.stepper.n_slots; i++) {
        size_t u = usable(&b->slots[i], j, s);
        if (u > n) {
            best = i;
            n = u;
        }
    }
    for (size_t i = 0; i < b->n_active && b->active[i] != s;
         i++) { /* those admitted before: nobody waits in a circle */
        const kq_sequence *o = b->active[i];
        if ((o->state == KQ_SEQ_PROMPT || o->state == KQ_SEQ_FRESH) &&
            (!j->score_prompt || (b->active_job[i]->score_prompt && j->request.n_top <= 1)) &&
            common(o->prompt, o->feed, s->prompt, s->feed) >= n + WORTH_WAITING)
            return false;
    }
    slot *to = &b->slots[s->slot], *from = &b->slots[best];
    kq_error err;
    if (to != from && b->opt.stepper.copy(b->opt.stepper.ctx, best, s->slot, n, &err))
        n = 0;
    if (to != from && n) {
        memcpy(to->ids, from->ids, n * sizeof *to->ids);
        memcpy(to->rec, from->rec, (n + 1 < from->n_rec ? n + 1 : from->n_rec) * sizeof *to->rec);
        to->n_rec = from->n_rec;
    }
    b->opt.stepper.truncate(b->opt.stepper.ctx, s->slot, n);
    to->n = n;
    /* the score of the token at n holds if the token is the same there */
    const size_t known = j->score_prompt ? n + 1 : n;
    to->n_rec = n == 0 ? 1 : to->n_rec < known ? to->n_rec : known;
    if (j->score_prompt)
        for (size_t i = 1; i <= n; i++) {
            const record *r = &to->rec[i];
            s->score[s->n_score] = (kq_score){s->prompt[i], r->logprob};
            if (j->request.n_top)
                s->top[s->n_score] = (kq_score){r->top, r->top_logprob};
            s->n_score++;
        }
    s->at = n;
    s->n_reused = n;
    b->stats.reused_tokens += n;
    s->state = KQ_SEQ_PROMPT;
    return true;
}

/* Give free slots to waiting sequences: each to the job that holds the fewest, then to the oldest. */
static void admit(kq_batch *b)
{
    const size_t n_slots = b->opt.stepper.n_slots;
    for (;;) {
        kq_query *j = NULL;
        size_t best = n_slots, length = 0;
        for (kq_query *k = b->first; k; k = k->next_job)
            if (k->n_admitted < k->n_seq && (!j || k->n_active < j->n_active))
                j = k;
        if (!j)
            return;
        kq_sequence *s = &j->seq[j->n_admitted];
        if (!s->feed) { /* nothing is asked of the model */
            j->n_admitted++;
            kq_error err;
            if (kq_text_end(&s->text, NULL, 0, &err) == KQ_OK)
                seq_end(b, j, s, KQ_FINISH_LENGTH);
            continue;
        }
        for (size_t i = 0; i < n_slots; i++) {
            if (b->slots[i].seq)
                continue;
            size_t n = usable(&b->slots[i], j, s);
            if (best == n_slots || n > length || (n == length && b->slots[i].used < b->slots[best].used)) {
                best = i;
                length = n;
            }
        }
        if (best == n_slots)
            return;
        j->n_admitted++;
        j->n_active++;
        s->slot = best;
        s->state = KQ_SEQ_FRESH;
        b->slots[best].seq = s;
        b->slots[best].job = j;
        b->active[b->n_active] = s;
        b->active_job[b->n_active++] = j;
    }
}

/* ---- one step ---- */

static size_t plan(kq_batch *b)
{
    size_t rows = b->opt.rows, free_logits = b->logit_rows, n = 0;
    const size_t V = b->opt.stepper.vocab_size;
    float *logits = b->logits;
    for (size_t i = 0; i < b->n_active && rows; i++)
        if (b->active[i]->state == KQ_SEQ_ANSWERS) {
            b->piece_active[n] = i;
            b->piece[n++] = (kq_engine_piece){.slot = b->active[i]->slot,
                                              .ids = &b->active[i]->next,
                                              .n = 1,
                                              .n_logits = 1,
                                              .logits = logits};
            logits += V;
            rows--;
            free_logits--;
        }
    if (n && rows > BUSY_ROWS)
        rows = BUSY_ROWS;
    for (size_t i = 0; i < b->n_active && rows; i++) {
        kq_sequence *s = b->active[i];
        kq_query *j = b->active_job[i];
        if (s->state == KQ_SEQ_FRESH && !begin(b, j, s))
            continue;
        if (s->state != KQ_SEQ_PROMPT)
            continue;
        size_t take = s->feed - s->at < rows ? s->feed - s->at : rows, want = 0;
        if (j->score_prompt) {
            take = take < free_logits ? take : free_logits;
            want = take;
        } else if (s->at + take == s->feed) {
            take -= !free_logits;
            want = free_logits != 0;
        }
        if (!take)
            continue;
        b->piece_active[n] = i;
        b->piece[n++] = (kq_engine_piece){.slot = s->slot,
                                          .ids = s->prompt + s->at,
                                          .n = take,
                                          .n_logits = want,
                                          .logits = want ? logits : NULL};
        logits += want * V;
        free_logits -= want;
        rows -= take;
    }
    return n;
}

/* The k most likely of a row, most likely first, equal ones lowest id first. */
static void most_likely(const float *row, size_t n, double lse, int k, kq_score *out)
{
    int have = 0;
    float least = -INFINITY, value[KQ_API_MAX_TOP];
    for (size_t i = 0; i < n; i++) {
        if (have == k && !(row[i] > least))
            continue;
        int at = have < k ? have++ : k - 1;
        for (; at > 0 && row[i] > value[at - 1]; at--) {
            value[at] = value[at - 1];
            out[at] = out[at - 1];
        }
        value[at] = row[i];
        out[at] = (kq_score){(int32_t)i, (double)row[i] - lse};
        least = value[have - 1];
    }
    for (; have < k; have++) /* a vocabulary smaller than k */
        out[have] = (kq_score){-1, -INFINITY};
}

/* Write score entry `at` of s for token id from a row. */
static void score(kq_batch *b, const kq_query *j, kq_sequence *s, size_t at, int32_t id, const float *row,
                  record *rec)
{
    const size_t V = b->opt.stepper.vocab_size;
    const kq_row_stats st = kq_row_score(b->opt.kern, row, V);
    const size_t k = (size_t)j->request.n_top;
    s->score[at] = (kq_score){id, (double)row[id] - st.lse};
    if (k == 1)
        s->top[at] = (kq_score){st.top, (double)st.max - st.lse};
    else if (k)
        most_likely(row, V, st.lse, (int)k, s->top + at * k);
    if (rec)
        *rec = (record){s->score[at].logprob, (double)st.max - st.lse, st.top};
}

/* The next token from a row (which is overwritten); -1: NaN or Inf. */
static int32_t draw(kq_batch *b, const kq_query *j, kq_sequence *s, float *row)
{
    const kq_api_request *r = &j->request;
    for (size_t i = 0; i < r->n_bias; i++)
        row[r->bias[i].id] += r->bias[i].value;
    for (size_t i = 0; i < s->n_said; i++) { /* as kq_penalize, whose ids come anew each time */
        float *x = &row[s->said[i]];
        *x = (float)(*x > 0 ? *x / r->sampling.repetition_penalty : *x * r->sampling.repetition_penalty);
    }
    for (size_t i = 0; i < s->n_count; i++)
        row[s->count[i].id] -= (float)(r->frequency_penalty * s->count[i].n + r->presence_penalty);
    return kq_sample(row, b->opt.stepper.vocab_size, &r->sampling, kq_rng_uniform(&s->rng));
}

/* Outside the lock: what the logits of piece p say. Scores are written behind what readers see. */
static void look(kq_batch *b, size_t p)
{
    const kq_engine_piece *piece = &b->piece[p];
    kq_sequence *s = b->active[b->piece_active[p]];
    const kq_query *j = b->active_job[b->piece_active[p]];
    const size_t V = b->opt.stepper.vocab_size;
    size_t at = s->n_score;
    b->piece_next[p] = -2; /* no token yet */
    for (size_t i = 0; i < piece->n_logits; i++) {
        float *row = piece->logits + i * V;
        const size_t position =
            s->state == KQ_SEQ_PROMPT ? s->at + piece->n - piece->n_logits + i : s->n_prompt;
        if (position + 1 < s->n_prompt) {
            slot *sl = &b->slots[s->slot];
            score(b, j, s, at++, s->prompt[position + 1], row, &sl->rec[position + 1]);
            if (sl->n_rec == position + 1)
                sl->n_rec++;
            continue;
        }
        if (!s->max_tokens)
            continue;
        if (j->request.logprobs)
            memcpy(b->raw, row, V * sizeof *row);
        int32_t id = draw(b, j, s, row);
        if (id >= 0 && j->request.logprobs)
            score(b, j, s, at, id, b->raw, NULL);
        b->piece_next[p] = id;
    }
}

static bool ends(const kq_batch *b, const kq_query *j, int32_t id)
{
    for (size_t i = 0; i < j->request.n_stop_id; i++)
        if (id == j->request.stop_id[i])
            return true;
    if (j->request.ignore_eos)
        return false;
    return kq_is_end(b->opt.cfg, b->opt.tok, id);
}

/* Under the lock: piece p was run; show what came of it. */
static void publish(kq_batch *b, size_t p)
{
    const kq_engine_piece *piece = &b->piece[p];
    kq_sequence *s = b->active[b->piece_active[p]];
    kq_query *j = b->active_job[b->piece_active[p]];
    slot *sl = &b->slots[s->slot];
    const int32_t id = b->piece_next[p];
    kq_api_error e;
    kq_error err;
    if (s->finish)
        return;
    if (b->piece_status[p]) {
        kq_api_fail(&e, 500, NULL, "model_error", "the model failed on this request");
        job_fail(b, j, &e);
        return;
    }
    memcpy(sl->ids + sl->n, piece->ids, piece->n * sizeof *sl->ids);
    sl->n += piece->n;
    if (s->state == KQ_SEQ_PROMPT) {
        if (j->score_prompt) {
            for (size_t i = 0; i < piece->n; i++)
                s->n_score += s->at + i + 1 < s->n_prompt;
            b->stats.scored_tokens += piece->n;
        }
        s->at += piece->n;
        b->stats.prompt_tokens += piece->n;
        if (s->at < s->feed)
            return;
        if (!s->max_tokens) {
            if (kq_text_end(&s->text, NULL, 0, &err) == KQ_OK)
                seq_end(b, j, s, KQ_FINISH_LENGTH);
            return;
        }
        s->state = KQ_SEQ_ANSWERS;
    }
    if (id < 0) {
        kq_api_fail(&e, 500, NULL, "model_error", "the model's output holds NaN or Inf");
        job_fail(b, j, &e);
        return;
    }
    if (!(j->first_s > 0))
        j->first_s = kq_now_s();
    kq_finish how = KQ_FINISH_NOT;
    kq_status st = KQ_OK;
    const char *const *stop = (const char *const *)j->request.stop;
    const size_t n_stop = j->request.n_stop, before = s->text.safe;
    if (ends(b, j, id)) {
        how = KQ_FINISH_STOP;
        s->end_scored = j->request.logprobs;
        s->n_score += j->request.logprobs;
        s->made_from[s->n_made] = s->text.size; /* n_made < max_tokens */
    } else {
        s->made_from[s->n_made] = s->text.size;
        s->made[s->n_made++] = id;
        note_made(s, id);
        s->n_score += j->request.logprobs;
        b->stats.made_tokens++;
        st = kq_text_add(&s->text, b->opt.tok, id, stop, n_stop, &err);
        how = s->text.stopped              ? KQ_FINISH_STOP
              : s->n_made == s->max_tokens ? KQ_FINISH_LENGTH
                                           : KQ_FINISH_NOT;
    }
    if (!st && how) {
        st = kq_text_end(&s->text, stop, n_stop, &err);
        how = s->text.stopped ? KQ_FINISH_STOP : how;
    }
    if (st) {
        kq_api_fail(&e, 503, NULL, "out_of_memory", "out of memory; try again later");
        job_fail(b, j, &e);
        return;
    }
    s->next = id;
    if (how)
        seq_end(b, j, s, how);
    if (j->request.stream && (how || s->text.safe > before))
        wake(j);
}

static void *model_thread(void *ctx)
{
    kq_batch *b = ctx;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        cancel_and_expire(b);
        sweep(b);
        admit(b);
        sweep(b); /* those that asked nothing */
        const size_t n = plan(b);
        if (!n) {
            if (b->stop && !b->first)
                break;
            if (b->n_active == 0)
                pthread_cond_wait(&b->work, &b->lock);
            continue;
        }
        pthread_mutex_unlock(&b->lock);
        const double start = kq_now_s();
        kq_error err;
        kq_status all = b->opt.stepper.run(b->opt.stepper.ctx, b->piece, n, &err);
        for (size_t p = 0; p < n; p++) { /* who spoils a step spoils it for himself only */
            b->piece_status[p] = !all     ? KQ_OK
                                 : n == 1 ? all
                                          : b->opt.stepper.run(b->opt.stepper.ctx, &b->piece[p], 1, &err);
            if (!b->piece_status[p])
                look(b, p);
        }
        const double seconds = kq_now_s() - start;
        pthread_mutex_lock(&b->lock);
        b->stats.busy_s += seconds;
        b->stats.steps++;
        for (size_t p = 0; p < n; p++)
            publish(b, p);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static void destroy(kq_batch *b)
{
    for (size_t i = 0; b->slots && i < b->opt.stepper.n_slots; i++) {
        kq_free(b->slots[i].ids);
        kq_free(b->slots[i].rec);
    }
    kq_free(b->slots);
    kq_free(b->active);
    kq_free(b->active_job);
    kq_free(b->logits);
    kq_free(b->raw);
    kq_free(b->piece);
    kq_free(b->piece_active);
    kq_free(b->piece_status);
    kq_free(b->piece_next);
    pthread_cond_destroy(&b->work);
    pthread_mutex_destroy(&b->lock);
    kq_free(b);
}

kq_status kq_batch_new(const kq_batch_options *opt, kq_batch **out, kq_error *err)
{
    const size_t S = opt->stepper.n_slots, V = opt->stepper.vocab_size, T = opt->stepper.max_T;
    kq_batch *b = kq_calloc(1, sizeof *b);
    *out = NULL;
    if (!b)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the server's queue");
    b->opt = *opt;
    if (b->opt.rows < S + 1) /* every slot has its row, and prompts go on */
        b->opt.rows = S + 1;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->work, NULL);
    b->logit_rows = S + SCORE_ROWS;
    b->slots = kq_calloc(S, sizeof *b->slots);
    b->active = kq_alloc(S, sizeof *b->active);
    b->active_job = kq_alloc(S, sizeof *b->active_job);
    b->logits = kq_alloc(b->logit_rows * V, sizeof *b->logits);
    b->raw = kq_alloc(V, sizeof *b->raw);
    b->piece = kq_alloc(S, sizeof *b->piece);
    b->piece_active = kq_alloc(S, sizeof *b->piece_active);
    b->piece_status = kq_alloc(S, sizeof *b->piece_status);
    b->piece_next = kq_alloc(S, sizeof *b->piece_next);
    bool ok = b->slots && b->active && b->active_job && b->logits && b->raw && b->piece && b->piece_active &&
              b->piece_status && b->piece_next;
    for (size_t i = 0; ok && i < S; i++) {
        b->slots[i].ids = kq_alloc(T, sizeof *b->slots[i].ids);
        b->slots[i].rec = kq_alloc(T + 1, sizeof *b->slots[i].rec);
        ok = b->slots[i].ids && b->slots[i].rec;
    }
    if (!ok || pthread_create(&b->thread, NULL, model_thread, b)) {
        destroy(b);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the server's queue (%zu slots of %zu tokens)", S, T);
    }
    *out = b;
    return KQ_OK;
}

void kq_batch_free(kq_batch *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    destroy(b);
}
