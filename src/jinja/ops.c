/* Arithmetic and comparison of values, as Python does it. Integers beyond 64 bits are refused. */
#include <math.h>
#include <stdio.h>

#include "jinja/internal.h"

static const char *const op_text[] = {
    "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static _Noreturn void no_op(j_run *r, j_op op, j_val a, j_val b)
{
    const j_val u = a.kind == J_UNDEFINED ? a : b;
    if (u.kind == J_UNDEFINED)
        j_type_error(r, "%.80s is undefined, and '%s' wants a value", u.why ? u.why : "a value", op_text[op]);
    j_type_error(r, "'%s' does not go with %s and %s", op_text[op], kq_j_type_name(a), kq_j_type_name(b));
}

static _Noreturn void too_big(j_run *r)
{
    kq_j_fail(r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
}

static _Noreturn void by_zero(j_run *r)
{
    j_type_error(r, "division by zero");
}

/* ---- numbers ---- */

static int64_t int_power(j_run *r, int64_t a, int64_t b)
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

static j_val int_op(j_run *r, j_op op, int64_t a, int64_t b)
{
    int64_t v = 0;
    switch (op) {
    case OP_ADD:
        if (__builtin_add_overflow(a, b, &v))
            too_big(r);
        break;
    case OP_SUB:
        if (__builtin_sub_overflow(a, b, &v))
            too_big(r);
        break;
    case OP_MUL:
        if (__builtin_mul_overflow(a, b, &v))
            too_big(r);
        break;
    case OP_DIV:
        if (!b)
            by_zero(r);
        if (a > 1LL << 53 || a < -(1LL << 53) || b > 1LL << 53 || b < -(1LL << 53))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "a division of integers beyond 2^53");
        return j_float((double)a / (double)b);
    case OP_FLOORDIV:
    case OP_MOD:
        if (!b)
            by_zero(r);
        if (b == -1) {
            if (op == OP_FLOORDIV && __builtin_sub_overflow(0, a, &v))
                too_big(r);
            return j_int(op == OP_MOD ? 0 : v);
        }
        v = a % b;
        v += v && (v < 0) != (b < 0) ? b : 0;
        if (op == OP_FLOORDIV)
            v = a / b - (a % b && (a % b < 0) != (b < 0));
        break;
    default: v = int_power(r, a, b);
    }
    return j_int(v);
}

static j_val float_divide(j_op op, double a, double b)
{
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod == 0)
        mod = copysign(0, b);
    else if ((b < 0) != (mod < 0)) {
        mod += b;
        div -= 1;
    }
    if (op == OP_MOD)
        return j_float(mod);
    double whole = floor(div);
    if (div == 0)
        return j_float(copysign(0, a / b));
    return j_float(div - whole > 0.5 ? whole + 1 : whole);
}

static j_val float_op(j_run *r, j_op op, double a, double b)
{
    switch (op) {
    case OP_ADD: return j_float(a + b);
    case OP_SUB: return j_float(a - b);
    case OP_MUL: return j_float(a * b);
    case OP_POW: {
        if (a == 0 && b < 0)
            by_zero(r);
        if (a < 0 && b != floor(b))
            kq_j_fail(r, KQ_E_UNSUPPORTED, "a root of a negative number");
        const double v = pow(a, b);
        if (isinf(v) && !isinf(a) && !isinf(b))
            j_type_error(r, "'**' gives a number beyond a double's range");
        return j_float(v);
    }
    default:
        if (b == 0)
            by_zero(r);
        return op == OP_DIV ? j_float(a / b) : float_divide(op, a, b);
    }
}

/* ---- strings and lists ---- */

static j_val add_text(j_run *r, j_val a, j_val b)
{
    const bool safe = a.safe || b.safe;
    if (safe && !a.safe)
        a = kq_j_escape(r, a);
    if (safe && !b.safe)
        b = kq_j_escape(r, b);
    if (a.s->n + b.s->n > KQ_JINJA_MAX_OUTPUT)
        kq_j_fail(r, KQ_E_ARG, "a text grows beyond %d MB", KQ_JINJA_MAX_OUTPUT >> 20);
    char *p = kq_j_alloc(r, a.s->n + b.s->n + 1, 1);
    memcpy(p, a.s->p, a.s->n);
    memcpy(p + a.s->n, b.s->p, b.s->n);
    j_val v = kq_j_str(r, p, a.s->n + b.s->n);
    v.safe = safe;
    return v;
}

