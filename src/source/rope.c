/* The frequencies of the rotary embedding. They are computed once, in double, and rounded where transformers'
 * f32 code rounds, because models were trained with those roundings. */
#include "source/rope.h"

#include <math.h>

#include "base/warn.h"

static const double pi = 3.14159265358979323846;

double kq_rope_mscale(double scale, double mscale)
{
    return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

double kq_rope_attention(const kq_config *cfg)
{
    return cfg->rope_scaling.attention_factor != 0 ? cfg->rope_scaling.attention_factor : 1;
}

/* As Hugging Face's f32 code rounds it: at position 1000 an angle is off by up to 6e-5 rad, and so the
 * models were trained. */
static double plain(const kq_config *cfg, size_t i)
{
    return (float)(1.0 / pow(cfg->rope_theta, 2.0 * (double)i / (double)cfg->head_dim));
}

static double llama3(const kq_rope_scaling *s, double f)
{
    const double wave = 2 * pi / f, original = (double)s->original_max_position;
    if (wave > original / s->low_freq_factor)
        return f / s->factor;
    if (wave < original / s->high_freq_factor)
        return f;
    const double smooth = (original / wave - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1 - smooth) * f / s->factor + smooth * f;
}

/* The pair, as a real number, that turns `turns` times within the original context. */
static double yarn_pair(const kq_config *cfg, double turns)
{
    return (double)cfg->head_dim * log((double)cfg->rope_scaling.original_max_position / (turns * 2 * pi)) /
           (2 * log(cfg->rope_theta));
}

/* The pairs between which the ramp rises. */
static void yarn_range(const kq_config *cfg, double *low, double *high)
{
    *low = yarn_pair(cfg, cfg->rope_scaling.beta_fast);
    *high = yarn_pair(cfg, cfg->rope_scaling.beta_slow);
    if (cfg->rope_scaling.truncate) {
        *low = floor(*low);
        *high = ceil(*high);
    }
    *low = fmax(*low, 0);
    *high = fmin(*high, (double)cfg->head_dim - 1);
    if (*low == *high)
        *high += 0.001; /* transformers' way around the division by zero */
}

static double yarn(const kq_rope_scaling *s, double f, double low, double high, size_t i)
{
    const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    return f / s->factor * ramp + f * (1 - ramp);
}

/* low and high: the ramp's range for YaRN. */
static double frequency(const kq_config *cfg, size_t i, double low, double high)
{
    const kq_rope_scaling *s = &cfg->rope_scaling;
    const double f = plain(cfg, i);
    switch (s->kind) {
    case KQ_ROPE_PLAIN:
    case KQ_ROPE_DYNAMIC: break;
    case KQ_ROPE_LLAMA3: return llama3(s, f);
    case KQ_ROPE_LINEAR: return f / s->factor;
    case KQ_ROPE_YARN: return yarn(s, f, low, high, i);
    case KQ_ROPE_TABLE: return f / (double)s->divisor[i];
    }
    return f;
}

void kq_rope_frequencies(const kq_config *cfg, float *freq)
{
    double low = 0, high = 1;
    if (cfg->rope_scaling.kind == KQ_ROPE_YARN)
        yarn_range(cfg, &low, &high);
    for (size_t i = 0; i < cfg->head_dim / 2; i++)
        freq[i] = (float)frequency(cfg, i, low, high);
}

void kq_rope_divisors(const kq_config *cfg, float *divisor)
{
    kq_rope_frequencies(cfg, divisor);
    for (size_t i = 0; i < cfg->head_dim / 2; i++)
        divisor[i] = cfg->rope_scaling.kind == KQ_ROPE_TABLE ? cfg->rope_scaling.divisor[i]
                                                             : (float)(plain(cfg, i) / (double)divisor[i]);
}

/* ---- checks ---- */

static bool positive(double x)
{
    return x > 0 && isfinite(x);
}

static kq_status check_numbers(const kq_config *cfg, const char *path, kq_error *err)
{
    const kq_rope_scaling *s = &cfg->rope_scaling;
    switch (s->kind) {
    case KQ_ROPE_PLAIN: return KQ_OK;
    case KQ_ROPE_LLAMA3:
        if (!(s->factor >= 1) || !isfinite(s->factor) || !(s->low_freq_factor > 0) ||
            !(s->high_freq_factor > s->low_freq_factor) || !isfinite(s->high_freq_factor) ||
            !s->original_max_position)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: rope scaling llama3 with factor %g, low_freq_factor %g, high_freq_factor %g, "
                           "original_max_position_embeddings %zu: expected a factor of at least 1, 0 < low < "
                           "high, and a context of at least 1",
                           path, s->factor, s->low_freq_factor, s->high_freq_factor,
                           s->original_max_position);
        return KQ_OK;
    case KQ_ROPE_LINEAR:
    case KQ_ROPE_DYNAMIC:
        if (!positive(s->factor))
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: the rope scaling's factor is %g, expected a positive number", path,
                           s->factor);
        return KQ_OK;
    case KQ_ROPE_YARN:
        if (!positive(s->factor) || !positive(s->beta_fast) || !positive(s->beta_slow) ||
            !s->original_max_position || cfg->rope_theta == 1)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: rope scaling yarn with factor %g, beta_fast %g, beta_slow %g, "
                           "original_max_position_embeddings %zu and "
                           "rope_theta %g: expected positive numbers, and a rope_theta other than 1",
                           path, s->factor, s->beta_fast, s->beta_slow, s->original_max_position,
                           cfg->rope_theta);
        return KQ_OK;
    case KQ_ROPE_TABLE:
        if (cfg->head_dim / 2 > KQ_MAX_ROPE_PAIRS)
            return kq_fail(err, KQ_E_UNSUPPORTED, "%s: frequency factors for %zu pairs, kronq takes %d", path,
                           cfg->head_dim / 2, KQ_MAX_ROPE_PAIRS);
        for (size_t i = 0; i < cfg->head_dim / 2; i++)
            if (!positive((double)s->divisor[i]))
                return kq_fail(
                    err, KQ_E_FORMAT,
                    "%s: frequency factor %zu of the rotary embedding is %g, expected a positive number",
                    path, i, (double)s->divisor[i]);
        return KQ_OK;
    }
    return KQ_OK;
}

