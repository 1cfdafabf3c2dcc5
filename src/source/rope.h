/* The rotary embedding: which angle each pair of a head turns by, for every scaling that kronq knows
 * (docs/math.md, "The model").
 *
 * Pair i < head_dim / 2 at position t turns by t f_i, and cos and sin are multiplied by the attention
 * factor a (1 but for YaRN and tables). With p_i = theta^(-2i/head_dim), s the factor and P the original
 * context:
 *   plain     f_i = p_i
 *   dynamic   f_i = p_i, for at most max_position tokens; for longer texts transformers changes f with the
 *             length, and kronq refuses them
 *   linear    f_i = p_i / s
 *   llama3    f_i = p_i where the wavelength 2 pi / p_i is below P / high, f_i = p_i / s where it is above
 *             P / low, and a smooth passage between the two
 *   yarn      f_i = p_i ((1 - r_i) + r_i / s), where r_i is a ramp from 0 to 1 between the pair that turns
 *             beta_fast times in P and the pair that turns beta_slow times
 *   table     f_i = p_i / divisor_i (GGUF's rope_freqs.weight; transformers' longrope) */
#ifndef KQ_SOURCE_ROPE_H
#define KQ_SOURCE_ROPE_H

#include "format/json.h"
#include "source/config.h"

/* f [head_dim / 2], radians a position, with the roundings of transformers' f32 code. */
void kq_rope_frequencies(const kq_config *cfg, float *f);
/* What cos and sin are multiplied by. */
double kq_rope_attention(const kq_config *cfg);
/* p_i / f_i: what GGUF's rope_freqs.weight holds. */
void kq_rope_divisors(const kq_config *cfg, float *divisor);
/* YaRN's attention factor where the file gives none: 0.1 mscale ln(scale) + 1, and 1 for scale <= 1. */
double kq_rope_mscale(double scale, double mscale);

/* Numbers that give no finite frequencies: KQ_E_FORMAT. */
kq_status kq_rope_check(const kq_config *cfg, const char *path, kq_error *err);
/* May a sequence of n tokens be computed with these frequencies? KQ_E_UNSUPPORTED, and the longest that
 * may, when not. */
kq_status kq_rope_check_length(const kq_config *cfg, size_t n, kq_error *err);

/* rope_theta and the scaling of a config.json, as transformers 5 reads them: rope_scaling, when it is
 * there, is taken before rope_parameters; an original_max_position_embeddings at the top before one
 * inside. Fills cfg->rope_theta and cfg->rope_scaling and may lower cfg->max_position (longrope); reads
 * cfg->head_dim and cfg->max_position. Warns where transformers warns. KQ_E_UNSUPPORTED names a type
 * that is not known. */
kq_status kq_rope_from_json(const kq_json_node *root, kq_config *cfg, kq_error *err);
/* The value of rope_scaling for a config.json, read alike by transformers 4 and 5; json null when there
 * is no scaling. NULL: out of memory. */
json_t *kq_rope_to_json(const kq_config *cfg);

/* Take divisors [head_dim / 2] that a file gives, on top of what cfg says already: as llama3 scaling
 * when its parameters can be told from them (a config.json can then say so), else as a table.
 * KQ_E_UNSUPPORTED: more than KQ_MAX_ROPE_PAIRS; KQ_E_FORMAT: one is not above 0. */
kq_status kq_rope_set_divisors(kq_config *cfg, const float *divisor, const char *path, kq_error *err);

/* How a GGUF says this scaling. */
typedef enum kq_rope_gguf { KQ_ROPE_GGUF_KEYS, KQ_ROPE_GGUF_FREQS, KQ_ROPE_GGUF_NONE } kq_rope_gguf;
/* KEYS: with rope.scaling.type (or nothing at all); FREQS: with the tensor rope_freqs.weight; NONE: not
 * at all (Qwen3 has no such tensor). */
kq_rope_gguf kq_rope_gguf_form(const kq_config *cfg);
/* KQ_E_UNSUPPORTED for NONE, with the reason. Warns of dynamic scaling, which llama.cpp does not have:
 * it is right up to the context's length. */
kq_status kq_rope_check_gguf(const kq_config *cfg, kq_error *err);

#endif
