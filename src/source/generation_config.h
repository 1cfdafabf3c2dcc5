/* generation_config.json of a Hugging Face folder: how its authors want text to be made. */
#ifndef KQ_SOURCE_GENERATION_CONFIG_H
#define KQ_SOURCE_GENERATION_CONFIG_H

#include "format/json.h"
#include "source/config.h"

/* A value counts where its has_ member is true: then the file has the field, and it is in range. */
typedef struct kq_generation_config {
    /* there is such a file, and it is a JSON object */
    bool exists;
    int32_t eos_id[KQ_MAX_EOS];
    size_t n_eos; /* eos_token_id, a number or a list */
    bool has_do_sample, do_sample;
    bool has_temperature;
    double temperature; /* >= 0 */
    bool has_top_p;
    double top_p; /* 0 < top_p <= 1 */
    bool has_top_k;
    int32_t top_k; /* >= 0; 0: all tokens */
    bool has_min_p;
    double min_p; /* 0 <= min_p <= 1 */
    bool has_repetition_penalty;
    double repetition_penalty; /* > 0 */
    /* settings that change what transformers' generate() writes and that kronq has not, as "a, b" */
    char unread[256];
} kq_generation_config;

/* Read DIR/generation_config.json. No such file, a field that is absent or null: nothing of it is set.
 * As in transformers'
 * generate(), a file that exists decides alone what ends an answer: config.json's eos_token_id counts
 * only where exists is false. vocab_size bounds the end tokens: ids outside the vocabulary are never
 * produced, so they are left out with a warning. What transformers cannot use is left out with a warning
 * too: a file that is not JSON (transformers then goes by config.json alone), sampling values of a wrong
 * type or out of range.
 * KQ_E_FORMAT: eos_token_id is neither a whole number nor a list of such. KQ_E_UNSUPPORTED: it lists
 * more than KQ_MAX_EOS. */
kq_status kq_generation_config_read(const char *dir, size_t vocab_size, kq_generation_config *out,
                                    kq_error *err);

/* End tokens as config.json and generation_config.json spell them: a whole number (written 2 or 2.0) or
 * a list of such. Ids outside the vocabulary are left out with a warning, doubles quietly. */
kq_status kq_parse_eos(kq_json_node eos, size_t vocab_size, int32_t eos_id[KQ_MAX_EOS], size_t *n_eos,
                       kq_error *err);

#endif
