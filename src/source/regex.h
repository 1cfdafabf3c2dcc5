/* Regular expressions on module and tensor names, as options give them. */
#ifndef KQ_SOURCE_REGEX_H
#define KQ_SOURCE_REGEX_H

#include "base/error.h"

typedef struct kq_regex kq_regex;
enum { KQ_REGEX_MAX = 4096, KQ_REGEX_STEPS = 1000000, KQ_REGEX_HEAP_KB = 16 << 10 };
/* The first len bytes of text (Perl's syntax, UTF-8), KQ_REGEX_MAX at most; option is borrowed. KQ_E_ARG
 * names the option and the whole text. */
kq_status kq_regex_new(const char *option, const char *text, size_t len, kq_regex **out, kq_error *err);
void kq_regex_free(kq_regex *p); /* NULL is fine */
/* Does it match anywhere in the name? KQ_E_ARG: not to be said within KQ_REGEX_STEPS steps and
 * KQ_REGEX_HEAP_KB. Not for several threads at once on one pattern. */
kq_status kq_regex_matches(const kq_regex *p, const char *name, bool *yes, kq_error *err);

#endif
