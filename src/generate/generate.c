/* Letting a model continue a prompt: the loop of draw, spell, run. The text stream of stream.h cuts the
 * answer into whole characters and looks for stop strings; the server uses the same one. */
#include "generate/generate.h"

#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "generate/stream.h"

bool kq_is_end(const kq_config *cfg, const kq_tokenizer *tok, int32_t id)
{
    for (size_t i = 0; i < cfg->n_eos; i++)
        if (id == cfg->eos_id[i])
            return true;
    return id == kq_tokenizer_eos(tok) || (!cfg->n_eos && id == kq_tokenizer_document_end(tok));
}

/* One answer in the making. */
typedef struct answer {
    kq_engine *e;
    size_t slot;
    const kq_tokenizer *tok;
    const kq_generate_options *opt;
    kq_generated made;
    kq_text text;
    size_t emitted; /* bytes of text.data that emit has had */
    bool refused;   /* emit has asked to stop */
    float *logits;  /* owned [vocab]: after the last id */
    int32_t *ids;   /* owned [n_prompt + n_max]: the context */
    size_t n_ids;
} answer;

/* Give emit what has become certain. */
static void emit_safe(answer *a)
{
    const size_t size = a->text.safe - a->emitted;
    if (size && !a->refused && a->opt->emit)
        a->refused = a->opt->emit(a->opt->ctx, a->text.data + a->emitted, size) != 0;
    a->emitted = a->text.safe;
}

static kq_status run_prompt(answer *a, const int32_t *prompt, size_t n_prompt, size_t n_cached, kq_error *err)
{
    const double start = kq_now_s();
    kq_engine_truncate(a->e, a->slot, n_cached);
    a->made.n_prompt = n_prompt - kq_engine_length(a->e, a->slot);
    const kq_engine_piece rest = {.slot = a->slot,
                                  .ids = prompt + n_prompt - a->made.n_prompt,
                                  .n = a->made.n_prompt,
                                  .n_logits = 1,
                                  .logits = a->logits};
    /* the last tokens of the prompt give the context in which the first new token is spelt */
    kq_status st = kq_text_begin(&a->text, a->tok, prompt, n_prompt, err);
    if (st == KQ_OK)
        st = kq_engine_run(a->e, &rest, 1, err);
    a->made.prompt_s = kq_now_s() - start;
    return st;
}

/* The next token after a->logits: *end when the answer is over. */
static kq_status next_token(answer *a, kq_rng *rng, bool *end, kq_error *err)
{
    const kq_config *cfg = kq_engine_config(a->e);
    const kq_generate_options *opt = a->opt;
    kq_status st =
        kq_penalize(a->logits, cfg->vocab_size, a->ids, a->n_ids, opt->sampling.repetition_penalty, err);
    if (st != KQ_OK)
        return st;
    const int32_t id = kq_sample(a->logits, cfg->vocab_size, &opt->sampling, kq_rng_uniform(rng));
    if (id < 0)
        return kq_fail(err, KQ_E_NUMERIC, "the logits hold NaN or Inf after %zu tokens", a->n_ids);
    if (kq_is_end(cfg, a->tok, id)) {
        a->made.finish = KQ_END_TOKEN;
        *end = true;
        return KQ_OK;
    }
    if (opt->ids)
        opt->ids[a->made.n] = id;
    a->ids[a->n_ids++] = id;
    a->made.n++;
    st = kq_text_add(&a->text, a->tok, id, opt->stop, opt->n_stop, err);
    if (st == KQ_OK)
        emit_safe(a);
    if (a->text.stopped || a->refused)
        a->made.finish = a->text.stopped ? KQ_END_STOP : KQ_END_CALLER;
    *end = a->text.stopped || a->refused || a->made.n == opt->n_max;
    return st;
}

kq_status kq_generate(kq_engine *e, size_t slot, const kq_tokenizer *tok, const int32_t *prompt,
                      size_t n_prompt, size_t n_cached, const kq_generate_options *opt, kq_generated *out,
                      kq_error *err)
{
    const size_t vocab = kq_engine_config(e)->vocab_size;
    answer a = {.e = e, .slot = slot, .tok = tok, .opt = opt};
    kq_status st = KQ_OK;
    if (out)
        *out = a.made;
    if (n_prompt == 0)
        return kq_fail(err, KQ_E_ARG, "the prompt has no tokens");
    if (n_cached >= n_prompt)
        n_cached = n_prompt - 1; /* the logits after the last one are needed */
    if (opt->n_max == 0)
        return KQ_OK;
    if ((st = kq_alloc_for((void **)&a.logits, vocab, sizeof *a.logits, "logits", err)) != KQ_OK ||
        (st = kq_alloc_for((void **)&a.ids, n_prompt + opt->n_max, sizeof *a.ids, "tokens", err)) != KQ_OK)
        goto out;
    memcpy(a.ids, prompt, n_prompt * sizeof *a.ids);
    a.n_ids = n_prompt;
    kq_rng rng = kq_rng_stream(opt->sampling.seed, "generate");
    st = run_prompt(&a, prompt, n_prompt, n_cached, err);
    const double start = kq_now_s();
    for (bool end = false; st == KQ_OK;) {
        if ((st = next_token(&a, &rng, &end, err)) != KQ_OK || end)
            break;
        const kq_engine_piece one = {
            .slot = slot, .ids = &a.ids[a.n_ids - 1], .n = 1, .n_logits = 1, .logits = a.logits};
        st = kq_engine_run(e, &one, 1, err);
    }
    if (st == KQ_OK && !a.refused && !a.text.stopped) {
        st = kq_text_end(&a.text, opt->stop, opt->n_stop, err);
        emit_safe(&a);
    }
    a.made.generate_s = kq_now_s() - start;
    if (out)
        *out = a.made;
out:
    kq_text_clear(&a.text);
    kq_free(a.logits);
    kq_free(a.ids);
    return st;
}
