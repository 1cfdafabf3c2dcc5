/* rope_theta, rope_scaling and rope_parameters of a config.json: read as transformers 5 reads them
 * (modeling_rope_utils.py), written for 4 and 5. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/warn.h"
#include "source/rope.h"

typedef struct reader {
    kq_json_node root, rope; /* rope: the object that counts; its value is NULL where there is none */
    kq_config *cfg;
    kq_error *err;
} reader;

/* A finite number that a scaling of this type must have. */
static kq_status required(const reader *r, const char *key, double *out)
{
    return kq_json_get_number(kq_json_field(&r->rope, key), KQ_JSON_REQUIRED, -INFINITY, INFINITY, out,
                              r->err);
}

/* Absent or null: *out stays. */
static kq_status optional(const reader *r, const char *key, double *out)
{
    return kq_json_get_number(kq_json_field(&r->rope, key), KQ_JSON_OPTIONAL, -INFINITY, INFINITY, out,
                              r->err);
}

/* The one at the top counts first, then the one inside; without either it is the context itself. */
static kq_status read_original(const reader *r)
{
    static const char key[] = "original_max_position_embeddings";
    const kq_json_node top = kq_json_field(&r->root, key),
                       node = top.value ? top : kq_json_field(&r->rope, key);
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    s->original_max_position = r->cfg->max_position;
    if (!node.value)
        return KQ_OK;
    const double x = json_number_value(node.value); /* 8192.0 counts, as in Python; what is no number is 0 */
    if (!(x >= 1) || x > 9e15 || x != floor(x))
        return kq_json_unexpected(node, "a whole number of at least 1", r->err);
    s->original_max_position = (size_t)x;
    return KQ_OK;
}

static void warn_factor(const reader *r)
{
    if (r->cfg->rope_scaling.factor > 0 &&
        r->cfg->rope_scaling.factor < 1) /* what is not positive is refused */
        kq_warn("%s: %s has factor %g, expected at least 1; it is used as it is", r->root.file, r->rope.key,
                r->cfg->rope_scaling.factor);
}

static kq_status read_llama3(const reader *r)
{
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    kq_status status;
    s->kind = KQ_ROPE_LLAMA3;
    if ((status = required(r, "factor", &s->factor)) ||
        (status = required(r, "low_freq_factor", &s->low_freq_factor)) ||
        (status = required(r, "high_freq_factor", &s->high_freq_factor)))
        return status;
    return read_original(r);
}

static kq_status read_linear(const reader *r)
{
    r->cfg->rope_scaling.kind = KQ_ROPE_LINEAR;
    kq_status status = required(r, "factor", &r->cfg->rope_scaling.factor);
    if (!status)
        warn_factor(r);
    return status;
}

static kq_status read_dynamic(const reader *r)
{
    r->cfg->rope_scaling.kind = KQ_ROPE_DYNAMIC;
    r->cfg->rope_scaling.bounded = true;
    return required(r, "factor", &r->cfg->rope_scaling.factor);
}

