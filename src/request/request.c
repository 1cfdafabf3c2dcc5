/* Requests of the OpenAI API: a table of all fields, a reader for each, and the rules between fields. One
 * table, so that every field of the API is known here: an unknown one is refused, because it might change the
 * answer. */
#include "request/internal.h"

#include <stddef.h>
#include <string.h>

#include "base/mem.h"
#include "request/messages.h"

/* A request while it is read: what is known so far, and what can only be settled when all fields are there.
 */
typedef struct draft {
    kq_api_request r;
    const kq_api_limits *lim;
    kq_api_error *e;
    json_int_t best_of;                           /* 0: absent */
    json_int_t max_tokens, max_completion_tokens; /* -2: absent */
    double repetition, repeat;                    /* two names of one penalty; 0: absent */
    bool has_temperature, has_top, has_stream_options, no_tools, one_tool_call, has_template_fields;
    int generation_prompt; /* -1: absent */
} draft;

typedef struct field field;
/* Reads a field's value into the draft; false with *d->e. The value is never null: null counts as absent. */
typedef bool field_reader(draft *d, const field *f, json_t *v);
struct field {
    const char *name;
    unsigned apis; /* a bit each: 1 << kq_api */
    field_reader *read;
    /* for readers of plain values: where the value goes in the draft, and its range */
    size_t offset;
    double min, max;
};

/* ---- readers of plain values ---- */

static bool read_flag(draft *d, const field *f, json_t *v)
{
    return kq_value_bool(v, f->name, (bool *)((char *)d + f->offset), d->e);
}

static bool read_real(draft *d, const field *f, json_t *v)
{
    return kq_value_real(v, f->name, f->min, f->max, (double *)((char *)d + f->offset), d->e);
}

/* max_tokens and max_completion_tokens; -1: as many as the context holds. The bound is not in the table,
 * because a double cannot hold it. */
static bool read_length(draft *d, const field *f, json_t *v)
{
    return kq_value_int(v, f->name, -1, INT64_MAX, (json_int_t *)((char *)d + f->offset), d->e);
}

/* ---- readers of the input ---- */

bool kq_api_model_known(const kq_api_limits *lim, const char *name)
{
    bool known = lim->any_model || !strcmp(name, lim->model);
    for (size_t i = 0; i < sizeof lim->other_name / sizeof *lim->other_name; i++)
        known = known || (lim->other_name[i] && !strcmp(name, lim->other_name[i]));
    return known;
}

static bool read_model(draft *d, const field *f, json_t *v)
{
    const char *name = json_string_value(v);
    if (!name)
        return kq_value_bad(d->e, f->name, "a string");
    if (!kq_api_model_known(d->lim, name))
        return kq_api_fail(d->e, 404, f->name, "model_not_found",
                           "The model '%.100s' does not exist; this server has '%.100s'.", name,
                           d->lim->model);
    return true;
}

static bool read_prompt(draft *d, const field *f, json_t *v)
{
    if (d->r.api == KQ_API_TOKENIZE && !json_is_string(v))
        return kq_value_bad(d->e, f->name, "a string");
    return kq_value_prompts(v, f->name, d->lim, &d->r, d->e);
}

/* The ids that are to become text: any number of them, none too. */
static bool read_tokens(draft *d, const field *f, json_t *v)
{
    const kq_api_limits any_length = {.vocab_size = d->lim->vocab_size, .context = SIZE_MAX};
    if (!json_is_array(v))
        return kq_value_bad(d->e, f->name, "a list of token ids");
    if (!(d->r.prompt = kq_calloc(1, sizeof *d->r.prompt)))
        return kq_api_no_memory(d->e);
    d->r.n_prompt = 1;
    return !json_array_size(v) || kq_value_ids(v, f->name, &any_length, d->r.prompt, d->e);
}

static bool read_messages(draft *d, const field *f, json_t *v)
{
    (void)f;
    return kq_api_messages(v, &d->r.messages, d->e);
}

static bool read_tools(draft *d, const field *f, json_t *v)
{
    (void)f;
    return kq_api_tools(v, &d->r.tools, d->e);
}

