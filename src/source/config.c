/* Checks of a model's sizes, wherever they were read. They come from a file that may be hostile: everything
 * that is computed from them later, without further checks, is safe because of the limits here. */
#include "source/config.h"

#include <math.h>

#include "source/rope.h"

/* Far above any model of the two families, and small enough that no product of two of them overflows. */
enum { MAX_LAYER = 512, MAX_SIZE = 1 << 22, MAX_HEAD = 1 << 14, MAX_HEAD_DIM = 1 << 13, MAX_VOCAB = 1 << 24 };

kq_status kq_config_check(const kq_config *cfg, const char *path, kq_error *err)
{
    const struct {
        const char *name;
        size_t value, max;
    } sizes[] = {
        {"num_hidden_layers", cfg->n_layer, MAX_LAYER},
        {"hidden_size", cfg->d_model, MAX_SIZE},
        {"num_attention_heads", cfg->n_head, MAX_HEAD},
        {"num_key_value_heads", cfg->n_kv_head, MAX_HEAD},
        {"head_dim", cfg->head_dim, MAX_HEAD_DIM},
        {"intermediate_size", cfg->d_ff, MAX_SIZE},
        {"vocab_size", cfg->vocab_size, MAX_VOCAB},
        {"max_position_embeddings", cfg->max_position, (size_t)1 << 31},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max)
            return kq_fail(err, KQ_E_FORMAT, "%s: %s is %zu, expected 1 to %zu", path, sizes[i].name,
                           sizes[i].value, sizes[i].max);
    if (cfg->n_head % cfg->n_kv_head)
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: num_attention_heads %zu is no multiple of num_key_value_heads %zu", path,
                       cfg->n_head, cfg->n_kv_head);
    if (cfg->head_dim % 2)
        return kq_fail(err, KQ_E_FORMAT, "%s: head_dim %zu is odd, the rotary embedding needs pairs", path,
                       cfg->head_dim);
    if (cfg->n_head * cfg->head_dim > MAX_SIZE)
        return kq_fail(err, KQ_E_FORMAT, "%s: num_attention_heads %zu times head_dim %zu is above %d", path,
                       cfg->n_head, cfg->head_dim, MAX_SIZE);
    if (!(cfg->rope_theta > 0) || !isfinite(cfg->rope_theta))
        return kq_fail(err, KQ_E_FORMAT, "%s: rope_theta is %g, expected a positive number", path,
                       cfg->rope_theta);
    if (!(cfg->rms_eps >= 0) || !(cfg->rms_eps < 1))
        return kq_fail(err, KQ_E_FORMAT, "%s: rms_norm_eps is %g, expected a small positive number", path,
                       (double)cfg->rms_eps);
    kq_status status = kq_rope_check(cfg, path, err);
    if (status)
        return status;
    if (cfg->bos_id < -1 || (cfg->bos_id >= 0 && (size_t)cfg->bos_id >= cfg->vocab_size))
        return kq_fail(err, KQ_E_FORMAT, "%s: bos_token_id %d is outside the vocabulary of %zu", path,
                       cfg->bos_id, cfg->vocab_size);
    if (cfg->n_eos > KQ_MAX_EOS)
        return kq_fail(err, KQ_E_FORMAT, "%s: %zu end tokens, at most %d", path, cfg->n_eos, KQ_MAX_EOS);
    for (size_t i = 0; i < cfg->n_eos; i++)
        if (cfg->eos_id[i] < 0 || (size_t)cfg->eos_id[i] >= cfg->vocab_size)
            return kq_fail(err, KQ_E_FORMAT, "%s: eos_token_id %d is outside the vocabulary of %zu", path,
                           cfg->eos_id[i], cfg->vocab_size);
    return KQ_OK;
}
