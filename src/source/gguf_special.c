/* The special tokens of a GGUF, as llama.cpp finds them. Many files leave out which token ends a turn, or
 * mark it as text, so llama.cpp goes by well-known names, and this table is its list. */
#include "source/gguf_special.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/warn.h"
#include "base/mem.h"

/* What a name meaning. */
enum {
    EOT = 1,
    EOM = 2,
    FIM_PRE = 4,
    FIM_SUF = 8,
    FIM_MID = 16,
    FIM_PAD = 32,
    FIM_REP = 64,
    FIM_SEP = 128,
    ENDS = 256,
    SHOWN = 512,
    N_ROLE = 8
};

static const struct named {
    const char *name;
    unsigned meaning;
} names[] = {
    {"<|eot_id|>", EOT | ENDS},
    {"<|im_end|>", EOT | ENDS},
    {"<|end|>", EOT | ENDS},
    {"<end_of_turn>", EOT | ENDS},
    {"<|endoftext|>", EOT | ENDS},
    {"<|end_of_text|>", EOT | ENDS},
    {"<EOT>", EOT | ENDS},
    {"_<EOT>", EOT | ENDS},
    {"[EOT]", EOT | ENDS},
    {"<end_of_utterance>", EOT | ENDS},
    {"<\xef\xbd\x9c"
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>",
     EOT | ENDS},
    {"<|eom_id|>", EOM | ENDS},
    {"<|return|>", ENDS},
    {"<|call|>", ENDS},
    {"<|flush|>", ENDS},
    {"<|calls|>", ENDS},
    {"</s>", ENDS},
    {"[EOS]", ENDS},
    {"<eos>", ENDS},
    {"<turn|>", ENDS},
    {"<|tool_response>", ENDS},
    {"[e~[", ENDS},
    {"<|fim_prefix|>", FIM_PRE},
    {"<fim-prefix>", FIM_PRE},
    {"<fim_prefix>", FIM_PRE},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "begin\xef\xbd\x9c>",
     FIM_PRE},
    {"<PRE>", FIM_PRE},
    {"\xe2\x96\x81<PRE>", FIM_PRE},
    {"<|code_prefix|>", FIM_PRE},
    {"<|prefix|>", FIM_PRE},
    {"<|fim_suffix|>", FIM_SUF},
    {"<fim-suffix>", FIM_SUF},
    {"<fim_suffix>", FIM_SUF},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81hole\xef\xbd\x9c>",
     FIM_SUF},
    {"<SUF>", FIM_SUF},
    {"\xe2\x96\x81<SUF>", FIM_SUF},
    {"<|code_suffix|>", FIM_SUF},
    {"<|suffix|>", FIM_SUF},
    {"<|fim_middle|>", FIM_MID},
    {"<fim-middle>", FIM_MID},
    {"<fim_middle>", FIM_MID},
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "end\xef\xbd\x9c>",
     FIM_MID},
    {"<MID>", FIM_MID},
    {"\xe2\x96\x81<MID>", FIM_MID},
    {"<|code_middle|>", FIM_MID},
    {"<|middle|>", FIM_MID},
    {"<|fim_pad|>", FIM_PAD},
    {"<fim-pad>", FIM_PAD},
    {"<fim_pad>", FIM_PAD},
    {"<PAD>", FIM_PAD},
    {"[PAD]", FIM_PAD},
    {"<|fim_repo|>", FIM_REP},
    {"<|repo_name|>", FIM_REP},
    {"<fim-repo>", FIM_REP},
    {"<REPO>", FIM_REP},
    {"<reponame>", FIM_REP},
    {"<|file_sep|>", FIM_SEP},
    {"<|channel|>", SHOWN},
    {"<|message|>", SHOWN},
    {"<|start|>", SHOWN},
    {"<|constrain|>", SHOWN},
};
enum { N_NAME = sizeof names / sizeof *names };

/* The roles that a key can give, in the order of their bits; of the first three prefix names an older
 * key meaning the same. */
