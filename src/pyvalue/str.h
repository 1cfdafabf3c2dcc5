/* Methods of Python's str that filters use too. No text is changed: each function gives a new text, or a part
 * of the old one. */
#ifndef KQ_PYVALUE_STR_H
#define KQ_PYVALUE_STR_H

#include "pyvalue/value.h"

size_t kq_py_offset(const py_str *s, size_t chars); /* bytes before that code point */
/* FILTER_TITLE: jinja2's title filter, which cuts a text into other words than str.title does. */
typedef enum py_case { PY_LOWER, PY_UPPER, PY_TITLE, PY_CAPITALIZE, PY_FILTER_TITLE } py_case;
py_val kq_py_case(py_run *r, const py_str *s, py_case how);
bool kq_py_all_case(py_run *r, const py_str *s, bool upper); /* str.isupper, str.islower */
/* Strip the characters `chars` (NULL: white space). left, right: which ends are stripped. */
py_val kq_py_strip(py_run *r, const py_str *s, const py_str *chars, bool left, bool right);
/* Replace the first `count` occurrences of `old`; count < 0: all. */
py_val kq_py_replace(py_run *r, const py_str *s, const py_str *old, const py_str *by, int64_t count);
py_val kq_py_splitlines(py_run *r, const py_str *s, bool keep);
/* Join the items with `by` between them. An item that is no string becomes one with convert, and fails
 * without it. */
py_val kq_py_join(py_run *r, const py_str *by, const py_list *items, bool convert);

#endif
