/* Opening a model's tokenizer: its files become JSON (src/tokenizer_files/), the JSON becomes the tokenizer
 * (json.c), and the ids are checked against the rows of the model's embedding. */
#include "base/file.h"
#include "base/text.h"
#include "base/warn.h"
#include "tokenizer/convert.h"
#include "tokenizer/internal.h"
#include "tokenizer_files/tokenizer_files.h"

/* Apply tokenizer_config.json, which has been read, and the chat templates in tokenizer.json's folder. */
static kq_status read_beside(kq_tokenizer *tok, const json_t *config, const char *tokenizer_json,
                             kq_error *err)
{
    char *dir = NULL, *path = NULL;
    kq_status status;
    (void)((status = kq_path_dir(tokenizer_json, &dir, err)) ||
           (status = kq_path_in(&path, err, dir, "tokenizer_config.json")) ||
           (status = kq_tokenizer_apply_config(tok, config, path, err)) ||
           (status = kq_chat_templates_from_folder(tok, dir, err)));
    kq_free(path);
    kq_free(dir);
    return status;
}

kq_status kq_tokenizer_open_file(const char *path, kq_tokenizer **out, kq_error *err)
{
    json_t *root = NULL, *config = NULL;
    kq_tokenizer *tok = NULL;
    *out = NULL;
    kq_status status = kq_tokenizer_folder_json(path, &root, &config, err);
    if (!status)
        status = kq_tokenizer_from_json(root, path, &tok, err);
    if (!status)
        status = read_beside(tok, config, path, err);
    json_decref(root);
    json_decref(config);
    if (status)
        kq_tokenizer_close(tok);
    else
        *out = tok;
    return status;
}

/* A token beyond the model's rows has no embedding, so no text may give it. It is an error at once where
 * every text would begin or end with such a token. */
static kq_status check_rows(kq_tokenizer *tok, size_t n_rows, kq_error *err)
{
    size_t n = 0;
    int32_t first = -1;
    tok->n_rows = n_rows;
    for (size_t i = 0; i < tok->n_prefix + tok->n_suffix; i++) {
        const int32_t id = i < tok->n_prefix ? tok->prefix[i] : tok->suffix[i - tok->n_prefix];
        if ((size_t)id >= n_rows)
            return kq_fail(err, KQ_E_MISMATCH,
                           "%s: the post-processor adds token \"%.60s\" with id %d to every text, the model "
                           "has %zu rows (another model's "
                           "tokenizer?)",
                           tok->path, tok->text.data + tok->token[id].off, id, n_rows);
    }
    for (size_t id = n_rows; id < tok->n_id; id++)
        if (tok->token[id].off != UINT32_MAX && !n++)
            first = (int32_t)id;
    if (n)
        kq_warn("%s: token \"%.60s\" has id %d, the model has %zu rows (%zu such tokens): a text with one of "
                "them is refused",
                tok->path, tok->text.data + tok->token[first].off, first, n_rows, n);
    return KQ_OK;
}

static kq_status open_gguf(const kq_source *src, kq_tokenizer **tok, kq_error *err)
{
    json_t *root = NULL, *config = NULL;
    kq_status status =
        kq_tokenizer_gguf_json(kq_source_gguf(src), kq_source_config(src)->max_position, &root, &config, err);
    if (!status && !(status = kq_tokenizer_from_json(root, kq_source_path(src), tok, err)))
        status = kq_tokenizer_apply_config(*tok, config, kq_source_path(src), err);
    json_decref(root);
    json_decref(config);
    return status;
}

static kq_status open_folder(const kq_source *src, kq_tokenizer **tok, kq_error *err)
{
    char *path;
    kq_status status = kq_path_in(&path, err, kq_source_path(src), "tokenizer.json");
    if (!status && !kq_path_exists(path))
        status = kq_fail(err, KQ_E_UNSUPPORTED,
                         "%s: no tokenizer.json (older tokenizer files: load and save the folder once with "
                         "transformers)",
                         kq_source_path(src));
    if (!status)
        status = kq_tokenizer_open_file(path, tok, err);
    kq_free(path);
    return status;
}

kq_status kq_tokenizer_open(const kq_source *src, kq_tokenizer **out, kq_error *err)
{
    const kq_config *cfg = kq_source_config(src);
    kq_tokenizer *tok = NULL;
    *out = NULL;
    kq_status status =
        kq_source_kind_of(src) == KQ_SOURCE_GGUF ? open_gguf(src, &tok, err) : open_folder(src, &tok, err);
    if (!status)
        status = check_rows(tok, cfg->vocab_size, err);
    if (status) {
        kq_tokenizer_close(tok);
        return status;
    }
    if (tok->bos < 0 && cfg->bos_id >= 0 && (size_t)cfg->bos_id < tok->n_id)
        tok->bos = cfg->bos_id;
    if (tok->eos < 0 && cfg->n_eos && cfg->eos_id[0] >= 0 && (size_t)cfg->eos_id[0] < tok->n_id)
        tok->eos = cfg->eos_id[0];
    *out = tok;
    return KQ_OK;
}
