/* Matches the arguments of a call with the parameters of a function, as Python does. */
#include "pyvalue/args.h"

#include <string.h>

void kq_py_match_args(py_run *r, const char *what, const py_args *a, const char *names, size_t needed,
                      py_val *v)
{
    size_t n = 0, used = 0;
    for (const char *s = names; *s; n++) {
        const size_t size = strcspn(s, ",");
        v[n] = (py_val){.kind = PY_MISSING};
        if (n < a->n)
            v[n] = a->v[n];
        for (size_t i = 0; i < a->n_kv; i++)
            if (strlen(a->key[i]) == size && !memcmp(a->key[i], s, size)) {
                if (n < a->n)
                    py_type_error(r, "%s: the argument '%s' is given twice", what, a->key[i]);
                v[n] = a->kv[i];
                used++;
            }
        if (n < needed && v[n].kind == PY_MISSING)
            py_type_error(r, "%s: an argument is missing", what);
        s += size + (s[size] == ',');
    }
    if (a->n > n || used < a->n_kv)
        py_type_error(r, "%s: too many arguments, or one of an unknown name", what);
}

int64_t kq_py_as_int(py_run *r, py_val v, const char *what)
{
    if (v.kind != PY_INT && v.kind != PY_BOOL)
        py_type_error(r, "%s wants an integer, not %s", what, kq_py_type_name(v));
    return py_whole(v);
}

const py_str *kq_py_as_str(py_run *r, py_val v, const char *what)
{
    if (v.kind != PY_STR)
        py_type_error(r, "%s wants a string, not %s", what, kq_py_type_name(v));
    kq_py_not_safe(r, v, "an argument");
    return v.s;
}
