/* The arguments of a call of a filter, test, function or method. */
#ifndef KQ_PYVALUE_ARGS_H
#define KQ_PYVALUE_ARGS_H

#include "pyvalue/value.h"

/* v [n]: the arguments by position; key [n_kv] and kv [n_kv]: the names and values of those by name. */
typedef struct py_args {
    py_val *v;
    size_t n;
    const char **key;
    py_val *kv;
    size_t n_kv;
} py_args;

/* Match the arguments with the parameters "a,b,c". v [number of parameters] gets their values; MISSING stands
 * for those that are not given. Fails when there are too many arguments, one with an unknown name, or when
 * one of the first `required` parameters is missing. what: the function, for messages. */
void kq_py_match_args(py_run *r, const char *what, const py_args *a, const char *names, size_t required,
                      py_val *v);
/* The value as an integer, or as a string that is not marked safe; fails on any other type. */
int64_t kq_py_as_int(py_run *r, py_val v, const char *what);
const py_str *kq_py_as_str(py_run *r, py_val v, const char *what);

#endif
