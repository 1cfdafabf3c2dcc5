/* The engine: a whole model in memory that continues many sequences at once, each in a slot with its own
 * key/value cache (docs/math.md, "Decoding").
 *
 *     kq_engine_options opt = kq_engine_defaults();
 *     opt.max_T = 2048;
 *     kq_engine_new(model, &opt, &engine, &err);
 *     kq_engine_piece p = {.slot = 0, .ids = ids, .n = n, .n_logits = 1, .logits = logits};
 *     kq_engine_run(engine, &p, 1, &err);         -> logits [vocab] after the last id
 *
 * What the engine promises (tests/decode/test_engine.c checks it):
 *   - The logits of a position have the same bits whatever else is in the call, however its sequence was cut
 *     into pieces, in whatever slot it is, and for every number of threads. This is so because each sum is
 *     taken in an order that depends on the model alone. It holds for one instruction set, one compute type,
 *     one kind of weights and one type of the caches.
 *   - With compute F32 and caches in F32 the logits equal those of kq_block_forward but for rounding. */
#ifndef KQ_DECODE_ENGINE_H
#define KQ_DECODE_ENGINE_H

#include "checkpoint/checkpoint.h"
#include "model/model.h"

typedef enum kq_kv_type { KQ_KV_BF16 = 0, KQ_KV_F16, KQ_KV_F32 } kq_kv_type;
const char *kq_kv_name(kq_kv_type kv); /* "bf16", "f16", "f32" */
kq_status kq_kv_parse(const char *name, kq_kv_type *out, kq_error *err);

/* How packed linears are held in memory. PACKED: as they are stored. DENSE: as plain numbers. AUTO: packed
 * with compute BF16, dense with compute F32 (4 bytes a weight, but exact and faster), while embedding and
 * head stay as they are stored. A model without packed linears is always dense. */
typedef enum kq_engine_weights { KQ_WEIGHTS_AUTO = 0, KQ_WEIGHTS_PACKED, KQ_WEIGHTS_DENSE } kq_engine_weights;
/* "auto", "packed", "dense" */
kq_status kq_engine_weights_parse(const char *name, kq_engine_weights *out, kq_error *err);

enum { KQ_ENGINE_SLOTS = 65536 /* at most */ };

typedef struct kq_engine_options {
    kq_isa isa;
    /* F32: weights and sums in f32. BF16: dense weights in bf16; packed linears in 13-bit integers
     * (docs/math.md, "Decoding") */
    kq_compute compute;
    int threads;    /* less than 1: as kq_engine_threads says */
    size_t n_slots; /* sequences: 1 to KQ_ENGINE_SLOTS */
    size_t max_T;   /* tokens a slot */
    kq_engine_weights weights;
    kq_kv_type kv;
} kq_engine_options;
/* best isa, BF16, all threads, 1 slot of 2048 tokens, AUTO, BF16 */
kq_engine_options kq_engine_defaults(void);

/* How many threads an engine should have: `asked` (0: all processors) or fewer. Its threads wait for each
 * other several times a block: with more threads than processors they crawl (a model of 3 blocks of width 64:
 * 0.1 s with one thread, above 60 s with 16 on two processors), and a small model is fastest with one. */
int kq_engine_threads(const kq_config *c, int asked);

/* For one call at a time: several threads need a lock of their own. */
typedef struct kq_engine kq_engine;

/* model is borrowed and must outlive the engine (packed weights are read where they are mapped). */
kq_status kq_engine_new(const kq_model_file *model, const kq_engine_options *opt, kq_engine **out,
                        kq_error *err);
/* From any weights, all of them dense; w is borrowed and must outlive the engine. */
kq_status kq_engine_new_dense(const kq_weights *w, const kq_engine_options *opt, kq_engine **out,
                              kq_error *err);
void kq_engine_free(kq_engine *e); /* NULL is fine */

const kq_config *kq_engine_config(const kq_engine *e);
size_t kq_engine_n_slots(const kq_engine *e);
size_t kq_engine_max_T(const kq_engine *e);
/* Bytes of memory: weights (mapped ones counted), caches and scratch. */
size_t kq_engine_bytes(const kq_engine *e);
/* Bytes of the weights that one step of a single sequence reads. The machine's bytes a second over this
 * number bound the tokens a second. */
size_t kq_engine_bytes_per_token(const kq_engine *e);

size_t kq_engine_length(const kq_engine *e, size_t slot); /* tokens in the slot's cache */
/* Forget all but the first `length` tokens of a slot; nothing happens when it holds no more. */
void kq_engine_truncate(kq_engine *e, size_t slot, size_t length);
/* Make slot `to` hold the first `length` tokens of slot `from` (to != from). KQ_E_ARG: no such slot, or
 * `from` holds fewer. */
kq_status kq_engine_copy(kq_engine *e, size_t from, size_t to, size_t length, kq_error *err);

/* Append n >= 1 ids to a slot. logits [n_logits, vocab] receives those after each of the last n_logits ids,
 * n_logits <= n; with n_logits 0 it may be NULL. */
typedef struct kq_engine_piece {
    size_t slot;
    const int32_t *ids;
    size_t n;
    size_t n_logits;
    float *logits;
} kq_engine_piece;
/* Run all pieces, at most one a slot, in one pass over the weights (or in several, when there are more
 * than KQ_ENGINE_ROWS ids in all). KQ_E_ARG: a slot twice or out of range, a slot too full, an id
 * outside the vocabulary; KQ_E_NUMERIC: NaN or Inf in a block's output. On failure all slots are as long
 * as before. */
enum { KQ_ENGINE_ROWS = 256 };
kq_status kq_engine_run(kq_engine *e, const kq_engine_piece *pieces, size_t n_pieces, kq_error *err);

#endif
