/* Drawing a token from a model's logits: temperature, top-k, top-p, min-p, repetition penalty. */
#ifndef KQ_GENERATE_SAMPLE_H
#define KQ_GENERATE_SAMPLE_H

#include "source/source.h"

/* What the model's authors recommend for drawing: temperature, top_p, top_k, min_p and repetition_penalty of
 * its folder's generation_config.json (do_sample is not read, as vLLM does not read it). What they leave out
 * is off. When they say nothing, or the model is a GGUF, *out is `otherwise`. The seed is always
 * `otherwise`'s. */
kq_status kq_sampling_recommended(const kq_source *src, const kq_sampling *otherwise, kq_sampling *out,
                                  kq_error *err);
/* One draw from logits [n], which are overwritten (they need no softmax before). u in [0,1) is the random
 * number; tokens share [0,1) in the order of their ids. First the temperature; then the k most likely; then
 * of those, renormalised, the fewest most likely whose sum reaches top_p, at least one; then min_p (Hugging
 * Face's order). Of equal logits the lowest ids are kept. Temperature 0: the most likely, ties to the lowest
 * id. Returns -1 when a logit is NaN or +Inf, or none is finite. */
int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u);
/* Before kq_sample: make the tokens of the context less likely (Keskar et al. 2019). The logit of each id
 * that occurs in ids is divided by the penalty once if it is positive, multiplied by it otherwise. A penalty
 * of 1 or 0 changes nothing; ids outside [0, n) are passed over. KQ_E_MEMORY. */
kq_status kq_penalize(float *logits, size_t n, const int32_t *ids, size_t n_ids, double penalty,
                      kq_error *err);

#endif
