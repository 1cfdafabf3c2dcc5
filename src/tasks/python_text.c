#include "tasks/python_text.h"

#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"

static int32_t next(const char *s, size_t *size)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
    *size = n < 1 ? 1 : (size_t)n; /* the text is valid: n < 1 is its end */
    return n < 1 ? (unsigned char)*s : c;
}

/* str.isspace(), Unicode 15 (bidirectional types WS, B, S, or category Zs; no newer version has added
 * one). */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

size_t kq_py_len(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

size_t kq_py_rstrip(const char *s)
{
    size_t end = 0;
    for (size_t i = 0, n; s[i]; i += n)
        if (!is_space(next(s + i, &n)))
            end = i + n;
    return end;
}

void kq_py_strip(char *s)
{
    size_t start = 0, end = kq_py_rstrip(s), n;
    while (start < end && is_space(next(s + start, &n)))
        start += n;
    memmove(s, s + start, end - start);
    s[end - start] = 0;
}

/* Title case of what becomes more than one character: SpecialCasing.txt, as [chr(c).capitalize() for c
 * in range(0x110000)] of Python 3.11 has it. */
static const struct {
    int32_t from, to[3];
} title_special[] = {
    {0xdf, {0x53, 0x73}},
    {0x149, {0x2bc, 0x4e}},
    {0x1f0, {0x4a, 0x30c}},
    {0x390, {0x399, 0x308, 0x301}},
    {0x3b0, {0x3a5, 0x308, 0x301}},
    {0x587, {0x535, 0x582}},
    {0x1e96, {0x48, 0x331}},
    {0x1e97, {0x54, 0x308}},
    {0x1e98, {0x57, 0x30a}},
    {0x1e99, {0x59, 0x30a}},
    {0x1e9a, {0x41, 0x2be}},
    {0x1f50, {0x3a5, 0x313}},
    {0x1f52, {0x3a5, 0x313, 0x300}},
    {0x1f54, {0x3a5, 0x313, 0x301}},
    {0x1f56, {0x3a5, 0x313, 0x342}},
    {0x1fb2, {0x1fba, 0x345}},
    {0x1fb4, {0x386, 0x345}},
    {0x1fb6, {0x391, 0x342}},
    {0x1fb7, {0x391, 0x342, 0x345}},
    {0x1fc2, {0x1fca, 0x345}},
    {0x1fc4, {0x389, 0x345}},
    {0x1fc6, {0x397, 0x342}},
    {0x1fc7, {0x397, 0x342, 0x345}},
    {0x1fd2, {0x399, 0x308, 0x300}},
    {0x1fd3, {0x399, 0x308, 0x301}},
    {0x1fd6, {0x399, 0x342}},
    {0x1fd7, {0x399, 0x308, 0x342}},
    {0x1fe2, {0x3a5, 0x308, 0x300}},
    {0x1fe3, {0x3a5, 0x308, 0x301}},
    {0x1fe4, {0x3a1, 0x313}},
    {0x1fe6, {0x3a5, 0x342}},
    {0x1fe7, {0x3a5, 0x308, 0x342}},
    {0x1ff2, {0x1ffa, 0x345}},
    {0x1ff4, {0x38f, 0x345}},
    {0x1ff6, {0x3a9, 0x342}},
    {0x1ff7, {0x3a9, 0x342, 0x345}},
    {0xfb00, {0x46, 0x66}},
    {0xfb01, {0x46, 0x69}},
    {0xfb02, {0x46, 0x6c}},
    {0xfb03, {0x46, 0x66, 0x69}},
    {0xfb04, {0x46, 0x66, 0x6c}},
    {0xfb05, {0x53, 0x74}},
    {0xfb06, {0x53, 0x74}},
    {0xfb13, {0x544, 0x576}},
    {0xfb14, {0x544, 0x565}},
    {0xfb15, {0x544, 0x56b}},
    {0xfb16, {0x54e, 0x576}},
    {0xfb17, {0x544, 0x56d}},
};

static bool is_cased(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

static bool is_case_ignorable(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' ||
           c == 0xb7 || c == 0x2019 || c == 0x2018;
}

/* The sigma at byte `at` stands at the end of a word. */
static bool is_final_sigma(const char *s, size_t at)
{
    bool before = false;
    size_t n;
    for (size_t i = 0; i < at; i += n) {
        int32_t c = next(s + i, &n);
        if (!is_case_ignorable(c))
            before = is_cased(c);
    }
    for (size_t i = at + 2; before && s[i]; i += n) {
        int32_t c = next(s + i, &n);
        if (!is_case_ignorable(c))
            return !is_cased(c);
    }
    return before;
}

kq_status kq_py_capitalize(const char *s, char **out, kq_error *err)
{
    /* the most that one character grows to: U+0390, 2 bytes, becomes 6 */
    size_t size = strlen(s), room, used = 0, n;
    *out = NULL;
    if (!kq_mul_size(size, 3, &room) || !kq_add_size(room, 4, &room))
        return kq_fail(err, KQ_E_MEMORY, "a text of %zu bytes is too large", size);
    kq_status st = kq_alloc_for((void **)out, room, 1, "a text", err);
    if (st)
        return st;
    for (size_t i = 0; i < size; i += n) {
        int32_t c = next(s + i, &n), to[3] = {0};
        if (i) {
            to[0] = c == 0x3a3   ? (is_final_sigma(s, i) ? 0x3c2 : 0x3c3)
                    : c == 0x130 ? 'i'
                                 : utf8proc_tolower(c);
            to[1] = c == 0x130 ? 0x307 : 0;
        } else {
            to[0] = utf8proc_totitle(c);
            for (size_t k = 0; k < sizeof title_special / sizeof *title_special; k++)
                if (title_special[k].from == c)
                    memcpy(to, title_special[k].to, sizeof to);
        }
        for (int k = 0; k < 3 && (k == 0 || to[k]); k++)
            used += (size_t)utf8proc_encode_char(to[k], (utf8proc_uint8_t *)*out + used);
    }
    (*out)[used] = 0;
    return KQ_OK;
}

/* Python's s.replace(from, to) for a shorter `to`. */
static void replace(char *s, const char *from, const char *to)
{
    const size_t n_from = strlen(from), n_to = strlen(to);
    char *w = s;
    while (*s) {
        if (!strncmp(s, from, n_from)) {
            memcpy(w, to, n_to);
            w += n_to;
            s += n_from;
        } else {
            *w++ = *s++;
        }
    }
    *w = 0;
}

/* re.sub(r"\[.*?\]", "", s): "." is no newline. */
static void drop_brackets(char *s)
{
    char *w = s;
    while (*s) {
        size_t n = *s == '[' ? strcspn(s, "]\n") : 0;
        if (n && s[n] == ']')
            s += n + 1;
        else
            *w++ = *s++;
    }
    *w = 0;
}

void kq_py_hellaswag(char *s)
{
    kq_py_strip(s);
    replace(s, " [title]", ". ");
    drop_brackets(s);
    replace(s, "  ", " ");
}
