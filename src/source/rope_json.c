/* rope_theta, rope_scaling and rope_parameters of a config.json: read as transformers 5 reads them
 * (modeling_rope_utils.py), written for 4 and 5. */
#include <math.h>
#include <string.h>

#include "base/warn.h"
#include "source/rope.h"

typedef struct reader {
    const json_t *root, *rope; /* rope: the object that counts; NULL: none */
    const char *path, *key;    /* key: its name */
    kq_config *cfg;
    kq_error *err;
} reader;

/* Python's "if value". */
static bool truthy(const json_t *v)
{
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_NULL:
    case JSON_FALSE: return false;
    case JSON_TRUE: return true;
    case JSON_STRING: return json_string_length(v) > 0;
    case JSON_INTEGER:
    case JSON_REAL: return json_number_value(v) != 0;
    case JSON_ARRAY: return json_array_size(v) > 0;
    case JSON_OBJECT: return json_object_size(v) > 0;
    }
    return false;
}

static kq_status as_number(const reader *r, const json_t *v, const char *key, double *out)
{
    if (!json_is_number(v) || !isfinite(json_number_value(v)))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s.%s is not a finite number", r->path, r->key, key);
    *out = json_number_value(v);
    return KQ_OK;
}

/* A number that must be there. */
static kq_status needed(const reader *r, const char *type, const char *key, double *out)
{
    const json_t *v = json_object_get(r->rope, key);
    if (!v)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s of type %s has no %s", r->path, r->key, type, key);
    return as_number(r, v, key, out);
}

/* Absent or null: the fallback stays. */
static kq_status optional(const reader *r, const char *key, double *out)
{
    const json_t *v = json_object_get(r->rope, key);
    return !v || json_is_null(v) ? KQ_OK : as_number(r, v, key, out);
}

/* The one at the top counts first, then the one inside; without either it is the context itself. */
static kq_status read_original(const reader *r)
{
    static const char key[] = "original_max_position_embeddings";
    const json_t *top = json_object_get(r->root, key), *v = top ? top : json_object_get(r->rope, key);
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    s->original_max_position = r->cfg->max_position;
    if (!v)
        return KQ_OK;
    const double x = json_is_number(v) ? json_number_value(v) : 0;
    if (!(x >= 1) || x > 9e15 || x != floor(x))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s is not a whole number of at least 1", r->path, key);
    s->original_max_position = (size_t)x;
    return KQ_OK;
}

static void warn_factor(const reader *r)
{
    if (r->cfg->rope_scaling.factor > 0 &&
        r->cfg->rope_scaling.factor < 1) /* what is not positive is refused */
        kq_warn("%s: %s has factor %g, expected at least 1; it is used as it is", r->path, r->key,
                r->cfg->rope_scaling.factor);
}

static kq_status read_llama3(const reader *r)
{
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    kq_status status;
    s->kind = KQ_ROPE_LLAMA3;
    if ((status = needed(r, "llama3", "factor", &s->factor)) ||
        (status = needed(r, "llama3", "low_freq_factor", &s->low_freq_factor)) ||
        (status = needed(r, "llama3", "high_freq_factor", &s->high_freq_factor)))
        return status;
    return read_original(r);
}

static kq_status read_linear(const reader *r)
{
    r->cfg->rope_scaling.kind = KQ_ROPE_LINEAR;
    kq_status status = needed(r, "linear", "factor", &r->cfg->rope_scaling.factor);
    if (!status)
        warn_factor(r);
    return status;
}

static kq_status read_dynamic(const reader *r)
{
    r->cfg->rope_scaling.kind = KQ_ROPE_DYNAMIC;
    r->cfg->rope_scaling.bounded = true;
    return needed(r, "dynamic", "factor", &r->cfg->rope_scaling.factor);
}

static kq_status read_yarn(const reader *r)
{
    kq_rope_scaling *s = &r->cfg->rope_scaling;
    const json_t *factor = json_object_get(r->rope, "factor"),
                 *truncate = json_object_get(r->rope, "truncate");
    double attention = NAN, mscale = 0, mscale_all_dim = 0;
    kq_status status;
    s->kind = KQ_ROPE_YARN;
    if ((status = read_original(r)))
        return status;
    const double implied = (double)r->cfg->max_position / (double)s->original_max_position;
    s->factor = implied; /* what transformers takes for a factor that is null */
    if (!json_is_null(factor) && (status = needed(r, "yarn", "factor", &s->factor)))
        return status;
    if ((status = optional(r, "beta_fast", &s->beta_fast)) ||
        (status = optional(r, "beta_slow", &s->beta_slow)) ||
        (status = optional(r, "attention_factor", &attention)) || (status = optional(r, "mscale", &mscale)) ||
        (status = optional(r, "mscale_all_dim", &mscale_all_dim)))
        return status;
    s->beta_fast = s->beta_fast != 0 ? s->beta_fast : 32;
    s->beta_slow = s->beta_slow != 0 ? s->beta_slow : 1;
    s->truncate = truncate ? truthy(truncate) : true;
    if (isnan(attention))
        attention = mscale != 0 && mscale_all_dim != 0
                        ? kq_rope_mscale(s->factor, mscale) / kq_rope_mscale(s->factor, mscale_all_dim)
                        : kq_rope_mscale(s->factor, 1);
    if (!(attention > 0))
        return kq_fail(r->err, KQ_E_FORMAT,
                       "%s: %s gives the attention factor %g, expected a positive number", r->path, r->key,
                       attention);
    s->attention_factor = attention;
    warn_factor(r);
    if (s->factor != implied && implied != 1)
        kq_warn("%s: %s has factor %g, but max_position_embeddings %zu is %g times "
                "original_max_position_embeddings %zu; the factor is used as it is, and "
                "the context is %zu tokens (raise max_position_embeddings for longer texts)",
                r->path, r->key, s->factor, r->cfg->max_position, implied, s->original_max_position,
                r->cfg->max_position);
    return KQ_OK;
}