kq_status kq_rope_check(const kq_config *cfg, const char *path, kq_error *err)
{
    const double a = kq_rope_attention(cfg);
    double low = 0, high = 1;
    kq_status status = check_numbers(cfg, path, err);
    if (status)
        return status;
    if (!positive(a))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: the rotary embedding's attention factor is %g, expected a positive number", path,
                       a);
    if (cfg->rope_scaling.kind == KQ_ROPE_YARN)
        yarn_range(cfg, &low, &high);
    for (size_t i = 0; i < cfg->head_dim / 2; i++)
        if (!isfinite((float)frequency(cfg, i, low, high)))
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: the rotary embedding of rope_theta %g has no finite frequency for pair %zu",
                           path, cfg->rope_theta, i);
    return KQ_OK;
}

kq_status kq_rope_check_length(const kq_config *cfg, size_t n, kq_error *err)
{
    if (!cfg->rope_scaling.bounded || n <= cfg->max_position)
        return KQ_OK;
    return kq_fail(err, KQ_E_UNSUPPORTED,
                   "%zu tokens at once: the model's %s rope scaling changes all frequencies with the length "
                   "beyond %zu tokens, "
                   "which kronq does not do: give at most %zu (--ctx)",
                   n, cfg->rope_scaling.kind == KQ_ROPE_DYNAMIC ? "dynamic" : "longrope", cfg->max_position,
                   cfg->max_position);
}

/* ---- tables ---- */

static double wavelength(const kq_config *cfg, size_t i)
{
    return 2 * pi * pow(cfg->rope_theta, 2.0 * (double)i / (double)cfg->head_dim);
}

static bool is_llama3(const kq_config *cfg, const kq_rope_scaling *s, const float *divisor)
{
    for (size_t i = 0; i < cfg->head_dim / 2; i++) {
        const double f = plain(cfg, i), want = f / llama3(s, f);
        if (!(fabs((double)divisor[i] - want) <=
              3e-7 * (1 + s->factor) * want)) /* made in f32: m is off by some 1e-7, and d^2 dm = d dd */
            return false;
    }
    return true;
}

/* The llama3 scaling with low 1 and high 4 (as every published model has) that gives these divisors:
 * LLaMA-3.1's and 3.2's, or, in general: the last pair's is the factor s. A pair of divisor d between 1
 * and s lies on the smooth part, 1/d = (1 - m)/s + m with m = (P / wave - 1) / 3, which gives the
 * original context P. Without such a pair P lies anywhere between the last wavelength of divisor 1,
 * times 4, and the first of divisor s. */
