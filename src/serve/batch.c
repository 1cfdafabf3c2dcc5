/* The scheduler. One thread runs the model; it alone touches slots, logits and the step's plan, so these need
 * no lock. The lock guards what other threads see: the list of queries, and the results in them. */
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

/* The score of a token that a slot holds, given the tokens before it, and the most likely token there. */
typedef struct known_score {
    double logprob, top_logprob;
    int32_t top;
} known_score;
/* What a slot of the engine holds. It stays when its sequence has ended, for the next prompt that begins
 * alike. */
typedef struct slot {
    int32_t *ids; /* owned [max_T], n of them */
    size_t n;
    known_score *rec; /* owned [max_T + 1]; entries 1 to n_rec - 1 are known */
    size_t n_rec;
    kq_sequence *seq;
    kq_query *query; /* NULL: free */
    uint64_t used;   /* larger: later */
} slot;

struct kq_batch {
    kq_batch_options opt;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    bool stop;
    kq_query *first; /* queries in order of arrival, finished ones taken out */
    size_t n_queries;
    slot *slots;
    uint64_t clock;
    /* in order of admission; entry i of both belong together */
    kq_sequence **active;
    kq_query **active_query;
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

/* ---- queries ---- */

static void release_locked(kq_query *q)
{
    if (--q->refs == 0)
        kq_query_free(q);
}

void kq_query_release(kq_batch *b, kq_query *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&b->lock);
    release_locked(q);
    pthread_mutex_unlock(&b->lock);
}

bool kq_batch_submit(kq_batch *b, kq_query *q, kq_api_error *e)
{
    if (!kq_query_make_sequences(q, b->opt.tok, b->opt.stepper.max_T, e))
        return false;
    pthread_mutex_lock(&b->lock);
    bool ok = !b->stop && b->n_queries < b->opt.max_queries;
    if (ok) {
        kq_query **at = &b->first;
        while (*at)
            at = &(*at)->next;
        *at = q;
        q->refs++;
        q->start_s = kq_now_s();
        b->n_queries++;
        pthread_cond_signal(&b->work);
    } else if (b->stop) {
        kq_api_fail(e, 503, NULL, "shutting_down", "the server is shutting down");
    } else {
        kq_api_fail(e, 429, NULL, "queue_full", "%zu requests wait or run already; try again later",
                    b->n_queries);
    }
    pthread_mutex_unlock(&b->lock);
    if (!ok)
        kq_query_free_sequences(q);
    return ok;
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
    s.queries = b->n_queries;
    s.active = b->n_active;
    for (const kq_query *q = b->first; q; q = q->next)
        s.waiting += q->n_seq - q->n_admitted;
    pthread_mutex_unlock(&b->lock);
    return s;
}

/* ---- endings; all of these are called under the lock ---- */

static void wake(kq_query *q)
{
    if (q->parked) {
        q->parked = false;
        q->wake(q->wake_ctx);
    }
}

/* The query leaves the list; the caller still holds a pointer only if it has a reference. */
static void end_query(kq_batch *b, kq_query *q)
{
    kq_query **at = &b->first;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    b->n_queries--;
    q->done = true;
    q->end_s = kq_now_s();
    *(q->failed      ? &b->stats.queries_failed
      : q->cancelled ? &b->stats.queries_cancelled
                     : &b->stats.queries_done) += 1;
    wake(q);
    release_locked(q);
}

static void end_sequence(kq_batch *b, kq_query *q, kq_sequence *s, kq_finish how)
{
    if (s->finish)
        return;
    s->finish = how;
    if (s->state != KQ_SEQ_WAITS) {
        slot *sl = &b->slots[s->slot];
        sl->seq = NULL;
        sl->query = NULL;
        sl->used = ++b->clock;
        q->n_active--;
    }
    s->state = KQ_SEQ_ENDED;
    q->n_done++;
}

static void stop_query(kq_batch *b, kq_query *q)
{
    for (size_t i = 0; i < q->n_seq; i++)
        end_sequence(b, q, &q->seq[i], KQ_FINISH_ERROR);
    q->n_admitted = q->n_seq;
}

static void fail_query(kq_batch *b, kq_query *q, const kq_api_error *e)
{
    if (!q->failed)
        q->error = *e;
    q->failed = true;
    stop_query(b, q);
}

/* Take ended sequences out of the active ones, and queries out of the list whose last has ended. */
static void remove_ended(kq_batch *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n_active; i++)
        if (b->active[i]->state != KQ_SEQ_ENDED) {
            b->active[n] = b->active[i];
            b->active_query[n++] = b->active_query[i];
        }
    b->n_active = n;
    for (kq_query *q = b->first, *next; q; q = next) {
        next = q->next;
        if (q->n_done == q->n_seq)
            end_query(b, q);
    }
}

