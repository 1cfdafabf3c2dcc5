/* The splitting patterns of the tokenizer.json files that exist in the field. A pattern from a file is looked
 * up here and never run itself, because a hostile pattern could take exponential time. What runs is the text
 * in this table, which takes linear time whatever the text is. */
#include <string.h>

#include "tokenizer/internal.h"

#define WORDS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define WORDS_SPELLED "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define MODERN(words, digits) \
    words "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES
#define TIKTOKEN(digits)                                           \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|" digits \
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CASED(words, digits)                                                                               \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" words "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" words \
    "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES
#define GPT2_HEAD "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"
#define SEED(ends)                                                                              \
    WORDS "|[^" ends "\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}" ends "]+|\\s*[" ends \
          "]+|\\s+(?!\\S)|\\s+"
#define DEEPSEEK3(ends)                                             \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^" ends \
    "\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[" ends "]*|\\s*[" ends "]+|\\s+(?!\\S)|\\s+"

static const char *const known[] = {
    /* GPT-2, SmolLM, and ByteLevel's own pattern; then Falcon's */
    GPT2_HEAD "|\\s+",
    GPT2_HEAD,
    /* GPT-2 as tiktoken writes it */
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    /* LLaMA-3, SmolLM3, DeepSeek-R1's LLaMA */
    MODERN(WORDS, "\\p{N}{1,3}"),
    /* Qwen2, Qwen3, DeepSeek-R1's Qwen; then MiniCPM */
    MODERN(WORDS, "\\p{N}"),
    MODERN(WORDS, "\\p{N}+"),
    /* LLaMA-3 and Qwen2 as llama.cpp writes them */
    MODERN(WORDS_SPELLED, "\\p{N}{1,3}"),
    MODERN(WORDS_SPELLED, "\\p{N}"),
    /* Qwen3.5 */
    WORDS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" SPACES,
    /* cl100k as tiktoken writes it; then Ling; then o200k (GPT-4o, LLaMA-4) */
    TIKTOKEN("\\p{N}{1,3}"),
    TIKTOKEN("\\p{N}"),
    CASED(WORDS "?", "\\p{N}{1,3}"),
    /* Mistral's Tekken */
    CASED("", "\\p{N}"),
    /* Seed-Coder */
    SEED("\\r\\n"),
    SEED("\r\n"),
    /* DeepSeek-Coder: five patterns, and its range of Chinese characters */
    "[\\r\\n]",
    "[\r\n]",
    "\\s?\\p{L}+",
    "\\s?\\p{P}+",
    "\\p{N}",
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80\xea\xb0\x80-\xed\x9f\xbf]+",
    /* DeepSeek-V3: four patterns */
    "\\p{N}{1,3}",
    DEEPSEEK3("\\r\\n"),
    DEEPSEEK3("\r\n"),
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
    /* BLOOM, Poro, Viking */
    " ?[^(\\s|.,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c)]+",
    /* llama.cpp's default pre-tokenizer, and Falcon's */
    "[\\p{P}\\$\\+<=>\\^~\\|]+",
    "[\\p{P}\\$\\+<=>\\^~\\|`]+",
    "\\p{N}+",
    "[0-9][0-9][0-9]",
    /* whole lines: Gemma and its relatives */
    "[^\\n]+|[\\n]+",
};

/* Unicode White_Space: what \s means in Oniguruma, which `tokenizers` runs (PCRE2's \s also takes U+180E). */
#define SPACE_SET \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

static kq_status put(kq_buffer *out, const char *s, kq_error *err)
{
    return kq_buffer_add(out, s, strlen(s), err);
}

/* Write one of the known patterns for PCRE2: \s and \S are spelled out; all else means the same. */
static kq_status for_pcre2(const char *re, kq_buffer *out, kq_error *err)
{
    kq_status status = KQ_OK;
    bool in_class = false;
    for (size_t i = 0; re[i] && !status; i++) {
        if (re[i] == '\\' && re[i + 1] == 's') {
            status = put(out, in_class ? SPACE_SET : "[" SPACE_SET "]", err);
            i++;
        } else if (re[i] == '\\' && re[i + 1] == 'S') {
            status = put(out, "[^" SPACE_SET "]", err);
            i++;
        } else if (re[i] == '\\') {
            status = kq_buffer_add(out, re + i, 2, err);
            i++;
        } else {
            in_class = in_class ? re[i] != ']' : re[i] == '[';
            status = kq_buffer_add(out, re + i, 1, err);
        }
    }
    return status;
}

const char *kq_pattern_known(size_t i)
{
    return i < sizeof known / sizeof *known ? known[i] : NULL;
}

kq_status kq_pattern_regex(const char *regex, size_t size, const char *where, kq_pattern *out, kq_error *err)
{
    const char *found = NULL;
    kq_buffer text = {0};
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
        if (strlen(known[i]) == size && !memcmp(known[i], regex, size))
            found = known[i];
    if (!found)
        return kq_fail(err, KQ_E_UNSUPPORTED,
                       "%s: the regex \"%.*s\" is none of those that kronq knows (GPT-2's, LLaMA-3's, "
                       "Qwen's, DeepSeek's and others: "
                       "src/tokenizer/patterns.c); a pattern that a file brings is never run",
                       where, size > 120 ? 120 : (int)size, regex);
    kq_status status = for_pcre2(found, &text, err);
    pcre2_compile_context *context = status ? NULL : pcre2_compile_context_create(NULL);
    if (!status && !context)
        status = kq_fail(err, KQ_E_MEMORY, "out of memory: a regex");
    if (!status) {
        int code;
        PCRE2_SIZE at;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        out->code =
            pcre2_compile((PCRE2_SPTR)text.data, text.size, PCRE2_UTF | PCRE2_UCP, &code, &at, context);
        if (!out->code)
            status = kq_fail(err, KQ_E_MEMORY, "%s: a regex could not be compiled (PCRE2's error %d)", where,
                             code);
        else
            /* on a machine without PCRE2's compiler, its interpreter gives the same matches */
            (void)pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE);
    }
    pcre2_compile_context_free(context);
    kq_free(text.data);
    return status;
}

kq_status kq_pattern_literal(const char *s, size_t size, kq_pattern *out, kq_error *err)
{
    kq_buffer copy = {0};
    memset(out, 0, sizeof *out);
    if (!size)
        return kq_fail(err, KQ_E_FORMAT, "an empty pattern in tokenizer.json");
    kq_status status = kq_buffer_add(&copy, s, size, err);
    out->literal = copy.data;
    out->literal_size = size;
    return status;
}

void kq_pattern_free(kq_pattern *p)
{
    pcre2_code_free(p->code);
    kq_free(p->literal);
    memset(p, 0, sizeof *p);
}
