/* Arithmetic and comparison of values, as Python does it. Python's integers have no bound; here a result
 * beyond 64 bits is refused. */
#include "pyvalue/ops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "pyvalue/print.h"

static const char *const op_text[] = {
    "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static _Noreturn void no_op(py_run *r, py_op op, py_val a, py_val b)
{
    const py_val u = a.kind == PY_UNDEFINED ? a : b;
    if (u.kind == PY_UNDEFINED)
        py_type_error(r, "%.80s is undefined, and '%s' wants a value", u.why ? u.why : "a value",
                      op_text[op]);
    py_type_error(r, "'%s' does not go with %s and %s", op_text[op], kq_py_type_name(a), kq_py_type_name(b));
}

static _Noreturn void too_big(py_run *r)
{
    kq_py_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
}

static _Noreturn void by_zero(py_run *r)
{
    py_type_error(r, "division by zero");
}

/* ---- numbers ---- */

static int64_t int_power(py_run *r, int64_t a, int64_t b)
{
    int64_t v = 1;
    while (b) {
        if ((b & 1) && __builtin_mul_overflow(v, a, &v))
            too_big(r);
        b >>= 1;
        if (b && __builtin_mul_overflow(a, a, &a))
            too_big(r);
    }
    return v;
}

static py_val int_op(py_run *r, py_op op, int64_t a, int64_t b)
{
    int64_t v = 0;
    switch (op) {
    case PY_ADD:
        if (__builtin_add_overflow(a, b, &v))
            too_big(r);
        break;
    case PY_SUB:
        if (__builtin_sub_overflow(a, b, &v))
            too_big(r);
        break;
    case PY_MUL:
        if (__builtin_mul_overflow(a, b, &v))
            too_big(r);
        break;
    case PY_DIV:
        if (!b)
            by_zero(r);
        if (a > 1LL << 53 || a < -(1LL << 53) || b > 1LL << 53 || b < -(1LL << 53))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "a division of integers beyond 2^53");
        return py_float((double)a / (double)b);
    case PY_FLOORDIV:
    case PY_MOD:
        if (!b)
            by_zero(r);
        if (b == -1) {
            if (op == PY_FLOORDIV && __builtin_sub_overflow(0, a, &v))
                too_big(r);
            return py_int(op == PY_MOD ? 0 : v);
        }
        v = a % b;
        v += v && (v < 0) != (b < 0) ? b : 0;
        if (op == PY_FLOORDIV)
            v = a / b - (a % b && (a % b < 0) != (b < 0));
        break;
    default: v = int_power(r, a, b);
    }
    return py_int(v);
}

static py_val float_divide(py_op op, double a, double b)
{
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod == 0)
        mod = copysign(0, b);
    else if ((b < 0) != (mod < 0)) {
        mod += b;
        div -= 1;
    }
    if (op == PY_MOD)
        return py_float(mod);
    double whole = floor(div);
    if (div == 0)
        return py_float(copysign(0, a / b));
    return py_float(div - whole > 0.5 ? whole + 1 : whole);
}

static py_val float_op(py_run *r, py_op op, double a, double b)
{
    switch (op) {
    case PY_ADD: return py_float(a + b);
    case PY_SUB: return py_float(a - b);
    case PY_MUL: return py_float(a * b);
    case PY_POW: {
        if (a == 0 && b < 0)
            by_zero(r);
        if (a < 0 && b != floor(b))
            kq_py_fail(r, KQ_E_UNSUPPORTED, "a root of a negative number");
        const double v = pow(a, b);
        if (isinf(v) && !isinf(a) && !isinf(b))
            py_type_error(r, "'**' gives a number beyond a double's range");
        return py_float(v);
    }
    default:
        if (b == 0)
            by_zero(r);
        return op == PY_DIV ? py_float(a / b) : float_divide(op, a, b);
    }
}

/* ---- strings and lists ---- */

