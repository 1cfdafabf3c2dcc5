/* Added tokens ("<|im_end|>"), which are found in a text before it is cut into words. They are kept in the
 * order of their bytes and found by halving, because a vocabulary may have thousands that begin alike and a
 * text may be made to slow the search down. */
#include <string.h>

#include <utf8proc.h>

#include "tokenizer/internal.h"

/* Whether text ends (before `at`) or goes on (at `at`) with a character of \w or \s. */
static size_t char_before(const char *s, size_t at)
{
    size_t n = 1;
    while (n < at && ((unsigned char)s[at - n] & 0xc0) == 0x80)
        n++;
    return n;
}

static bool is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return cp == 0x200c || cp == 0x200d;
    }
}

static bool is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

/* The first token of [lo, hi) whose byte at `depth` is b or more. All tokens of [lo, hi) are longer than
 * depth and share their first `depth` bytes. */
static size_t first_from(const kq_added_set *set, size_t lo, size_t hi, size_t depth, unsigned b)
{
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)set->item[mid]->match[depth] < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that s begins with. The range of the tokens that share its first `depth` bytes is
 * narrowed byte by byte, so that thousands of tokens with one beginning ("<|reserved_special_token_...") cost
 * a few comparisons and not thousands. */
static const kq_added *match_at(const kq_added_set *set, const char *s, size_t left)
{
    size_t lo = set->first[(unsigned char)s[0]], hi = set->first[(unsigned char)s[0] + 1];
    const kq_added *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (set->item[lo]->match_size == depth) {
            best = set->item[lo];
            while (lo < hi && set->item[lo]->match_size == depth)
                lo++;
        }
        if (depth == left)
            break;
        const unsigned char b = (unsigned char)s[depth];
        lo = first_from(set, lo, hi, depth, b);
        hi = first_from(set, lo, hi, depth, b + 1u);
    }
    return best;
}

const kq_added *kq_tok_next_added(const kq_tokenizer *tok, const kq_added_set *set, const char *s,
                                  size_t size, bool parse_special, size_t done, size_t *from, size_t *start,
                                  size_t *end)
{
    if (!set->n)
        return NULL;
    for (size_t i = *from; i < size; i++) {
        unsigned char b = (unsigned char)s[i];
        if (set->first[b] == set->first[b + 1])
            continue;
        const kq_added *a = match_at(set, s + i, size - i);
        if (!a)
            continue;
        size_t lo = i, hi = i + a->match_size;
        *from = hi;
        i = hi - 1; /* matches do not overlap, and those that are rejected below count too */
        if (!parse_special && tok->special[a->id])
            continue;
        if (a->single_word && ((lo && is_word(kq_utf8_get(s + lo - char_before(s, lo)))) ||
                               (hi < size && is_word(kq_utf8_get(s + hi)))))
            continue;
        if (lo < done) /* the token before has taken it with its white space */
            continue;
        if (a->lstrip)
            while (lo > done && is_space(kq_utf8_get(s + lo - char_before(s, lo))))
                lo -= char_before(s, lo);
        if (a->rstrip)
            while (hi < size && is_space(kq_utf8_get(s + hi)))
                hi += kq_utf8_size((unsigned char)s[hi]);
        *start = lo;
        *end = hi;
        return a;
    }
    *from = size;
    return NULL;
}

/* The order of the bytes; a token stands before those that begin with it. */
static bool goes_first(const kq_added *a, const kq_added *b)
{
    const size_t n = a->match_size < b->match_size ? a->match_size : b->match_size;
    const int order = memcmp(a->match, b->match, n);
    return order ? order < 0 : a->match_size < b->match_size;
}

kq_status kq_tok_added_set(kq_added_set *set, const kq_added *added, size_t n, bool normalized, kq_error *err)
{
    set->item = kq_alloc(n, sizeof *set->item);
    const kq_added **tmp = kq_alloc(n, sizeof *tmp);
    if (!set->item || !tmp) {
        kq_free(tmp);
        return kq_fail(err, KQ_E_MEMORY, "out of memory: added tokens");
    }
    set->n = 0;
    for (size_t i = 0; i < n; i++)
        if (added[i].normalized == normalized && added[i].match_size)
            set->item[set->n++] = &added[i];
    /* merge sort: stable, so that the first of two equal ones stays first */
    for (size_t width = 1; width < set->n; width *= 2) {
        for (size_t lo = 0; lo < set->n; lo += 2 * width) {
            size_t mid = lo + width < set->n ? lo + width : set->n,
                   hi = lo + 2 * width < set->n ? lo + 2 * width : set->n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++)
                tmp[k] = j >= hi || (i < mid && !goes_first(set->item[j], set->item[i])) ? set->item[i++]
                                                                                         : set->item[j++];
        }
        memcpy(set->item, tmp, set->n * sizeof *tmp);
    }
    kq_free(tmp);
    for (size_t b = 0, i = 0; b <= 256; b++) {
        while (i < set->n && (unsigned char)set->item[i]->match[0] < b)
            i++;
        set->first[b] = (uint32_t)i;
    }
    return KQ_OK;
}
