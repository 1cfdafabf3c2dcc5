#include "generate/generate.h"

#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "base/utf8.h"

/* Bytes that grow. */
typedef struct bytes {
    char *p;
    size_t n, cap;
} bytes; /* p owned */

static kq_status append(bytes *b, const char *p, size_t size, kq_error *err)
{
    if (b->n + size > b->cap) {
        size_t cap = 2 * (b->n + size);
        char *bigger;
        kq_status st = kq_alloc_for((void **)&bigger, cap, 1, "a token's text", err);
        if (st != KQ_OK)
            return st;
        if (b->n)
            memcpy(bigger, b->p, b->n);
        kq_free(b->p);
        b->p = bigger;
        b->cap = cap;
    }
    memcpy(b->p + b->n, p, size);
    b->n += size;
    return KQ_OK;
}

static void drop(bytes *b, size_t n)
{
    b->n -= n;
    if (n && b->n)
        memmove(b->p, b->p + n, b->n);
}

/* Text on its way out: bytes of tokens go in, whole characters come out, but for those that may become a
 * stop string. */
typedef struct spout {
    const kq_generate_options *opt;
    bytes pending;       /* at most 3 bytes of an unfinished character between calls */
    bytes held;          /* whole characters, with which a stop string may begin */
    bool stopped, found; /* by emit; by a stop string */
} spout;

static void spout_out(spout *s, size_t size)
{
    if (size && !s->stopped && s->opt->emit)
        s->stopped = s->opt->emit(s->opt->ctx, s->held.p, size) != 0;
    drop(&s->held, size);
}

/* Let go of what cannot be part of a stop string; of everything, with `last`. */
static void spout_held(spout *s, bool last)
{
    size_t end = s->held.n, keep = s->held.n;
    for (size_t i = 0; i < s->opt->n_stop; i++) {
        const char *stop = s->opt->stop[i];
        const size_t n = strlen(stop);
        if (!n)
            continue;
        for (size_t at = 0; at < s->held.n && at < end; at++) {
            const size_t left = s->held.n - at;
            if (memcmp(s->held.p + at, stop, left < n ? left : n))
                continue;
            if (left >= n)
                end = at, s->found = true;
            else if (at < keep)
                keep = at;
        }
    }
    if (s->found)
        keep = end;
    spout_out(s, last && !s->found ? s->held.n : keep);
}

static kq_status spout_text(spout *s, const char *text, size_t size, kq_error *err)
{
    if (!size || s->stopped || s->found)
        return KQ_OK;
    kq_status st = append(&s->held, text, size, err);
    if (st == KQ_OK)
        spout_held(s, false);
    return st;
}

/* The whole characters of pending; with `last`, also what will never be finished. */
static kq_status spout_flush(spout *s, bool last, kq_error *err)
{
    size_t from = 0, at = 0; /* valid text [from, at) waits to go out in one piece */
    kq_status st = KQ_OK;
    while (at < s->pending.n && st == KQ_OK) {
        kq_utf8 c = kq_utf8_next(s->pending.p + at, s->pending.n - at);
        if (c.kind == KQ_UTF8_CHAR) {
            at += c.size;
            continue;
        }
        if (c.kind == KQ_UTF8_INCOMPLETE && !last)
            break;
        if ((st = spout_text(s, s->pending.p + from, at - from, err)) == KQ_OK)
            st = spout_text(s, "\xEF\xBF\xBD", 3, err);
        at += c.size;
        from = at;
    }
    if (st == KQ_OK)
        st = spout_text(s, s->pending.p + from, at - from, err);
    drop(&s->pending, at);
    if (last && !s->stopped)
        spout_held(s, true);
    return st;
}

static kq_status spout_add(spout *s, const char *p, size_t size, kq_error *err)
{
    kq_status st = append(&s->pending, p, size, err);
    return st == KQ_OK ? spout_flush(s, false, err) : st;
}

/* Bytes that `id` adds after token *before (-1: at the beginning). A tokenizer may treat the beginning
 * of a text otherwise (LLaMA-2 drops a space there), so the text of both is taken and the text of the
 * first cut off. *before moves on when the token has a text. */
