#include "request/request.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

bool kq_api_fail(kq_api_error *e, int http, const char *param, const char *code, const char *format, ...)
{
    va_list args;
    *e = (kq_api_error){.http = http, .code = code};
    e->type = http == 401   ? "authentication_error"
              : http == 429 ? "rate_limit_error"
              : http >= 500 ? "server_error"
                            : "invalid_request_error";
    if (param)
        snprintf(e->param, sizeof e->param, "%.50s", param);
    va_start(args, format);
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    char *text[2] = {e->param, e->message};
    for (int k = 0; k < 2; k++) /* what was cut in the middle of a character would make the answer no JSON */
        for (size_t at = 0, n = strlen(text[k]); at < n;) {
            kq_utf8 c = kq_utf8_next(text[k] + at, n - at);
            if (c.kind != KQ_UTF8_CHAR)
                memset(text[k] + at, '?', c.size);
            at += c.size;
        }
    return false;
}

static bool bad(kq_api_error *e, const char *param, const char *wanted)
{
    return kq_api_fail(e, 400, param, "invalid_value", "'%.50s': %s is expected", param, wanted);
}

static bool no_memory(kq_api_error *e)
{
    return kq_api_fail(e, 503, NULL, "out_of_memory", "out of memory; try again later");
}

static char *copy(const char *s, size_t size)
{
    char *out = kq_alloc(size + 1, 1);
    if (out) {
        memcpy(out, s, size);
        out[size] = 0;
    }
    return out;
}

/* ---- values ---- */

static bool get_bool(const json_t *v, const char *key, bool *out, kq_api_error *e)
{
    if (!json_is_boolean(v))
        return bad(e, key, "true or false");
    *out = json_is_true(v);
    return true;
}

static bool get_int(const json_t *v, const char *key, json_int_t min, json_int_t max, json_int_t *out,
                    kq_api_error *e)
{
    char wanted[96];
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)min, (long long)max);
        return bad(e, key, wanted);
    }
    *out = json_integer_value(v);
    return true;
}

static bool get_real(const json_t *v, const char *key, double min, double max, double *out, kq_api_error *e)
{
    char wanted[96];
    if (!json_is_number(v) || !(json_number_value(v) >= min && json_number_value(v) <= max)) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
        return bad(e, key, wanted);
    }
    *out = json_number_value(v);
    return true;
}

static bool get_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_prompt *p, kq_api_error *e)
{
    const size_t n = json_array_size(v);
    if (!n)
        return kq_api_fail(e, 400, key, "invalid_value",
                           "'%.50s': a list of token ids is empty; at least one token is needed", key);
    if (n > lim->context)
        return kq_api_fail(e, 400, key, "context_length_exceeded",
                           "This model's maximum context length is %zu tokens; '%.50s' has %zu.",
                           lim->context, key, n);
    if (!(p->ids = kq_alloc(n, sizeof *p->ids)))
        return no_memory(e);
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        json_int_t id = 0;
        if (!get_int(json_array_get(v, i), key, 0, (json_int_t)lim->vocab_size - 1, &id, e))
            return false;
        p->ids[i] = (int32_t)id;
    }
    return true;
}

static bool get_text(const json_t *v, kq_prompt *p, kq_api_error *e)
{
    if (!(p->text = copy(json_string_value(v), json_string_length(v))))
        return no_memory(e);
    p->size = json_string_length(v);
    return true;
}

/* A string, a list of ids, a list of strings or a list of lists of ids. */
static bool get_prompt(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                       kq_api_error *e)
{
    static const char wanted[] = "a string, a list of strings, a list of token ids or a list of such lists";
    const bool many =
        json_is_array(v) && (json_is_string(json_array_get(v, 0)) || json_is_array(json_array_get(v, 0)));
    const size_t n = many ? json_array_size(v) : 1;
    if (!many && !json_is_string(v) && !json_is_array(v))
        return bad(e, key, wanted);
    if (n > lim->max_choices)
        return kq_api_fail(e, 400, key, "too_many_prompts",
                           "'%.50s' has %zu prompts; at most %zu are taken in one request", key, n,
                           lim->max_choices);
    if (!(r->prompt = kq_calloc(n, sizeof *r->prompt)))
        return no_memory(e);
    r->n_prompt = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(v, i) : v;
        if (json_is_string(one)  ? !get_text(one, &r->prompt[i], e)
            : json_is_array(one) ? !get_ids(one, key, lim, &r->prompt[i], e)
                                 : !bad(e, key, wanted))
            return false;
    }
    return true;
}