/* OpenAI's "auto" is what happens; "none" leaves the tools out of the prompt. The model cannot be made to
 * call one. */
static bool read_tool_choice(draft *d, const field *f, json_t *v)
{
    const char *choice = json_string_value(v);
    d->no_tools = choice && !strcmp(choice, "none");
    if (d->no_tools || (choice && !strcmp(choice, "auto")))
        return true;
    return kq_api_fail(d->e, 400, f->name, "unsupported_value",
                       "'tool_choice': only \"auto\" and \"none\" are supported");
}

static bool read_parallel_tool_calls(draft *d, const field *f, json_t *v)
{
    bool parallel = true;
    const bool ok = kq_value_bool(v, f->name, &parallel, d->e);
    d->one_tool_call = !parallel;
    return ok;
}

/* Variables for the chat template. Those that the server sets cannot be set by a request. */
static bool read_template_arguments(draft *d, const field *f, json_t *v)
{
    static const char *const ours[] = {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "bos_token", "eos_token"};
    d->has_template_fields = true;
    if (!json_is_object(v))
        return kq_value_bad(d->e, f->name, "an object");
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (json_object_get(v, ours[i]))
            return kq_api_fail(d->e, 400, f->name, "invalid_value", "'%.50s': %s cannot be set there",
                               f->name, ours[i]);
    d->r.template_arguments = json_incref(v);
    return true;
}

static bool read_generation_prompt(draft *d, const field *f, json_t *v)
{
    bool on = true;
    const bool ok = kq_value_bool(v, f->name, &on, d->e);
    d->has_template_fields = true;
    d->generation_prompt = on;
    return ok;
}

static bool read_continue(draft *d, const field *f, json_t *v)
{
    d->has_template_fields = true;
    return read_flag(d, f, v);
}

/* ---- readers of what the answer is to be ---- */

static bool read_n(draft *d, const field *f, json_t *v)
{
    json_int_t n = 0;
    return kq_value_int(v, f->name, 1, (json_int_t)d->lim->max_choices, &n, d->e) &&
           (d->r.n = (size_t)n, true);
}

static bool read_best_of(draft *d, const field *f, json_t *v)
{
    return kq_value_int(v, f->name, 1, (json_int_t)d->lim->max_choices, &d->best_of, d->e);
}

static bool read_stream_options(draft *d, const field *f, json_t *v)
{
    const char *name;
    json_t *option;
    d->has_stream_options = true;
    if (!json_is_object(v))
        return kq_value_bad(d->e, f->name, "an object");
    json_object_foreach(v, name, option) {
        const bool usage = !strcmp(name, "include_usage");
        /* include_obfuscation pads events to a random length against listeners; the answer is the same
         * without it */
        bool padded;
        if (!usage && strcmp(name, "include_obfuscation"))
            return kq_api_fail(d->e, 400, f->name, "unknown_parameter",
                               "stream_options: the field '%.50s' is not supported", name);
        if (!json_is_null(option) &&
            !kq_value_bool(option,
                           usage ? "stream_options.include_usage" : "stream_options.include_obfuscation",
                           usage ? &d->r.include_usage : &padded, d->e))
            return false;
    }
    return true;
}

static bool read_n_top(draft *d, const field *f, json_t *v)
{
    json_int_t n = 0;
    d->has_top = true;
    return kq_value_int(v, f->name, 0, KQ_API_MAX_TOP, &n, d->e) && (d->r.n_top = (int)n, true);
}

/* Of completions: the number of most likely tokens, or false. Of chat it is a flag. */
static bool read_logprobs(draft *d, const field *f, json_t *v)
{
    if (json_is_false(v))
        return true;
    d->r.logprobs = true;
    return read_n_top(d, f, v);
}

static bool read_stop(draft *d, const field *f, json_t *v)
{
    return kq_value_stop(v, f->name, &d->r, d->e);
}

static bool read_stop_ids(draft *d, const field *f, json_t *v)
{
    return kq_value_stop_ids(v, f->name, d->lim, &d->r, d->e);
}

static bool read_format(draft *d, const field *f, json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type || strcmp(type, "text"))
        return kq_api_fail(d->e, 400, f->name, "unsupported_value",
                           "response_format: only {\"type\": \"text\"} is supported");
    return true;
}