static j_val add_lists(j_run *r, j_val a, j_val b)
{
    j_val v = kq_j_list(r, a.kind, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n; i++)
        kq_j_push(r, v.l, a.l->v[i]);
    for (size_t i = 0; i < b.l->n; i++)
        kq_j_push(r, v.l, b.l->v[i]);
    return v;
}

static j_val repeat(j_run *r, j_val a, int64_t times)
{
    const size_t n = a.kind == J_STR ? a.s->n : a.l->n;
    times = n && times > 0 ? times : 0;
    if ((uint64_t)times > KQ_JINJA_MAX_OUTPUT || n * (size_t)times > KQ_JINJA_MAX_OUTPUT)
        kq_j_fail(r, KQ_E_ARG, "a repetition grows beyond %d MB", KQ_JINJA_MAX_OUTPUT >> 20);
    if (a.kind == J_STR) {
        j_buf b = {0};
        for (int64_t i = 0; i < times; i++)
            kq_j_put(r, &b, a.s->p, n);
        kq_j_spend(r, (size_t)times);
        return kq_j_buf_str(r, &b);
    }
    j_val v = kq_j_list(r, a.kind, n * (size_t)times);
    for (int64_t i = 0; i < times; i++)
        for (size_t k = 0; k < n; k++)
            kq_j_push(r, v.l, a.l->v[k]);
    return v;
}

static bool whole(j_val v)
{
    return v.kind == J_INT || v.kind == J_BOOL;
}

j_val kq_j_binary(j_run *r, j_op op, j_val a, j_val b)
{
    if (op == OP_MOD && a.kind == J_STR) {
        kq_j_not_safe(r, a, "formatted");
        return kq_j_percent(r, a.s, b);
    }
    if (j_is_number(a) && j_is_number(b)) {
        if (!whole(a) || !whole(b) || (op == OP_POW && j_whole(b) < 0))
            return float_op(r, op, j_real(a), j_real(b));
        return int_op(r, op, j_whole(a), j_whole(b));
    }
    if (op == OP_ADD && a.kind == J_STR && b.kind == J_STR)
        return add_text(r, a, b);
    if (op == OP_ADD && j_is_list(a) && a.kind == b.kind)
        return add_lists(r, a, b);
    if (op == OP_MUL && whole(a) && (b.kind == J_STR || j_is_list(b))) {
        const j_val c = a;
        a = b;
        b = c;
    }
    if (op == OP_MUL && whole(b) && (a.kind == J_STR || j_is_list(a))) {
        kq_j_not_safe(r, a, "repeated");
        return repeat(r, a, j_whole(b));
    }
    no_op(r, op, a, b);
}

bool kq_j_compare(j_run *r, j_op op, j_val a, j_val b)
{
    switch (op) {
    case OP_EQ: return kq_j_equal(r, a, b);
    case OP_NE: return !kq_j_equal(r, a, b);
    case OP_IN: return kq_j_contains(r, b, a);
    case OP_NOT_IN: return !kq_j_contains(r, b, a);
    default: break;
    }
    if (a.kind == J_UNDEFINED || b.kind == J_UNDEFINED)
        no_op(r, op, a, b);
    if (op == OP_LT || op == OP_GT)
        return op == OP_LT ? kq_j_less(r, a, b) : kq_j_less(r, b, a);
    return (op == OP_LE ? kq_j_less(r, a, b) : kq_j_less(r, b, a)) || kq_j_equal(r, a, b);
}

