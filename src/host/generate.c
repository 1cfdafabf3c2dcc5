/* Logits and text of a kq_model. The tokens of each sequence are kept beside its cache. Where a prompt begins
 * with these tokens, they are not computed again, so that the next turn of a conversation costs only its new
 * tokens. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "generate/generate.h"
#include "host/model.h"

/* ---- logits -------------------------------------------------------------------------------------------- */

static kq_status check_sequence(const kq_model *m, size_t sequence, kq_error *err)
{
    return sequence < m->sequences
               ? KQ_OK
               : kq_fail(err, KQ_E_ARG, "sequence %zu of a model of %zu", sequence, m->sequences);
}

kq_status kq_model_append(kq_model *m, size_t sequence, const int32_t *ids, size_t n_ids, size_t n_logits,
                          float *logits, kq_error *err)
{
    KQ_C_LOCALE;
    kq_status status = check_sequence(m, sequence, err);
    if (!status)
        status = kq_model_load(m, 0, err);
    if (status)
        return status;
    const size_t before = kq_engine_length(m->engine, sequence);
    const kq_engine_piece piece = {
        .slot = sequence, .ids = ids, .n = n_ids, .n_logits = n_logits, .logits = logits};
    if (!(status = kq_engine_run(m->engine, &piece, 1, err)))
        memcpy(kq_model_held(m, sequence) + before, ids, n_ids * sizeof *ids);
    return status;
}

kq_status kq_model_logits(kq_model *m, const int32_t *ids, size_t n_ids, float *logits, kq_error *err)
{
    kq_model_truncate(m, 0, 0);
    return kq_model_append(m, 0, ids, n_ids, n_ids, logits, err);
}

size_t kq_model_length(const kq_model *m, size_t sequence)
{
    return m->engine ? kq_engine_length(m->engine, sequence) : 0;
}

void kq_model_truncate(kq_model *m, size_t sequence, size_t length)
{
    if (m->engine && !m->busy)
        kq_engine_truncate(m->engine, sequence, length);
}

/* ---- text ---------------------------------------------------------------------------------------------- */

