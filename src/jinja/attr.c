/* v.name, v[key] and slices, in the order in which Jinja's sandbox tries attributes and items. */
#include "jinja/internal.h"

static _Noreturn void of_undefined(py_run *r, py_val v, const char *what)
{
    py_type_error(r, "%.80s is undefined; it has no %.80s", v.why ? v.why : "a value", what);
}

static py_val bound(py_run *r, py_val self, const char *name)
{
    py_method *m = kq_py_alloc(r, 1, sizeof *m);
    *m = (py_method){self, name};
    return (py_val){.kind = PY_METHOD, .method = m};
}

/* The attribute that a Python object of this type has under this name; items are not tried. PY_MISSING: there
 * is none. */
static py_val attribute(py_run *r, py_val v, const char *name)
{
    if (v.kind == PY_UNDEFINED)
        of_undefined(r, v, name);
    if (name[0] == '_' && name[1] == '_')
        kq_py_fail(r, KQ_E_UNSUPPORTED, "the attribute '%.40s' is not supported", name);
    if (v.kind == PY_NAMESPACE) {
        for (size_t i = 0; i < v.m->n; i++)
            if (kq_py_equals_text(v.m->key[i], name))
                return v.m->value[i];
        return (py_val){.kind = PY_MISSING};
    }
    if (v.kind == PY_LOOP)
        return kq_j_loop_attr(r, v, name);
    if (v.kind == PY_CYCLER)
        return kq_j_cycler_attr(r, v, name);
    switch (kq_py_has_attribute(v, name)) {
    case PY_ATTRIBUTE: return bound(r, v, name);
    case PY_HIDDEN: return (py_val){.kind = PY_UNDEFINED, .safe = true, .why = name};
    case PY_NOT_HERE:
        kq_py_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a value of type %s is not supported", name,
                   kq_py_type_name(v));
    default: return (py_val){.kind = PY_MISSING};
    }
}

py_val kq_j_getattr(py_run *r, py_val v, const char *name)
{
    py_val found = attribute(r, v, name);
    if (found.kind != PY_MISSING)
        return found;
    if (v.kind == PY_DICT)
        for (size_t i = 0; i < v.m->n; i++)
            if (kq_py_equals_text(v.m->key[i], name))
                return v.m->value[i];
    if (v.kind == PY_DICT)
        kq_py_spend(r, v.m->n / 8);
    return py_undefined(name);
}

static bool at_index(py_val key, size_t n, size_t *at)
{
    if (key.kind != PY_INT && key.kind != PY_BOOL)
        return false;
    int64_t i = py_whole(key);
    if (i < 0)
        i += (int64_t)n;
    *at = (size_t)i;
    return i >= 0 && (size_t)i < n;
}

py_val kq_j_getitem(py_run *r, py_val v, py_val key)
{
    size_t at;
    if (v.kind == PY_UNDEFINED)
        of_undefined(r, v, "items");
    if (v.kind == PY_DICT && key.kind != PY_LIST && key.kind != PY_DICT) {
        const py_val *found = kq_py_dict_get(r, v.m, key);
        if (found)
            return *found;
    }
    if (py_is_list(v) && at_index(key, v.l->n, &at))
        return v.l->v[at];
    if (v.kind == PY_RANGE && at_index(key, (size_t)v.r->n, &at))
        return py_int(v.r->start + (int64_t)at * v.r->step);
    if (v.kind == PY_STR && at_index(key, kq_py_chars(v.s), &at)) {
        const size_t from = kq_py_offset(v.s, at);
        size_t size;
        kq_py_spend(r, from / 64);
        kq_py_code_point(v.s->p + from, &size);
        kq_py_not_safe(r, v, "taken apart");
        return kq_py_str(r, v.s->p + from, size);
    }
    if (key.kind == PY_STR) {
        char *name = kq_py_alloc(r, key.s->n + 1, 1);
        memcpy(name, key.s->p, key.s->n);
        const py_val found = attribute(r, v, name);
        return found.kind == PY_MISSING ? py_undefined(name) : found;
    }
    return py_undefined("an item that is not there");
}

/* One bound of a slice as an index, computed as Python's slice.indices does. */
static int64_t bound_of(py_run *r, py_val v, int64_t n, int64_t step, int64_t otherwise)
{
    if (v.kind == PY_MISSING || v.kind == PY_NONE)
        return otherwise;
    if (v.kind != PY_INT && v.kind != PY_BOOL)
        py_type_error(r, "a slice wants integers, not %s", kq_py_type_name(v));
    int64_t i = py_whole(v);
    if (i < 0)
        i = i < -n ? -1 : i + n;
    if (i < 0)
        return step < 0 ? -1 : 0;
    return i >= n ? (step < 0 ? n - 1 : n) : i;
}

py_val kq_j_slice(py_run *r, py_val v, py_val start, py_val stop, py_val step)
{
    if (v.kind == PY_UNDEFINED)
        of_undefined(r, v, "slices");
    if (v.kind != PY_STR && !py_is_list(v)) {
        if (v.kind == PY_RANGE)
            kq_py_fail(r, KQ_E_UNSUPPORTED, "a slice of a range is not supported");
        /* jinja2 raises an error here, but not for constants; so this is refused */
        kq_py_fail(r, KQ_E_UNSUPPORTED, "a value of type %s has no slices", kq_py_type_name(v));
    }
    kq_py_not_safe(r, v, "taken apart");
    int64_t by =
        step.kind == PY_MISSING || step.kind == PY_NONE ? 1 : kq_py_as_int(r, step, "the step of a slice");
    const int64_t n = v.kind == PY_STR ? (int64_t)kq_py_chars(v.s) : (int64_t)v.l->n;
    if (!by)
        py_type_error(r, "the step of a slice is 0");
    int64_t i = bound_of(r, start, n, by, by < 0 ? n - 1 : 0),
            end = bound_of(r, stop, n, by, by < 0 ? -1 : n);
    if (by > n + 1 || by < -n - 1)
        by = by > 0 ? n + 1 : -n - 1;
    if (v.kind == PY_STR && by == 1) {
        const size_t from = kq_py_offset(v.s, (size_t)i),
                     to = end > i ? kq_py_offset(v.s, (size_t)end) : from;
        kq_py_spend(r, v.s->n / 64);
        return kq_py_str(r, v.s->p + from, to - from);
    }
    const py_list *items = kq_py_items(r, v);
    py_val out = kq_py_list(r, v.kind == PY_TUPLE ? PY_TUPLE : PY_LIST, 0);
    for (; by > 0 ? i < end : i > end; i += by)
        kq_py_push(r, out.l, items->v[i]);
    return v.kind == PY_STR ? kq_py_join(r, kq_py_cstr(r, "").s, out.l, false) : out;
}