static const char *const role_keys[N_ROLE] = {"eot",     "eom",     "fim_pre", "fim_suf",
                                              "fim_mid", "fim_pad", "fim_rep", "fim_sep"};
static const char *const older_keys[N_ROLE] = {[2] = "prefix", [3] = "suffix", [4] = "middle"};

bool kq_gguf_ends_by_name(const char *name)
{
    for (size_t i = 0; i < N_NAME; i++)
        if ((names[i].meaning & ENDS) && !strcmp(names[i].name, name))
            return true;
    return false;
}

typedef struct reader {
    const kq_gguf *g;
    kq_gguf_special *out;
    size_t n;             /* tokens; 0: not known */
    int32_t role[N_ROLE]; /* -1: none */
    int32_t has[N_NAME];  /* the token of each name; -1: none */
    kq_error *err;
} reader;

/* *id stays when there is no key, or one that is outside the vocabulary. */
static kq_status read_key(const reader *r, const char *role, int32_t *id)
{
    char key[64];
    int64_t value;
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", role);
    const kq_gguf_kv *kv = kq_gguf_find(r->g, key);
    if (!kv)
        return KQ_OK;
    if (kv->is_array || !kq_gguf_int(kv, 0, &value))
        return kq_fail(r->err, KQ_E_FORMAT, "%s: %s is not the id of a token", kq_gguf_path(r->g), key);
    if (value < 0 || value > INT32_MAX || (r->n && (uint64_t)value >= r->n))
        kq_warn("%s: %s is %lld, not one of the %zu tokens; it is passed over", kq_gguf_path(r->g), key,
                (long long)value, r->n);
    else
        *id = (int32_t)value;
    return KQ_OK;
}

static void retype(reader *r, int32_t id, int32_t type)
{
    kq_gguf_special *s = r->out;
    for (size_t i = 0; i < s->n_retyped; i++)
        if (s->retyped[i].id == id) {
            s->retyped[i].type = type;
            return;
        }
    if (s->n_retyped <
        sizeof s->retyped / sizeof *s->retyped) { /* at most one entry a name, and there are fewer names */
        s->retyped[s->n_retyped].id = id;
        s->retyped[s->n_retyped++].type = type;
    }
}

/* The first token of each name; tokens that are there twice are refused by the tokenizer. */
static void find_names(reader *r)
{
    const kq_gguf_kv *tokens = kq_gguf_find(r->g, "tokenizer.ggml.tokens");
    for (size_t k = 0; k < N_NAME; k++)
        r->has[k] = -1;
    for (size_t i = 0; i < r->n; i++) {
        const char *s;
        size_t size;
        if (!kq_gguf_str(tokens, i, &s, &size) || !size || size > 40 || !memchr("<[_\xe2", *s, 4))
            continue;
        for (size_t k = 0; k < N_NAME; k++)
            if (r->has[k] < 0 && strlen(names[k].name) == size && !memcmp(names[k].name, s, size))
                r->has[k] = (int32_t)i;
    }
}

/* Roles that no key gives: the token of the lowest id that has one of their names. */
static void roles_by_name(reader *r)
{
    for (int role = 0; role < N_ROLE; role++) {
        int32_t found = -1;
        for (size_t k = 0; k < N_NAME && r->role[role] < 0; k++)
            if ((names[k].meaning & 1u << role) && r->has[k] >= 0 && (found < 0 || r->has[k] < found))
                found = r->has[k];
        if (found >= 0) {
            r->role[role] = found;
            retype(r, found, KQ_TOKEN_CONTROL);
        }
    }
}

static bool ends(const kq_gguf_special *s, int32_t id)
{
    for (size_t i = 0; i < s->n_end; i++)
        if (s->end[i] == id)
            return true;
    return false;
}

static kq_status add_end(reader *r, int32_t id)
{
    kq_gguf_special *s = r->out;
    if (id < 0 || ends(s, id))
        return KQ_OK;
    if (s->n_end == KQ_MAX_EOS)
        return kq_fail(r->err, KQ_E_UNSUPPORTED, "%s: more than %d tokens end an answer", kq_gguf_path(r->g),
                       KQ_MAX_EOS);
    s->end[s->n_end++] = id;
    return KQ_OK;
}

