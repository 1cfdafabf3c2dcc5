/* generation_config.json: end tokens and sampling. transformers passes over what it cannot use, so a wrong
 * value is a warning here, not an error; only end tokens, which decide where every answer ends, must be
 * right. */
#include "source/generation_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "base/warn.h"
#include "format/json.h"

enum { MAX_FILE = 16 << 20 };

/* ---- end tokens ---- */

static kq_status add_eos(kq_json_node given, const json_t *value, size_t vocab_size,
                         int32_t eos_id[KQ_MAX_EOS], size_t *n_eos, kq_error *err)
{
    const double id = json_number_value(value);
    if (!json_is_number(value) || id != floor(id))
        return kq_json_unexpected(given, "a token id or a list of token ids", err);
    if (id < 0 || id >= (double)vocab_size) {
        kq_warn("%s: %s %.0f is outside the vocabulary of %zu tokens: no answer ends by it", given.file,
                given.key, id, vocab_size);
        return KQ_OK;
    }
    for (size_t i = 0; i < *n_eos; i++)
        if (eos_id[i] == (int32_t)id)
            return KQ_OK;
    if (*n_eos == KQ_MAX_EOS)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s lists more than %d tokens", given.file, given.key,
                       KQ_MAX_EOS);
    eos_id[(*n_eos)++] = (int32_t)id;
    return KQ_OK;
}

kq_status kq_parse_eos(kq_json_node eos, size_t vocab_size, int32_t eos_id[KQ_MAX_EOS], size_t *n_eos,
                       kq_error *err)
{
    kq_status status = KQ_OK;
    size_t i;
    json_t *item;
    *n_eos = 0;
    if (!json_is_array(eos.value))
        return add_eos(eos, eos.value, vocab_size, eos_id, n_eos, err);
    json_array_foreach(eos.value, i, item)
        if ((status = add_eos(eos, item, vocab_size, eos_id, n_eos, err)))
            break;
    return status;
}

/* ---- sampling ---- */

/* A number from 0 to most, or above 0. False where the field is absent, and where it is something else, with
 * a warning. */
static bool get_value(const kq_json_node *root, const char *key, bool above_0, double most, double *out)
{
    const kq_json_node node = kq_json_field(root, key);
    double x = 0;
    kq_error wrong;
    if (kq_json_absent(node))
        return false;
    kq_status status = kq_json_get_number(node, KQ_JSON_REQUIRED, 0, most, &x, &wrong);
    if (!status && above_0 && x == 0)
        status = kq_json_unexpected(node, "a number above 0", &wrong);
    if (status) {
        kq_warn("%s: it is not used", wrong.message);
        return false;
    }
    *out = x;
    return true;
}

static void get_sampling(const kq_json_node *root, kq_generation_config *out)
{
    const json_t *do_sample = json_object_get(root->value, "do_sample");
    double top_k;
    out->has_do_sample = json_is_boolean(do_sample);
    out->do_sample = json_is_true(do_sample);
    out->has_temperature = get_value(root, "temperature", false, INFINITY, &out->temperature);
    out->has_top_p = get_value(root, "top_p", true, 1, &out->top_p);
    out->has_min_p = get_value(root, "min_p", false, 1, &out->min_p);
    out->has_repetition_penalty =
        get_value(root, "repetition_penalty", true, INFINITY, &out->repetition_penalty);
    out->has_top_k = get_value(root, "top_k", false, INFINITY, &top_k);
    out->top_k = !out->has_top_k ? 0 : top_k < INT32_MAX ? (int32_t)top_k : INT32_MAX;
}

/* Values that ask for nothing: null, false, an empty list, and the number in the table. */
static void get_unread(const json_t *root, char *out, size_t cap)
{
    static const struct {
        const char *key;
        double nothing;
    } keys[] = {
        {"no_repeat_ngram_size", 0},
        {"suppress_tokens", NAN},
        {"begin_suppress_tokens", NAN},
        {"bad_words_ids", NAN},
        {"sequence_bias", NAN},
        {"forced_bos_token_id", NAN},
        {"forced_eos_token_id", NAN},
        {"min_length", 0},
        {"min_new_tokens", 0},
        {"exponential_decay_length_penalty", NAN},
        {"guidance_scale", 1},
        {"num_beams", 1},
        {"typical_p", 1},
        {"epsilon_cutoff", 0},
        {"eta_cutoff", 0},
        {"top_h", NAN},
        {"encoder_repetition_penalty", 1},
        {"encoder_no_repeat_ngram_size", 0},
        {"watermarking_config", NAN},
    };
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(root, keys[i].key);
        const bool off = !v || json_is_null(v) || json_is_false(v) ||
                         (json_is_array(v) && !json_array_size(v)) ||
                         (json_is_number(v) && json_number_value(v) == keys[i].nothing);
        if (!off && n < cap)
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n ? ", " : "", keys[i].key);
    }
}

static kq_status read_file(const char *path, size_t vocab_size, kq_generation_config *out, kq_error *err)
{
    json_t *json;
    kq_error broken;
    kq_status status = kq_json_read(path, MAX_FILE, &json, &broken);
    if (status && status != KQ_E_FORMAT)
        return kq_fail(err, status, "%s", broken.message);
    if (status || !json_is_object(json)) {
        kq_warn("%s: the file is not used", status ? broken.message : path);
        json_decref(json);
        return KQ_OK;
    }
    const kq_json_node root = kq_json_root(json, path), eos = kq_json_field(&root, "eos_token_id");
    out->exists = true;
    if (!kq_json_absent(eos))
        status = kq_parse_eos(eos, vocab_size, out->eos_id, &out->n_eos, err);
    get_sampling(&root, out);
    get_unread(json, out->unread, sizeof out->unread);
    json_decref(json);
    return status;
}

kq_status kq_generation_config_read(const char *dir, size_t vocab_size, kq_generation_config *out,
                                    kq_error *err)
{
    char *path;
    *out = (kq_generation_config){0};
    kq_status status = kq_path_in(&path, err, dir, "generation_config.json");
    if (!status && kq_path_exists(path))
        status = read_file(path, vocab_size, out, err);
    kq_free(path);
    return status;
}
