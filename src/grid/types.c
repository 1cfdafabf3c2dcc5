/* The order in which the rules apply: --tensor-type, then the mixture, then the fall-back. types.h. */
#include "grid/types.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "source/tensors.h"
#include "source/regex.h"

typedef struct rule {
    kq_regex *pattern; /* owned */
    kq_dtype type;
} rule;

typedef struct chooser {
    const kq_config *cfg;
    const uint8_t *selected;
    bool pure;
    rule *rules; /* owned */
    size_t n_rules;
    kq_dtype fallback; /* KQ_T_OTHER: none, or llama's */
    bool fallback_llama;
} chooser;

size_t kq_gguf_row_bytes(kq_dtype type, size_t rows, size_t n)
{
    size_t elems = 1, bytes = 0;
    kq_dtype_block(type, &elems, &bytes);
    return rows * (n / elems) * bytes;
}

/* A type by the name of llama.cpp; plain types too. */
static kq_dtype type_by_name(const char *name, size_t len)
{
    static const kq_dtype all[] = {KQ_T_F32,     KQ_T_F16,    KQ_T_BF16,  KQ_T_Q4_0,    KQ_T_Q4_1,
                                   KQ_T_Q5_0,    KQ_T_Q5_1,   KQ_T_Q8_0,  KQ_T_IQ4_NL,  KQ_T_Q2_K,
                                   KQ_T_Q3_K,    KQ_T_Q4_K,   KQ_T_Q5_K,  KQ_T_Q6_K,    KQ_T_IQ4_XS,
                                   KQ_T_IQ2_XXS, KQ_T_IQ2_XS, KQ_T_IQ2_S, KQ_T_IQ3_XXS, KQ_T_IQ3_S};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strlen(kq_dtype_name(all[i])) == len && !strncmp(kq_dtype_name(all[i]), name, len))
            return all[i];
    return KQ_T_OTHER;
}

static kq_status add_rule(chooser *c, const char *text, kq_error *err)
{
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text)
        return kq_fail(err, KQ_E_ARG, "--tensor-type %s: expected REGEX=TYPE, e.g. 'ffn_down=Q6_K'", text);
    const kq_dtype type = type_by_name(equals + 1, strlen(equals + 1));
    if (type == KQ_T_OTHER)
        return kq_fail(err, KQ_E_ARG,
                       "--tensor-type %s: %s is no type that kronq writes (F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 "
                       "Q8_0 IQ4_NL Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_XS)",
                       text, equals + 1);
    rule r = {.type = type};
    kq_status status = kq_regex_new("--tensor-type", text, (size_t)(equals - text), &r.pattern, err);
    if (!status)
        c->rules[c->n_rules++] = r;
    return status;
}

/* The type of a tensor [rows of n] whose rules say `type`. */
static kq_status settle(const chooser *c, const char *hf, const char *gguf, size_t n, kq_dtype type,
                        kq_dtype *out, kq_error *err)
{
    size_t elems = 1, bytes;
    for (size_t i = 0; i < c->n_rules; i++) {
        bool yes = false;
        kq_status status;
        if ((status = kq_regex_matches(c->rules[i].pattern, hf, &yes, err)) ||
            (!yes && (status = kq_regex_matches(c->rules[i].pattern, gguf, &yes, err))))
            return status;
        if (yes) {
            type = c->rules[i].type;
            break;
        }
    }
    kq_dtype_block(type, &elems, &bytes);
    if (n % elems) {
        const kq_dtype llama = kq_mix_fallback(type, n), instead = c->fallback_llama ? llama : c->fallback;
        size_t instead_elems = 0;
        if (instead != KQ_T_OTHER)
            kq_dtype_block(instead, &instead_elems, &bytes);
        if (instead == KQ_T_OTHER || n % instead_elems)
            return kq_fail(
                err, KQ_E_SHAPE,
                "%s: rows of %zu weights are no whole number of %s blocks of %zu%s%s; --fallback "
                "llama takes what llama-quantize "
                "would (%s), --fallback TYPE what you say, and quantize has --tensor-type '%s=TYPE' too",
                hf, n, kq_dtype_name(type), elems, instead == KQ_T_OTHER ? "" : ", nor of the fall-back ",
                instead == KQ_T_OTHER ? "" : kq_dtype_name(instead),
                llama == KQ_T_OTHER ? "nothing" : kq_dtype_name(llama), gguf);
        type = instead;
    }
    *out = type;
    return KQ_OK;
}