static int32_t token_of(const reader *r, const char *name)
{
    for (size_t k = 0; k < N_NAME; k++)
        if (!strcmp(names[k].name, name))
            return r->has[k];
    return -1;
}

/* One of the named tokens that ends answers, or would, is none after all. */
static void take_back(reader *r, int32_t id, int32_t type)
{
    kq_gguf_special *s = r->out;
    size_t n = 0;
    for (size_t i = 0; i < s->n_end; i++)
        if (s->end[i] != id)
            s->end[n++] = s->end[i];
    s->n_end = n;
    retype(r, id, type);
}

/* gpt-oss and Solar go on after <|end|>; Gemma 4 has a plain </s>. */
static void exceptions(reader *r)
{
    const int32_t end = token_of(r, "<|end|>"), s = token_of(r, "</s>");
    const bool call = token_of(r, "<|call|>") >= 0 || token_of(r, "<|calls|>") >= 0;
    if (end >= 0 && call && (token_of(r, "<|return|>") >= 0 || token_of(r, "<|flush|>") >= 0))
        take_back(r, end, KQ_TOKEN_USER);
    if (s >= 0 && token_of(r, "<|tool_response>") >= 0)
        take_back(r, s, KQ_TOKEN_NORMAL);
}

static int by_id(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static kq_status find_ends(reader *r)
{
    kq_gguf_special *s = r->out;
    kq_status status;
    if ((status = add_end(r, s->eos)) || (status = add_end(r, r->role[0])) ||
        (status = add_end(r, r->role[1])))
        return status;
    const size_t first = s->n_end;
    for (int role = 5; role < N_ROLE; role++)
        if ((status = add_end(r, r->role[role])))
            return status;
    for (size_t k = 0; k < N_NAME; k++) {
        if (r->has[k] < 0)
            continue;
        if (names[k].meaning & ENDS)
            retype(r, r->has[k], KQ_TOKEN_CONTROL);
        else if (names[k].meaning & SHOWN)
            retype(r, r->has[k], KQ_TOKEN_USER);
        if ((names[k].meaning & ENDS) && (status = add_end(r, r->has[k])))
            return status;
    }
    qsort(s->end + first, s->n_end - first, sizeof *s->end, by_id);
    exceptions(r);
    return KQ_OK;
}

kq_status kq_gguf_special_read(const kq_gguf *g, kq_gguf_special *out, kq_error *err)
{
    const kq_gguf_kv *tokens = kq_gguf_find(g, "tokenizer.ggml.tokens");
    reader r = {.g = g,
                .out = out,
                .n = tokens && tokens->is_array && tokens->type == KQ_GGUF_STRING ? tokens->n : 0,
                .err = err};
    kq_status status;
    *out = (kq_gguf_special){.bos = -1, .eos = -1, .unknown = -1, .padding = -1};
    if (kq_gguf_str_is(kq_gguf_find(g, "tokenizer.ggml.model"), 0, "llama")) {
        out->bos = r.n > 1 ? 1 : -1;
        out->eos = r.n > 2 ? 2 : -1;
        out->unknown = r.n > 0 ? 0 : -1;
    }
    if ((status = read_key(&r, "bos", &out->bos)) || (status = read_key(&r, "eos", &out->eos)) ||
        (status = read_key(&r, "unknown", &out->unknown)) ||
        (status = read_key(&r, "padding", &out->padding)))
        return status;
    for (int role = 0; role < N_ROLE; role++) {
        r.role[role] = -1;
        if ((status = read_key(&r, role_keys[role], &r.role[role])) ||
            (older_keys[role] && (status = read_key(&r, older_keys[role], &r.role[role]))))
            return status;
    }
    find_names(&r);
    roles_by_name(&r);
    return find_ends(&r);
}
