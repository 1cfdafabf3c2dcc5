/* One table of names holds both spellings of every part of a layer; everything else follows from it and from
 * the sizes of the model. */
#include "source/tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct part {
    const char *hf, *gguf;
} part;

static const part embed = {"model.embed_tokens", "token_embd"};
static const part head = {"lm_head", "output"};
static const part final_norm = {"model.norm", "output_norm"};
static const part linears[KQ_N_LINEAR] = {
    [KQ_Q] = {"self_attn.q_proj", "attn_q"},   [KQ_K] = {"self_attn.k_proj", "attn_k"},
    [KQ_V] = {"self_attn.v_proj", "attn_v"},   [KQ_O] = {"self_attn.o_proj", "attn_output"},
    [KQ_GATE] = {"mlp.gate_proj", "ffn_gate"}, [KQ_UP] = {"mlp.up_proj", "ffn_up"},
    [KQ_DOWN] = {"mlp.down_proj", "ffn_down"},
};
static const part norms[KQ_N_NORM] = {
    [KQ_NORM_ATTN] = {"input_layernorm", "attn_norm"},
    [KQ_NORM_MLP] = {"post_attention_layernorm", "ffn_norm"},
    [KQ_NORM_Q] = {"self_attn.q_norm", "attn_q_norm"},
    [KQ_NORM_K] = {"self_attn.k_norm", "attn_k_norm"},
};
static const char hf_layers[] = "model.layers.", gguf_layers[] = "blk.";

/* ---- shapes and names ---- */

void kq_linear_shape(const kq_config *cfg, kq_linear_id id, size_t *m, size_t *n)
{
    const size_t q = cfg->n_head * cfg->head_dim, kv = cfg->n_kv_head * cfg->head_dim;
    const size_t shapes[KQ_N_LINEAR][2] = {
        [KQ_Q] = {q, cfg->d_model},
        [KQ_K] = {kv, cfg->d_model},
        [KQ_V] = {kv, cfg->d_model},
        [KQ_O] = {cfg->d_model, q},
        [KQ_GATE] = {cfg->d_ff, cfg->d_model},
        [KQ_UP] = {cfg->d_ff, cfg->d_model},
        [KQ_DOWN] = {cfg->d_model, cfg->d_ff},
    };
    const bool known = id >= 0 && id < KQ_N_LINEAR;
    *m = known ? shapes[id][0] : 0;
    *n = known ? shapes[id][1] : 0;
}

void kq_linear_name(char *buf, size_t cap, size_t layer, kq_linear_id id)
{
    snprintf(buf, cap, "%s%zu.%s", hf_layers, layer, id >= 0 && id < KQ_N_LINEAR ? linears[id].hf : "?");
}

kq_norm_id kq_model_n_norms(const kq_config *cfg)
{
    return cfg->arch == KQ_ARCH_QWEN3 ? KQ_N_NORM : KQ_NORM_Q;
}

static kq_model_tensor named(kq_model_tensor t, const char *module)
{
    snprintf(t.module, sizeof t.module, "%s", module);
    snprintf(t.name, sizeof t.name, "%.70s.weight", module);
    return t;
}

static kq_model_tensor outside_layers(const kq_config *cfg, kq_tensor_role role, const part *p)
{
    const bool vector = role == KQ_ROLE_FINAL_NORM;
    return named((kq_model_tensor){.role = role,
                                   .linear = KQ_N_LINEAR,
                                   .norm = KQ_N_NORM,
                                   .rank = vector ? 1 : 2,
                                   .rows = vector ? cfg->d_model : cfg->vocab_size,
                                   .cols = vector ? 1 : cfg->d_model},
                 p->hf);
}

kq_model_tensor kq_model_linear(const kq_config *cfg, size_t layer, kq_linear_id id)
{
    kq_model_tensor t = {.role = KQ_ROLE_LINEAR, .layer = layer, .linear = id, .norm = KQ_N_NORM, .rank = 2};
    char module[KQ_TENSOR_NAME];
    kq_linear_shape(cfg, id, &t.rows, &t.cols);
    kq_linear_name(module, sizeof module, layer, id);
    return named(t, module);
}

kq_model_tensor kq_model_norm(const kq_config *cfg, size_t layer, kq_norm_id id)
{
    const bool of_a_head = id == KQ_NORM_Q || id == KQ_NORM_K;
    char module[KQ_TENSOR_NAME];
    snprintf(module, sizeof module, "%s%zu.%s", hf_layers, layer, norms[id].hf);
    return named((kq_model_tensor){.role = KQ_ROLE_NORM,
                                   .layer = layer,
                                   .linear = KQ_N_LINEAR,
                                   .norm = id,
                                   .rank = 1,
                                   .rows = of_a_head ? cfg->head_dim : cfg->d_model,
                                   .cols = 1},
                 module);
}

/* ---- all of them ---- */

static size_t n_outside(const kq_config *cfg)
{
    return cfg->tie_embeddings ? 2 : 3;
}

