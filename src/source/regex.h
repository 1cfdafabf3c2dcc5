/* Regular expressions on the names of modules and tensors, as --only, --module-bits and --tensor-type take
 * them. */
#ifndef KQ_SOURCE_REGEX_H
#define KQ_SOURCE_REGEX_H

#include "base/error.h"

typedef struct kq_regex kq_regex;
/* Bounds: bytes of an expression; steps and KiB of memory for one name. */
enum { KQ_REGEX_MAX = 4096, KQ_REGEX_STEPS = 1000000, KQ_REGEX_HEAP_KB = 16 << 10 };

/* Compile the first len bytes of text: Perl's syntax, UTF-8, KQ_REGEX_MAX bytes at most. option, borrowed, is
 * named in messages. KQ_E_ARG: the expression is wrong or too long. */
kq_status kq_regex_new(const char *option, const char *text, size_t len, kq_regex **out, kq_error *err);
void kq_regex_free(kq_regex *p); /* NULL is fine */
/* *yes: the expression matches somewhere in the name. KQ_E_ARG: that could not be decided within the bounds.
 * Only one thread at a time may use p. */
kq_status kq_regex_matches(const kq_regex *p, const char *name, bool *yes, kq_error *err);

#endif