static kq_status read_table(const reader *r, const char *key, float *out)
{
    const json_t *list = json_object_get(r->rope, key);
    const size_t half = r->cfg->head_dim / 2;
    if (!json_is_array(list) || json_array_size(list) != half)
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s.%s is not a list of %zu numbers, half of the head's size",
                       r->path, r->key, key, half);
    if (half > KQ_MAX_ROPE_PAIRS)
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s.%s has %zu numbers, kronq takes %d", r->path, r->key,
                       key, half, KQ_MAX_ROPE_PAIRS);
    for (size_t i = 0; i < half; i++) {
        double x = 0;
        kq_status status = as_number(r, json_array_get(list, i), key, &x);
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
                       "%s: %s gives the attention factor %g, expected a positive number", r->path, r->key,
                       attention);
    s->attention_factor = attention;
    s->bounded = memcmp(s->divisor, beyond, cfg->head_dim / 2 * sizeof *beyond) != 0;
    if (s->bounded && cfg->max_position > s->original_max_position) {
        kq_warn("%s: %s of type longrope has other frequencies beyond %zu tokens, which kronq does not do: "
                "it takes that for the model's context "
                "instead of %zu",
                r->path, r->key, s->original_max_position, cfg->max_position);
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
    json_object_foreach((json_t *)r->rope, key, value)
    {
        if (json_is_object(value))
            return kq_fail(
                r->err, KQ_E_UNSUPPORTED,
                "%s: %s.%.100s is an object: rotary embeddings that differ by layer are not supported",
                r->path, r->key, key);
        if (!listed(type->keys, key) && !listed(everywhere, key))
            kq_warn("%s: %s.%.100s means nothing to type %s; it is passed over", r->path, r->key, key,
                    type->name);
    }
    return KQ_OK;
}

static kq_status find_type(const reader *r, const struct rope_type **out)
{
    const json_t *name = json_object_get(r->rope, "rope_type");
    *out = &rope_types[0];
    if (!name)
        name = json_object_get(r->rope, "type");
    if (!name)
        return KQ_OK;
    if (!json_is_string(name))
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s has a rope_type that is no string", r->path, r->key);
    for (size_t i = 0; i < N_TYPE; i++)
        if (!strcmp(json_string_value(name), rope_types[i].name)) {
            *out = &rope_types[i];
            return KQ_OK;
        }
    return kq_fail(
        r->err, KQ_E_UNSUPPORTED,
        "%s: %s has rope_type \"%.100s\", kronq supports default, llama3, linear, dynamic, yarn and longrope",
        r->path, r->key, json_string_value(name));
}

/* partial_rotary_factor, inside or at the top: of the default type transformers' models of these
 * architectures turn all of a head whatever it says. */
static kq_status read_partial(const reader *r, const struct rope_type *type)
{
    static const char key[] = "partial_rotary_factor";
    const json_t *top = json_object_get(r->root, key);
    double partial = 1;
    kq_status status = optional(r, key, &partial);
    if (!status && top && !json_is_null(top) && !json_object_get(r->rope, key)) {
        if (!json_is_number(top))
            return kq_fail(r->err, KQ_E_FORMAT, "%s: %s is not a number", r->path, key);
        partial = json_number_value(top);
    }
    if (status || partial == 1)
        return status;
    if (type->read)
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: %s is %g, kronq supports 1", r->path, key, partial);
    kq_warn("%s: %s is %g; it is ignored, as in transformers' models of this architecture", r->path, key,
            partial);
    return KQ_OK;
}

/* rope_scaling, unless it is empty, comes before rope_parameters. */
static kq_status choose(reader *r)
{
    const json_t *scaling = json_object_get(r->root, "rope_scaling"),
                 *parameters = json_object_get(r->root, "rope_parameters");
    const bool first = truthy(scaling), second = parameters && !json_is_null(parameters);
    r->key = first || !second ? "rope_scaling" : "rope_parameters";
    r->rope = first ? scaling : second ? parameters : NULL;
    if (r->rope && !json_is_object(r->rope))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s is not an object", r->path, r->key);
    if (first && truthy(parameters) && !json_equal(scaling, parameters))
        kq_warn("%s: rope_scaling and rope_parameters differ; rope_scaling is used, as transformers does",
                r->path);
    return KQ_OK;
}

kq_status kq_rope_from_json(const json_t *root, const char *path, kq_config *cfg, kq_error *err)
{
    reader r = {.root = root, .path = path, .cfg = cfg, .err = err};
    const struct rope_type *type = &rope_types[0];
    kq_status status = choose(&r);
    cfg->rope_theta = 10000;
    cfg->rope_scaling = (kq_rope_scaling){0};
    if (status)
        return status;
    const json_t *inner = json_object_get(r.rope, "rope_theta"),
                 *theta = inner ? inner : json_object_get(root, "rope_theta");
    if (theta && (!json_is_number(theta) || !isfinite(json_number_value(theta))))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s%srope_theta is not a finite number", path,
                       inner ? r.key : "", inner ? "." : "");
    if (theta)
        cfg->rope_theta = json_number_value(theta);
    if (r.rope && ((status = find_type(&r, &type)) || (status = check_keys(&r, type))))
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