/* ---- readers of sampling ---- */

static bool read_seed(draft *d, const field *f, json_t *v)
{
    json_int_t seed = 0;
    d->r.has_seed = true;
    return kq_value_int(v, f->name, INT64_MIN, INT64_MAX, &seed, d->e) &&
           (d->r.sampling.seed = (uint64_t)seed, true);
}

static bool read_temperature(draft *d, const field *f, json_t *v)
{
    d->has_temperature = true;
    return read_real(d, f, v);
}

/* -1, as vLLM writes it, and 0: all tokens. */
static bool read_top_k(draft *d, const field *f, json_t *v)
{
    json_int_t k = 0;
    return kq_value_int(v, f->name, -1, INT32_MAX, &k, d->e) &&
           (d->r.sampling.top_k = k < 0 ? 0 : (int)k, true);
}

static bool read_bias(draft *d, const field *f, json_t *v)
{
    return kq_value_bias(v, f->name, d->lim, &d->r, d->e);
}

/* ---- fields without effect, and fields that are refused by name ---- */

static bool accept_without_effect(draft *d, const field *f, json_t *v)
{
    (void)d, (void)f, (void)v;
    return true;
}

/* A feature that this server does not have. A value that asks for nothing is accepted: clients send it. */
static bool refuse_feature(draft *d, const field *f, json_t *v)
{
    const json_t *first = json_array_get(v, 0);
    const bool empty = json_is_false(v) || (json_is_string(v) && !json_string_length(v)) ||
                       (json_is_array(v) && !json_array_size(v));
    const bool text_only = !strcmp(f->name, "modalities") && json_array_size(v) == 1 &&
                           json_is_string(first) && !strcmp(json_string_value(first), "text");
    if (empty || text_only)
        return true;
    return kq_api_fail(d->e, 400, f->name, "unsupported_parameter", "'%.50s' is not supported by this server",
                       f->name);
}

/* ---- the table ---- */

enum {
    C = 1 << KQ_API_COMPLETIONS,
    H = 1 << KQ_API_CHAT,
    T = 1 << KQ_API_TOKENIZE,
    D = 1 << KQ_API_DETOKENIZE
};
/* FIELD: its reader knows where the value goes. MEMBER: the value goes to this member of the draft. NUMBER:
 * the value goes there, and is from min to max. */
#define FIELD(name, apis, read)   \
    {                             \
        name, apis, read, 0, 0, 0 \
    }
#define MEMBER(name, apis, read, member)                \
    {                                                   \
        name, apis, read, offsetof(draft, member), 0, 0 \
    }
#define NUMBER(name, apis, read, member, min, max)          \
    {                                                       \
        name, apis, read, offsetof(draft, member), min, max \
    }