static kq_status add_token(spout *s, const kq_tokenizer *tok, int32_t *before, int32_t id, kq_error *err)
{
    int32_t pair[2] = {*before, id};
    char *head = NULL, *both = NULL;
    size_t n_head = 0, n_both = 0;
    kq_status st = KQ_OK;
    if (*before >= 0)
        st = kq_tokenizer_decode(tok, pair, 1, true, &head, &n_head, err);
    if (st == KQ_OK)
        st = kq_tokenizer_decode(tok, *before >= 0 ? pair : pair + 1, *before >= 0 ? 2 : 1, true, &both,
                                 &n_both, err);
    if (st == KQ_OK && n_both > n_head) {
        *before = id;
        if (s)
            st = spout_add(s, both + n_head, n_both - n_head, err);
    }
    kq_free(head);
    kq_free(both);
    return st;
}

bool kq_is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id)
{
    for (size_t i = 0; i < cfg->n_eos; i++)
        if (id == cfg->eos_id[i])
            return true;
    return id == kq_tokenizer_eos(tok) || (!cfg->n_eos && id == kq_tokenizer_document_end(tok));
}

kq_status kq_generate(kq_engine *e, size_t slot, const kq_tokenizer *tok, const int32_t *prompt,
                      size_t n_prompt, size_t n_cached, const kq_generate_options *opt, kq_generated *out,
                      kq_error *err)
{
    const kq_config *cfg = kq_engine_config(e);
    const kq_sampling *s = &opt->sampling;
    kq_generated made = {0};
    spout text = {.opt = opt};
    float *logits = NULL;
    int32_t *ids = NULL; /* the context */
    kq_status st = KQ_OK;
    if (out)
        *out = made;
    if (n_prompt == 0)
        return kq_fail(err, KQ_E_ARG, "the prompt has no tokens");
    if (n_cached >= n_prompt)
        n_cached = n_prompt - 1; /* the last one's logits are needed */
    if (opt->n_max == 0)
        return KQ_OK;
    size_t n_ids = n_prompt;
    if ((st = kq_alloc_for((void **)&logits, cfg->vocab_size, sizeof *logits, "logits", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&ids, n_prompt + opt->n_max, sizeof *ids, "tokens", err)) != KQ_OK)
        goto out;
    memcpy(ids, prompt, n_prompt * sizeof *ids);

    /* The last tokens of the prompt give the context in which the first new token is spelt. */
    int32_t before = -1;
    for (size_t i = n_prompt < 4 ? 0 : n_prompt - 4; i < n_prompt && st == KQ_OK; i++)
        st = add_token(NULL, tok, &before, prompt[i], err);

    kq_rng rng = kq_rng_stream(s->seed, "generate");
    kq_engine_truncate(e, slot, n_cached);
    made.n_prompt = n_prompt - kq_engine_length(e, slot);
    double start = kq_now_s();
    const kq_engine_piece whole = {.slot = slot,
                                   .ids = prompt + n_prompt - made.n_prompt,
                                   .n = made.n_prompt,
                                   .n_logits = 1,
                                   .logits = logits};
    if (st == KQ_OK)
        st = kq_engine_run(e, &whole, 1, err);
    made.prompt_s = kq_now_s() - start;
    start += made.prompt_s;
    while (st == KQ_OK) {
        if ((st = kq_penalize(logits, cfg->vocab_size, ids, n_ids, s->repetition_penalty, err)) != KQ_OK)
            break;
        int32_t id = kq_sample(logits, cfg->vocab_size, s, kq_rng_uniform(&rng));
        if (id < 0) {
            st = kq_fail(err, KQ_E_NUMERIC, "the logits hold NaN or Inf after %zu tokens", n_ids);
            break;
        }
        if (kq_is_end(cfg, tok, id)) {
            made.finish = KQ_END_TOKEN;
            break;
        }
        if (opt->ids)
            opt->ids[made.n] = id;
        ids[n_ids++] = id;
        made.n++;
        st = add_token(&text, tok, &before, id, err);
        if (text.stopped || text.found)
            made.finish = text.found ? KQ_END_STOP : KQ_END_CALLER;
        if (st != KQ_OK || text.stopped || text.found || made.n == opt->n_max)
            break;
        const kq_engine_piece one = {.slot = slot, .ids = &id, .n = 1, .n_logits = 1, .logits = logits};
        st = kq_engine_run(e, &one, 1, err);
    }
    if (st == KQ_OK && !text.stopped && !text.found)
        st = spout_flush(&text, true, err);
    made.generate_s = kq_now_s() - start;
    if (out)
        *out = made;
out:
    kq_free(text.pending.p);
    kq_free(text.held.p);
    kq_free(logits);
    kq_free(ids);
    return st;
}