static py_val add_text(py_run *r, py_val a, py_val b)
{
    const bool safe = a.safe || b.safe;
    if (safe && !a.safe)
        a = kq_py_escape(r, a);
    if (safe && !b.safe)
        b = kq_py_escape(r, b);
    if (a.s->n + b.s->n > KQ_PY_MAX_OUTPUT)
        kq_py_fail(r, KQ_E_ARG, "a text grows beyond %d MB", KQ_PY_MAX_OUTPUT >> 20);
    char *p = kq_py_alloc(r, a.s->n + b.s->n + 1, 1);
    memcpy(p, a.s->p, a.s->n);
    memcpy(p + a.s->n, b.s->p, b.s->n);
    py_val v = kq_py_str(r, p, a.s->n + b.s->n);
    v.safe = safe;
    return v;
}

static py_val add_lists(py_run *r, py_val a, py_val b)
{
    py_val v = kq_py_list(r, a.kind, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n; i++)
        kq_py_push(r, v.l, a.l->v[i]);
    for (size_t i = 0; i < b.l->n; i++)
        kq_py_push(r, v.l, b.l->v[i]);
    return v;
}

static py_val repeat(py_run *r, py_val a, int64_t times)
{
    const size_t n = a.kind == PY_STR ? a.s->n : a.l->n;
    times = n && times > 0 ? times : 0;
    if ((uint64_t)times > KQ_PY_MAX_OUTPUT || n * (size_t)times > KQ_PY_MAX_OUTPUT)
        kq_py_fail(r, KQ_E_ARG, "a repetition grows beyond %d MB", KQ_PY_MAX_OUTPUT >> 20);
    if (a.kind == PY_STR) {
        py_buf b = {0};
        for (int64_t i = 0; i < times; i++)
            kq_py_put(r, &b, a.s->p, n);
        kq_py_spend(r, (size_t)times);
        return kq_py_buf_str(r, &b);
    }
    py_val v = kq_py_list(r, a.kind, n * (size_t)times);
    for (int64_t i = 0; i < times; i++)
        for (size_t k = 0; k < n; k++)
            kq_py_push(r, v.l, a.l->v[k]);
    return v;
}

static bool whole(py_val v)
{
    return v.kind == PY_INT || v.kind == PY_BOOL;
}

py_val kq_py_binary(py_run *r, py_op op, py_val a, py_val b)
{
    if (op == PY_MOD && a.kind == PY_STR) {
        kq_py_not_safe(r, a, "formatted");
        return kq_py_percent(r, a.s, b);
    }
    if (py_is_number(a) && py_is_number(b)) {
        if (!whole(a) || !whole(b) || (op == PY_POW && py_whole(b) < 0))
            return float_op(r, op, py_real(a), py_real(b));
        return int_op(r, op, py_whole(a), py_whole(b));
    }
    if (op == PY_ADD && a.kind == PY_STR && b.kind == PY_STR)
        return add_text(r, a, b);
    if (op == PY_ADD && py_is_list(a) && a.kind == b.kind)
        return add_lists(r, a, b);
    if (op == PY_MUL && whole(a) && (b.kind == PY_STR || py_is_list(b))) {
        const py_val c = a;
        a = b;
        b = c;
    }
    if (op == PY_MUL && whole(b) && (a.kind == PY_STR || py_is_list(a))) {
        kq_py_not_safe(r, a, "repeated");
        return repeat(r, a, py_whole(b));
    }
    no_op(r, op, a, b);
}

bool kq_py_compare(py_run *r, py_op op, py_val a, py_val b)
{
    switch (op) {
    case PY_EQ: return kq_py_equal(r, a, b);
    case PY_NE: return !kq_py_equal(r, a, b);
    case PY_IN: return kq_py_contains(r, b, a);
    case PY_NOT_IN: return !kq_py_contains(r, b, a);
    default: break;
    }
    if (a.kind == PY_UNDEFINED || b.kind == PY_UNDEFINED)
        no_op(r, op, a, b);
    if (op == PY_LT || op == PY_GT)
        return op == PY_LT ? kq_py_less(r, a, b) : kq_py_less(r, b, a);
    return (op == PY_LE ? kq_py_less(r, a, b) : kq_py_less(r, b, a)) || kq_py_equal(r, a, b);
}

