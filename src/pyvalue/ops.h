/* Operators on values, as Python applies them. Integers beyond 64 bits are refused. */
#ifndef KQ_PYVALUE_OPS_H
#define KQ_PYVALUE_OPS_H

#include "pyvalue/value.h"

typedef enum py_op {
    PY_ADD,
    PY_SUB,
    PY_MUL,
    PY_DIV,
    PY_FLOORDIV,
    PY_MOD,
    PY_POW,
    PY_EQ,
    PY_NE,
    PY_LT,
    PY_LE,
    PY_GT,
    PY_GE,
    PY_IN,
    PY_NOT_IN
} py_op;

py_val kq_py_binary(py_run *r, py_op op, py_val a, py_val b);       /* ADD to POW */
bool kq_py_compare(py_run *r, py_op op, py_val a, py_val b);        /* EQ to NOT_IN */
py_val kq_py_negate(py_run *r, py_val v, bool minus);               /* -v, or +v */
py_val kq_py_percent(py_run *r, const py_str *format, py_val args); /* format % args: %s, %r, %d, %.Nf */
py_val kq_py_escape(py_run *r, py_val v);                           /* markupsafe.escape */

#endif