static bool get_stop(const json_t *v, const char *key, kq_api_request *r, kq_api_error *e)
{
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > KQ_API_MAX_STOP)
        return kq_api_fail(e, 400, key, "invalid_value", "'stop' has %zu strings; at most %d are taken", n,
                           KQ_API_MAX_STOP);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(one) || !json_string_length(one) ||
            json_string_length(one) > KQ_API_MAX_STOP_BYTES)
            return bad(e, key, "a string, or a list of strings, each of 1 to 512 bytes,");
        if (!(r->stop[r->n_stop] = copy(json_string_value(one), json_string_length(one))))
            return no_memory(e);
        r->n_stop++;
    }
    return true;
}

static bool get_stop_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                         kq_api_error *e)
{
    if (!json_is_array(v) || json_array_size(v) > KQ_API_MAX_STOP)
        return bad(e, key, "a list of at most 16 token ids");
    for (size_t i = 0; i < json_array_size(v); i++) {
        json_int_t id = 0;
        if (!get_int(json_array_get(v, i), key, 0, (json_int_t)lim->vocab_size - 1, &id, e))
            return false;
        r->stop_id[r->n_stop_id++] = (int32_t)id;
    }
    return true;
}

static bool get_bias(json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r, kq_api_error *e)
{
    const char *name;
    json_t *one;
    if (!json_is_object(v) || json_object_size(v) > KQ_API_MAX_BIAS)
        return bad(e, key, "an object of at most 1024 entries, token id: number from -100 to 100,");
    if (!(r->bias = kq_alloc(json_object_size(v), sizeof *r->bias)))
        return no_memory(e);
    json_object_foreach(v, name, one)
    {
        double value = 0;
        unsigned long id = 0;
        size_t digits = strspn(name, "0123456789");
        if (digits && digits < 10 && !name[digits])
            id = strtoul(name, NULL, 10);
        else
            return bad(e, key, "a token id as key");
        if (id >= lim->vocab_size)
            return bad(e, key, "a token id below the size of the vocabulary");
        if (!get_real(one, key, -100, 100, &value, e))
            return false;
        r->bias[r->n_bias++] = (kq_bias){(int32_t)id, (float)value};
    }
    return true;
}

/* ---- fields ---- */

typedef enum field_id {
    F_MODEL,
    F_PROMPT,
    F_MESSAGES,
    F_TOKENS,
    F_N,
    F_BEST_OF,
    F_MAX_TOKENS,
    F_ECHO,
    F_STREAM,
    F_STREAM_OPTIONS,
    F_LOGPROBS,
    F_CHAT_LOGPROBS,
    F_TOP_LOGPROBS,
    F_STOP,
    F_STOP_IDS,
    F_SEED,
    F_TEMPERATURE,
    F_TOP_P,
    F_TOP_K,
    F_MIN_P,
    F_REPETITION,
    F_REPEAT,
    F_FREQUENCY,
    F_PRESENCE,
    F_BIAS,
    F_IGNORE_EOS,
    F_SPECIAL,
    F_TOKEN_STRS,
    F_FORMAT,
    F_MAX_COMPLETION_TOKENS,
    F_TOOLS,
    F_TOOL_CHOICE,
    F_PARALLEL_TOOLS,
    F_TEMPLATE_ARGUMENTS,
    F_GENERATION_PROMPT,
    F_CONTINUE,
    F_NO_EFFECT,
    F_NOT_HERE
} field_id;
enum {
    C = 1 << KQ_API_COMPLETIONS,
    H = 1 << KQ_API_CHAT,
    T = 1 << KQ_API_TOKENIZE,
    D = 1 << KQ_API_DETOKENIZE
};

