/* PCRE2 with bounds on time and memory: an option of the user must not be able to hang the program. */
#include "source/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/mem.h"

struct kq_regex {
    pcre2_code *re;              /* owned */
    pcre2_match_data *match;     /* owned */
    pcre2_match_context *limits; /* owned */
    const char *option;          /* borrowed */
};

kq_status kq_regex_new(const char *option, const char *text, size_t len, kq_regex **out, kq_error *err)
{
    int code;
    PCRE2_SIZE at;
    *out = NULL;
    if (len > KQ_REGEX_MAX)
        return kq_fail(err, KQ_E_ARG, "%s: a regular expression of %zu bytes, expected %d at most", option,
                       len, KQ_REGEX_MAX);
    kq_regex *p = kq_calloc(1, sizeof *p);
    if (!p)
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", option);
    if (!(p->re = pcre2_compile((PCRE2_SPTR)text, len, PCRE2_UTF, &code, &at, NULL))) {
        PCRE2_UCHAR why[200];
        pcre2_get_error_message(code, why, sizeof why);
        kq_regex_free(p);
        return kq_fail(err, KQ_E_ARG, "%s %s: not a regular expression: %s at position %zu", option, text,
                       (char *)why, (size_t)at);
    }
    p->match = pcre2_match_data_create_from_pattern(p->re, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->match || !p->limits) {
        kq_regex_free(p);
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", option);
    }
    p->option = option;
    pcre2_set_match_limit(p->limits, KQ_REGEX_STEPS);
    pcre2_set_heap_limit(p->limits, KQ_REGEX_HEAP_KB);
    *out = p;
    return KQ_OK;
}

void kq_regex_free(kq_regex *p)
{
    if (!p)
        return;
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    pcre2_code_free(p->re);
    kq_free(p);
}

kq_status kq_regex_matches(const kq_regex *p, const char *name, bool *yes, kq_error *err)
{
    const int rc = pcre2_match(p->re, (PCRE2_SPTR)name, strlen(name), 0, 0, p->match, p->limits);
    *yes = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH)
        return KQ_OK;
    PCRE2_UCHAR why[200];
    pcre2_get_error_message(rc, why, sizeof why);
    return kq_fail(err, KQ_E_ARG,
                   "%s: the regular expression cannot be decided on the name %s: %s; make it simpler",
                   p->option, name, (char *)why);
}
