/* A model whose predictions can be written down: every linear is zero, so a block passes its input on
 * unchanged, the embedding of token j is the j-th unit vector, and the logits after token j are column j
 * of the head times the final norm's factor. What follows depends on the last token alone: a Markov
 * chain. */
#ifndef KQ_TESTS_EVAL_CHAIN_H
#define KQ_TESTS_EVAL_CHAIN_H

#include "check.h"
#include "model/model.h"

typedef struct chain {
    kq_config cfg;
    kq_weights w;
    float *head; /* [vocab, d_model]: logit of i after j is head[i, j] * sqrt(d_model) (eps is tiny) */
} chain;

static kq_status chain_linear(void *ctx, size_t layer, kq_linear_id id, float *W, kq_error *err)
{
    const chain *c = ctx;
    size_t m, n;
    (void)layer;
    (void)err;
    kq_linear_shape(&c->cfg, id, &m, &n);
    memset(W, 0, m * n * sizeof *W);
    return KQ_OK;
}

static kq_status chain_rows(void *ctx, const char *name, size_t row0, size_t n_rows, float *dst,
                            kq_error *err)
{
    const chain *c = ctx;
    size_t d = c->cfg.d_model;
    (void)err;
    if (!strcmp(name, "lm_head.weight")) {
        memcpy(dst, c->head + row0 * d, n_rows * d * sizeof *dst);
    } else if (!strcmp(name, "model.embed_tokens.weight")) {
        memset(dst, 0, n_rows * d * sizeof *dst);
        for (size_t i = 0; i < n_rows; i++)
            dst[i * d + row0 + i] = 1.0f;
    } else { /* norms */
        for (size_t i = 0; i < n_rows; i++)
            dst[i] = 1.0f;
    }
    return KQ_OK;
}

static inline float *chain_logit(chain *c, size_t after, size_t token)
{
    return &c->head[token * c->cfg.d_model + after];
}

/* All logits 0. */
static inline void chain_init(chain *c, size_t vocab)
{
    size_t n_head = (vocab + 15) / 16;
    *c = (chain){.cfg = {.arch = KQ_ARCH_LLAMA,
                         .n_layer = 2,
                         .d_model = n_head * 16,
                         .n_head = n_head,
                         .n_kv_head = 1,
                         .head_dim = 16,
                         .d_ff = 32,
                         .vocab_size = vocab,
                         .max_position = 4096,
                         .rope_theta = 10000,
                         .rms_eps = 1e-12f,
                         .bos_id = -1}};
    c->head = calloc(vocab * c->cfg.d_model, sizeof *c->head);
    assert_non_null(c->head);
    c->w = (kq_weights){.cfg = &c->cfg, .ctx = c, .linear = chain_linear, .rows = chain_rows};
}

static inline void chain_free(chain *c)
{
    free(c->head);
}

#endif
