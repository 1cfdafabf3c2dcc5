/* Reads the normalizer and the pre_tokenizer of a tokenizer.json: what a text goes through before byte pair
 * encoding. */
#include <string.h>

#include <utf8proc.h>

#include "tokenizer/json_parts.h"

/* ---- normalizer ---- */

static kq_status read_norm(kq_tokenizer *tok, const json_t *v, void *ctx, int depth, kq_error *err)
{
    static const struct {
        const char *name;
        int form;
    } forms[] = {
        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = kq_tok_type(v);
    if (!strcmp(type, "Sequence"))
        return kq_tok_sequence(&(kq_sequence_part){"normalizer", "normalizers", read_norm}, tok, v, ctx,
                               depth, err);
    if (tok->n_norm >= KQ_TOK_MAX_STAGES)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d normalizers", tok->path, KQ_TOK_MAX_STAGES);
    kq_norm *n = &tok->norm[tok->n_norm];
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(type, forms[i].name)) {
            n->kind = KQ_NORM_FORM;
            n->form = forms[i].form;
            tok->n_norm++;
            return KQ_OK;
        }
    if (!strcmp(type, "Prepend")) {
        n->kind = KQ_NORM_PREPEND;
        tok->n_norm++;
        return kq_tok_copy_string(json_object_get(v, "prepend"), tok, "normalizer Prepend", &n->content,
                                  &n->content_size, err);
    }
    if (!strcmp(type, "Replace")) {
        n->kind = KQ_NORM_REPLACE;
        tok->n_norm++;
        kq_status status = kq_tok_read_pattern(tok, v, "normalizer Replace", &n->pattern, err);
        return status ? status
                      : kq_tok_copy_string(json_object_get(v, "content"), tok, "normalizer Replace",
                                           &n->content, &n->content_size, err);
    }
    return kq_tok_refuse(tok, "normalizer", type, err);
}

kq_status kq_tok_read_normalizer(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    return read_norm(tok, v, NULL, 0, err);
}

/* ---- pre_tokenizer ---- */

static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static kq_status read_behavior(const kq_tokenizer *tok, const json_t *v, kq_behavior *out, kq_error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *s = json_string_value(v);
    for (int i = 0; s && i < 5; i++)
        if (!strcmp(s, names[i])) {
            *out = (kq_behavior)i;
            return KQ_OK;
        }
    return kq_tok_refuse(tok, "split behavior", s ? s : "(none)", err);
}

static kq_status read_metaspace(kq_tokenizer *tok, const json_t *v, kq_pre *p, kq_error *err)
{
    kq_status status;
    p->kind = KQ_PRE_METASPACE;
    p->split = kq_json_flag(v, "split", true);
    if ((status = kq_tok_read_scheme(tok, v, &p->prepend, err)) ||
        (status = kq_tok_copy_string(json_object_get(v, "replacement"), tok, "Metaspace replacement",
                                     &p->replacement, &p->replacement_size, err)))
        return status;
    return p->replacement_size ? KQ_OK
                               : kq_fail(err, KQ_E_FORMAT, "%s: Metaspace replacement is empty", tok->path);
}

static kq_status read_split(kq_tokenizer *tok, const json_t *v, kq_pre *p, kq_error *err)
{
    p->kind = KQ_PRE_SPLIT;
    p->invert = kq_json_flag(v, "invert", false);
    kq_status status = read_behavior(tok, json_object_get(v, "behavior"), &p->behavior, err);
    return status ? status : kq_tok_read_pattern(tok, v, "pre_tokenizer Split", &p->pattern, err);
}

static kq_status read_byte_level(const json_t *v, kq_pre *p, kq_error *err)
{
    p->kind = KQ_PRE_BYTE_LEVEL;
    p->add_prefix_space = kq_json_flag(v, "add_prefix_space", true);
    p->use_regex = kq_json_flag(v, "use_regex", true);
    return p->use_regex ? kq_pattern_regex(gpt2_regex, sizeof gpt2_regex - 1, "ByteLevel", &p->pattern, err)
                        : KQ_OK;
}

static kq_status read_pre(kq_tokenizer *tok, const json_t *v, void *ctx, int depth, kq_error *err)
{
    if (!v || json_is_null(v))
        return KQ_OK;
    const char *type = kq_tok_type(v);
    if (!strcmp(type, "Sequence"))
        return kq_tok_sequence(&(kq_sequence_part){"pre_tokenizer", "pretokenizers", read_pre}, tok, v, ctx,
                               depth, err);
    if (tok->n_pre >= KQ_TOK_MAX_STAGES)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: more than %d pre-tokenizers", tok->path,
                       KQ_TOK_MAX_STAGES);
    kq_pre *p = &tok->pre[tok->n_pre++]; /* counted at once: the tokenizer frees what it owns */
    if (!strcmp(type, "ByteLevel"))
        return read_byte_level(v, p, err);
    if (!strcmp(type, "Split"))
        return read_split(tok, v, p, err);
    if (!strcmp(type, "Metaspace"))
        return read_metaspace(tok, v, p, err);
    if (strcmp(type, "Digits") != 0)
        return kq_tok_refuse(tok, "pre_tokenizer", type, err);
    p->kind = KQ_PRE_DIGITS;
    p->behavior = kq_json_flag(v, "individual_digits", false) ? KQ_ISOLATED : KQ_CONTIGUOUS;
    return KQ_OK;
}

kq_status kq_tok_read_pre_tokenizer(kq_tokenizer *tok, const json_t *v, kq_error *err)
{
    return read_pre(tok, v, NULL, 0, err);
}