void kq_generation_options_init(kq_generation_options *opt, size_t size)
{
    const kq_generation_options defaults = {
        .n_max = 128, .temperature = -1, .top_k = -1, .top_p = -1, .min_p = -1, .repetition_penalty = -1};
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

/* Choose how tokens are drawn: first what the options say, then what the model's authors recommend, then
 * kronq's defaults. A recommended penalty is meant for sampling and is not used with temperature 0, which
 * takes the most likely token. */
static kq_status choose_sampling(kq_model *m, const kq_generation_options *opt, kq_sampling *s, kq_error *err)
{
    const kq_sampling ours = {.temperature = 0.8, .top_k = 40, .top_p = 0.95};
    if (!m->sampling_known) {
        const kq_status status =
            kq_sampling_recommended(kq_model_file_source(m->file), &ours, &m->sampling, err);
        if (status)
            return status;
        m->sampling_known = true;
    }
    *s = m->sampling;
    s->seed = opt->seed;
    s->temperature = opt->temperature >= 0 ? opt->temperature : s->temperature;
    s->top_k = opt->top_k >= 0 ? opt->top_k : s->top_k;
    s->top_p = opt->top_p >= 0 ? opt->top_p : s->top_p;
    s->min_p = opt->min_p >= 0 ? opt->min_p : s->min_p;
    s->repetition_penalty = opt->repetition_penalty >= 0 ? opt->repetition_penalty
                            : opt->temperature == 0      ? 0
                                                         : s->repetition_penalty;
    return KQ_OK;
}

/* Check that there is room for a prompt of n tokens and one new token. */
static kq_status check_prompt(const kq_model *m, size_t n, kq_error *err)
{
    const size_t model = m->cfg->max_position, sequence = m->engine ? kq_engine_max_T(m->engine) : 0;
    if (!n)
        return kq_fail(err, KQ_E_ARG, "the prompt is empty");
    if (sequence && n >= sequence)
        return kq_fail(err, KQ_E_ARG, "the prompt has %zu tokens, the conversation's context is %zu", n,
                       sequence);
    if (model && n >= model)
        return kq_fail(err, KQ_E_ARG, "the prompt has %zu tokens, the model's context is %zu", n, model);
    return KQ_OK;
}

/* The answer while it is being written. */
typedef struct answer {
    const kq_generation_options *opt;
    kq_buffer text;
    kq_error err;
    kq_status status;
} answer;

static int collect(void *ctx, const char *text, size_t size)
{
    answer *a = ctx;
    int stop = 0;
    if (a->opt->emit) { /* the host program's function runs in the host program's locale */
        const locale_t ours = kq_locale_host();
        stop = a->opt->emit(a->opt->ctx, text, size);
        uselocale(ours);
    }
    a->status = kq_buffer_add(&a->text, text, size, &a->err);
    return stop || a->status;
}

/* How many single steps were computed. The pass over the prompt gives the first new token, so that n tokens
 * take n - 1 steps; n when an end token followed. */
static size_t steps_of(const kq_generated *made)
{
    return made->finish == KQ_END_TOKEN || !made->n ? made->n : made->n - 1;
}

static double rate(size_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

/* Make the result for the caller. It takes over the text and the ids [made->n]. */
static kq_status give(const kq_generated *made, size_t n_prompt, kq_buffer *text, int32_t *ids,
                      kq_generation **out, kq_error *err)
{
    kq_generation *g = kq_calloc(1, sizeof *g);
    if (!g)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the answer");
    *g = (kq_generation){.text = text->data,
                         .text_size = text->size - 1, /* without the final NUL */
                         .ids = ids,
                         .n_ids = made->n,
                         .end = made->finish,
                         .n_prompt = n_prompt,
                         .n_prompt_run = made->n_prompt,
                         .prompt_seconds = made->prompt_s,
                         .answer_seconds = made->generate_s,
                         .prompt_rate = rate(made->n_prompt, made->prompt_s),
                         .answer_rate = rate(steps_of(made), made->generate_s)};
    text->data = NULL;
    *out = g;
    return KQ_OK;
}

void kq_generation_free(kq_generation *g)
{
    if (!g)
        return;
    kq_free((void *)g->text);
    kq_free((void *)g->ids);
    kq_free(g);
}

kq_status kq_model_generate(kq_model *m, const int32_t *ids, size_t n_ids, const kq_generation_options *given,
                            kq_generation **out, kq_error *err)
{
    KQ_C_LOCALE;
    kq_generation_options opt;
    kq_generated made;
    kq_sampling sampling;
    if (out)
        *out = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_generation_options, &opt, given, err);
    if (status || (status = check_sequence(m, opt.sequence, err)) || (status = check_prompt(m, n_ids, err)) ||
        (status = kq_model_open_tokenizer(m, err)) || (status = choose_sampling(m, &opt, &sampling, err)) ||
        (status = kq_model_load(m, 0, err)) || (status = check_prompt(m, n_ids, err)))
        return status;
    const size_t loaded = kq_engine_max_T(m->engine), most = m->cfg->max_position,
                 room = (most && most < loaded ? most : loaded) - n_ids;
    /* the model has no positions beyond its context */
    const size_t n_max = opt.n_max < room ? opt.n_max : room;
    int32_t *held = kq_model_held(m, opt.sequence), *fresh = NULL;
    const size_t n_held = kq_engine_length(m->engine, opt.sequence);
    size_t same = 0;
    while (same < n_ids && same < n_held && held[same] == ids[same])
        same++;
    kq_engine_truncate(m->engine, opt.sequence, same);
    if ((status = kq_alloc_for((void **)&fresh, n_max, sizeof *fresh, "the answer", err)))
        return status;
    answer a = {.opt = &opt};
    const kq_generate_options how = {.n_max = n_max,
                                     .sampling = sampling,
                                     .stop = opt.stop,
                                     .n_stop = opt.n_stop,
                                     .emit = collect,
                                     .ctx = &a,
                                     .ids = fresh};
    m->busy = true;
    status = kq_generate(m->engine, opt.sequence, m->tok, ids, n_ids, same, &how, &made, err);
    m->busy = false;
    if (!status && (a.status || (a.status = kq_buffer_add(&a.text, "", 1, &a.err))))
        status = kq_fail(err, a.status, "%s", a.err.message);
    if (status) {
        /* after a failure nobody knows what the cache holds */
        kq_engine_truncate(m->engine, opt.sequence, 0);
    } else {
        const size_t length = kq_engine_length(m->engine, opt.sequence);
        memcpy(held, ids, (n_ids < length ? n_ids : length) * sizeof *held);
        if (length > n_ids)
            memcpy(held + n_ids, fresh, (length - n_ids) * sizeof *held);
        if (out && !(status = give(&made, n_ids, &a.text, fresh, out, err)))
            fresh = NULL;
    }
    kq_free(a.text.data);
    kq_free(fresh);
    return status;
}

static kq_status generate_from(kq_model *m, const char *text, bool formatted,
                               const kq_generation_options *opt, kq_generation **out, kq_error *err)
{
    int32_t *ids;
    size_t n_ids;
    if (out)
        *out = NULL;
    /* a chat template writes the beginning token itself */
    kq_status status = kq_model_tokenize(m, text, strlen(text), !formatted, true, &ids, &n_ids, err);
    if (!status)
        status = kq_model_generate(m, ids, n_ids, opt, out, err);
    kq_free(ids);
    return status;
}

kq_status kq_model_complete(kq_model *m, const char *text, const kq_generation_options *opt,
                            kq_generation **out, kq_error *err)
{
    return generate_from(m, text, false, opt, out, err);
}

kq_status kq_model_chat(kq_model *m, const kq_message *messages, size_t n, const kq_chat_options *chat,
                        const kq_generation_options *opt, kq_generation **out, kq_error *err)
{
    char *prompt;
    if (out)
        *out = NULL;
    kq_status status = kq_model_chat_prompt(m, messages, n, chat, &prompt, err);
    if (!status)
        status = generate_from(m, prompt, true, opt, out, err);
    free(prompt);
    return status;
}
