/* Continuous batching: one model thread that gives every request its turn in each step of the engine.
 *
 * A job (one request) has sequences: one for each answer to each prompt. A sequence waits, gets a slot
 * of the engine, has its prompt run in chunks, then one token a step until it ends. In each step all
 * answering sequences come first (one row each), then prompts fill the rows that are left, in the order
 * in which they got their slots. Free slots go to the job that holds the fewest, the oldest of these
 * first: a request with many prompts does not keep others waiting.
 * What a slot still holds of an earlier sequence is used again where a prompt begins with the same
 * tokens; a prompt whose beginning another one is just computing waits for it. Because the engine's
 * logits do not depend on the company, neither do the answers. */
#ifndef KQ_SERVE_BATCH_H
#define KQ_SERVE_BATCH_H

#include <stdatomic.h>

#include "base/rng.h"
#include "decode/engine.h"
#include "kern/kern.h"
#include "request/request.h"
#include "generate/stream.h"

/* The engine as the scheduler sees it (kq_stepper_engine fills it; tests bring their own). The meaning
 * is that of decode/engine.h. */
typedef struct kq_stepper {
    void *ctx;
    size_t n_slots, max_T, vocab_size;
    void (*truncate)(void *ctx, size_t slot, size_t length);
    kq_status (*copy)(void *ctx, size_t from, size_t to, size_t length, kq_error *err);
    kq_status (*run)(void *ctx, const kq_engine_piece *pieces, size_t n_pieces, kq_error *err);
} kq_stepper;
kq_stepper kq_stepper_engine(kq_engine *e);

/* A token and its log-probability under the model's own distribution (before temperature, penalties and
 * bias), natural logarithm. */
typedef struct kq_score {
    int32_t id;
    double logprob;
} kq_score;

typedef enum kq_finish { KQ_FINISH_NOT = 0, KQ_FINISH_STOP, KQ_FINISH_LENGTH, KQ_FINISH_ERROR } kq_finish;

/* One answer. What is marked (job) is read under kq_batch_lock while the job runs. */
typedef struct kq_sequence {
    size_t index; /* choice number: prompt * n + answer */
    const int32_t *prompt;
    size_t n_prompt; /* borrowed from the job */
    size_t max_tokens;
    kq_text text; /* (job) */
    /* (job) scores, when they were asked for: of the prompt's tokens if the job scores prompts (the
     * first one, which nothing predicts, has NaN), then of the answer's. top[i * n_top + j]: the n_top
     * most likely at i, most likely first, equal ones lowest id first. Owned. */
    kq_score *score, *top;
    size_t n_score;
    int32_t *made;
    size_t n_made;     /* (job) owned: ids of the answer, without an end token */
    size_t *made_from; /* (job) owned: byte of text where each begins */
    /* (job) an end token ended it, and its score follows those of made */
    bool end_scored;
    size_t n_reused;  /* (job) prompt tokens that did not have to be computed */
    kq_finish finish; /* (job) */
    /* the reader's notes (streaming); sent_text SIZE_MAX: nothing yet */
    size_t sent_text, sent_tokens;
    bool sent_finish;
    /* the model thread's */
    enum { KQ_SEQ_WAITS = 0, KQ_SEQ_FRESH, KQ_SEQ_PROMPT, KQ_SEQ_ANSWERS, KQ_SEQ_ENDED } state;
    size_t slot, feed, at; /* tokens of the prompt to run; run so far */
    int32_t next;
    kq_rng rng;
    /* owned: different ids of the prompt and the answer, for the repetition penalty; NULL: it is off */
    int32_t *said;
    size_t n_said;
    /* owned: different ids of the answer, for the other two; NULL: they are off */
    struct kq_count {
        int32_t id;
        uint32_t n;
    } * count;
    size_t n_count;
} kq_sequence;

typedef struct kq_query kq_query;
struct kq_query {
    /* set by the caller before kq_batch_submit */
    kq_api_request request; /* owned */
    kq_prompt *prompt;
    size_t n_prompt;   /* owned: ids of each prompt */
    bool score_prompt; /* echo with logprobs */
    double deadline_s; /* on kq_now_s' clock; 0: none */
    /* called under the lock when `parked` and there is news; parked is cleared before */
    void (*wake)(void *ctx);
    void *wake_ctx;
    bool parked; /* (lock) */
    /* results: (lock) */
    kq_sequence *seq;
    size_t n_seq; /* owned */
    size_t n_done;
    bool done, cancelled;
    atomic_bool give_up; /* kq_batch_cancel */
    kq_api_error error;
    bool failed;                    /* done, and no answer */
    double start_s, first_s, end_s; /* submitted, first token, done; 0: not yet */
    /* scheduler's */
    int refs;
    size_t n_admitted, n_active;
    kq_query *next_job;
};
kq_query *kq_query_new(void); /* NULL: out of memory. One reference */

typedef struct kq_batch_options {
    kq_stepper stepper;
    const kq_tokenizer *tok; /* borrowed */
    const kq_config *cfg;    /* borrowed: end tokens */
    const kq_kern *kern;
    size_t rows;     /* tokens a step, at most (KQ_ENGINE_ROWS) */
    size_t max_jobs; /* that wait or run; more are refused */
} kq_batch_options;

typedef struct kq_batch_stats {
    size_t jobs, active, waiting; /* now: jobs in all; sequences in slots; sequences without one */
    uint64_t prompt_tokens, reused_tokens, made_tokens, scored_tokens, steps, jobs_done, jobs_cancelled,
        jobs_failed;
    double busy_s; /* time the engine ran */
} kq_batch_stats;

typedef struct kq_batch kq_batch;
/* starts the model thread */
kq_status kq_batch_new(const kq_batch_options *opt, kq_batch **out, kq_error *err);
/* Ends what runs as cancelled, ends the thread and frees. Jobs that callers still hold stay valid. */
void kq_batch_free(kq_batch *b);
void kq_batch_lock(kq_batch *b);
void kq_batch_unlock(kq_batch *b);
/* Take a job into the queue (one more reference is taken). False with *e when the queue is full (429) or
 * memory is out; the job is then as before. */
bool kq_batch_submit(kq_batch *b, kq_query *job, kq_api_error *e);
/* The job is of no interest any more: it ends as soon as the step at work is over; one that is done
 * stays as it is. Takes no lock. */
void kq_batch_cancel(kq_query *job);
void kq_query_release(kq_batch *b, kq_query *job); /* NULL is fine */
kq_batch_stats kq_batch_statistics(kq_batch *b);

#endif