static bool find_llama3(const kq_config *cfg, const float *divisor, kq_rope_scaling *s)
{
    const size_t half = cfg->head_dim / 2;
    size_t n_one = 0;
    *s = (kq_rope_scaling){
        .kind = KQ_ROPE_LLAMA3, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 8192};
    for (s->factor = 8; s->factor <= 32; s->factor *= 4)
        if (is_llama3(cfg, s, divisor))
            return true;
    s->factor = (double)divisor[half - 1];
    if (!(s->factor > 1) || !isfinite(s->factor))
        return false;
    while (n_one < half && divisor[n_one] == 1)
        n_one++;
    for (size_t i = n_one; i < half; i++) {
        const double d = (double)divisor[i];
        if (d >= s->factor)
            break;
        const double m = (1 / d - 1 / s->factor) / (1 - 1 / s->factor),
                     original = wavelength(cfg, i) * (3 * m + 1);
        if (m > 0.02 && m < 0.98 && original >= 1 &&
            original < 1e9) { /* near an end the file's rounding says little about P */
            s->original_max_position = (size_t)(original + 0.5);
            return is_llama3(cfg, s, divisor);
        }
    }
    const double least = n_one ? 4 * wavelength(cfg, n_one - 1) : 0,
                 most = n_one < half ? wavelength(cfg, n_one) : 0;
    for (size_t p = 1; p < (size_t)1 << 31; p *= 2)
        if ((double)p > least && (double)p < most) {
            s->original_max_position = p;
            return is_llama3(cfg, s, divisor);
        }
    s->original_max_position = (size_t)ceil(least) + 1;
    return (double)s->original_max_position < most && is_llama3(cfg, s, divisor);
}

kq_status kq_rope_set_divisors(kq_config *cfg, const float *divisor, const char *path, kq_error *err)
{
    const size_t half = cfg->head_dim / 2;
    const double attention = cfg->rope_scaling.attention_factor;
    kq_rope_scaling s;
    bool all_one = true;
    for (size_t i = 0; i < half; i++) {
        if (!positive((double)divisor[i]))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: frequency factor %zu of the rotary embedding is %g, expected a positive number", path, i,
                (double)divisor[i]);
        all_one &= divisor[i] == 1;
    }
    if (all_one)
        return KQ_OK;
    if (cfg->rope_scaling.kind == KQ_ROPE_PLAIN && find_llama3(cfg, divisor, &s)) {
        s.attention_factor = attention;
        cfg->rope_scaling = s;
        return KQ_OK;
    }
    if (half > KQ_MAX_ROPE_PAIRS)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: frequency factors for %zu pairs, kronq takes %d", path,
                       half, KQ_MAX_ROPE_PAIRS);
    s = (kq_rope_scaling){.kind = KQ_ROPE_TABLE, .attention_factor = attention};
    kq_rope_scaling *old = &cfg->rope_scaling;
    double low = 0, high = 1;
    if (old->kind == KQ_ROPE_YARN)
        yarn_range(cfg, &low, &high);
    for (size_t i = 0; i < half; i++) {
        /* llama.cpp divides the angle first and scales it then: both are factors of the frequency */
        const double scaled = old->kind == KQ_ROPE_YARN     ? yarn(old, 1, low, high, i)
                              : old->kind == KQ_ROPE_LINEAR ? 1 / old->factor
                                                            : 1;
        s.divisor[i] = (float)((double)divisor[i] / scaled);
    }
    cfg->rope_scaling = s;
    return kq_rope_check(cfg, path, err);
}

/* ---- how a GGUF says it ---- */

kq_rope_gguf kq_rope_gguf_form(const kq_config *cfg)
{
    const kq_rope_scaling *s = &cfg->rope_scaling;
    switch (s->kind) {
    case KQ_ROPE_PLAIN:
    case KQ_ROPE_DYNAMIC:
    case KQ_ROPE_LINEAR: return KQ_ROPE_GGUF_KEYS;
    case KQ_ROPE_YARN: /* llama.cpp reads no other betas for these architectures, and always truncates */
        if (s->beta_fast == 32 && s->beta_slow == 1 && s->truncate)
            return KQ_ROPE_GGUF_KEYS;
        break;
    case KQ_ROPE_LLAMA3:
    case KQ_ROPE_TABLE: break;
    }
    return cfg->arch == KQ_ARCH_LLAMA ? KQ_ROPE_GGUF_FREQS : KQ_ROPE_GGUF_NONE;
}

kq_status kq_rope_check_gguf(const kq_config *cfg, kq_error *err)
{
    static const char *const names[] = {
        "default", "llama3", "linear", "dynamic", "yarn (with betas of its own, or not truncated)",
        "longrope"};
    if (cfg->rope_scaling.kind == KQ_ROPE_DYNAMIC)
        kq_warn("GGUF has no dynamic rope scaling: the file is right up to the model's context of %zu "
                "tokens, as llama.cpp's converter leaves it",
                cfg->max_position);
    if (kq_rope_gguf_form(cfg) != KQ_ROPE_GGUF_NONE)
        return KQ_OK;
    return kq_fail(err, KQ_E_UNSUPPORTED,
                   "rope scaling %s of a Qwen3 model cannot be said in a GGUF: llama.cpp reads "
                   "rope_freqs.weight for LLaMA only",
                   names[cfg->rope_scaling.kind]);
}