py_val kq_py_negate(py_run *r, py_val v, bool minus)
{
    int64_t i;
    if (v.kind == PY_FLOAT)
        return py_float(minus ? -v.d : v.d);
    if (v.kind == PY_UNDEFINED)
        py_type_error(r, "%.80s is undefined", v.why ? v.why : "a value");
    if (!whole(v))
        py_type_error(r, "the sign '%c' does not go with %s", minus ? '-' : '+', kq_py_type_name(v));
    if (__builtin_sub_overflow(0, py_whole(v), &i))
        too_big(r);
    return py_int(minus ? i : py_whole(v));
}

py_val kq_py_escape(py_run *r, py_val v)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    py_buf b = {0};
    if (v.kind == PY_STR && v.safe)
        return v;
    const py_str *s = kq_py_text(r, v);
    size_t start = 0;
    for (size_t i = 0; i < s->n; i++) {
        const char *c = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (!c)
            continue;
        kq_py_put(r, &b, s->p + start, i - start);
        kq_py_puts(r, &b, to[c - from]);
        start = i + 1;
    }
    kq_py_put(r, &b, s->p + start, s->n - start);
    kq_py_spend(r, s->n / 8);
    py_val out = kq_py_buf_str(r, &b);
    out.safe = true;
    return out;
}

/* ---- "%s" % x ---- */

static const char *fixed(py_run *r, py_buf *b, const char *s, const char *end, py_val v)
{
    char text[400];
    int precision = 6;
    if (*s == '.') {
        for (precision = 0, s++; s < end && *s >= '0' && *s <= '9' && precision < 100; s++)
            precision = 10 * precision + (*s - '0');
    }
    if (s >= end || *s != 'f' || precision > 30)
        return NULL;
    if (!py_is_number(v))
        py_type_error(r, "%%f wants a number, not %s", kq_py_type_name(v));
    const double d = py_real(v);
    if (!isfinite(d))
        kq_py_fail(r, KQ_E_UNSUPPORTED, "%%f of a number that is not finite");
    snprintf(text, sizeof text, "%.*f", precision, d);
    for (char *c = text; *c; c++)
        if (!(*c >= '0' && *c <= '9') && *c != '-')
            *c = '.'; /* the locale's decimal point, which is one byte in nearly all locales */
    kq_py_puts(r, b, text);
    return s + 1;
}

py_val kq_py_percent(py_run *r, const py_str *format, py_val args)
{
    const size_t n = args.kind == PY_TUPLE ? args.l->n : 1;
    const char *s = format->p, *end = s + format->n;
    size_t used = 0;
    py_buf b = {0};
    while (s < end) {
        const char *p = memchr(s, '%', (size_t)(end - s));
        kq_py_put(r, &b, s, (size_t)((p ? p : end) - s));
        if (!p)
            break;
        s = p + 1;
        if (s < end && *s == '%') {
            kq_py_put(r, &b, s++, 1);
            continue;
        }
        if (s >= end)
            py_type_error(r, "a format ends with %%");
        if (used == n)
            py_type_error(r, "a format has more places than values");
        const py_val v = args.kind == PY_TUPLE ? args.l->v[used] : args;
        used++;
        if (*s == 's' || *s == 'r') {
            kq_py_not_safe(r, v, "formatted");
            (*s == 's' ? kq_py_put_str : kq_py_put_repr)(r, &b, v);
            s++;
        } else if ((*s == 'd' || *s == 'i') && whole(v)) {
            kq_py_put_str(r, &b, py_int(py_whole(v)));
            s++;
        } else if ((*s != 'f' && *s != '.') || !(s = fixed(r, &b, s, end, v))) {
            kq_py_fail(r, KQ_E_UNSUPPORTED, "a format other than %%s, %%r, %%d and %%.Nf");
        }
        py_tick(r);
    }
    if (used < n && args.kind != PY_DICT &&
        !(args.kind != PY_TUPLE && (py_is_list(args) || args.kind == PY_RANGE || args.kind == PY_UNDEFINED)))
        py_type_error(r, "a format has fewer places than values");
    return kq_py_buf_str(r, &b);
}
