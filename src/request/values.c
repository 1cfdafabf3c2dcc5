/* Values of a request's fields, each checked before it is used. They are apart from format/json.h's getters,
 * because an error of a request names the field in the words of the OpenAI API and has an HTTP status and a
 * code. */
#include "request/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool kq_value_bad(kq_api_error *e, const char *key, const char *expected)
{
    return kq_api_fail(e, 400, key, "invalid_value", "'%.50s': %s is expected", key, expected);
}

static char *copy_text(const char *s, size_t size)
{
    char *out = kq_alloc(size + 1, 1);
    if (out) {
        memcpy(out, s, size);
        out[size] = 0;
    }
    return out;
}

bool kq_value_bool(const json_t *v, const char *key, bool *out, kq_api_error *e)
{
    if (!json_is_boolean(v))
        return kq_value_bad(e, key, "true or false");
    *out = json_is_true(v);
    return true;
}

bool kq_value_int(const json_t *v, const char *key, json_int_t min, json_int_t max, json_int_t *out,
                  kq_api_error *e)
{
    char wanted[96];
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
        snprintf(wanted, sizeof wanted, "a whole number from %lld to %lld", (long long)min, (long long)max);
        return kq_value_bad(e, key, wanted);
    }
    *out = json_integer_value(v);
    return true;
}

bool kq_value_real(const json_t *v, const char *key, double min, double max, double *out, kq_api_error *e)
{
    char wanted[96];
    if (!json_is_number(v) || !(json_number_value(v) >= min && json_number_value(v) <= max)) {
        snprintf(wanted, sizeof wanted, "a number from %g to %g", min, max);
        return kq_value_bad(e, key, wanted);
    }
    *out = json_number_value(v);
    return true;
}

bool kq_value_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_prompt *p, kq_api_error *e)
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
        return kq_api_no_memory(e);
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        json_int_t id = 0;
        if (!kq_value_int(json_array_get(v, i), key, 0, (json_int_t)lim->vocab_size - 1, &id, e))
            return false;
        p->ids[i] = (int32_t)id;
    }
    return true;
}

static bool get_text(const json_t *v, kq_prompt *p, kq_api_error *e)
{
    if (!(p->text = copy_text(json_string_value(v), json_string_length(v))))
        return kq_api_no_memory(e);
    p->size = json_string_length(v);
    return true;
}

bool kq_value_prompts(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                      kq_api_error *e)
{
    static const char wanted[] = "a string, a list of strings, a list of token ids or a list of such lists";
    const bool many =
        json_is_array(v) && (json_is_string(json_array_get(v, 0)) || json_is_array(json_array_get(v, 0)));
    const size_t n = many ? json_array_size(v) : 1;
    if (!many && !json_is_string(v) && !json_is_array(v))
        return kq_value_bad(e, key, wanted);
    if (n > lim->max_choices)
        return kq_api_fail(e, 400, key, "too_many_prompts",
                           "'%.50s' has %zu prompts; at most %zu are taken in one request", key, n,
                           lim->max_choices);
    if (!(r->prompt = kq_calloc(n, sizeof *r->prompt)))
        return kq_api_no_memory(e);
    r->n_prompt = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *prompt = many ? json_array_get(v, i) : v;
        if (json_is_string(prompt)  ? !get_text(prompt, &r->prompt[i], e)
            : json_is_array(prompt) ? !kq_value_ids(prompt, key, lim, &r->prompt[i], e)
                                    : !kq_value_bad(e, key, wanted))
            return false;
    }
    return true;
}

bool kq_value_stop(const json_t *v, const char *key, kq_api_request *r, kq_api_error *e)
{
    const size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > KQ_API_MAX_STOP)
        return kq_api_fail(e, 400, key, "invalid_value", "'stop' has %zu strings; at most %d are taken", n,
                           KQ_API_MAX_STOP);
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(text) || !json_string_length(text) ||
            json_string_length(text) > KQ_API_MAX_STOP_BYTES)
            return kq_value_bad(e, key, "a string, or a list of strings, each of 1 to 512 bytes,");
        if (!(r->stop[r->n_stop] = copy_text(json_string_value(text), json_string_length(text))))
            return kq_api_no_memory(e);
        r->n_stop++;
    }
    return true;
}

bool kq_value_stop_ids(const json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r,
                       kq_api_error *e)
{
    if (!json_is_array(v) || json_array_size(v) > KQ_API_MAX_STOP)
        return kq_value_bad(e, key, "a list of at most 16 token ids");
    for (size_t i = 0; i < json_array_size(v); i++) {
        json_int_t id = 0;
        if (!kq_value_int(json_array_get(v, i), key, 0, (json_int_t)lim->vocab_size - 1, &id, e))
            return false;
        r->stop_id[r->n_stop_id++] = (int32_t)id;
    }
    return true;
}

bool kq_value_bias(json_t *v, const char *key, const kq_api_limits *lim, kq_api_request *r, kq_api_error *e)
{
    const char *name;
    json_t *bias;
    if (!json_is_object(v) || json_object_size(v) > KQ_API_MAX_BIAS)
        return kq_value_bad(e, key, "an object of at most 1024 entries, token id: number from -100 to 100,");
    if (!(r->bias = kq_alloc(json_object_size(v), sizeof *r->bias)))
        return kq_api_no_memory(e);
    json_object_foreach(v, name, bias) {
        double value = 0;
        unsigned long id = 0;
        size_t digits = strspn(name, "0123456789");
        if (digits && digits < 10 && !name[digits])
            id = strtoul(name, NULL, 10);
        else
            return kq_value_bad(e, key, "a token id as key");
        if (id >= lim->vocab_size)
            return kq_value_bad(e, key, "a token id below the size of the vocabulary");
        if (!kq_value_real(bias, key, -100, 100, &value, e))
            return false;
        r->bias[r->n_bias++] = (kq_bias){(int32_t)id, (float)value};
    }
    return true;
}