static kq_status choose(chooser *c, kq_gguf_types *t, kq_error *err)
{
    const kq_config *cfg = c->cfg;
    const bool pure = c->pure;
    kq_status status = KQ_OK;
    for (size_t l = 0; l < cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR && !status; id++) {
            char hf[160], gguf[64] = "";
            size_t m, n;
            kq_dtype *type = &t->linear[l * KQ_N_LINEAR + (size_t)id];
            *type = KQ_T_OTHER;
            if (!(c->selected[l] >> id & 1))
                continue;
            kq_linear_shape(cfg, (kq_linear_id)id, &m, &n);
            kq_linear_name(hf, sizeof hf - 8, l, (kq_linear_id)id);
            strcat(hf, ".weight");
            kq_gguf_name(hf, gguf, sizeof gguf);
            status = settle(c, hf, gguf, n, kq_mix_linear(t->mix, cfg, l, (kq_linear_id)id, pure), type, err);
        }
    t->head = KQ_T_OTHER;
    if (!status)
        status = settle(c, "model.embed_tokens.weight", "token_embd.weight", cfg->d_model,
                        kq_mix_rows(t->mix, cfg, false, pure), &t->embed, err);
    if (!status && !cfg->tie_embeddings)
        status = settle(c, "lm_head.weight", "output.weight", cfg->d_model,
                        kq_mix_rows(t->mix, cfg, true, pure), &t->head, err);
    return status;
}

kq_status kq_gguf_types_choose(const kq_config *cfg, const uint8_t *selected, const kq_quantize_options *o,
                               kq_gguf_types *t, kq_error *err)
{
    chooser c = {.cfg = cfg, .selected = selected, .pure = o->pure, .fallback = KQ_T_OTHER};
    kq_status status = KQ_OK;
    *t = (kq_gguf_types){.mix = o->gguf_type ? kq_mix_find(o->gguf_type) : NULL};
    if (!t->mix)
        return kq_fail(err, KQ_E_ARG, "--type %s: expected one of %s",
                       o->gguf_type ? o->gguf_type : "is missing", kq_mix_names());
    if (o->fallback) {
        c.fallback_llama = !strcmp(o->fallback, "llama");
        c.fallback = c.fallback_llama ? KQ_T_OTHER : type_by_name(o->fallback, strlen(o->fallback));
        if (!c.fallback_llama && c.fallback == KQ_T_OTHER)
            return kq_fail(err, KQ_E_ARG, "--fallback %s: expected llama, or a type such as Q5_0",
                           o->fallback);
    }
    if ((status = kq_alloc_for((void **)&t->linear, cfg->n_layer * KQ_N_LINEAR, sizeof *t->linear, "types",
                               err)) ||
        (status = kq_alloc_for((void **)&c.rules, o->n_tensor_type, sizeof *c.rules, "types", err)))
        goto out;
    for (size_t i = 0; i < o->n_tensor_type && !status; i++)
        status = add_rule(&c, o->tensor_type[i], err);
    if (!status)
        status = choose(&c, t, err);
out:
    for (size_t i = 0; i < c.n_rules; i++)
        kq_regex_free(c.rules[i].pattern);
    kq_free(c.rules);
    if (status)
        kq_gguf_types_free(t);
    return status;
}

void kq_gguf_types_free(kq_gguf_types *t)
{
    kq_free(t->linear);
    t->linear = NULL;
}
