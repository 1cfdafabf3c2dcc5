/* The pre-tokenizers that a GGUF can name (tokenizer.ggml.pre), as the JSON of Hugging Face's files. A GGUF
 * has only the name. What it means is written in llama.cpp's source, and therefore in this table. */
#include "tokenizer_files/gguf_pre.h"

#include <string.h>

/* The pre-tokenizers that tokenizer.ggml.pre can name, as the JSON of Hugging Face's files. */
#define BYTE_LEVEL_ONLY \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SPLIT(re) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(list) "{\"type\":\"Sequence\",\"pretokenizers\":[" list "]}"
#define GPT2_RE \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+"
#define MODERN_RE(digits)                                                          \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
static const char gpt2_pre[] =
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}";
static const char digits_pre[] =
    SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true},"
             "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}");
static const char llama3_pre[] = SEQUENCE(SPLIT(MODERN_RE("\\\\p{N}{1,3}")) "," BYTE_LEVEL_ONLY);
static const char qwen2_pre[] = SEQUENCE(SPLIT(MODERN_RE("\\\\p{N}")) "," BYTE_LEVEL_ONLY);
static const char default_pre[] = SEQUENCE(SPLIT("[\\\\p{P}\\\\$\\\\+<=>\\\\^~\\\\|]+") "," SPLIT(
    GPT2_RE) "," SPLIT("\\\\p{N}+") "," SPLIT("[0-9][0-9][0-9]") "," BYTE_LEVEL_ONLY);

static const kq_gguf_pre pre_kinds[] = {
    {"smollm", digits_pre, false, false, false},   {"starcoder", digits_pre, false, false, false},
    {"refact", digits_pre, false, false, false},   {"gpt-2", gpt2_pre, false, false, false},
    {"gpt2", gpt2_pre, false, false, false},       {"llama-bpe", llama3_pre, false, true, true},
    {"llama3", llama3_pre, false, true, true},     {"llama-v3", llama3_pre, false, true, true},
    {"qwen2", qwen2_pre, true, false, false},      {"deepseek-r1-qwen", qwen2_pre, true, false, false},
    {"default", default_pre, false, false, false}, {"smaug-bpe", llama3_pre, false, false, false},
};
const char kq_gguf_pre_names[] = "smollm, starcoder, refact, gpt-2, gpt2, llama-bpe, llama3, llama-v3, "
                                 "qwen2, deepseek-r1-qwen, default, smaug-bpe";

json_t *kq_gguf_pre_json(const char *name, bool add_prefix_space)
{
    json_t *pre = NULL, *step;
    size_t i;
    for (i = 0; i < sizeof pre_kinds / sizeof *pre_kinds && !pre; i++)
        if (!strcmp(pre_kinds[i].name, name))
            pre = json_loads(pre_kinds[i].json, 0, NULL);
    json_array_foreach(json_object_get(pre, "pretokenizers"), i, step)
        if (json_object_get(step, "add_prefix_space"))
            json_object_set_new(step, "add_prefix_space", json_boolean(add_prefix_space));
    return pre;
}

/* A pre-tokenizer without what makes no difference to ids: offsets, and a Sequence around one step. New
 * reference; NULL: none, or out of memory. */
static json_t *plain_pre(const json_t *pre)
{
    json_t *copy = json_deep_copy(pre), *steps = json_object_get(copy, "pretokenizers"), *step;
    size_t i;
    json_array_foreach(steps, i, step)
        json_object_del(step, "trim_offsets");
    json_object_del(copy, "trim_offsets");
    if (json_array_size(steps) != 1)
        return copy;
    step = json_incref(json_array_get(steps, 0));
    json_decref(copy);
    return step;
}

const char *kq_gguf_pre_name(const json_t *tokenizer)
{
    const json_t *norm = json_object_get(tokenizer, "normalizer"),
                 *ignore = json_object_get(json_object_get(tokenizer, "model"), "ignore_merges");
    const char *found = NULL, *form = json_string_value(json_object_get(norm, "type"));
    json_t *pre = plain_pre(json_object_get(tokenizer, "pre_tokenizer"));
    /* llama.cpp does not normalise. Its converter ignores NFC, and so does this: most texts are in NFC
     * already */
    const bool plain = !norm || json_is_null(norm) || (form && !strcmp(form, "NFC"));
    for (size_t i = 0; plain && !found && i < sizeof pre_kinds / sizeof *pre_kinds; i++) {
        json_t *raw = json_loads(pre_kinds[i].json, 0, NULL), *kind = plain_pre(raw);
        if (kind && json_equal(kind, pre) && pre_kinds[i].ignore_merges == json_is_true(ignore))
            found = pre_kinds[i].name;
        json_decref(raw);
        json_decref(kind);
    }
    json_decref(pre);
    return found;
}

const kq_gguf_pre *kq_gguf_pre_find(const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof pre_kinds / sizeof *pre_kinds; i++)
        if (strlen(pre_kinds[i].name) == size && !memcmp(pre_kinds[i].name, name, size))
            return &pre_kinds[i];
    return NULL;
}
