/* A query: one request to the model as the scheduler and the readers of its answers share it. Who may touch
 * which member when is said at each. */
#ifndef KQ_SERVE_QUERY_H
#define KQ_SERVE_QUERY_H

#include <stdatomic.h>

#include "base/rng.h"
#include "generate/stream.h"
#include "request/request.h"

/* A token and its log-probability under the model's own distribution (before temperature, penalties and
 * bias), natural logarithm. */
typedef struct kq_score {
    int32_t id;
    double logprob;
} kq_score;

typedef enum kq_finish { KQ_FINISH_NOT = 0, KQ_FINISH_STOP, KQ_FINISH_LENGTH, KQ_FINISH_ERROR } kq_finish;

/* One answer. While the query runs, the model thread changes what is marked (shared) under the batch's lock,
 * and others read it under that lock (kq_batch_lock). What is not marked is fixed, or its owner's alone. */
typedef struct kq_sequence {
    size_t index; /* choice number: prompt * n + answer */
    const int32_t *prompt;
    size_t n_prompt; /* borrowed from the query */
    size_t max_tokens;
    kq_text text; /* (shared) */
    /* Owned. Scores, when they were asked for: of the prompt's tokens if the query scores prompts (the first
     * one, which nothing predicts, has NaN), then of the answer's. top[i * n_top + j]: the n_top most likely
     * at i, most likely first, equal ones lowest id first. The model thread writes entries from n_score on
     * without the lock; readers see those below it. */
    kq_score *score, *top;
    size_t n_score; /* (shared) */
    int32_t *made;
    size_t n_made;     /* (shared) owned: ids of the answer, without an end token */
    size_t *made_from; /* (shared) owned: byte of text where each begins */
    /* (shared) an end token ended it, and its score follows those of made */
    bool end_scored;
    size_t n_reused;  /* (shared) prompt tokens that did not have to be computed */
    kq_finish finish; /* (shared) */
    /* the stream's reader alone: what it has sent; sent_text SIZE_MAX: nothing yet */
    size_t sent_text, sent_tokens;
    bool sent_finish;
    /* the model thread's alone from here on, under the lock or not */
    enum { KQ_SEQ_WAITS = 0, KQ_SEQ_FRESH, KQ_SEQ_PROMPT, KQ_SEQ_ANSWERS, KQ_SEQ_ENDED } state;
    size_t slot;     /* of the engine, from KQ_SEQ_FRESH on */
    size_t feed, at; /* tokens of the prompt to run; run so far */
    int32_t next;
    kq_rng rng;
    /* owned: different ids of the prompt and the answer, for the repetition penalty; NULL: it is off */
    int32_t *seen;
    size_t n_seen;
    /* owned: different ids of the answer, for the other two; NULL: they are off */
    struct kq_count {
        int32_t id;
        uint32_t n;
    } * count;
    size_t n_count;
} kq_sequence;

/* A request to the model, and its answers. */
typedef struct kq_query kq_query;
struct kq_query {
    /* the caller's, fixed from kq_batch_submit on */
    kq_api_request request; /* owned */
    kq_prompt *prompt;
    size_t n_prompt;   /* owned: ids of each prompt */
    bool score_prompt; /* echo with logprobs */
    double deadline_s; /* on kq_now_s' clock; 0: none */
    /* Called by the model thread, under the batch's lock, when `parked` and there is news; parked is cleared
     * before. It must not take the batch's lock nor wait. */
    void (*wake)(void *ctx);
    void *wake_ctx;
    bool parked;      /* (shared) the reader sets it */
    kq_sequence *seq; /* owned [n_seq], fixed from kq_batch_submit on */
    size_t n_seq;
    atomic_bool give_up; /* kq_query_cancel */
    /* (shared) results. When done is set, the model thread has finished with the query: who has a reference
     * may read it without the lock. */
    size_t n_done; /* sequences that have ended */
    bool done, cancelled;
    kq_api_error error;             /* if failed */
    bool failed;                    /* done, and no answer */
    double start_s, first_s, end_s; /* submitted, first token, done; 0: not yet */
    /* the batch's: (shared) */
    int refs;
    size_t n_admitted, n_active;
    kq_query *next;
};
/* An empty query with one reference, to be filled and submitted; NULL: out of memory. kq_query_release of
 * batch.h gives a reference back. */
kq_query *kq_query_new(void);
/* Make q->seq: a sequence for each answer to each prompt, in a context of max_T tokens. False with *e, 503:
 * out of memory; q has no sequences then. tok is borrowed. */
bool kq_query_make_sequences(kq_query *q, const kq_tokenizer *tok, size_t max_T, kq_api_error *e);
void kq_query_free_sequences(kq_query *q);
/* The query is of no interest any more: it ends as soon as the step at work is over. A query that is done
 * stays as it is. Takes no lock, so it may be called under any. */
void kq_query_cancel(kq_query *q);
/* When nobody else has a reference any more. */
void kq_query_free(kq_query *q);
/* Count a token of the answer for the penalties of its sequence. */
void kq_sequence_note_token(kq_sequence *s, int32_t id);

#endif