static const field fields[] = {
    FIELD("model", C | H | T | D, read_model),
    FIELD("prompt", C | T, read_prompt),
    FIELD("messages", H | T, read_messages),
    FIELD("tokens", D, read_tokens),
    FIELD("n", C | H, read_n),
    FIELD("best_of", C, read_best_of),
    MEMBER("max_tokens", C | H, read_length, max_tokens),
    MEMBER("max_completion_tokens", H, read_length, max_completion_tokens),
    MEMBER("echo", C, read_flag, r.echo),
    MEMBER("stream", C | H, read_flag, r.stream),
    FIELD("stream_options", C | H, read_stream_options),
    FIELD("logprobs", C, read_logprobs),
    MEMBER("logprobs", H, read_flag, r.logprobs),
    FIELD("top_logprobs", H, read_n_top),
    FIELD("stop", C | H, read_stop),
    FIELD("stop_token_ids", C | H, read_stop_ids),
    FIELD("seed", C | H, read_seed),
    NUMBER("temperature", C | H, read_temperature, r.sampling.temperature, 0, 2),
    NUMBER("top_p", C | H, read_real, r.sampling.top_p, 0, 1),
    FIELD("top_k", C | H, read_top_k),
    NUMBER("min_p", C | H, read_real, r.sampling.min_p, 0, 1),
    NUMBER("repetition_penalty", C | H, read_real, repetition, 0.01, 100),
    NUMBER("repeat_penalty", C | H, read_real, repeat, 0.01, 100),
    FIELD("tools", H | T, read_tools),
    FIELD("tool_choice", H, read_tool_choice),
    FIELD("parallel_tool_calls", H, read_parallel_tool_calls),
    FIELD("chat_template_kwargs", H | T, read_template_arguments),
    FIELD("add_generation_prompt", H | T, read_generation_prompt),
    MEMBER("continue_final_message", H | T, read_continue, r.continue_final_message),
    NUMBER("frequency_penalty", C | H, read_real, r.frequency_penalty, -2, 2),
    NUMBER("presence_penalty", C | H, read_real, r.presence_penalty, -2, 2),
    FIELD("logit_bias", C | H, read_bias),
    MEMBER("ignore_eos", C | H, read_flag, r.ignore_eos),
    MEMBER("add_special_tokens", C | T, read_flag, r.add_special_tokens),
    MEMBER("return_token_strs", T, read_flag, r.return_token_strs),
    FIELD("response_format", H, read_format),
    FIELD("user", C | H, accept_without_effect),
    FIELD("metadata", C | H, accept_without_effect),
    FIELD("safety_identifier", C | H, accept_without_effect),
    FIELD("prompt_cache_key", C | H, accept_without_effect),
    FIELD("prompt_cache_retention", C | H, accept_without_effect),
    FIELD("service_tier", C | H, accept_without_effect),
    FIELD("suffix", C, refuse_feature),
    FIELD("functions", H, refuse_feature),
    FIELD("function_call", H, refuse_feature),
    FIELD("modalities", H, refuse_feature),
    FIELD("audio", H, refuse_feature),
    FIELD("prediction", H, refuse_feature),
    FIELD("reasoning_effort", H, refuse_feature),
    FIELD("store", H, refuse_feature),
    FIELD("verbosity", H, refuse_feature),
    FIELD("web_search_options", H, refuse_feature),
};

static const field *find_field(kq_api api, const char *name)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].apis >> api & 1 && !strcmp(fields[i].name, name))
            return &fields[i];
    return NULL;
}

/* ---- rules between fields ---- */

/* One penalty under two names. The model's own recommended penalty belongs to its recommended sampling: a
 * request for temperature 0 asks for the most likely token, which that penalty must not change. */
static bool settle_penalty(draft *d)
{
    kq_sampling *sampling = &d->r.sampling;
    if (d->repetition > 0 && d->repeat > 0 && d->repetition != d->repeat)
        return kq_api_fail(d->e, 400, "repeat_penalty", "invalid_value",
                           "'repetition_penalty' and 'repeat_penalty' are the same, and differ");
    if (d->repetition > 0 || d->repeat > 0)
        sampling->repetition_penalty = d->repetition > 0 ? d->repetition : d->repeat;
    else if (d->has_temperature && !(sampling->temperature > 0))
        sampling->repetition_penalty = 0;
    return true;
}

/* vLLM's rule for continue_final_message, except that add_generation_prompt need not be set to false. */
static bool check_continue(const draft *d)
{
    const json_t *last = json_array_get(d->r.messages, json_array_size(d->r.messages) - 1);
    if (d->generation_prompt == 1)
        return kq_api_fail(d->e, 400, "continue_final_message", "invalid_value",
                           "'continue_final_message' and 'add_generation_prompt' exclude each other");
    if (strcmp(json_string_value(json_object_get(last, "role")), "assistant"))
        return kq_api_fail(d->e, 400, "continue_final_message", "invalid_value",
                           "'continue_final_message': the last message is not the assistant's");
    return true;
}

static bool settle_template(draft *d)
{
    kq_api_request *r = &d->r;
    if (!r->messages && (d->has_template_fields || r->tools))
        return kq_api_fail(d->e, 400, "messages", "missing_required_parameter",
                           "fields of a chat template go with 'messages'");
    if (r->continue_final_message && !check_continue(d))
        return false;
    r->add_generation_prompt = d->generation_prompt < 0 ? !r->continue_final_message : d->generation_prompt;
    if (r->tools && d->one_tool_call)
        return kq_api_fail(d->e, 400, "parallel_tool_calls", "unsupported_value",
                           "'parallel_tool_calls': the model cannot be held to one call");
    if (d->no_tools) {
        json_decref(r->tools);
        r->tools = NULL;
    }
    return true;
}