j_val kq_j_negate(j_run *r, j_val v, bool minus)
{
    int64_t i;
    if (v.kind == J_FLOAT)
        return j_float(minus ? -v.d : v.d);
    if (v.kind == J_UNDEFINED)
        j_type_error(r, "%.80s is undefined", v.why ? v.why : "a value");
    if (!whole(v))
        j_type_error(r, "the sign '%c' does not go with %s", minus ? '-' : '+', kq_j_type_name(v));
    if (__builtin_sub_overflow(0, j_whole(v), &i))
        too_big(r);
    return j_int(minus ? i : j_whole(v));
}

void kq_j_not_safe(j_run *r, j_val v, const char *what)
{
    if (v.kind == J_STR && v.safe)
        kq_j_fail(r, KQ_E_UNSUPPORTED, "a string after |safe or |escape is %s: not supported", what);
}

j_val kq_j_escape(j_run *r, j_val v)
{
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    j_buf b = {0};
    if (v.kind == J_STR && v.safe)
        return v;
    const j_str *s = kq_j_text(r, v);
    size_t start = 0;
    for (size_t i = 0; i < s->n; i++) {
        const char *c = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (!c)
            continue;
        kq_j_put(r, &b, s->p + start, i - start);
        kq_j_puts(r, &b, to[c - from]);
        start = i + 1;
    }
    kq_j_put(r, &b, s->p + start, s->n - start);
    kq_j_spend(r, s->n / 8);
    j_val out = kq_j_buf_str(r, &b);
    out.safe = true;
    return out;
}

/* ---- "%s" % x ---- */

static const char *fixed(j_run *r, j_buf *b, const char *s, const char *end, j_val v)
{
    char text[400];
    int precision = 6;
    if (*s == '.') {
        for (precision = 0, s++; s < end && *s >= '0' && *s <= '9' && precision < 100; s++)
            precision = 10 * precision + (*s - '0');
    }
    if (s >= end || *s != 'f' || precision > 30)
        return NULL;
    if (!j_is_number(v))
        j_type_error(r, "%%f wants a number, not %s", kq_j_type_name(v));
    const double d = j_real(v);
    if (!isfinite(d))
        kq_j_fail(r, KQ_E_UNSUPPORTED, "%%f of a number that is not finite");
    snprintf(text, sizeof text, "%.*f", precision, d);
    for (char *c = text; *c; c++)
        if (!(*c >= '0' && *c <= '9') && *c != '-')
            *c = '.'; /* the locale's decimal point, one byte in all of glibc's locales that are not exotic */
    kq_j_puts(r, b, text);
    return s + 1;
}

j_val kq_j_percent(j_run *r, const j_str *format, j_val args)
{
    const size_t n = args.kind == J_TUPLE ? args.l->n : 1;
    const char *s = format->p, *end = s + format->n;
    size_t used = 0;
    j_buf b = {0};
    while (s < end) {
        const char *p = memchr(s, '%', (size_t)(end - s));
        kq_j_put(r, &b, s, (size_t)((p ? p : end) - s));
        if (!p)
            break;
        s = p + 1;
        if (s < end && *s == '%') {
            kq_j_put(r, &b, s++, 1);
            continue;
        }
        if (s >= end)
            j_type_error(r, "a format ends with %%");
        if (used == n)
            j_type_error(r, "a format has more places than values");
        const j_val v = args.kind == J_TUPLE ? args.l->v[used] : args;
        used++;
        if (*s == 's' || *s == 'r') {
            kq_j_not_safe(r, v, "formatted");
            (*s == 's' ? kq_j_put_str : kq_j_put_repr)(r, &b, v);
            s++;
        } else if ((*s == 'd' || *s == 'i') && whole(v)) {
            kq_j_put_str(r, &b, j_int(j_whole(v)));
            s++;
        } else if ((*s != 'f' && *s != '.') || !(s = fixed(r, &b, s, end, v))) {
            kq_j_fail(r, KQ_E_UNSUPPORTED, "a format other than %%s, %%r, %%d and %%.Nf");
        }
        j_tick(r);
    }
    if (used < n && args.kind != J_DICT &&
        !(args.kind != J_TUPLE && (j_is_list(args) || args.kind == J_RANGE || args.kind == J_UNDEFINED)))
        j_type_error(r, "a format has fewer places than values");
    return kq_j_buf_str(r, &b);
}