static void cancel_and_expire(kq_batch *b)
{
    const double now = kq_now_s();
    for (kq_query *q = b->first; q; q = q->next) {
        kq_api_error e;
        if (atomic_load(&q->give_up) || b->stop) {
            q->cancelled = true;
            stop_query(b, q);
        } else if (q->deadline_s > 0 && now > q->deadline_s) {
            kq_api_fail(&e, 503, NULL, "timeout", "the request took longer than the server's limit");
            fail_query(b, q, &e);
        }
    }
}

/* ---- what a slot still holds ---- */

static size_t common_beginning(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b)
{
    size_t n = n_a < n_b ? n_a : n_b, i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Tokens of s's prompt that need not be run when slot sl's are taken over. At least one token is run,
 * for its logits; a prompt that is scored needs the scores of what it skips, and of the first it runs. */
static size_t reusable_tokens(const slot *sl, const kq_query *q, const kq_sequence *s)
{
    size_t n = common_beginning(sl->ids, sl->n, s->prompt, s->feed);
    if (n >= s->feed)
        n = s->feed - 1;
    if (q->score_prompt) {
        if (q->request.n_top > 1)
            return 0;
        if (n + 1 > common_beginning(sl->ids, sl->n, s->prompt, s->feed))
            n = n ? n - 1 : 0;
        if (n >= sl->n_rec)
            n = sl->n_rec ? sl->n_rec - 1 : 0;
    }
    return n;
}

/* Take over the longest beginning there is. False: it pays to wait for another sequence that is just
 * computing a longer one. */
static bool begin_prompt(kq_batch *b, kq_query *q, kq_sequence *s)
{
    size_t best = s->slot, n = reusable_tokens(&b->slots[s->slot], q, s);
    for (size_t i = 0; i < b->opt.stepper.n_slots; i++) {
        size_t u = reusable_tokens(&b->slots[i], q, s);
        if (u > n) {
            best = i;
            n = u;
        }
    }
    /* only for sequences that were admitted before, so that nobody waits in a circle */
    for (size_t i = 0; i < b->n_active && b->active[i] != s; i++) {
        const kq_sequence *o = b->active[i];
        if ((o->state == KQ_SEQ_PROMPT || o->state == KQ_SEQ_FRESH) &&
            (!q->score_prompt || (b->active_query[i]->score_prompt && q->request.n_top <= 1)) &&
            common_beginning(o->prompt, o->feed, s->prompt, s->feed) >= n + WORTH_WAITING)
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
    const size_t known = q->score_prompt ? n + 1 : n;
    to->n_rec = n == 0 ? 1 : to->n_rec < known ? to->n_rec : known;
    if (q->score_prompt)
        for (size_t i = 1; i <= n; i++) {
            const known_score *r = &to->rec[i];
            s->score[s->n_score] = (kq_score){s->prompt[i], r->logprob};
            if (q->request.n_top)
                s->top[s->n_score] = (kq_score){r->top, r->top_logprob};
            s->n_score++;
        }
    s->at = n;
    s->n_reused = n;
    b->stats.reused_tokens += n;
    s->state = KQ_SEQ_PROMPT;
    return true;
}

/* Give free slots to waiting sequences: each to the query that holds the fewest, then to the oldest. */
static void admit(kq_batch *b)
{
    const size_t n_slots = b->opt.stepper.n_slots;
    for (;;) {
        kq_query *q = NULL;
        size_t best = n_slots, length = 0;
        for (kq_query *k = b->first; k; k = k->next)
            if (k->n_admitted < k->n_seq && (!q || k->n_active < q->n_active))
                q = k;
        if (!q)
            return;
        kq_sequence *s = &q->seq[q->n_admitted];
        if (!s->feed) { /* nothing is asked of the model */
            q->n_admitted++;
            kq_error err;
            if (kq_text_end(&s->text, NULL, 0, &err) == KQ_OK)
                end_sequence(b, q, s, KQ_FINISH_LENGTH);
            continue;
        }
        for (size_t i = 0; i < n_slots; i++) {
            if (b->slots[i].seq)
                continue;
            size_t n = reusable_tokens(&b->slots[i], q, s);
            if (best == n_slots || n > length || (n == length && b->slots[i].used < b->slots[best].used)) {
                best = i;
                length = n;
            }
        }
        if (best == n_slots)
            return;
        q->n_admitted++;
        q->n_active++;
        s->slot = best;
        s->state = KQ_SEQ_FRESH;
        b->slots[best].seq = s;
        b->slots[best].query = q;
        b->active[b->n_active] = s;
        b->active_query[b->n_active++] = q;
    }
}

/* ---- one step ---- */

/* Choose the pieces of the next step: a row for every answer, then prompts in the rows that are left. Returns
 * their number. */
static size_t plan_step(kq_batch *b)
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
        kq_query *q = b->active_query[i];
        if (s->state == KQ_SEQ_FRESH && !begin_prompt(b, q, s))
            continue;
        if (s->state != KQ_SEQ_PROMPT)
            continue;
        size_t take = s->feed - s->at < rows ? s->feed - s->at : rows, want = 0;
        if (q->score_prompt) {
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
static void score(kq_batch *b, const kq_query *q, kq_sequence *s, size_t at, int32_t id, const float *row,
                  known_score *rec)
{
    const size_t V = b->opt.stepper.vocab_size;
    const kq_row_stats st = kq_row_score(b->opt.kern, row, V);
    const size_t k = (size_t)q->request.n_top;
    s->score[at] = (kq_score){id, (double)row[id] - st.lse};
    if (k == 1)
        s->top[at] = (kq_score){st.top, (double)st.max - st.lse};
    else if (k)
        most_likely(row, V, st.lse, (int)k, s->top + at * k);
    if (rec)
        *rec = (known_score){s->score[at].logprob, (double)st.max - st.lse, st.top};
}

/* The next token from a row (which is overwritten); -1: NaN or Inf. */
static int32_t draw_token(kq_batch *b, const kq_query *q, kq_sequence *s, float *row)
{
    const kq_api_request *r = &q->request;
    for (size_t i = 0; i < r->n_bias; i++)
        row[r->bias[i].id] += r->bias[i].value;
    for (size_t i = 0; i < s->n_seen; i++) { /* as kq_penalize, whose ids come anew each time */
        float *x = &row[s->seen[i]];
        *x = (float)(*x > 0 ? *x / r->sampling.repetition_penalty : *x * r->sampling.repetition_penalty);
    }
    for (size_t i = 0; i < s->n_count; i++)
        row[s->count[i].id] -= (float)(r->frequency_penalty * s->count[i].n + r->presence_penalty);
    return kq_sample(row, b->opt.stepper.vocab_size, &r->sampling, kq_rng_uniform(&s->rng));
}

/* Outside the lock: take scores and the next token from the logits of piece p. Scores are written behind what
 * readers see. */
static void read_logits(kq_batch *b, size_t p)
{
    const kq_engine_piece *piece = &b->piece[p];
    kq_sequence *s = b->active[b->piece_active[p]];
    const kq_query *q = b->active_query[b->piece_active[p]];
    const size_t V = b->opt.stepper.vocab_size;
    size_t at = s->n_score;
    b->piece_next[p] = -2; /* no token yet */
    for (size_t i = 0; i < piece->n_logits; i++) {
        float *row = piece->logits + i * V;
        const size_t position =
            s->state == KQ_SEQ_PROMPT ? s->at + piece->n - piece->n_logits + i : s->n_prompt;
        if (position + 1 < s->n_prompt) {
            slot *sl = &b->slots[s->slot];
            score(b, q, s, at++, s->prompt[position + 1], row, &sl->rec[position + 1]);
            if (sl->n_rec == position + 1)
                sl->n_rec++;
            continue;
        }
        if (!s->max_tokens)
            continue;
        if (q->request.logprobs)
            memcpy(b->raw, row, V * sizeof *row);
        int32_t id = draw_token(b, q, s, row);
        if (id >= 0 && q->request.logprobs)
            score(b, q, s, at, id, b->raw, NULL);
        b->piece_next[p] = id;
    }
}

static bool is_end_token(const kq_batch *b, const kq_query *q, int32_t id)
{
    for (size_t i = 0; i < q->request.n_stop_id; i++)
        if (id == q->request.stop_id[i])
            return true;
    if (q->request.ignore_eos)
        return false;
    return kq_is_end(b->opt.cfg, b->opt.tok, id);
}

/* Under the lock: a piece of a prompt was run. True: the prompt is complete, and the answer's first token
 * follows. */
static bool publish_prompt(kq_batch *b, kq_query *q, kq_sequence *s, size_t n)
{
    kq_error err;
    if (q->score_prompt) {
        for (size_t i = 0; i < n; i++)
            s->n_score += s->at + i + 1 < s->n_prompt;
        b->stats.scored_tokens += n;
    }
    s->at += n;
    b->stats.prompt_tokens += n;
    if (s->at < s->feed)
        return false;
    if (s->max_tokens) {
        s->state = KQ_SEQ_ANSWERS;
        return true;
    }
    if (kq_text_end(&s->text, NULL, 0, &err) == KQ_OK)
        end_sequence(b, q, s, KQ_FINISH_LENGTH);
    return false;
}

/* Under the lock: append a token to the answer. *how: whether and how it ends with it. KQ_E_MEMORY. */
static kq_status append_token(kq_batch *b, kq_query *q, kq_sequence *s, int32_t id, kq_finish *how,
                              kq_error *err)
{
    const char *const *stop = (const char *const *)q->request.stop;
    const size_t n_stop = q->request.n_stop;
    kq_status status = KQ_OK;
    s->made_from[s->n_made] = s->text.size; /* n_made < max_tokens */
    if (is_end_token(b, q, id)) {
        *how = KQ_FINISH_STOP;
        s->end_scored = q->request.logprobs;
    } else {
        s->made[s->n_made++] = id;
        kq_sequence_note_token(s, id);
        b->stats.made_tokens++;
        status = kq_text_add(&s->text, b->opt.tok, id, stop, n_stop, err);
        *how = s->text.stopped              ? KQ_FINISH_STOP
               : s->n_made == s->max_tokens ? KQ_FINISH_LENGTH
                                            : KQ_FINISH_NOT;
    }
    s->n_score += q->request.logprobs;
    s->next = id;
    if (!status && *how) {
        status = kq_text_end(&s->text, stop, n_stop, err);
        *how = s->text.stopped ? KQ_FINISH_STOP : *how;
    }
    return status;
}

/* Under the lock: piece p was run; show readers what came of it. */
static void publish(kq_batch *b, size_t p)
{
    const kq_engine_piece *piece = &b->piece[p];
    kq_sequence *s = b->active[b->piece_active[p]];
    kq_query *q = b->active_query[b->piece_active[p]];
    slot *sl = &b->slots[s->slot];
    const int32_t id = b->piece_next[p];
    const size_t shown = s->text.safe;
    kq_finish how = KQ_FINISH_NOT;
    kq_api_error e;
    kq_error err;
    if (s->finish)
        return;
    if (b->piece_status[p]) {
        kq_api_fail(&e, 500, NULL, "model_error", "the model failed on this request");
        fail_query(b, q, &e);
        return;
    }
    memcpy(sl->ids + sl->n, piece->ids, piece->n * sizeof *sl->ids);
    sl->n += piece->n;
    if (s->state == KQ_SEQ_PROMPT && !publish_prompt(b, q, s, piece->n))
        return;
    if (id < 0) {
        kq_api_fail(&e, 500, NULL, "model_error", "the model's output holds NaN or Inf");
        fail_query(b, q, &e);
        return;
    }
    if (!(q->first_s > 0))
        q->first_s = kq_now_s();
    if (append_token(b, q, s, id, &how, &err)) {
        kq_api_no_memory(&e);
        fail_query(b, q, &e);
        return;
    }
    if (how)
        end_sequence(b, q, s, how);
    if (q->request.stream && (how || s->text.safe > shown))
        wake(q);
}

/* Run the n planned pieces, outside the lock. When a step of several fails, each piece is run alone: who
 * spoils a step spoils it for himself only. */
static void run_step(kq_batch *b, size_t n)
{
    const kq_stepper *stepper = &b->opt.stepper;
    kq_error err;
    const kq_status all = stepper->run(stepper->ctx, b->piece, n, &err);
    for (size_t p = 0; p < n; p++) {
        b->piece_status[p] = !all ? KQ_OK : n == 1 ? all : stepper->run(stepper->ctx, &b->piece[p], 1, &err);
        if (!b->piece_status[p])
            read_logits(b, p);
    }
}

static void *model_thread(void *ctx)
{
    kq_batch *b = ctx;
    pthread_mutex_lock(&b->lock);
    for (;;) {
        cancel_and_expire(b);
        remove_ended(b);
        admit(b);
        remove_ended(b); /* those that asked nothing */
        const size_t n = plan_step(b);
        if (!n) {
            if (b->stop && !b->first)
                break;
            if (b->n_active == 0)
                pthread_cond_wait(&b->work, &b->lock);
            continue;
        }
        pthread_mutex_unlock(&b->lock);
        const double start = kq_now_s();
        run_step(b, n);
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
    kq_free(b->active_query);
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
    b->active_query = kq_alloc(S, sizeof *b->active_query);
    b->logits = kq_alloc(b->logit_rows * V, sizeof *b->logits);
    b->raw = kq_alloc(V, sizeof *b->raw);
    b->piece = kq_alloc(S, sizeof *b->piece);
    b->piece_active = kq_alloc(S, sizeof *b->piece_active);
    b->piece_status = kq_alloc(S, sizeof *b->piece_status);
    b->piece_next = kq_alloc(S, sizeof *b->piece_next);
    bool ok = b->slots && b->active && b->active_query && b->logits && b->raw && b->piece &&
              b->piece_active && b->piece_status && b->piece_next;
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