static bool check_input(const draft *d)
{
    const kq_api_request *r = &d->r;
    static const char code[] = "missing_required_parameter";
    if (r->api == KQ_API_CHAT && !r->messages)
        return kq_api_fail(d->e, 400, "messages", code, "'messages' is missing");
    if (r->api == KQ_API_COMPLETIONS && !r->n_prompt)
        return kq_api_fail(d->e, 400, "prompt", code, "'prompt' is missing");
    if (r->api == KQ_API_DETOKENIZE && !r->n_prompt)
        return kq_api_fail(d->e, 400, "tokens", code, "'tokens' is missing");
    if (r->api == KQ_API_TOKENIZE && (r->n_prompt != 0) == (r->messages != NULL))
        return kq_api_fail(d->e, 400, "prompt", code, "either 'prompt' or 'messages' is needed");
    return true;
}

static bool check_answer(const draft *d)
{
    const kq_api_request *r = &d->r;
    if (d->best_of && (size_t)d->best_of != r->n)
        return kq_api_fail(d->e, 400, "best_of", "unsupported_value",
                           "'best_of' other than n is not supported");
    if (d->has_stream_options && !r->stream)
        return kq_api_fail(d->e, 400, "stream_options", "invalid_value",
                           "'stream_options' goes with \"stream\": true");
    if (r->api == KQ_API_CHAT && d->has_top && !r->logprobs)
        return kq_api_fail(d->e, 400, "top_logprobs", "invalid_value",
                           "'top_logprobs' goes with \"logprobs\": true");
    if (r->n_prompt && r->n > d->lim->max_choices / r->n_prompt)
        return kq_api_fail(d->e, 400, "n", "invalid_value",
                           "%zu prompts with n = %zu are more than the %zu answers one request may have",
                           r->n_prompt, r->n, d->lim->max_choices);
    return true;
}

static bool parse_object(draft *d, json_t *root)
{
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        const field *f = find_field(d->r.api, key);
        if (!f)
            return kq_api_fail(d->e, 400, key, "unknown_parameter",
                               "Unrecognized request argument supplied: %.50s", key);
        if (!json_is_null(v) && !f->read(d, f, v))
            return false;
    }
    /* max_completion_tokens is the newer name, and counts */
    const json_int_t asked = d->max_completion_tokens > -2 ? d->max_completion_tokens : d->max_tokens;
    if (asked > -2)
        d->r.max_tokens = asked < 0 ? SIZE_MAX : (size_t)asked;
    return check_input(d) && settle_penalty(d) && settle_template(d) && check_answer(d);
}

bool kq_api_parse(kq_api api, const char *body, size_t size, const kq_api_limits *limits, kq_api_request *out,
                  kq_api_error *e)
{
    json_error_t je;
    json_t *root = json_loadb(body, size, JSON_REJECT_DUPLICATES, &je);
    draft d = {.r = {.api = api,
                     .n = 1,
                     .max_tokens = api == KQ_API_COMPLETIONS ? 16 : SIZE_MAX,
                     .add_special_tokens = true,
                     .sampling = limits->sampling},
               .lim = limits,
               .e = e,
               .max_tokens = -2,
               .max_completion_tokens = -2,
               .generation_prompt = -1};
    *out = (kq_api_request){0};
    if (!root)
        return kq_api_fail(e, 400, NULL, "invalid_json",
                           "The body is not the JSON that is expected: %.150s (line %d, column %d)", je.text,
                           je.line, je.column);
    bool ok = json_is_object(root)
                  ? parse_object(&d, root)
                  : kq_api_fail(e, 400, NULL, "invalid_json", "The body is not a JSON object");
    json_decref(root);
    if (ok)
        *out = d.r;
    else
        kq_api_request_clear(&d.r);
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
