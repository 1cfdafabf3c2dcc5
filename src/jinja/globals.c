/* Functions that every template has, and the objects that some of them make. */
#include <locale.h>
#include <stdio.h>

#include "jinja/internal.h"

/* ---- strftime_now ---- */

static py_val strftime_now(py_run *r, const py_str *format)
{
    py_buf b = {0};
    char text[200], directive[8];
    /* in Python the names of days and months are English unless a program changes the locale */
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    bool ok = c != (locale_t)0;
    for (size_t i = 0; ok && i < format->n; i++) {
        if (format->p[i] != '%') {
            const char *next = memchr(format->p + i, '%', format->n - i);
            const size_t n = next ? (size_t)(next - format->p) - i : format->n - i;
            if (b.n + n > 4096)
                ok = false;
            else
                kq_py_put(r, &b, format->p + i, n);
            i += n - 1;
            continue;
        }
        const bool minus = i + 1 < format->n && format->p[i + 1] == '-';
        i += 1 + minus;
        const char d = i < format->n ? format->p[i] : 0;
        if (!d || !strchr("aAbBcCdDeFgGhHIjklmMnprRStTuUVwWxXyYzZ%", d)) {
            ok = false;
        } else if (d != 'z' && d != 'Z') { /* %z and %Z are empty for a time without a zone */
            snprintf(directive, sizeof directive, minus ? "%%-%c" : "%%%c", d);
            if (strftime_l(text, sizeof text, directive, j_state(r)->now, c))
                kq_py_puts(r, &b, text);
        }
    }
    if (c)
        freelocale(c);
    if (!ok)
        kq_py_fail(r, KQ_E_UNSUPPORTED, "strftime_now: the format '%.*s' is not supported",
                   format->n < 80 ? (int)format->n : 80, format->p);
    return kq_py_buf_str(r, &b);
}

/* ---- functions ---- */

static py_val f_range(py_run *r, const py_args *a)
{
    py_val v[3];
    int64_t x[3] = {0, 0, 1}, last;
    if (a->n_kv)
        py_type_error(r, "range takes no arguments by name");
    kq_py_match_args(r, "range", a, "start,stop,step", 1, v);
    for (size_t i = 0; i < 3; i++)
        if (v[i].kind != PY_MISSING)
            x[i] = kq_py_as_int(r, v[i], "range");
    if (a->n == 1) {
        x[1] = x[0];
        x[0] = 0;
    }
    if (!x[2])
        py_type_error(r, "range: the step is 0");
    py_range *g = kq_py_alloc(r, 1, sizeof *g);
    *g = (py_range){x[0], x[1], x[2], 0};
    if (x[2] > 0 ? x[0] < x[1] : x[0] > x[1]) {
        const uint64_t span = x[2] > 0 ? (uint64_t)x[1] - (uint64_t)x[0] : (uint64_t)x[0] - (uint64_t)x[1];
        const uint64_t step = x[2] > 0 ? (uint64_t)x[2] : 0 - (uint64_t)x[2];
        const uint64_t n = (span - 1) / step + 1;
        if (n > 100000)
            py_type_error(r, "range: more than 100000 items, the sandbox's bound");
        g->n = (int64_t)n;
        if (__builtin_mul_overflow(g->n - 1, x[2], &last) || __builtin_add_overflow(last, x[0], &last))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    }
    return (py_val){.kind = PY_RANGE, .r = g};
}

