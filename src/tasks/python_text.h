/* What Python's str does, where lm-evaluation-harness relies on it. Texts are valid UTF-8 with a final
 * NUL. Internal to the tasks room. */
#ifndef KQ_TASKS_PYTHON_TEXT_H
#define KQ_TASKS_PYTHON_TEXT_H

#include "base/error.h"

size_t kq_str_len(const char *s);    /* len(s): code points */
void kq_str_strip(char *s);          /* s.strip(), in place */
size_t kq_str_rstrip(const char *s); /* bytes of s.rstrip() */

/* s.capitalize(): the first character in title case (one may become up to three: "ﬁ" -> "Fi"), the rest
 * in lower case. *out: kq_free. Letter cases are those of utf8proc's Unicode version; a sigma ends in
 * its final form after a letter and before none, combining marks between. */
kq_status kq_str_capitalize(const char *s, char **out, kq_error *err);

/* hellaswag's own clean-up, in place: strip, " [title]" becomes ". ", other [...] disappear, and two
 * spaces become one (in one pass). */
void kq_hellaswag_clean(char *s);

#endif