static kq_status read_yarn(const reader *r)
{
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    const json_t *factor = json_object_get(r->rope.value, "factor"),
                 *truncate = json_object_get(r->rope.value, "truncate");
    double attention = NAN, mscale = 0, mscale_all_dim = 0;
    kq_status status;
    s->kind = KQ_ROPE_YARN;
    if ((status = read_original(r)))
        return status;
    const double implied = (double)r->cfg->max_position / (double)s->original_max_position;
    s->factor = implied; /* what transformers takes for a factor that is null */
    if (!json_is_null(factor) && (status = required(r, "factor", &s->factor)))
        return status;
    if ((status = optional(r, "beta_fast", &s->beta_fast)) ||
        (status = optional(r, "beta_slow", &s->beta_slow)) ||
        (status = optional(r, "attention_factor", &attention)) || (status = optional(r, "mscale", &mscale)) ||
        (status = optional(r, "mscale_all_dim", &mscale_all_dim)))
        return status;
    s->beta_fast = s->beta_fast != 0 ? s->beta_fast : 32;
    s->beta_slow = s->beta_slow != 0 ? s->beta_slow : 1;
    s->truncate = truncate ? kq_json_truthy(truncate) : true;
    if (isnan(attention))
        attention = mscale != 0 && mscale_all_dim != 0
                        ? kq_rope_mscale(s->factor, mscale) / kq_rope_mscale(s->factor, mscale_all_dim)
                        : kq_rope_mscale(s->factor, 1);
    if (!(attention > 0))
        return kq_fail(r->err, KQ_E_FORMAT,
                       "%s: %s gives the attention factor %g, expected a positive number", r->root.file,
                       r->rope.key, attention);
    s->attention_factor = attention;
    warn_factor(r);
    if (s->factor != implied && implied != 1)
        kq_warn("%s: %s has factor %g, but max_position_embeddings %zu is %g times "
                "original_max_position_embeddings %zu; the factor is used as it is, and "
                "the context is %zu tokens (raise max_position_embeddings for longer texts)",
                r->root.file, r->rope.key, s->factor, r->cfg->max_position, implied, s->original_max_position,
                r->cfg->max_position);
    return KQ_OK;
}

static kq_status read_table(const reader *r, const char *key, float *out)
{
    const kq_json_node list = kq_json_field(&r->rope, key);
    const size_t half = r->cfg->head_dim / 2;
    char expected[80];
    snprintf(expected, sizeof expected, "a list of %zu numbers, half of the head's size,", half);
    if (!json_is_array(list.value) || json_array_size(list.value) != half)
        return kq_json_unexpected(list, expected, r->err);
    if (half > KQ_MAX_ROPE_PAIRS)
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s.%s has %zu numbers, kronq takes %d", r->root.file,
                       r->rope.key, key, half, KQ_MAX_ROPE_PAIRS);
    for (size_t i = 0; i < half; i++) {
        double x = 0;
        kq_status status =
            kq_json_get_number(kq_json_entry(&list, i), KQ_JSON_REQUIRED, -INFINITY, INFINITY, &x, r->err);
        if (status)
            return status;
        out[i] = (float)x;
    }
    return KQ_OK;
}

/* One table up to the original context, another beyond: kronq keeps to the first, unless they are the
 * same. */
static kq_status read_longrope(const reader *r)
{
    kq_config *cfg = r->cfg;
    kq_rope_scaling *s = &cfg->rope_scaling;
    float beyond[KQ_MAX_ROPE_PAIRS];
    double attention = NAN, factor = NAN;
    kq_status status;
    s->kind = KQ_ROPE_TABLE;
    if ((status = read_original(r)) || (status = read_table(r, "short_factor", s->divisor)) ||
        (status = read_table(r, "long_factor", beyond)) ||
        (status = optional(r, "attention_factor", &attention)) || (status = optional(r, "factor", &factor)))
        return status;
    const double original = (double)s->original_max_position;
    if (isnan(factor))
        factor = (double)cfg->max_position / original;
    if (isnan(attention))
        attention = factor <= 1 ? 1 : sqrt(1 + log(factor) / log(original));
    if (!(attention > 0) || !isfinite(attention))
        return kq_fail(r->err, KQ_E_FORMAT,
                       "%s: %s gives the attention factor %g, expected a positive number", r->root.file,
                       r->rope.key, attention);
    s->attention_factor = attention;
    s->bounded = memcmp(s->divisor, beyond, cfg->head_dim / 2 * sizeof *beyond) != 0;
    if (s->bounded && cfg->max_position > s->original_max_position) {
        kq_warn("%s: %s of type longrope has other frequencies beyond %zu tokens, which kronq does not do: "
                "it takes that for the model's context "
                "instead of %zu",
                r->root.file, r->rope.key, s->original_max_position, cfg->max_position);
        cfg->max_position = s->original_max_position;
    }
    return KQ_OK;
}