/* The function dict(object or pairs, name=value, ...). */
static py_val f_dict(py_run *r, const py_args *a)
{
    py_val out = kq_py_dict(r, a->n_kv);
    if (a->n > 1)
        py_type_error(r, "dict takes one argument without a name");
    if (a->n && a->v[0].kind == PY_UNDEFINED)
        py_type_error(r, "%.80s is undefined", a->v[0].why ? a->v[0].why : "a value");
    if (a->n && a->v[0].kind == PY_DICT) {
        for (size_t i = 0; i < a->v[0].m->n; i++)
            kq_py_dict_set(r, out.m, a->v[0].m->key[i], a->v[0].m->value[i]);
    } else if (a->n) {
        const py_list *items = kq_py_items(r, a->v[0]);
        for (size_t i = 0; i < items->n; i++) {
            const py_list *pair = kq_py_items(r, items->v[i]);
            if (pair->n != 2)
                py_type_error(r, "dict: item %zu is not a pair", i);
            kq_py_dict_set(r, out.m, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < a->n_kv; i++)
        kq_py_dict_set(r, out.m, kq_py_cstr(r, a->key[i]), a->kv[i]);
    return out;
}

static py_val f_namespace(py_run *r, const py_args *a)
{
    py_val out = f_dict(r, a);
    for (size_t i = 0; i < out.m->n; i++)
        if (out.m->key[i].kind != PY_STR || (out.m->key[i].s->n && out.m->key[i].s->p[0] == '_'))
            py_type_error(r, "the name of a namespace's attribute is a string that does not begin with '_'");
    out.kind = PY_NAMESPACE;
    return out;
}

static py_val f_cycler(py_run *r, const py_args *a)
{
    const py_list items = {a->v, a->n, 0};
    if (!a->n || a->n_kv)
        py_type_error(r, "cycler wants values");
    py_val v = kq_py_iter(r, &items);
    v.kind = PY_CYCLER;
    return v;
}

static py_val f_joiner(py_run *r, const py_args *a)
{
    py_val v[1];
    py_list items = {0};
    kq_py_match_args(r, "joiner", a, "sep", 0, v);
    kq_py_push(r, &items, v[0].kind == PY_MISSING ? kq_py_cstr(r, ", ") : v[0]);
    py_val out = kq_py_iter(r, &items);
    out.kind = PY_JOINER;
    return out;
}

static py_val f_raise(py_run *r, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "raise_exception", a, "message", 1, v);
    const py_str *s = kq_py_text(r, v[0]);
    kq_py_fail(r, KQ_E_ARG, "the template refuses these messages: %.*s", s->n < 300 ? (int)s->n : 300, s->p);
}

static py_val f_strftime(py_run *r, const py_args *a)
{
    py_val v[1];
    kq_py_match_args(r, "strftime_now", a, "format", 1, v);
    return strftime_now(r, kq_py_as_str(r, v[0], "strftime_now"));
}

static const struct {
    const char *name;
    py_val (*run)(py_run *r, const py_args *a);
} functions[] = {
    {"range", f_range},           {"dict", f_dict},     {"namespace", f_namespace},
    {"cycler", f_cycler},         {"joiner", f_joiner}, {"raise_exception", f_raise},
    {"strftime_now", f_strftime},
};

int kq_j_function_find(const char *name)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(functions[i].name, name))
            return (int)i;
    return -1;
}

py_val kq_j_call_function(py_run *r, int function, const py_args *a)
{
    return functions[function].run(r, a);
}

/* ---- cycler, joiner, loop ---- */

static py_val method(py_run *r, py_val self, const char *name)
{
    py_method *m = kq_py_alloc(r, 1, sizeof *m);
    *m = (py_method){self, name};
    return (py_val){.kind = PY_METHOD, .method = m};
}

py_val kq_j_cycler_attr(py_run *r, py_val v, const char *name)
{
    if (!strcmp(name, "current"))
        return v.it->items.v[v.it->at];
    if (!strcmp(name, "next") || !strcmp(name, "reset"))
        return method(r, v, name);
    kq_py_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a cycler is not supported", name);
}

py_val kq_j_cycler_call(py_run *r, py_val v, const char *name)
{
    if (!name) { /* the call of a joiner: an empty string the first time */
        const bool used = v.it->used;
        v.it->used = true;
        return used ? v.it->items.v[0] : kq_py_cstr(r, "");
    }
    const py_val current = v.it->items.v[v.it->at];
    v.it->at = strcmp(name, "reset") ? (v.it->at + 1) % v.it->items.n : 0;
    return strcmp(name, "reset") ? current : py_none();
}

py_val kq_j_loop_attr(py_run *r, py_val loop, const char *name)
{
    const py_loop *l = loop.loop;
    const int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        int64_t v;
    } numbers[] = {{"index", i + 1}, {"index0", i},       {"revindex", n - i},     {"revindex0", n - i - 1},
                   {"length", n},    {"depth", l->depth}, {"depth0", l->depth - 1}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
        if (!strcmp(name, numbers[k].name))
            return py_int(numbers[k].v);
    if (!strcmp(name, "first") || !strcmp(name, "last"))
        return py_bool(*name == 'f' ? i == 0 : i + 1 == n);
    if (!strcmp(name, "previtem"))
        return i > 0 ? l->items->v[i - 1] : py_undefined("the item before the first");
    if (!strcmp(name, "nextitem"))
        return i + 1 < n ? l->items->v[i + 1] : py_undefined("the item after the last");
    if (!strcmp(name, "cycle") || !strcmp(name, "changed"))
        return method(r, loop, name);
    kq_py_fail(r, KQ_E_UNSUPPORTED, "'loop.%.40s' is not supported", name);
}

py_val kq_j_loop_call(py_run *r, py_loop *loop, const char *name, const py_args *a)
{
    if (a->n_kv)
        py_type_error(r, "loop.%s takes no arguments by name", name);
    if (!strcmp(name, "cycle")) {
        if (!a->n)
            py_type_error(r, "loop.cycle wants values");
        return a->v[loop->i % a->n];
    }
    py_val now = kq_py_list(r, PY_TUPLE, a->n);
    for (size_t i = 0; i < a->n; i++)
        kq_py_push(r, now.l, a->v[i]);
    const bool changed = loop->changed.kind == PY_MISSING || !kq_py_equal(r, loop->changed, now);
    loop->changed = now;
    return py_bool(changed);
}