/* F_NO_EFFECT: known, and no answer depends on it. F_NOT_HERE: known, and refused by name. */
static const struct {
    const char *name;
    unsigned apis;
    field_id id;
} fields[] = {
    {"model", C | H | T | D, F_MODEL},
    {"prompt", C | T, F_PROMPT},
    {"messages", H | T, F_MESSAGES},
    {"tokens", D, F_TOKENS},
    {"n", C | H, F_N},
    {"best_of", C, F_BEST_OF},
    {"max_tokens", C | H, F_MAX_TOKENS},
    {"max_completion_tokens", H, F_MAX_COMPLETION_TOKENS},
    {"echo", C, F_ECHO},
    {"stream", C | H, F_STREAM},
    {"stream_options", C | H, F_STREAM_OPTIONS},
    {"logprobs", C, F_LOGPROBS},
    {"logprobs", H, F_CHAT_LOGPROBS},
    {"top_logprobs", H, F_TOP_LOGPROBS},
    {"stop", C | H, F_STOP},
    {"stop_token_ids", C | H, F_STOP_IDS},
    {"seed", C | H, F_SEED},
    {"temperature", C | H, F_TEMPERATURE},
    {"top_p", C | H, F_TOP_P},
    {"top_k", C | H, F_TOP_K},
    {"min_p", C | H, F_MIN_P},
    {"repetition_penalty", C | H, F_REPETITION},
    {"repeat_penalty", C | H, F_REPEAT},
    {"tools", H | T, F_TOOLS},
    {"tool_choice", H, F_TOOL_CHOICE},
    {"parallel_tool_calls", H, F_PARALLEL_TOOLS},
    {"chat_template_kwargs", H | T, F_TEMPLATE_ARGUMENTS},
    {"add_generation_prompt", H | T, F_GENERATION_PROMPT},
    {"continue_final_message", H | T, F_CONTINUE},
    {"frequency_penalty", C | H, F_FREQUENCY},
    {"presence_penalty", C | H, F_PRESENCE},
    {"logit_bias", C | H, F_BIAS},
    {"ignore_eos", C | H, F_IGNORE_EOS},
    {"add_special_tokens", C | T, F_SPECIAL},
    {"return_token_strs", T, F_TOKEN_STRS},
    {"response_format", H, F_FORMAT},
    {"user", C | H, F_NO_EFFECT},
    {"metadata", C | H, F_NO_EFFECT},
    {"safety_identifier", C | H, F_NO_EFFECT},
    {"prompt_cache_key", C | H, F_NO_EFFECT},
    {"prompt_cache_retention", C | H, F_NO_EFFECT},
    {"service_tier", C | H, F_NO_EFFECT},
    {"suffix", C, F_NOT_HERE},
    {"functions", H, F_NOT_HERE},
    {"function_call", H, F_NOT_HERE},
    {"modalities", H, F_NOT_HERE},
    {"audio", H, F_NOT_HERE},
    {"prediction", H, F_NOT_HERE},
    {"reasoning_effort", H, F_NOT_HERE},
    {"store", H, F_NOT_HERE},
    {"verbosity", H, F_NOT_HERE},
    {"web_search_options", H, F_NOT_HERE},
};

/* What is only known when all fields are. */
typedef struct loose {
    json_int_t best_of, max_tokens, max_completion_tokens; /* 0: none; -2: none */
    double repetition, repeat;                             /* 0: none */
    bool has_temperature, has_top, has_stream_options, no_tools, one_tool_call, has_template_fields;
    int generation_prompt; /* -1: not given */
} loose;

bool kq_api_model_known(const kq_api_limits *lim, const char *name)
{
    bool known = lim->any_model || !strcmp(name, lim->model);
    for (size_t i = 0; i < sizeof lim->other_name / sizeof *lim->other_name; i++)
        known = known || (lim->other_name[i] && !strcmp(name, lim->other_name[i]));
    return known;
}

