#include "source/generation_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/warn.h"
#include "format/json.h"

enum { MAX_FILE = 16 << 20 };

/* ---- end tokens ---- */

static kq_status add_eos(const json_t *value, const char *key, size_t vocab_size, const char *path,
                         int32_t eos_id[KQ_MAX_EOS], size_t *n_eos, kq_error *err)
{
    double id = json_number_value(value);
    if (!json_is_number(value) || id != floor(id))
        return kq_fail(err, KQ_E_FORMAT, "%s: %s is neither a token id nor a list of token ids", path, key);
    if (id < 0 || id >= (double)vocab_size) {
        kq_warn("%s: %s %.0f is outside the vocabulary of %zu tokens: no answer ends by it", path, key, id,
                vocab_size);
        return KQ_OK;
    }
    for (size_t i = 0; i < *n_eos; i++)
        if (eos_id[i] == (int32_t)id)
            return KQ_OK;
    if (*n_eos == KQ_MAX_EOS)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: %s lists more than %d tokens", path, key, KQ_MAX_EOS);
    eos_id[(*n_eos)++] = (int32_t)id;
    return KQ_OK;
}

kq_status kq_parse_eos(const json_t *value, const char *key, size_t vocab_size, const char *path,
                       int32_t eos_id[KQ_MAX_EOS], size_t *n_eos, kq_error *err)
{
    kq_status status = KQ_OK;
    size_t i;
    json_t *item;
    *n_eos = 0;
    if (!json_is_array(value))
        return add_eos(value, key, vocab_size, path, eos_id, n_eos, err);
    json_array_foreach(value, i,
                       item) if ((status = add_eos(item, key, vocab_size, path, eos_id, n_eos, err))) break;
    return status;
}

/* ---- sampling ---- */

/* A number between lo and hi (above_lo: more than lo). False, with a warning when the field is there,
 * otherwise. */
static bool get_value(const json_t *root, const char *key, double lo, bool above_lo, double hi,
                      const char *path, double *out)
{
    const json_t *value = json_object_get(root, key);
    if (!value || json_is_null(value))
        return false;
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= lo) || (above_lo && x == lo) || x > hi) {
        kq_warn("%s: %s is not a number %s %g%s: it is not used", path, key,
                above_lo ? "above" : "of at least", lo, isinf(hi) ? "" : " and at most 1");
        return false;
    }
    *out = x;
    return true;
}

static void get_sampling(const json_t *root, const char *path, kq_generation_config *out)
{
    const json_t *do_sample = json_object_get(root, "do_sample");
    double top_k;
    out->has_do_sample = json_is_boolean(do_sample);
    out->do_sample = json_is_true(do_sample);
    out->has_temperature = get_value(root, "temperature", 0, false, INFINITY, path, &out->temperature);
    out->has_top_p = get_value(root, "top_p", 0, true, 1, path, &out->top_p);
    out->has_min_p = get_value(root, "min_p", 0, false, 1, path, &out->min_p);
    out->has_repetition_penalty =
        get_value(root, "repetition_penalty", 0, true, INFINITY, path, &out->repetition_penalty);
    out->has_top_k = get_value(root, "top_k", 0, false, INFINITY, path, &top_k);
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

kq_status kq_generation_config_read(const char *dir, size_t vocab_size, kq_generation_config *out,
                                    kq_error *err)
{
    char path[4096];
    json_t *root;
    kq_error broken;
    *out = (kq_generation_config){0};
    kq_status status = kq_path_join(path, sizeof path, dir, "generation_config.json", err);
    if (status || !kq_path_exists(path))
        return status;
    if ((status = kq_json_read(path, MAX_FILE, &root, &broken)) == KQ_E_FORMAT ||
        (!status && !json_is_object(root))) {
        kq_warn("%s: the file is not used", status ? broken.message : path);
        json_decref(root);
        return KQ_OK;
    }
    if (status)
        return kq_fail(err, status, "%s", broken.message);
    const json_t *eos = json_object_get(root, "eos_token_id");
    out->exists = true;
    if (eos && !json_is_null(eos))
        status = kq_parse_eos(eos, "eos_token_id", vocab_size, path, out->eos_id, &out->n_eos, err);
    get_sampling(root, path, out);
    get_unread(root, out->unread, sizeof out->unread);
    json_decref(root);
    return status;
}
