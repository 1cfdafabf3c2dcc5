/* What Python's str does, where lm-evaluation-harness relies on it. Texts are valid UTF-8 with a final
 * NUL. Internal to the tasks room. */
#ifndef KQ_TASKS_PYTHON_TEXT_H
#define KQ_TASKS_PYTHON_TEXT_H

#include "base/error.h"

size_t kq_str_len(const char *s);    /* len(s): code points */
void kq_str_strip(char *s);          /* s.strip(), in place */
size_t kq_str_rstrip(const char *s); /* bytes of s.rstrip() */

/* *out = s.capitalize(), the caller's (kq_free): the first character in title case (it may become up to
 * three: "ﬁ" -> "Fi"), the rest in lower case. Letter cases are those of utf8proc's Unicode version. A sigma
 * gets its final form where a letter stands before it and none behind it; combining marks between do not
 * count. */
kq_status kq_str_capitalize(const char *s, char **out, kq_error *err);

/* The clean-up of the task hellaswag, in place: white space at the ends goes, " [title]" becomes ". ", every
 * other [...] goes, and two spaces become one (in one pass). */
void kq_hellaswag_clean(char *s);

#endif