static const struct rope_type {
    const char *name;
    kq_status (*read)(const reader *r);
    const char *keys;
} rope_types[] = {
    {"default", NULL, ""},
    {"llama3", read_llama3, "factor,low_freq_factor,high_freq_factor,original_max_position_embeddings"},
    {"linear", read_linear, "factor"},
    {"dynamic", read_dynamic, "factor"},
    {"yarn", read_yarn,
     "factor,original_max_position_embeddings,attention_factor,beta_fast,beta_slow,mscale,mscale_all_dim,"
     "truncate"},
    {"longrope", read_longrope,
     "factor,original_max_position_embeddings,attention_factor,short_factor,long_factor"},
};
enum { N_TYPE = sizeof rope_types / sizeof *rope_types };

/* Is it one of a comma-separated list? */
static bool listed(const char *list, const char *key)
{
    const size_t n = strlen(key);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, key, n) && (!at[n] || at[n] == ','))
            return true;
    return false;
}

/* Keys that mean nothing to this type, as transformers warns of them; values that are objects are
 * per-layer scalings, which it passes over. */
static kq_status check_keys(const reader *r, const struct rope_type *type)
{
    static const char everywhere[] =
        "rope_type,type,rope_theta,partial_rotary_factor,original_max_position_embeddings";
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)r->rope.value, key, value) {
        if (json_is_object(value))
            return kq_fail(
                r->err, KQ_E_UNSUPPORTED,
                "%s: %s.%.100s is an object: rotary embeddings that differ by layer are not supported",
                r->root.file, r->rope.key, key);
        if (!listed(type->keys, key) && !listed(everywhere, key))
            kq_warn("%s: %s.%.100s means nothing to type %s; it is passed over", r->root.file, r->rope.key,
                    key, type->name);
    }
    return KQ_OK;
}

static kq_status find_type(const reader *r, const struct rope_type **out)
{
    const json_t *name = json_object_get(r->rope.value, "rope_type");
    *out = &rope_types[0];
    if (!name)
        name = json_object_get(r->rope.value, "type");
    if (!name)
        return KQ_OK;
    if (!json_is_string(name))
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s has a rope_type that is no string", r->root.file,
                       r->rope.key);
    for (size_t i = 0; i < N_TYPE; i++)
        if (!strcmp(json_string_value(name), rope_types[i].name)) {
            *out = &rope_types[i];
            return KQ_OK;
        }
    return kq_fail(
        r->err, KQ_E_UNSUPPORTED,
        "%s: %s has rope_type \"%.100s\", kronq supports default, llama3, linear, dynamic, yarn and longrope",
        r->root.file, r->rope.key, json_string_value(name));
}

/* partial_rotary_factor, inside or at the top: of the default type transformers' models of these
 * architectures turn all of a head whatever it says. */
static kq_status read_partial(const reader *r, const struct rope_type *type)
{
    static const char key[] = "partial_rotary_factor";
    double partial = 1;
    kq_status status = optional(r, key, &partial);
    if (!status && !json_object_get(r->rope.value, key))
        status = kq_json_get_number(kq_json_field(&r->root, key), KQ_JSON_OPTIONAL, -INFINITY, INFINITY,
                                    &partial, r->err);
    if (status || partial == 1)
        return status;
    if (type->read)
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s is %g, kronq supports 1", r->root.file, key,
                       partial);
    kq_warn("%s: %s is %g; it is ignored, as in transformers' models of this architecture", r->root.file, key,
            partial);
    return KQ_OK;
}

/* rope_scaling, unless it is empty, comes before rope_parameters. */
static kq_status choose(reader *r)
{
    const kq_json_node scaling = kq_json_field(&r->root, "rope_scaling"),
                       parameters = kq_json_field(&r->root, "rope_parameters");
    const bool first = kq_json_truthy(scaling.value);
    r->rope = first || kq_json_absent(parameters) ? scaling : parameters;
    if (first && kq_json_truthy(parameters.value) && !json_equal(scaling.value, parameters.value))
        kq_warn("%s: rope_scaling and rope_parameters differ; rope_scaling is used, as transformers does",
                r->root.file);
    if (!first && kq_json_absent(parameters)) {
        r->rope.value = NULL;
        return KQ_OK;
    }
    return kq_json_get_object(r->rope, KQ_JSON_REQUIRED, NULL, r->err);
}

