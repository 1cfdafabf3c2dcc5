/* Functions that every template has, and the objects that some of them make. */
#include <locale.h>
#include <stdio.h>

#include "jinja/internal.h"

/* ---- strftime_now ---- */

j_val kq_j_strftime(j_run *r, const j_str *format)
{
    j_buf b = {0};
    char text[200], directive[8];
    /* Python's names of days and months are English unless a program asks for others */
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    bool ok = c != (locale_t)0;
    for (size_t i = 0; ok && i < format->n; i++) {
        if (format->p[i] != '%') {
            const char *next = memchr(format->p + i, '%', format->n - i);
            const size_t n = next ? (size_t)(next - format->p) - i : format->n - i;
            if (b.n + n > 4096)
                ok = false;
            else
                kq_j_put(r, &b, format->p + i, n);
            i += n - 1;
            continue;
        }
        const bool minus = i + 1 < format->n && format->p[i + 1] == '-';
        i += 1 + minus;
        const char d = i < format->n ? format->p[i] : 0;
        if (!d || !strchr("aAbBcCdDeFgGhHIjklmMnprRStTuUVwWxXyYzZ%", d)) {
            ok = false;
        } else if (d != 'z' && d != 'Z') { /* a time without a zone: both are empty */
            snprintf(directive, sizeof directive, minus ? "%%-%c" : "%%%c", d);
            if (strftime_l(text, sizeof text, directive, r->now, c))
                kq_j_puts(r, &b, text);
        }
    }
    if (c)
        freelocale(c);
    if (!ok)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "strftime_now: the format '%.*s' is not supported",
                  format->n < 80 ? (int)format->n : 80, format->p);
    return kq_j_buf_str(r, &b);
}

/* ---- functions ---- */

static j_val f_range(j_run *r, const j_args *a)
{
    j_val v[3];
    int64_t x[3] = {0, 0, 1}, last;
    if (a->n_kv)
        j_type_error(r, "range takes no arguments by name");
    kq_j_take(r, "range", a, "start,stop,step", 1, v);
    for (size_t i = 0; i < 3; i++)
        if (v[i].kind != J_MISSING)
            x[i] = kq_j_want_int(r, v[i], "range");
    if (a->n == 1) {
        x[1] = x[0];
        x[0] = 0;
    }
    if (!x[2])
        j_type_error(r, "range: the step is 0");
    j_range *g = kq_j_alloc(r, 1, sizeof *g);
    *g = (j_range){x[0], x[1], x[2], 0};
    if (x[2] > 0 ? x[0] < x[1] : x[0] > x[1]) {
        const uint64_t span = x[2] > 0 ? (uint64_t)x[1] - (uint64_t)x[0] : (uint64_t)x[0] - (uint64_t)x[1];
        const uint64_t step = x[2] > 0 ? (uint64_t)x[2] : 0 - (uint64_t)x[2];
        const uint64_t n = (span - 1) / step + 1;
        if (n > 100000)
            j_type_error(r, "range: more than 100000 items, the sandbox's bound");
        g->n = (int64_t)n;
        if (__builtin_mul_overflow(g->n - 1, x[2], &last) || __builtin_add_overflow(last, x[0], &last))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    }
    return (j_val){.kind = J_RANGE, .r = g};
}

