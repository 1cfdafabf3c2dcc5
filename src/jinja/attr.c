/* v.name, v[key] and slices, in the order in which Jinja's sandbox tries attributes and items. */
#include "jinja/internal.h"

static _Noreturn void of_undefined(j_run *r, j_val v, const char *what)
{
    j_type_error(r, "%.80s is undefined; it has no %.80s", v.why ? v.why : "a value", what);
}

static j_val bound(j_run *r, j_val self, const char *name)
{
    j_method *m = kq_j_alloc(r, 1, sizeof *m);
    *m = (j_method){self, name};
    return (j_val){.kind = J_METHOD, .method = m};
}

/* An attribute of Python's, without looking at items. J_MISSING: none. */
static j_val attribute(j_run *r, j_val v, const char *name)
{
    if (v.kind == J_UNDEFINED)
        of_undefined(r, v, name);
    if (name[0] == '_' && name[1] == '_')
        kq_j_fail(r, KQ_E_UNSUPPORTED, "the attribute '%.40s' is not supported", name);
    if (v.kind == J_NAMESPACE) {
        for (size_t i = 0; i < v.m->n; i++)
            if (kq_j_is(v.m->key[i], name))
                return v.m->value[i];
        return (j_val){.kind = J_MISSING};
    }
    if (v.kind == J_LOOP)
        return kq_j_loop_attr(r, v, name);
    if (v.kind == J_CYCLER)
        return kq_j_cycler_attr(r, v, name);
    switch (kq_j_method_known(v, name)) {
    case J_ATTRIBUTE: return bound(r, v, name);
    case J_HIDDEN: return (j_val){.kind = J_UNDEFINED, .safe = true, .why = name};
    case J_NOT_HERE:
        kq_j_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a value of type %s is not supported", name,
                  kq_j_type_name(v));
    default: return (j_val){.kind = J_MISSING};
    }
}

j_val kq_j_getattr(j_run *r, j_val v, const char *name)
{
    j_val found = attribute(r, v, name);
    if (found.kind != J_MISSING)
        return found;
    if (v.kind == J_DICT)
        for (size_t i = 0; i < v.m->n; i++)
            if (kq_j_is(v.m->key[i], name))
                return v.m->value[i];
    if (v.kind == J_DICT)
        kq_j_spend(r, v.m->n / 8);
    return j_undefined(name);
}

static bool at_index(j_val key, size_t n, size_t *at)
{
    if (key.kind != J_INT && key.kind != J_BOOL)
        return false;
    int64_t i = j_whole(key);
    if (i < 0)
        i += (int64_t)n;
    *at = (size_t)i;
    return i >= 0 && (size_t)i < n;
}

j_val kq_j_getitem(j_run *r, j_val v, j_val key)
{
    size_t at;
    if (v.kind == J_UNDEFINED)
        of_undefined(r, v, "items");
    if (v.kind == J_DICT && key.kind != J_LIST && key.kind != J_DICT) {
        const j_val *found = kq_j_dict_get(r, v.m, key);
        if (found)
            return *found;
    }
    if (j_is_list(v) && at_index(key, v.l->n, &at))
        return v.l->v[at];
    if (v.kind == J_RANGE && at_index(key, (size_t)v.r->n, &at))
        return j_int(v.r->start + (int64_t)at * v.r->step);
    if (v.kind == J_STR && at_index(key, kq_j_chars(v.s), &at)) {
        const size_t from = kq_j_offset(v.s, at);
        size_t size;
        kq_j_spend(r, from / 64);
        kq_j_cp(v.s->p + from, &size);
        kq_j_not_safe(r, v, "taken apart");
        return kq_j_str(r, v.s->p + from, size);
    }
    if (key.kind == J_STR) {
        char *name = kq_j_alloc(r, key.s->n + 1, 1);
        memcpy(name, key.s->p, key.s->n);
        const j_val found = attribute(r, v, name);
        return found.kind == J_MISSING ? j_undefined(name) : found;
    }
    return j_undefined("an item that is not there");
}

/* Python's slice.indices. */
static int64_t bound_of(j_run *r, j_val v, int64_t n, int64_t step, int64_t otherwise)
{
    if (v.kind == J_MISSING || v.kind == J_NONE)
        return otherwise;
    if (v.kind != J_INT && v.kind != J_BOOL)
        j_type_error(r, "a slice wants integers, not %s", kq_j_type_name(v));
    int64_t i = j_whole(v);
    if (i < 0)
        i = i < -n ? -1 : i + n;
    if (i < 0)
        return step < 0 ? -1 : 0;
    return i >= n ? (step < 0 ? n - 1 : n) : i;
}

j_val kq_j_slice(j_run *r, j_val v, j_val start, j_val stop, j_val step)
{
    if (v.kind == J_UNDEFINED)
        of_undefined(r, v, "slices");
    if (v.kind != J_STR && !j_is_list(v)) {
        if (v.kind == J_RANGE)
            kq_j_fail(r, KQ_E_UNSUPPORTED, "a slice of a range is not supported");
        /* jinja2 raises, but not for constants */
        kq_j_fail(r, KQ_E_UNSUPPORTED, "a value of type %s has no slices", kq_j_type_name(v));
    }
    kq_j_not_safe(r, v, "taken apart");
    int64_t by =
        step.kind == J_MISSING || step.kind == J_NONE ? 1 : kq_j_want_int(r, step, "the step of a slice");
    const int64_t n = v.kind == J_STR ? (int64_t)kq_j_chars(v.s) : (int64_t)v.l->n;
    if (!by)
        j_type_error(r, "the step of a slice is 0");
    int64_t i = bound_of(r, start, n, by, by < 0 ? n - 1 : 0),
            end = bound_of(r, stop, n, by, by < 0 ? -1 : n);
    if (by > n + 1 || by < -n - 1)
        by = by > 0 ? n + 1 : -n - 1;
    if (v.kind == J_STR && by == 1) {
        const size_t from = kq_j_offset(v.s, (size_t)i), to = end > i ? kq_j_offset(v.s, (size_t)end) : from;
        kq_j_spend(r, v.s->n / 64);
        return kq_j_str(r, v.s->p + from, to - from);
    }
    const j_list *items = kq_j_items(r, v);
    j_val out = kq_j_list(r, v.kind == J_TUPLE ? J_TUPLE : J_LIST, 0);
    for (; by > 0 ? i < end : i > end; i += by)
        kq_j_push(r, out.l, items->v[i]);
    return v.kind == J_STR ? kq_j_join(r, kq_j_cstr(r, "").s, out.l, false) : out;
}
