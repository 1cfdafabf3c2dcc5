/* Values as text: Python's str and repr, and JSON as Python's json.dumps writes it. */
#ifndef KQ_PYVALUE_PRINT_H
#define KQ_PYVALUE_PRINT_H

#include "pyvalue/value.h"

/* A text that grows, in the run's arena. Begin with {0}. */
typedef struct py_buf {
    char *p;
    size_t n, cap;
} py_buf;
void kq_py_put(py_run *r, py_buf *b, const char *p, size_t n);
void kq_py_puts(py_run *r, py_buf *b, const char *s);
void kq_py_put_str(py_run *r, py_buf *b, py_val v);  /* str(v) */
void kq_py_put_repr(py_run *r, py_buf *b, py_val v); /* repr(v) */
py_val kq_py_buf_str(py_run *r, const py_buf *b);    /* the text as a value */

const py_str *kq_py_text(py_run *r, py_val v); /* str(v) */

/* How json.dumps writes. indent NULL: on one line; item and key: the separators behind an item and behind a
 * key. */
typedef struct py_dump {
    bool ascii, sort;
    const py_str *indent, *item, *key;
} py_dump;
/* Append v as json.dumps writes it. level: the depth of indentation at which v begins; callers give 0. */
void kq_py_dump(py_run *r, py_buf *b, py_val v, const py_dump *how, size_t level);

/* Python's repr(d) into out, whatever the locale. */
void kq_py_float_text(double d, char out[40]);
/* Read p [n] as digits [. digits] [e digits], whatever the locale. False: it is something else. */
bool kq_py_parse_float(const char *p, size_t n, double *out);

#endif