/* dict(object or pairs, name=value...) */
static j_val f_dict(j_run *r, const j_args *a)
{
    j_val out = kq_j_dict(r, a->n_kv);
    if (a->n > 1)
        j_type_error(r, "dict takes one argument without a name");
    if (a->n && a->v[0].kind == J_UNDEFINED)
        j_type_error(r, "%.80s is undefined", a->v[0].why ? a->v[0].why : "a value");
    if (a->n && a->v[0].kind == J_DICT) {
        for (size_t i = 0; i < a->v[0].m->n; i++)
            kq_j_dict_set(r, out.m, a->v[0].m->key[i], a->v[0].m->value[i]);
    } else if (a->n) {
        const j_list *items = kq_j_items(r, a->v[0]);
        for (size_t i = 0; i < items->n; i++) {
            const j_list *pair = kq_j_items(r, items->v[i]);
            if (pair->n != 2)
                j_type_error(r, "dict: item %zu is not a pair", i);
            kq_j_dict_set(r, out.m, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < a->n_kv; i++)
        kq_j_dict_set(r, out.m, kq_j_cstr(r, a->key[i]), a->kv[i]);
    return out;
}

static j_val f_namespace(j_run *r, const j_args *a)
{
    j_val out = f_dict(r, a);
    for (size_t i = 0; i < out.m->n; i++)
        if (out.m->key[i].kind != J_STR || (out.m->key[i].s->n && out.m->key[i].s->p[0] == '_'))
            j_type_error(r, "the name of a namespace's attribute is a string that does not begin with '_'");
    out.kind = J_NAMESPACE;
    return out;
}

static j_val f_cycler(j_run *r, const j_args *a)
{
    const j_list items = {a->v, a->n, 0};
    if (!a->n || a->n_kv)
        j_type_error(r, "cycler wants values");
    j_val v = kq_j_iter(r, &items);
    v.kind = J_CYCLER;
    return v;
}

static j_val f_joiner(j_run *r, const j_args *a)
{
    j_val v[1];
    j_list items = {0};
    kq_j_take(r, "joiner", a, "sep", 0, v);
    kq_j_push(r, &items, v[0].kind == J_MISSING ? kq_j_cstr(r, ", ") : v[0]);
    j_val out = kq_j_iter(r, &items);
    out.kind = J_JOINER;
    return out;
}

static j_val f_raise(j_run *r, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "raise_exception", a, "message", 1, v);
    const j_str *s = kq_j_text(r, v[0]);
    kq_j_fail(r, KQ_E_ARG, "the template refuses these messages: %.*s", s->n < 300 ? (int)s->n : 300, s->p);
}

static j_val f_strftime(j_run *r, const j_args *a)
{
    j_val v[1];
    kq_j_take(r, "strftime_now", a, "format", 1, v);
    return kq_j_strftime(r, kq_j_want_str(r, v[0], "strftime_now"));
}

static const struct {
    const char *name;
    j_val (*run)(j_run *r, const j_args *a);
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

j_val kq_j_call_function(j_run *r, int function, const j_args *a)
{
    return functions[function].run(r, a);
}

/* ---- cycler, joiner, loop ---- */

static j_val method(j_run *r, j_val self, const char *name)
{
    j_method *m = kq_j_alloc(r, 1, sizeof *m);
    *m = (j_method){self, name};
    return (j_val){.kind = J_METHOD, .method = m};
}

j_val kq_j_cycler_attr(j_run *r, j_val v, const char *name)
{
    if (!strcmp(name, "current"))
        return v.it->items.v[v.it->at];
    if (!strcmp(name, "next") || !strcmp(name, "reset"))
        return method(r, v, name);
    kq_j_fail(r, KQ_E_UNSUPPORTED, "'%.40s' of a cycler is not supported", name);
}

j_val kq_j_cycler_call(j_run *r, j_val v, const char *name)
{
    if (!name) { /* a joiner: nothing the first time */
        const bool used = v.it->used;
        v.it->used = true;
        return used ? v.it->items.v[0] : kq_j_cstr(r, "");
    }
    const j_val current = v.it->items.v[v.it->at];
    v.it->at = strcmp(name, "reset") ? (v.it->at + 1) % v.it->items.n : 0;
    return strcmp(name, "reset") ? current : j_none();
}

j_val kq_j_loop_attr(j_run *r, j_val loop, const char *name)
{
    const j_loop *l = loop.loop;
    const int64_t i = (int64_t)l->i, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        int64_t v;
    } numbers[] = {{"index", i + 1}, {"index0", i},       {"revindex", n - i},     {"revindex0", n - i - 1},
                   {"length", n},    {"depth", l->depth}, {"depth0", l->depth - 1}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
        if (!strcmp(name, numbers[k].name))
            return j_int(numbers[k].v);
    if (!strcmp(name, "first") || !strcmp(name, "last"))
        return j_bool(*name == 'f' ? i == 0 : i + 1 == n);
    if (!strcmp(name, "previtem"))
        return i > 0 ? l->items->v[i - 1] : j_undefined("the item before the first");
    if (!strcmp(name, "nextitem"))
        return i + 1 < n ? l->items->v[i + 1] : j_undefined("the item after the last");
    if (!strcmp(name, "cycle") || !strcmp(name, "changed"))
        return method(r, loop, name);
    kq_j_fail(r, KQ_E_UNSUPPORTED, "'loop.%.40s' is not supported", name);
}

j_val kq_j_loop_call(j_run *r, j_loop *loop, const char *name, const j_args *a)
{
    if (a->n_kv)
        j_type_error(r, "loop.%s takes no arguments by name", name);
    if (!strcmp(name, "cycle")) {
        if (!a->n)
            j_type_error(r, "loop.cycle wants values");
        return a->v[loop->i % a->n];
    }
    j_val now = kq_j_list(r, J_TUPLE, a->n);
    for (size_t i = 0; i < a->n; i++)
        kq_j_push(r, now.l, a->v[i]);
    const bool changed = loop->changed.kind == J_MISSING || !kq_j_equal(r, loop->changed, now);
    loop->changed = now;
    return j_bool(changed);
}
