/* Arguments of a call. */
#ifndef KQ_PYVALUE_ARGS_H
#define KQ_PYVALUE_ARGS_H

#include "pyvalue/value.h"

/* v [n]: by position; kv [n_kv]: by name, key [n_kv]. */
typedef struct py_args {
    py_val *v;
    size_t n;
    const char **key;
    py_val *kv;
    size_t n_kv;
} py_args;

/* Match the arguments with the parameters "a,b,c": v [their number]. Those that are not given are MISSING.
 * Fails on too many, unknown or missing ones: the first `required` must be there. what: the function, for
 * messages. */
void kq_py_match_args(py_run *r, const char *what, const py_args *a, const char *names, size_t required,
                      py_val *v);
/* The value as an integer, or as a string that is not marked safe; fails on any other type. */
int64_t kq_py_as_int(py_run *r, py_val v, const char *what);
const py_str *kq_py_as_str(py_run *r, py_val v, const char *what);

#endif
