/* Drawing a token from a model's logits: temperature, top-k, top-p, min-p, repetition penalty. */
#ifndef KQ_GENERATE_SAMPLE_H
#define KQ_GENERATE_SAMPLE_H

#include "source/source.h"

typedef struct kq_sampling {
    double temperature; /* 0: the most likely */
    int top_k;          /* 0: off */
    double top_p;       /* 1: off */
    uint64_t seed;
    /* tokens less likely than this share of the most likely one's probability are left out; 0: off */
    double min_p;
    double repetition_penalty; /* for kq_penalize; 0 or 1: off */
} kq_sampling;
/* What the model's authors recommend for drawing (its folder's generation_config.json: temperature,
 * top_p, top_k, min_p, repetition_penalty; do_sample is not looked at, as vLLM does it), what they leave
 * out being off; all of `otherwise` when they say nothing, or the model is a GGUF. The seed is
 * `otherwise`'s. */
kq_status kq_sampling_recommended(const kq_source *src, const kq_sampling *otherwise, kq_sampling *out,
                                  kq_error *err);
/* One draw from logits [n] (log-softmax is taken inside; logits are overwritten). u in [0,1) is the
 * random number; tokens share [0,1) in the order of their ids. First the temperature, then the k most
 * likely, then of those (renormalised) the fewest most likely whose sum reaches top_p, at least one,
 * then min_p (Hugging Face's order); equal logits are kept lowest ids first. Temperature 0: the most
 * likely, ties to the lowest id. -1: a logit is NaN or +Inf, or none is finite. */
int32_t kq_sample(float *logits, size_t n, const kq_sampling *s, double u);
/* Before kq_sample: make the tokens of the context less likely (Keskar et al. 2019): each id that occurs
 * in ids, once, has its logit divided by the penalty if positive, else multiplied by it. penalty 1 or 0:
 * nothing. Ids outside [0, n) are passed over. */
kq_status kq_penalize(float *logits, size_t n, const int32_t *ids, size_t n_ids, double penalty,
                      kq_error *err);

#endif
