/* Calibration text that the model writes itself: many sequences decoded at once, each with a random stream of
 * its own, so that a sequence does not depend on what is decoded beside it. */
#include "generate/self_text.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "generate/generate.h"
#include "generate/sample.h"

enum { BATCH_MAX = 64 };
static const double CACHE_BYTES_MAX = 4294967296.0;

/* Bytes of a sequence: its caches and its logits. */
static double sequence_bytes(const kq_config *cfg, size_t seq_len)
{
    return 2.0 * (double)cfg->n_layer * (double)cfg->n_kv_head * (double)cfg->head_dim * (double)seq_len *
               sizeof(uint16_t) +
           (double)cfg->vocab_size * sizeof(float);
}

/* Bytes of all weights in 16 bits, and of what the engine works with. */
static double model_bytes(const kq_config *cfg)
{
    const double rows = KQ_ENGINE_ROWS;
    double bytes = 2.0 * (double)cfg->vocab_size * (double)cfg->d_model +
                   4 * rows * (4.0 * (double)cfg->d_model + 3.0 * (double)cfg->d_ff);
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        size_t m, n;
        kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
        bytes += 2.0 * (double)cfg->n_layer * (double)m * (double)n;
    }
    return bytes;
}

/* Sequences written together. */
static size_t batch_size(const kq_config *cfg, size_t n_seq, size_t seq_len, size_t memory)
{
    const double one = sequence_bytes(cfg, seq_len),
                 most = memory ? (double)memory - model_bytes(cfg) : CACHE_BYTES_MAX;
    size_t batch = n_seq < BATCH_MAX ? n_seq : BATCH_MAX;
    while (batch > 1 && (double)batch * one > most)
        batch /= 2;
    return batch;
}

size_t kq_self_text_bytes(const kq_config *cfg, size_t n_seq, size_t seq_len, size_t memory)
{
    return (size_t)(model_bytes(cfg) +
                    (double)batch_size(cfg, n_seq, seq_len, memory) * sequence_bytes(cfg, seq_len));
}

kq_status kq_text_start(const kq_tokenizer *tok, int32_t *id, kq_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    kq_status st = kq_tokenizer_encode(tok, "", 0, true, false, &ids, &n, err);
    if (st != KQ_OK)
        return st;
    *id = n > 0 ? ids[0] : -1;
    kq_free(ids);
    if (*id < 0)
        *id = kq_tokenizer_document_end(tok);
    if (*id < 0)
        *id = kq_tokenizer_bos(tok);
    return KQ_OK;
}

/* The whole job; all pointers are borrowed but e and logits. */
typedef struct writer {
    const kq_config *cfg;
    const kq_tokenizer *tok;
    const kq_eval_options *opt;
    int32_t start; /* begins a text */
    int threads;
    uint64_t seed;
    size_t n_seq, seq_len;
    int32_t *ids;  /* [n_seq, seq_len]; column 0 is start */
    kq_engine *e;  /* owned */
    float *logits; /* owned [batch, vocab] */
} writer;

/* The sequences that are within a text become pieces to run; their number. The last token of the others ended
 * a text: the token that begins the next one comes next. */
static size_t next_pieces(const writer *w, size_t n, int32_t *next, const bool *ended, kq_engine_piece *piece)
{
    size_t n_piece = 0;
    for (size_t b = 0; b < n; b++)
        if (!ended[b])
            piece[n_piece++] = (kq_engine_piece){.slot = b,
                                                 .ids = &next[b],
                                                 .n = 1,
                                                 .n_logits = 1,
                                                 .logits = w->logits + b * w->cfg->vocab_size};
        else
            next[b] = w->start;
    return n_piece;
}

/* The next token of every sequence within a text. KQ_E_NUMERIC: t and first are for the message. */
static kq_status draw_tokens(const writer *w, size_t n, kq_rng *rng, const bool *ended, int32_t *next,
                             size_t t, size_t first, kq_error *err)
{
    const size_t vocab = w->cfg->vocab_size;
    const kq_sampling s = {.temperature = 1, .top_p = 1};
    atomic_int bad = 0;
#pragma omp parallel for schedule(static, 1) num_threads(w->threads)
    for (size_t b = 0; b < n; b++) {
        if (ended[b])
            continue;
        next[b] = kq_sample(w->logits + b * vocab, vocab, &s, kq_rng_uniform(&rng[b]));
        if (next[b] < 0)
            atomic_store(&bad, 1);
    }
    return atomic_load(&bad) ? kq_fail(err, KQ_E_NUMERIC,
                                       "the model's logits hold NaN or Inf while it writes text (token %zu "
                                       "of sequences %zu..%zu)",
                                       t, first, first + n - 1)
                             : KQ_OK;
}