size_t kq_model_n_tensors(const kq_config *cfg)
{
    return n_outside(cfg) + cfg->n_layer * ((size_t)kq_model_n_norms(cfg) + KQ_N_LINEAR);
}

kq_model_tensor kq_model_tensor_at(const kq_config *cfg, size_t index)
{
    const size_t n_norm = kq_model_n_norms(cfg), outside = n_outside(cfg);
    if (index == 0)
        return outside_layers(cfg, KQ_ROLE_EMBED, &embed);
    if (index + 1 < outside)
        return outside_layers(cfg, KQ_ROLE_HEAD, &head);
    if (index < outside)
        return outside_layers(cfg, KQ_ROLE_FINAL_NORM, &final_norm);
    const size_t layer = (index - outside) / (n_norm + KQ_N_LINEAR),
                 within = (index - outside) % (n_norm + KQ_N_LINEAR);
    return within < n_norm ? kq_model_norm(cfg, layer, (kq_norm_id)within)
                           : kq_model_linear(cfg, layer, (kq_linear_id)(within - n_norm));
}

size_t kq_model_n_linears(const kq_config *cfg)
{
    return cfg->n_layer * KQ_N_LINEAR;
}

kq_model_tensor kq_model_linear_at(const kq_config *cfg, size_t index)
{
    return kq_model_linear(cfg, index / KQ_N_LINEAR, (kq_linear_id)(index % KQ_N_LINEAR));
}

/* ---- from a name ---- */

/* The number behind "model.layers." or "blk.", and what follows its dot; NULL: the name is no tensor's of a
 * layer. */
static const char *after_layer(const char *name, const char *prefix, size_t *layer)
{
    const size_t skip = strlen(prefix);
    const size_t digits = strncmp(name, prefix, skip) ? 0 : strspn(name + skip, "0123456789");
    if (!digits || digits >= 8 || name[skip + digits] != '.')
        return NULL;
    *layer = strtoull(name + skip, NULL, 10);
    return name + skip + digits + 1;
}

static bool is_named(kq_model_tensor t, const char *name, kq_model_tensor *out)
{
    if (strcmp(t.name, name))
        return false;
    if (out)
        *out = t;
    return true;
}

bool kq_model_tensor_find(const kq_config *cfg, const char *name, kq_model_tensor *out)
{
    size_t layer;
    if (!after_layer(name, hf_layers, &layer)) {
        for (size_t i = 0; i < n_outside(cfg); i++)
            if (is_named(kq_model_tensor_at(cfg, i), name, out))
                return true;
        return false;
    }
    if (layer >= cfg->n_layer)
        return false;
    const size_t n = (size_t)kq_model_n_norms(cfg) + KQ_N_LINEAR;
    for (size_t i = 0; i < n; i++)
        if (is_named(kq_model_tensor_at(cfg, n_outside(cfg) + layer * n + i), name, out))
            return true;
    return false;
}

/* ---- GGUF's names ---- */

static const char *spelling(const part *p, bool gguf)
{
    return gguf ? p->gguf : p->hf;
}

/* Is it the part's name, from the given spelling, with ".weight" or ".bias"? *end: that ending. */
static bool has_part(const char *text, const part *p, bool gguf, const char **end)
{
    const size_t n = strlen(spelling(p, gguf));
    *end = text + n;
    return !strncmp(text, spelling(p, gguf), n) && (!strcmp(*end, ".weight") || !strcmp(*end, ".bias"));
}

static const part *find_part(const char *text, bool gguf, const char **end)
{
    for (int i = 0; i < KQ_N_LINEAR; i++)
        if (has_part(text, &linears[i], gguf, end))
            return &linears[i];
    for (int i = 0; i < KQ_N_NORM; i++)
        if (has_part(text, &norms[i], gguf, end))
            return &norms[i];
    return NULL;
}

/* from_gguf: from GGUF's spelling to Hugging Face's; else the other way. */
static void translate(const char *name, bool from_gguf, char *buf, size_t cap)
{
    const part *const outside[] = {&embed, &head, &final_norm};
    const char *from = from_gguf ? gguf_layers : hf_layers, *to = from_gguf ? hf_layers : gguf_layers, *end;
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (has_part(name, outside[i], from_gguf, &end) && !strcmp(end, ".weight")) {
            snprintf(buf, cap, "%s%s", spelling(outside[i], !from_gguf), end);
            return;
        }
    size_t layer;
    const char *rest = after_layer(name, from, &layer);
    const part *p = rest ? find_part(rest, from_gguf, &end) : NULL;
    if (p) /* the layer's digits are copied as they stand, with their dot */
        snprintf(buf, cap, "%s%.*s%s%s", to, (int)(rest - name - (ptrdiff_t)strlen(from)),
                 name + strlen(from), spelling(p, !from_gguf), end);
    else
        snprintf(buf, cap, "%s", name);
}

void kq_gguf_hf_name(const char *name, char *buf, size_t cap)
{
    translate(name, true, buf, cap);
}

void kq_gguf_name(const char *hf_name, char *buf, size_t cap)
{
    translate(hf_name, false, buf, cap);
}
