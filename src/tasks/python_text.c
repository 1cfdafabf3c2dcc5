/* Texts as lm-evaluation-harness prepares them for its tasks. Its Python code relies on what Python's str
 * calls white space and letter case, which is not what C's functions call so. */
#include "tasks/python_text.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "pyvalue/unicode.h"

static int32_t next(const char *s, size_t *size)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
    *size = n < 1 ? 1 : (size_t)n; /* the text is valid UTF-8, so n < 1 only at its end */
    return n < 1 ? (unsigned char)*s : c;
}

size_t kq_str_len(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

size_t kq_str_rstrip(const char *s)
{
    size_t end = 0;
    for (size_t i = 0, n; s[i]; i += n)
        if (!kq_py_is_space((uint32_t)next(s + i, &n)))
            end = i + n;
    return end;
}

void kq_str_strip(char *s)
{
    size_t start = 0, end = kq_str_rstrip(s), n;
    while (start < end && kq_py_is_space((uint32_t)next(s + start, &n)))
        start += n;
    memmove(s, s + start, end - start);
    s[end - start] = 0;
}

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

/* Does the sigma at byte `at` stand at the end of a word? */
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

static int32_t lower(const char *s, size_t at, int32_t c)
{
    return c == 0x3a3 ? (is_final_sigma(s, at) ? 0x3c2 : 0x3c3) : utf8proc_tolower(c);
}

kq_status kq_str_capitalize(const char *s, char **out, kq_error *err)
{
    /* no character grows by more than U+0390, whose 2 bytes become 6 */
    size_t size = strlen(s), room, used = 0, n;
    *out = NULL;
    if (!kq_mul_size(size, 3, &room) || !kq_add_size(room, 4, &room))
        return kq_fail(err, KQ_E_MEMORY, "a text of %zu bytes is too large", size);
    kq_status st = kq_alloc_for((void **)out, room, 1, "a text", err);
    if (st)
        return st;
    for (size_t i = 0; i < size; i += n) {
        const int32_t c = next(s + i, &n);
        const kq_py_special_case *special = i ? NULL : kq_py_special_case_of((uint32_t)c);
        if (i && c == 0x130) /* the only letter whose lower case is two characters */
            used += (size_t)sprintf(*out + used, "i\xcc\x87");
        else if (special && special->title)
            used += (size_t)sprintf(*out + used, "%s", special->title);
        else
            used += kq_utf8_put((uint32_t)(i ? lower(s, i, c) : utf8proc_totitle(c)), *out + used);
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

/* Python's re.sub(r"\[.*?\]", "", s), where "." matches no newline. */
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

void kq_hellaswag_clean(char *s)
{
    kq_str_strip(s);
    replace(s, " [title]", ". ");
    drop_brackets(s);
    replace(s, "  ", " ");
}