/* Column t of sequences first .. first + n - 1. */
static void keep_tokens(const writer *w, size_t first, size_t n, size_t t, const int32_t *next, bool *ended)
{
    for (size_t b = 0; b < n; b++) {
        w->ids[(first + b) * w->seq_len + t] = next[b];
        const bool end =
            !ended[b] && (kq_is_end(w->cfg, w->tok, next[b]) || next[b] == kq_tokenizer_document_end(w->tok));
        if (end)
            kq_engine_truncate(w->e, b, 0);
        /* a start token that is an end token as well does both */
        ended[b] = end && next[b] != w->start;
    }
}

/* Sequences first .. first + n - 1, n at most a batch. */
static kq_status write_batch(const writer *w, size_t first, size_t n, kq_error *err)
{
    kq_rng rng[BATCH_MAX];
    int32_t next[BATCH_MAX];
    bool ended[BATCH_MAX] = {false};
    kq_engine_piece piece[BATCH_MAX];
    kq_status st = KQ_OK;
    for (size_t b = 0; b < n; b++) {
        char label[64];
        snprintf(label, sizeof label, "self-text %zu", first + b);
        rng[b] = kq_rng_stream(w->seed, label);
        next[b] = w->start;
        kq_engine_truncate(w->e, b, 0);
    }
    for (size_t t = 1; t < w->seq_len && st == KQ_OK; t++) {
        const size_t n_piece = next_pieces(w, n, next, ended, piece);
        if ((n_piece && (st = kq_engine_run(w->e, piece, n_piece, err))) ||
            (st = draw_tokens(w, n, rng, ended, next, t, first, err)))
            break;
        keep_tokens(w, first, n, t, next, ended);
        const double steps = (double)(w->seq_len - 1),
                     done = ((double)first * steps + (double)n * (double)t) / ((double)w->n_seq * steps);
        if (w->opt->progress && w->opt->progress(w->opt->progress_ctx, "self-text", done))
            st = kq_fail(err, KQ_E_INTERRUPTED, "writing calibration text stopped on request");
    }
    return st;
}

kq_status kq_self_text(const kq_weights *weights, const kq_tokenizer *tok, size_t n_seq, size_t seq_len,
                       const kq_eval_options *opt, uint64_t seed, int32_t *ids, kq_error *err)
{
    writer w = {.cfg = weights->cfg,
                .tok = tok,
                .opt = opt,
                .threads = opt->threads > 0 ? opt->threads : kq_processors(),
                .seed = seed,
                .n_seq = n_seq,
                .seq_len = seq_len,
                .ids = ids};
    const size_t vocab = w.cfg->vocab_size;
    const size_t batch = batch_size(w.cfg, n_seq, seq_len, opt->memory);
    if (n_seq == 0 || seq_len == 0)
        return KQ_OK;
    kq_status st = kq_text_start(tok, &w.start, err);
    if (st != KQ_OK)
        return st;
    if (w.start < 0 || (size_t)w.start >= vocab)
        return kq_fail(
            err, KQ_E_ARG,
            "the tokenizer names no beginning or end-of-text token to start a text from: give a --text file");
    for (size_t i = 0; i < n_seq; i++)
        ids[i * seq_len] = w.start;
    if (seq_len == 1)
        return KQ_OK;
    const kq_engine_options eo = {.isa = opt->isa,
                                  .compute = KQ_BF16,
                                  .threads = w.threads,
                                  .n_slots = batch,
                                  .max_T = seq_len,
                                  .kv = KQ_KV_BF16};
    st = kq_engine_new_dense(weights, &eo, &w.e, err);
    if (st == KQ_OK)
        st = kq_alloc_for((void **)&w.logits, batch * vocab, sizeof *w.logits, "logits", err);
    for (size_t first = 0; first < n_seq && st == KQ_OK; first += batch)
        st = write_batch(&w, first, n_seq - first < batch ? n_seq - first : batch, err);
    kq_free(w.logits);
    kq_engine_free(w.e);
    return st;
}
