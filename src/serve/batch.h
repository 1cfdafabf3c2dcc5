/* Continuous batching: one model thread that gives every request its turn in each step of the engine.
 *
 * A query (one request) has sequences: one for each answer to each prompt. A sequence waits, gets a slot of
 * the engine, has its prompt run in chunks, then one token a step until it ends. In each step all answering
 * sequences come first (one row each); prompts fill the rows that are left, in the order in which they got
 * their slots. Free slots go to the query that holds the fewest, the oldest of these first: a request with
 * many prompts does not keep others waiting. What a slot still holds of an earlier sequence is used again
 * where a prompt begins with the same tokens. A prompt whose beginning another prompt is just computing waits
 * for it. The engine's logits do not depend on which sequences share a step, so neither do the answers.
 *
 * One lock guards the list of queries, and in each query what query.h marks (shared). The model runs outside
 * it. */
#ifndef KQ_SERVE_BATCH_H
#define KQ_SERVE_BATCH_H

#include "decode/engine.h"
#include "kern/kern.h"
#include "serve/query.h"

/* The engine as the scheduler sees it. kq_stepper_engine fills it; tests bring their own. The functions mean
 * what those of decode/engine.h of the same name mean; only the model thread calls them. */
typedef struct kq_stepper {
    void *ctx;
    size_t n_slots, max_T, vocab_size;
    void (*truncate)(void *ctx, size_t slot, size_t length);
    kq_status (*copy)(void *ctx, size_t from, size_t to, size_t length, kq_error *err);
    kq_status (*run)(void *ctx, const kq_engine_piece *pieces, size_t n_pieces, kq_error *err);
} kq_stepper;
kq_stepper kq_stepper_engine(kq_engine *e);

typedef struct kq_batch_options {
    kq_stepper stepper;
    const kq_tokenizer *tok; /* borrowed */
    const kq_config *cfg;    /* borrowed: end tokens */
    const kq_kern *kern;
    size_t rows;        /* tokens a step, at most (KQ_ENGINE_ROWS) */
    size_t max_queries; /* that wait or run; more are refused */
} kq_batch_options;

typedef struct kq_batch_stats {
    size_t queries, active, waiting; /* now: queries in all; sequences in slots; sequences without one */
    uint64_t prompt_tokens, reused_tokens, made_tokens, scored_tokens, steps, queries_done, queries_cancelled,
        queries_failed;
    double busy_s; /* time the engine ran */
} kq_batch_stats;

typedef struct kq_batch kq_batch;
/* Start the model thread. Of the options everything is borrowed. KQ_E_MEMORY. */
kq_status kq_batch_new(const kq_batch_options *opt, kq_batch **out, kq_error *err);
/* End what runs as cancelled, end the thread and free. Queries that callers still hold stay valid, but there
 * is no lock any more: they are freed with kq_query_free. NULL is fine. */
void kq_batch_free(kq_batch *b);
/* For readers of a query that runs. */
void kq_batch_lock(kq_batch *b);
void kq_batch_unlock(kq_batch *b);
/* Take a query into the queue, with a reference of its own. False with *e: the queue is full (429), the
 * server is shutting down or memory is out (503); the query is then as before. */
bool kq_batch_submit(kq_batch *b, kq_query *query, kq_api_error *e);
/* Give a reference back; the last one frees the query. Takes the lock. NULL is fine. */
void kq_query_release(kq_batch *b, kq_query *query);
kq_batch_stats kq_batch_statistics(kq_batch *b);

#endif