/* Variables of a template that it gets from elsewhere: a request cannot set these. */
static bool get_template_arguments(json_t *v, const char *key, kq_api_request *r, kq_api_error *e)
{
    static const char *const ours[] = {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"};
    if (!json_is_object(v))
        return bad(e, key, "an object");
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (json_object_get(v, ours[i]))
            return kq_api_fail(e, 400, key, "invalid_value", "'%.50s': %s cannot be set there", key, ours[i]);
    r->template_arguments = json_incref(v);
    return true;
}

/* OpenAI's "auto" is what happens; "none" leaves the tools out of the prompt. The model cannot be made
 * to call one. */
static bool get_tool_choice(const json_t *v, const char *key, loose *l, kq_api_error *e)
{
    const char *s = json_string_value(v);
    l->no_tools = s && !strcmp(s, "none");
    if (l->no_tools || (s && !strcmp(s, "auto")))
        return true;
    return kq_api_fail(e, 400, key, "unsupported_value",
                       "'tool_choice': only \"auto\" and \"none\" are supported");
}

static bool get_field(kq_api_request *r, loose *l, field_id id, const char *key, json_t *v,
                      const kq_api_limits *lim, kq_api_error *e)
{
    json_int_t i = 0;
    const char *s = json_string_value(v);
    switch (id) {
    case F_MODEL:
        if (!s)
            return bad(e, key, "a string");
        if (!kq_api_model_known(lim, s))
            return kq_api_fail(e, 404, key, "model_not_found",
                               "The model '%.100s' does not exist; this server has '%.100s'.", s, lim->model);
        return true;
    case F_PROMPT:
        if (r->api == KQ_API_TOKENIZE && !s)
            return bad(e, key, "a string");
        return get_prompt(v, key, lim, r, e);
    case F_TOKENS:
        if (!json_is_array(v))
            return bad(e, key, "a list of token ids");
        if (!(r->prompt = kq_calloc(1, sizeof *r->prompt)))
            return no_memory(e);
        r->n_prompt = 1;
        return !json_array_size(v) ||
               get_ids(v, key, &(kq_api_limits){.vocab_size = lim->vocab_size, .context = SIZE_MAX},
                       r->prompt, e);
    case F_MESSAGES: return kq_api_messages(v, &r->messages, e);
    case F_N: return get_int(v, key, 1, (json_int_t)lim->max_choices, &i, e) && (r->n = (size_t)i, true);
    case F_BEST_OF: return get_int(v, key, 1, (json_int_t)lim->max_choices, &l->best_of, e);
    case F_MAX_TOKENS: return get_int(v, key, -1, INT64_MAX, &l->max_tokens, e);
    case F_MAX_COMPLETION_TOKENS: return get_int(v, key, -1, INT64_MAX, &l->max_completion_tokens, e);
    case F_ECHO: return get_bool(v, key, &r->echo, e);
    case F_STREAM: return get_bool(v, key, &r->stream, e);
    case F_STREAM_OPTIONS: {
        const char *name;
        json_t *one;
        l->has_stream_options = true;
        if (!json_is_object(v))
            return bad(e, key, "an object");
        json_object_foreach(v, name, one)
        {
            const bool usage = !strcmp(name, "include_usage");
            /* include_obfuscation: events of random length against listeners; the answer is the same
             * without */
            bool padded;
            if (!usage && strcmp(name, "include_obfuscation"))
                return kq_api_fail(e, 400, key, "unknown_parameter",
                                   "stream_options: the field '%.50s' is not supported", name);
            if (!json_is_null(one) &&
                !get_bool(one, usage ? "stream_options.include_usage" : "stream_options.include_obfuscation",
                          usage ? &r->include_usage : &padded, e))
                return false;
        }
        return true;
    }
    case F_LOGPROBS:
        if (json_is_false(v))
            return true;
        r->logprobs = true;
        return get_int(v, key, 0, KQ_API_MAX_TOP, &i, e) && (r->n_top = (int)i, true);
    case F_CHAT_LOGPROBS: return get_bool(v, key, &r->logprobs, e);
    case F_TOP_LOGPROBS:
        l->has_top = true;
        return get_int(v, key, 0, KQ_API_MAX_TOP, &i, e) && (r->n_top = (int)i, true);
    case F_STOP: return get_stop(v, key, r, e);
    case F_STOP_IDS: return get_stop_ids(v, key, lim, r, e);
    case F_SEED:
        r->has_seed = true;
        return get_int(v, key, INT64_MIN, INT64_MAX, &i, e) && (r->sampling.seed = (uint64_t)i, true);
    case F_TEMPERATURE: l->has_temperature = true; return get_real(v, key, 0, 2, &r->sampling.temperature, e);
    case F_TOP_P: return get_real(v, key, 0, 1, &r->sampling.top_p, e);
    case F_TOP_K: /* -1: all, as vLLM writes it */
        return get_int(v, key, -1, INT32_MAX, &i, e) && (r->sampling.top_k = i < 0 ? 0 : (int)i, true);
    case F_MIN_P: return get_real(v, key, 0, 1, &r->sampling.min_p, e);
    case F_REPETITION: return get_real(v, key, 0.01, 100, &l->repetition, e);
    case F_REPEAT: return get_real(v, key, 0.01, 100, &l->repeat, e);
    case F_TOOLS: return kq_api_tools(v, &r->tools, e);
    case F_TOOL_CHOICE: return get_tool_choice(v, key, l, e);
    case F_PARALLEL_TOOLS: {
        bool parallel = true;
        const bool ok = get_bool(v, key, &parallel, e);
        l->one_tool_call = !parallel;
        return ok;
    }
    case F_TEMPLATE_ARGUMENTS: l->has_template_fields = true; return get_template_arguments(v, key, r, e);
    case F_GENERATION_PROMPT: {
        bool on = true;
        const bool ok = get_bool(v, key, &on, e);
        l->has_template_fields = true;
        l->generation_prompt = on;
        return ok;
    }
    case F_CONTINUE: l->has_template_fields = true; return get_bool(v, key, &r->continue_final_message, e);
    case F_FREQUENCY: return get_real(v, key, -2, 2, &r->frequency_penalty, e);
    case F_PRESENCE: return get_real(v, key, -2, 2, &r->presence_penalty, e);
    case F_BIAS: return get_bias(v, key, lim, r, e);
    case F_IGNORE_EOS: return get_bool(v, key, &r->ignore_eos, e);
    case F_SPECIAL: return get_bool(v, key, &r->add_special_tokens, e);
    case F_TOKEN_STRS: return get_bool(v, key, &r->return_token_strs, e);
    case F_FORMAT: {
        const char *type = json_string_value(json_object_get(v, "type"));
        if (!type || strcmp(type, "text"))
            return kq_api_fail(e, 400, key, "unsupported_value",
                               "response_format: only {\"type\": \"text\"} is supported");
        return true;
    }
    case F_NO_EFFECT: return true;
    case F_NOT_HERE:
        if (json_is_false(v) || (s && !*s) || (json_is_array(v) && !json_array_size(v)))
            return true; /* asks for nothing */
        if (!strcmp(key, "modalities") && json_array_size(v) == 1 && json_is_string(json_array_get(v, 0)) &&
            !strcmp(json_string_value(json_array_get(v, 0)), "text"))
            return true; /* the default */
        return kq_api_fail(e, 400, key, "unsupported_parameter", "'%.50s' is not supported by this server",
                           key);
    }
    return true;
}

/* One penalty under two names. The model's own default is a default of sampling: the most likely token,
 * when that is asked for by name, is not changed by it. */
static bool settle_penalty(kq_api_request *r, const loose *l, kq_api_error *e)
{
    if (l->repetition > 0 && l->repeat > 0 && l->repetition != l->repeat)
        return kq_api_fail(e, 400, "repeat_penalty", "invalid_value",
                           "'repetition_penalty' and 'repeat_penalty' are the same, and differ");
    if (l->repetition > 0 || l->repeat > 0)
        r->sampling.repetition_penalty = l->repetition > 0 ? l->repetition : l->repeat;
    else if (l->has_temperature && !(r->sampling.temperature > 0))
        r->sampling.repetition_penalty = 0;
    return true;
}

static bool settle_template(kq_api_request *r, const loose *l, kq_api_error *e)
{
    if (!r->messages && (l->has_template_fields || r->tools))
        return kq_api_fail(e, 400, "messages", "missing_required_parameter",
                           "fields of a chat template go with 'messages'");
    if (r->continue_final_message) { /* vLLM's rule, but that the other one need not be said */
        const json_t *last = json_array_get(r->messages, json_array_size(r->messages) - 1);
        if (l->generation_prompt == 1)
            return kq_api_fail(e, 400, "continue_final_message", "invalid_value",
                               "'continue_final_message' and 'add_generation_prompt' exclude each other");
        if (strcmp(json_string_value(json_object_get(last, "role")), "assistant"))
            return kq_api_fail(e, 400, "continue_final_message", "invalid_value",
                               "'continue_final_message': the last message is not the assistant's");
    }
    r->add_generation_prompt = l->generation_prompt < 0 ? !r->continue_final_message : l->generation_prompt;
    if (r->tools && l->one_tool_call)
        return kq_api_fail(e, 400, "parallel_tool_calls", "unsupported_value",
                           "'parallel_tool_calls': the model cannot be held to one call");
    if (l->no_tools) {
        json_decref(r->tools);
        r->tools = NULL;
    }
    return true;
}

static bool parse_object(kq_api_request *r, json_t *root, const kq_api_limits *lim, kq_api_error *e)
{
    const char *key;
    json_t *v;
    loose l = {.max_tokens = -2, .max_completion_tokens = -2, .generation_prompt = -1};
    json_object_foreach(root, key, v)
    {
        size_t i = 0;
        while (i < sizeof fields / sizeof *fields &&
               (!(fields[i].apis >> r->api & 1) || strcmp(fields[i].name, key)))
            i++;
        if (i == sizeof fields / sizeof *fields)
            return kq_api_fail(e, 400, key, "unknown_parameter",
                               "Unrecognized request argument supplied: %.50s", key);
        if (!json_is_null(v) && !get_field(r, &l, fields[i].id, key, v, lim, e))
            return false;
    }
    if (r->api == KQ_API_CHAT && !r->messages)
        return kq_api_fail(e, 400, "messages", "missing_required_parameter", "'messages' is missing");
    if (r->api == KQ_API_COMPLETIONS && !r->n_prompt)
        return kq_api_fail(e, 400, "prompt", "missing_required_parameter", "'prompt' is missing");
    if (r->api == KQ_API_DETOKENIZE && !r->n_prompt)
        return kq_api_fail(e, 400, "tokens", "missing_required_parameter", "'tokens' is missing");
    if (r->api == KQ_API_TOKENIZE && (r->n_prompt != 0) == (r->messages != NULL))
        return kq_api_fail(e, 400, "prompt", "missing_required_parameter",
                           "either 'prompt' or 'messages' is needed");
    /* the newer name counts */
    const json_int_t asked = l.max_completion_tokens > -2 ? l.max_completion_tokens : l.max_tokens;
    if (asked > -2)
        r->max_tokens = asked < 0 ? SIZE_MAX : (size_t)asked;
    if (!settle_penalty(r, &l, e) || !settle_template(r, &l, e))
        return false;
    if (l.best_of && (size_t)l.best_of != r->n)
        return kq_api_fail(e, 400, "best_of", "unsupported_value", "'best_of' other than n is not supported");
    if (l.has_stream_options && !r->stream)
        return kq_api_fail(e, 400, "stream_options", "invalid_value",
                           "'stream_options' goes with \"stream\": true");
    if (r->api == KQ_API_CHAT && l.has_top && !r->logprobs)
        return kq_api_fail(e, 400, "top_logprobs", "invalid_value",
                           "'top_logprobs' goes with \"logprobs\": true");
    if (r->n_prompt && r->n > lim->max_choices / r->n_prompt)
        return kq_api_fail(e, 400, "n", "invalid_value",
                           "%zu prompts with n = %zu are more than the %zu answers one request may have",
                           r->n_prompt, r->n, lim->max_choices);
    return true;
}

bool kq_api_parse(kq_api api, const char *body, size_t size, const kq_api_limits *limits, kq_api_request *out,
                  kq_api_error *e)
{
    json_error_t je;
    json_t *root = json_loadb(body, size, JSON_REJECT_DUPLICATES, &je);
    *out = (kq_api_request){.api = api,
                            .n = 1,
                            .max_tokens = api == KQ_API_COMPLETIONS ? 16 : SIZE_MAX,
                            .add_special_tokens = true,
                            .sampling = limits->sampling};
    if (!root)
        return kq_api_fail(e, 400, NULL, "invalid_json",
                           "The body is not the JSON that is expected: %.150s (line %d, column %d)", je.text,
                           je.line, je.column);
    bool ok = json_is_object(root)
                  ? parse_object(out, root, limits, e)
                  : kq_api_fail(e, 400, NULL, "invalid_json", "The body is not a JSON object");
    json_decref(root);
    if (!ok)
        kq_api_request_clear(out);
    return ok;
}

void kq_api_request_clear(kq_api_request *r)
{
    for (size_t i = 0; i < r->n_prompt; i++) {
        kq_free(r->prompt[i].text);
        kq_free(r->prompt[i].ids);
        kq_free(r->prompt[i].offset);
    }
    for (size_t i = 0; i < r->n_stop; i++)
        kq_free(r->stop[i]);
    kq_free(r->prompt);
    json_decref(r->messages);
    json_decref(r->tools);
    json_decref(r->template_arguments);
    kq_free(r->bias);
    *r = (kq_api_request){0};
}
