/* The architecture of a model and its sizes, as config.json or GGUF metadata describe them. The tensors that
 * follow from them are in source/tensors.h. */
#ifndef KQ_SOURCE_CONFIG_H
#define KQ_SOURCE_CONFIG_H

#include "base/error.h"

/* LLaMA-2/3 (and SmolLM2); Qwen3: per-head RMS norm of q and k */
typedef enum kq_arch { KQ_ARCH_LLAMA = 0, KQ_ARCH_QWEN3 = 1 } kq_arch;

/* How the frequencies of the rotary embedding differ from theta^(-2i/head_dim): source/rope.h has the
 * equations. */
enum { KQ_MAX_EOS = 64, KQ_MAX_ROPE_PAIRS = 256 };
typedef enum kq_rope_kind {
    KQ_ROPE_PLAIN = 0,
    KQ_ROPE_LLAMA3, /* factor, low_freq_factor, high_freq_factor, original_max_position */
    KQ_ROPE_LINEAR, /* factor */
    /* factor: plain within max_position, longer sequences are refused (their frequencies change with
     * every token) */
    KQ_ROPE_DYNAMIC,
    KQ_ROPE_YARN, /* factor, original_max_position, beta_fast, beta_slow, truncate */
    KQ_ROPE_TABLE /* divisor [head_dim / 2] */
} kq_rope_kind;
typedef struct kq_rope_scaling {
    kq_rope_kind kind;
    double factor, low_freq_factor, high_freq_factor;
    size_t original_max_position;
    double beta_fast, beta_slow;
    bool truncate;
    /* sequences longer than max_position have other frequencies, and are refused */
    bool bounded;
    /* cos and sin are multiplied by it; 0 (an empty struct) counts as 1 */
    double attention_factor;
    float divisor[KQ_MAX_ROPE_PAIRS]; /* what each pair's plain frequency is divided by */
} kq_rope_scaling;

typedef struct kq_config {
    kq_arch arch;
    size_t n_layer, d_model, n_head, n_kv_head, head_dim, d_ff, vocab_size, max_position;
    double rope_theta;
    kq_rope_scaling rope_scaling;
    float rms_eps;
    bool tie_embeddings;
    int32_t bos_id; /* -1: none */
    int32_t eos_id[KQ_MAX_EOS];
    size_t n_eos;
} kq_config;

/* Check the numbers against each other and against sane limits (layers <= 512, every size >= 1, n_head %
 * n_kv_head == 0, ...). */
kq_status kq_config_check(const kq_config *cfg, const char *path, kq_error *err);

#endif
