/* Methods of Python's str that filters need too. Texts are not changed: each gives a new one, or a part of
 * the old. */
#ifndef KQ_PYVALUE_STR_H
#define KQ_PYVALUE_STR_H

#include "pyvalue/value.h"

size_t kq_py_offset(const py_str *s, size_t chars); /* bytes before that code point */
/* FILTER_TITLE: jinja2's title filter, whose words are other ones than those of str.title. */
typedef enum py_case { PY_LOWER, PY_UPPER, PY_TITLE, PY_CAPITALIZE, PY_FILTER_TITLE } py_case;
py_val kq_py_case(py_run *r, const py_str *s, py_case how);
bool kq_py_all_case(py_run *r, const py_str *s, bool upper); /* str.isupper, str.islower */
/* chars NULL: white space. left, right: the ends that are stripped. */
py_val kq_py_strip(py_run *r, const py_str *s, const py_str *chars, bool left, bool right);
/* count < 0: all. */
py_val kq_py_replace(py_run *r, const py_str *s, const py_str *old, const py_str *by, int64_t count);
py_val kq_py_splitlines(py_run *r, const py_str *s, bool keep);
/* convert: items that are no strings become strings; else they fail. */
py_val kq_py_join(py_run *r, const py_str *by, const py_list *items, bool convert);

#endif
