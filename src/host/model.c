/* kq_model: a model of any kind, opened, described and made ready to compute. The rooms below do the work.
 * This one keeps what a host program would otherwise have to keep: files, tokenizer, engine, and which tokens
 * the caches hold. Weights and tokenizer are loaded when they are first used, so that describing a model
 * costs nothing. */
#include "host/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/locale.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/text.h"
#include "base/threads.h"
#include "format/json.h"
#include "source/rope.h"

enum { CONTEXT = 4096 /* tokens of a sequence, unless the caller or the model says fewer */ };

void kq_model_options_init(kq_model_options *opt, size_t size)
{
    const kq_model_options defaults = {.sequences = 1};
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

/* How many parameters the tensors of this architecture have. */
static size_t count_parameters(const kq_config *c)
{
    const bool norms_of_heads = c->arch == KQ_ARCH_QWEN3;
    size_t block = 2 * c->d_model + (norms_of_heads ? 2 * c->head_dim : 0), rows, columns;
    for (int id = 0; id < KQ_N_LINEAR; id++) {
        kq_linear_shape(c, (kq_linear_id)id, &rows, &columns);
        block += rows * columns;
    }
    return c->n_layer * block + c->d_model + (c->tie_embeddings ? 1 : 2) * c->vocab_size * c->d_model;
}

/* The average number of bits of the linears' weights. plain: the bits of linears that are not packed; 0: only
 * packed linears count, an EXL3 folder's
 * too, whose linears the engine holds as plain ones. *stored: is any linear packed? */
static double average_bits(const kq_model *m, int plain, bool *stored)
{
    double bits = 0, weights = 0;
    const bool dense = plain && kq_source_is_exl3(kq_model_file_source(m->file));
    *stored = false;
    for (size_t l = 0; l < m->cfg->n_layer; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) { /* they may differ */
            size_t rows, columns;
            const int k = dense ? 0 : kq_model_file_bits(m->file, l, (kq_linear_id)id);
            kq_linear_shape(m->cfg, (kq_linear_id)id, &rows, &columns);
            *stored = *stored || k;
            if (!k && !plain)
                continue;
            weights += (double)rows * (double)columns;
            bits += (double)rows * (double)columns * (k ? k : plain);
        }
    return weights > 0 ? bits / weights : 0;
}

static kq_status describe_tensors(kq_model *m, kq_error *err)
{
    const kq_source *src = kq_model_file_source(m->file);
    kq_model_info *info = &m->info;
    info->n_tensors = kq_source_n_tensors(src);
    const kq_status status =
        kq_alloc_for((void **)&m->tensors, info->n_tensors, sizeof *m->tensors, "tensors", err);
    for (size_t i = 0; i < info->n_tensors && !status; i++) {
        const kq_tensor *t = kq_source_tensor(src, i);
        m->tensors[i] = (kq_tensor_info){.name = t->name,
                                         .type = kq_dtype_name(t->dtype),
                                         .rank = t->rank,
                                         .n_elements = t->n_elem,
                                         .bytes = t->size_bytes};
        memcpy(m->tensors[i].shape, t->shape, sizeof m->tensors[i].shape);
        info->tensor_elements += t->n_elem;
        info->tensor_bytes += t->size_bytes;
    }
    return status;
}

/* The parts of a configuration whose members depend on the model, as JSON. */
static kq_status describe_json(kq_model *m, kq_error *err)
{
    const kq_source *src = kq_model_file_source(m->file);
    if (m->cfg->rope_scaling.kind != KQ_ROPE_PLAIN) {
        json_t *rope = kq_rope_to_json(m->cfg);
        m->rope_json = rope ? json_dumps(rope, JSON_COMPACT) : NULL;
        json_decref(rope);
        if (!m->rope_json)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: the configuration");
    }
    if (kq_source_is_kronq(src) || kq_source_is_exl3(src)) {
        json_t *config = kq_json_again(kq_source_config_json(src));
        const json_t *quantization = json_object_get(config, "quantization_config");
        m->quantization_json = quantization ? json_dumps(quantization, JSON_COMPACT) : NULL;
        json_decref(config);
        if (!m->quantization_json)
            return kq_fail(err, KQ_E_MEMORY, "out of memory: the configuration");
    }
    return KQ_OK;
}

static kq_status describe(kq_model *m, kq_error *err)
{
    const kq_source *src = kq_model_file_source(m->file);
    const kq_config *c = m->cfg;
    const bool kronq = kq_source_is_kronq(src), exl3 = kq_source_is_exl3(src),
               gguf = kq_source_kind_of(src) == KQ_SOURCE_GGUF;
    bool stored;
    m->info = (kq_model_info){.path = kq_source_path(src),
                              .kind = kronq  ? "kronq checkpoint"
                                      : exl3 ? "EXL3 folder"
                                      : gguf ? "GGUF"
                                             : "Hugging Face folder",
                              .architecture = c->arch == KQ_ARCH_QWEN3 ? "qwen3" : "llama",
                              .n_layer = c->n_layer,
                              .d_model = c->d_model,
                              .n_head = c->n_head,
                              .n_kv_head = c->n_kv_head,
                              .head_dim = c->head_dim,
                              .d_ff = c->d_ff,
                              .vocab_size = c->vocab_size,
                              .context = c->max_position,
                              .tied_embeddings = c->tie_embeddings,
                              .rope_theta = c->rope_theta,
                              .n_parameters = count_parameters(c),
                              .bits = average_bits(m, 0, &stored)};
    kq_status status = describe_tensors(m, err);
    if (!status)
        status = describe_json(m, err);
    m->info.rope_scaling_json = m->rope_json;
    m->info.quantization_json = m->quantization_json;
    return status;
}

/* Read the options that are words: instruction set, compute type, type of the caches. */
static kq_status choose(kq_model *m, const kq_model_options *opt, kq_error *err)
{
    const char *compute = opt->common.compute;
    kq_status status;
    m->common = opt->common;
    m->common.isa = m->common.compute = NULL;
    m->context = opt->context;
    m->sequences = opt->sequences;
    if (m->sequences < 1 || m->sequences > KQ_ENGINE_SLOTS)
        return kq_fail(err, KQ_E_ARG, "sequences is %zu, 1 to %d are possible", m->sequences,
                       KQ_ENGINE_SLOTS);
    if ((status = kq_isa_pick(opt->common.isa, &m->isa, err)))
        return status;
    m->compute = KQ_BF16;
    if (compute && !strcmp(compute, "auto"))
        compute = NULL, status = kq_compute_pick(NULL, m->isa, &m->compute, err);
    else if (compute && !(status = kq_compute_pick(compute, m->isa, &m->compute, err)))
        m->asked = m->compute == KQ_F32 ? "f32" : "bf16";
    if (status || (status = kq_threads_pick(opt->common.threads, &m->threads, err)) ||
        (opt->kv && (status = kq_kv_parse(opt->kv, &m->kv, err))) ||
        (opt->weights && (status = kq_engine_weights_parse(opt->weights, &m->weights, err))))
        return status;
    return KQ_OK;
}

kq_status kq_model_open(const char *model, const kq_model_options *given, kq_model **out, kq_error *err)
{
    KQ_C_LOCALE;
    kq_model_options opt;
    *out = NULL;
    kq_status status = KQ_OPTIONS_READ(kq_model_options, &opt, given, err);
    if (status)
        return status;
    kq_model *m = kq_calloc(1, sizeof *m);
    if (!m)
        return kq_fail(err, KQ_E_MEMORY, "out of memory: the model");
    if (!(status = choose(m, &opt, err)))
        status = kq_model_file_open(model, m->isa, &m->file, err);
    if (!status) {
        m->cfg = kq_source_config(kq_model_file_source(m->file));
        status = describe(m, err);
    }
    if (!status)
        status =
            kq_format(&m->name, err, "%.*s", (int)strcspn(kq_path_name(model), "/"), kq_path_name(model));
    if (status) {
        kq_model_close(m);
        return status;
    }
    *out = m;
    return KQ_OK;
}

void kq_model_close(kq_model *m)
{
    if (!m)
        return;
    kq_engine_free(m->engine);
    if (m->tok)
        kq_tokenizer_close(m->tok);
    kq_model_file_close(m->file);
    kq_free(m->tensors);
    kq_free(m->held);
    free(m->rope_json);
    free(m->quantization_json);
    kq_free(m->name);
    kq_free(m);
}

const kq_model_info *kq_model_get_info(const kq_model *m)
{
    return &m->info;
}

const kq_tensor_info *kq_model_get_tensor(const kq_model *m, size_t i)
{
    return i < m->info.n_tensors ? &m->tensors[i] : NULL;
}

/* ---- making it ready ----------------------------------------------------------------------------------- */

static void describe_engine(kq_model *m)
{
    const int dense = m->compute == KQ_F32 ? 32 : 16;
    const bool may_pack =
        m->weights == KQ_WEIGHTS_PACKED || (m->weights == KQ_WEIGHTS_AUTO && m->compute == KQ_BF16);
    const char *const compute = m->compute == KQ_F32 ? "f32" : "bf16";
    bool stored;
    const double bits = average_bits(m, dense, &stored);
    m->engine_info = (kq_engine_info){.isa = kq_isa_name(m->isa),
                                      .compute = compute,
                                      .kv = kq_kv_name(m->kv),
                                      .weights = stored && may_pack ? "packed" : compute,
                                      .bits = stored && may_pack ? bits : dense,
                                      .threads = kq_engine_threads(m->cfg, m->threads),
                                      .context = kq_engine_max_T(m->engine),
                                      .sequences = m->sequences,
                                      .bytes = kq_engine_bytes(m->engine),
                                      .bytes_per_token = kq_engine_bytes_per_token(m->engine)};
}

static kq_status check_idle(const kq_model *m, kq_error *err)
{
    return m->busy
               ? kq_fail(err, KQ_E_ARG,
                         "%s: the model is at work, for a server (kq_server_stop ends it) or on the answer "
                         "whose emit makes this call",
                         m->info.path)
               : KQ_OK;
}

kq_status kq_model_load(kq_model *m, size_t context, kq_error *err)
{
    KQ_C_LOCALE;
    kq_status status = check_idle(m, err);
    if (status)
        return status;
    /* a server has filled these caches, and the tokens of its requests were not kept */
    for (size_t i = 0; m->served && i < m->sequences; i++)
        kq_engine_truncate(m->engine, i, 0);
    m->served = false;
    if (m->engine && context <= kq_engine_max_T(m->engine))
        return KQ_OK;
    const size_t most = m->cfg->max_position;
    if (!context)
        context = m->context ? m->context : most && most < CONTEXT ? most : CONTEXT;
    const kq_engine_options opt = {.isa = m->isa,
                                   .compute = m->compute,
                                   .threads = kq_engine_threads(m->cfg, m->threads),
                                   .n_slots = m->sequences,
                                   .max_T = context,
                                   .weights = m->weights,
                                   .kv = m->kv};
    size_t tokens;
    kq_kern_init(m->isa);
    kq_engine_free(m->engine);
    kq_free(m->held);
    m->engine = NULL;
    m->held = NULL;
    status = kq_mul_size(m->sequences, context, &tokens)
                 ? kq_alloc_for((void **)&m->held, tokens, sizeof *m->held, "the tokens", err)
                 : kq_fail(err, KQ_E_ARG, "a context of %zu tokens is too large", context);
    if (!status)
        status = kq_engine_new(m->file, &opt, &m->engine, err);
    if (!status)
        describe_engine(m);
    return status;
}

const kq_engine_info *kq_model_get_engine(const kq_model *m)
{
    return m->engine ? &m->engine_info : NULL;
}

int32_t *kq_model_held(const kq_model *m, size_t sequence)
{
    return m->held + sequence * kq_engine_max_T(m->engine);
}
