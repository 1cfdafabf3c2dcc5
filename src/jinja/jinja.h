/* Jinja templates as transformers runs them for chat templates (docs/templates.md): a template and JSON
 * variables give a text. The result is that of jinja2's ImmutableSandboxedEnvironment with trim_blocks and
 * lstrip_blocks, loop controls, {% generation %}, and transformers' tojson, raise_exception, strftime_now,
 * dict and namespace. What kronq does not know is refused by name and line; it never guesses. */
#ifndef KQ_JINJA_JINJA_H
#define KQ_JINJA_JINJA_H

#include <jansson.h>
#include <time.h>

#include "base/error.h"

/* bounds: passing one is an error. The bounds of values are in pyvalue/run.h */
enum {
    KQ_JINJA_MAX_SOURCE = 1 << 20, /* bytes of a template */
    KQ_JINJA_MAX_NESTING = 100,    /* brackets or statements within each other, in the source */
    KQ_JINJA_MAX_DEPTH = 600       /* nodes within each other while running; calls of macros count too */
};

/* a parsed template; immutable, so any number of threads may render it */
typedef struct kq_jinja kq_jinja;

/* Parse source (size bytes of UTF-8). Messages begin with name. KQ_E_FORMAT: it is not a Jinja template;
 * KQ_E_UNSUPPORTED: it has a statement, filter, test or construct that kronq does not know; KQ_E_ARG: a
 * bound is passed. The caller frees *out (kq_jinja_free). */
kq_status kq_jinja_parse(const char *source, size_t size, const char *name, kq_jinja **out, kq_error *err);
void kq_jinja_free(kq_jinja *t); /* NULL is fine */

/* Render a template. variables: an object whose entries the template sees by name; borrowed during the call.
 * now: the local time that strftime_now gives. stop (may be NULL) is asked about every thousandth of a
 * second; true ends the run with KQ_E_INTERRUPTED. *text: *size bytes and a final NUL, the caller's
 * (kq_free). KQ_E_ARG: the template raised an error (raise_exception, an undefined value used, a wrong type),
 * or a bound is passed; KQ_E_UNSUPPORTED: it needs something that kronq does not know. */
kq_status kq_jinja_render(const kq_jinja *t, const json_t *variables, const struct tm *now,
                          bool (*stop)(void *ctx), void *ctx, char **text, size_t *size, kq_error *err);

/* Does the template read a variable of this name anywhere? This tells a caller whether it takes tools. */
bool kq_jinja_names(const kq_jinja *t, const char *name);

#endif