kq_status kq_rope_from_json(const kq_json_node *root, kq_config *cfg, kq_error *err)
{
    reader r = {.root = *root, .cfg = cfg, .err = err};
    const struct rope_type *type = &rope_types[0];
    kq_status status = choose(&r);
    cfg->rope_theta = 10000;
    cfg->rope_scaling = (kq_rope_scaling){0};
    if (status)
        return status;
    const kq_json_node inner = kq_json_field(&r.rope, "rope_theta"),
                       theta = inner.value ? inner : kq_json_field(&r.root, "rope_theta");
    if (theta.value &&
        (status = kq_json_get_number(theta, KQ_JSON_REQUIRED, -INFINITY, INFINITY, &cfg->rope_theta, err)))
        return status;
    if (r.rope.value && ((status = find_type(&r, &type)) || (status = check_keys(&r, type))))
        return status;
    if ((status = read_partial(&r, type)))
        return status;
    return type->read ? type->read(&r) : KQ_OK;
}

/* ---- writing ---- */

/* The double nearest to the shortest decimal that is the same f32, where x is one: what came through a
 * GGUF's F32 is written as it was meant. */
static json_t *number(double x)
{
    for (int digits = 1; (double)(float)x == x && digits < 10; digits++) {
        const double scale = pow(10, digits - 1 - floor(log10(fabs(x)))), y = round(x * scale) / scale;
        if ((float)y == (float)x)
            return json_real(y);
    }
    return json_real(x);
}

static json_t *table_json(const kq_config *cfg)
{
    const size_t half = cfg->head_dim / 2;
    float divisor[KQ_MAX_ROPE_PAIRS];
    json_t *list = json_array();
    if (!list || half > KQ_MAX_ROPE_PAIRS) {
        json_decref(list);
        return NULL;
    }
    kq_rope_divisors(cfg, divisor);
    for (size_t i = 0; i < half; i++)
        if (json_array_append_new(list, json_real((double)divisor[i]))) {
            json_decref(list);
            return NULL;
        }
    json_t *out =
        json_pack("{s:s,s:f,s:o,s:I,s:O,s:o}", "rope_type", "longrope", "factor", 1.0, "attention_factor",
                  number(kq_rope_attention(cfg)), "original_max_position_embeddings",
                  (json_int_t)cfg->max_position, "short_factor", list, "long_factor", list);
    return out;
}

json_t *kq_rope_to_json(const kq_config *cfg)
{
    const kq_rope_scaling *s = &cfg->rope_scaling;
    const json_int_t original = (json_int_t)s->original_max_position;
    const bool attention = kq_rope_attention(cfg) != 1;
    switch (attention && s->kind != KQ_ROPE_YARN ? KQ_ROPE_TABLE
                                                 : s->kind) { /* only these two have a word for it */
    case KQ_ROPE_PLAIN: return json_null();
    case KQ_ROPE_LINEAR: return json_pack("{s:s,s:o}", "rope_type", "linear", "factor", number(s->factor));
    case KQ_ROPE_DYNAMIC: return json_pack("{s:s,s:o}", "rope_type", "dynamic", "factor", number(s->factor));
    case KQ_ROPE_LLAMA3:
        return json_pack("{s:s,s:o,s:o,s:o,s:I}", "rope_type", "llama3", "factor", number(s->factor),
                         "low_freq_factor", number(s->low_freq_factor), "high_freq_factor",
                         number(s->high_freq_factor), "original_max_position_embeddings", original);
    case KQ_ROPE_YARN:
        return json_pack("{s:s,s:o,s:I,s:o,s:o,s:o,s:b}", "rope_type", "yarn", "factor", number(s->factor),
                         "original_max_position_embeddings", original, "attention_factor",
                         number(kq_rope_attention(cfg)), "beta_fast", number(s->beta_fast), "beta_slow",
                         number(s->beta_slow), "truncate", s->truncate);
    case KQ_ROPE_TABLE: break;
    }
    return table_json(cfg);
}
