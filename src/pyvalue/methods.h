/* Methods of strings, lists and objects. */
#ifndef KQ_PYVALUE_METHODS_H
#define KQ_PYVALUE_METHODS_H

#include "pyvalue/args.h"

/* Does the value's type have an attribute of this name in Python? HIDDEN: it has, but jinja2's sandbox
 * refuses it. NOT_HERE: it has, but this room does not know it. */
typedef enum py_known { PY_NO_ATTRIBUTE, PY_ATTRIBUTE, PY_HIDDEN, PY_NOT_HERE } py_known;
py_known kq_py_has_attribute(py_val v, const char *name);
/* Call a method of a STR, LIST, TUPLE or DICT and return its result. */
py_val kq_py_call_method(py_run *r, const py_method *m, const py_args *a);

#endif
