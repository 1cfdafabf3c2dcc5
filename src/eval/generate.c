#include "eval/eval.h"

#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "eval/utf8.h"

/* Text on its way out: bytes of tokens go in, whole characters come out. */
typedef struct spout {
    int (*emit)(void *ctx, const char *text, size_t size);
    void *ctx;
    char *pending; /* owned; at most 3 bytes of an unfinished character between calls */
    size_t n, cap;
    bool stopped;
} spout;

static void spout_text(spout *s, const char *text, size_t size)
{
    if (size && !s->stopped && s->emit)
        s->stopped = s->emit(s->ctx, text, size) != 0;
}

/* Emit the whole characters of pending; with `last`, also what will never be finished. */
static void spout_flush(spout *s, bool last)
{
    size_t from = 0, at = 0; /* valid text [from, at) waits to go out in one piece */
    while (at < s->n) {
        kq_utf8 c = kq_utf8_next(s->pending + at, s->n - at);
        if (c.kind == KQ_UTF8_CHAR) {
            at += c.size;
            continue;
        }
        if (c.kind == KQ_UTF8_INCOMPLETE && !last)
            break;
        spout_text(s, s->pending + from, at - from);
        spout_text(s, "\xEF\xBF\xBD", 3);
        at += c.size;
        from = at;
    }
    spout_text(s, s->pending + from, at - from);
    s->n -= at;
    memmove(s->pending, s->pending + at, s->n);
}

static kq_status spout_add(spout *s, const char *bytes, size_t size, kq_error *err)
{
    if (s->n + size > s->cap) {
        size_t cap = 2 * (s->n + size);
        char *bigger;
        kq_status st = kq_alloc_for((void **)&bigger, cap, 1, "a token's text", err);
        if (st != KQ_OK)
            return st;
        if (s->n)
            memcpy(bigger, s->pending, s->n);
        kq_free(s->pending);
        s->pending = bigger;
        s->cap = cap;
    }
    memcpy(s->pending + s->n, bytes, size);
    s->n += size;
    spout_flush(s, false);
    return KQ_OK;
}

/* Bytes that `id` adds after token *before (-1: at the beginning). A tokenizer may treat the beginning of a text otherwise (LLaMA-2 drops a
 * space there), so the text of both is taken and the text of the first cut off. *before moves on when the token has a text. */
static kq_status add_token(spout *s, const kq_tokenizer *tok, int32_t *before, int32_t id, kq_error *err)
{
    int32_t pair[2] = {*before, id};
    char *head = NULL, *both = NULL;
    size_t n_head = 0, n_both = 0;
    kq_status st = KQ_OK;
    if (*before >= 0)
        st = kq_tokenizer_decode(tok, pair, 1, true, &head, &n_head, err);
    if (st == KQ_OK)
        st = kq_tokenizer_decode(tok, *before >= 0 ? pair : pair + 1, *before >= 0 ? 2 : 1, true, &both, &n_both, err);
    if (st == KQ_OK && n_both > n_head) {
        *before = id;
        if (s)
            st = spout_add(s, both + n_head, n_both - n_head, err);
    }
    kq_free(head);
    kq_free(both);
    return st;
}

static bool is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id)
{
    for (size_t i = 0; i < cfg->n_eos; i++)
        if (id == cfg->eos_id[i])
            return true;
    return id == kq_tokenizer_eos(tok) || id == kq_tokenizer_document_end(tok);
}

kq_status kq_generate(kq_decoder *dec, const kq_tokenizer *tok, const kq_config *cfg, const int32_t *prompt, size_t n_prompt, size_t n_max,
                      const kq_sampling *s, int (*emit)(void *ctx, const char *text, size_t size), void *ctx, size_t *n_generated,
                      kq_error *err)
{
    size_t made = 0;
    spout out = {.emit = emit, .ctx = ctx};
    float *logits = NULL;
    kq_status st = KQ_OK;
    if (n_generated)
        *n_generated = 0;
    if (n_prompt == 0)
        return kq_fail(err, KQ_E_ARG, "the prompt has no tokens");
    if (n_max == 0)
        return KQ_OK;
    st = kq_alloc_for((void **)&logits, cfg->vocab_size, sizeof *logits, "logits", err);

    /* The last tokens of the prompt give the context in which the first new token is spelt. */
    int32_t before = -1;
    for (size_t i = n_prompt < 4 ? 0 : n_prompt - 4; i < n_prompt && st == KQ_OK; i++)
        st = add_token(NULL, tok, &before, prompt[i], err);

    kq_rng rng = kq_rng_stream(s->seed, "generate");
    kq_decoder_reset(dec);
    if (st == KQ_OK)
        st = kq_decoder_step(dec, prompt, n_prompt, logits, err);
    while (st == KQ_OK) {
        int32_t id = kq_sample(logits, cfg->vocab_size, s, kq_rng_uniform(&rng));
        if (id < 0) {
            st = kq_fail(err, KQ_E_NUMERIC, "the logits hold NaN or Inf after %zu tokens", n_prompt + made);
            break;
        }
        if (is_end(cfg, tok, id))
            break;
        made++;
        st = add_token(&out, tok, &before, id, err);
        if (st != KQ_OK || out.stopped || made == n_max)
            break;
        st = kq_decoder_step(dec, &id, 1, logits, err);
    }
    if (st == KQ_OK && !out.stopped)
        spout_flush(&out, true);
    if (n_generated)
        *n_generated = made;
    kq_free(out.pending);
    kq_free(logits);
    return st;
}
