/* Cuts the source into tokens, as jinja2's lexer does with trim_blocks and lstrip_blocks. In case of doubt it
 * does what jinja2/lexer.py (3.1.6) does. */
#include <stdlib.h>

#include "jinja/internal.h"

/* BEFORE_...: the text before a tag has been given, and the tag's beginning is the next token */
enum { ROOT, IN_BLOCK, IN_VAR, BEFORE_BLOCK, BEFORE_VAR };

#define bad(p, ...) ((p)->r->line = (p)->line, kq_py_fail((p)->r, KQ_E_FORMAT, __VA_ARGS__))

const char *kq_j_intern(j_parser *p, const char *s, size_t n)
{
    unsigned h = 5381;
    for (size_t i = 0; i < n; i++)
        h = h * 33 + (unsigned char)s[i];
    h &= 255;
    for (size_t i = 0; i < p->names[h].n; i++)
        if (strlen(p->names[h].v[i]) == n && !memcmp(p->names[h].v[i], s, n))
            return p->names[h].v[i];
    py_tick(p->r);
    char *copy = kq_py_alloc(p->r, n + 1, 1);
    memcpy(copy, s, n);
    kq_py_grow(p->r, &p->names[h].v, &p->names[h].cap, p->names[h].n, sizeof *p->names[h].v);
    return p->names[h].v[p->names[h].n++] = copy;
}

/* Begin with a source. Line ends become "\n"; one at the very end is dropped (keep_trailing_newline is
 * false). */
void kq_j_lex_start(j_parser *p, const char *source, size_t size)
{
    char *copy = kq_py_alloc(p->r, size + 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        const bool cr = source[i] == '\r';
        copy[n++] = cr ? '\n' : source[i];
        if (cr && i + 1 < size && source[i + 1] == '\n')
            i++;
    }
    if (n && copy[n - 1] == '\n')
        n--;
    p->s = p->at = copy;
    p->end = copy + n;
    p->line = 1;
    p->line_starting = true;
}

static const char *skip_space(const j_parser *p, const char *s)
{
    size_t size;
    while (s < p->end && kq_py_is_space(kq_py_code_point(s, &size)))
        s += size;
    return s;
}

/* The end of s[0..end) without the white space that it ends with. */
static const char *strip_end(const char *s, const char *end)
{
    while (end > s) {
        const char *at = end - 1;
        size_t size;
        while (at > s && ((unsigned char)*at & 0xc0) == 0x80)
            at--;
        if (!kq_py_is_space(kq_py_code_point(at, &size)))
            break;
        end = at;
    }
    return end;
}

static void consume(j_parser *p, const char *to)
{
    for (const char *s = p->at; s < to; s++)
        p->line += *s == '\n';
    if (to > p->at)
        p->line_starting = to[-1] == '\n';
    p->at = to;
}

static bool starts(const j_parser *p, const char *s, const char *with)
{
    const size_t n = strlen(with);
    return (size_t)(p->end - s) >= n && !memcmp(s, with, n);
}

/* The end of a tag ("%}", "}}" or "#}") at s: the position behind it, its sign and the white space that is
 * dropped with it. NULL: no tag ends here. */
static const char *tag_end(const j_parser *p, const char *s, const char *close, bool block)
{
    const bool minus = s < p->end && *s == '-', plus = block && s < p->end && *s == '+';
    if (!starts(p, s + (minus || plus), close))
        return NULL;
    s += 2 + (minus || plus);
    if (minus)
        return skip_space(p, s);
    return block && !plus && s < p->end && *s == '\n' ? s + 1 : s;
}

/* Does a tag {% WORD %} begin at s? *sign: its '-', '+' or 0; *after: the position behind the word. */
static bool word_tag(const j_parser *p, const char *s, const char *word, char *sign, const char **after)
{
    if (!starts(p, s, "{%"))
        return false;
    s += 2;
    *sign = s < p->end && (*s == '-' || *s == '+') ? *s++ : 0;
    s = skip_space(p, s);
    if (!starts(p, s, word))
        return false;
    *after = skip_space(p, s + strlen(word));
    return true;
}

/* The end of the text before a tag, without the white space that the tag's sign or lstrip_blocks remove. */
static const char *stripped(const j_parser *p, const char *text, const char *end, char sign, bool variable)
{
    if (sign == '-')
        return strip_end(text, end);
    if (sign == '+' || variable)
        return end;
    const char *line = end;
    while (line > text && line[-1] != '\n')
        line--;
    if (line == text && !p->line_starting)
        return end;
    return skip_space(p, line) >= end ? line : end;
}

static j_tok data_token(j_parser *p, const char *s, const char *end, int line)
{
    return (j_tok){.kind = T_DATA, .line = line, .value = kq_py_str(p->r, s, (size_t)(end - s))};
}

static void skip_comment(j_parser *p)
{
    const char *s = p->at;
    while (s < p->end && !starts(p, s, "#}"))
        s++;
    if (s >= p->end)
        bad(p, "a comment {# has no end");
    consume(p, tag_end(p, s > p->at && (s[-1] == '-' || s[-1] == '+') ? s - 1 : s, "#}", true));
}

/* The text between {% raw %} and {% endraw %}. */
static j_tok raw_text(j_parser *p)
{
    const int line = p->line;
    for (const char *s = p->at; s < p->end; s++) {
        const char *after, *end;
        char sign;
        if (*s != '{' || !word_tag(p, s, "endraw", &sign, &after) || !(end = tag_end(p, after, "%}", true)))
            continue;
        j_tok tok = data_token(p, p->at, stripped(p, p->at, s, sign, false), line);
        consume(p, end);
        return tok;
    }
    bad(p, "{%% raw %%} has no end");
}

static j_tok root_token(j_parser *p)
{
    while (p->at < p->end) {
        const char *s = p->at, *after = NULL;
        const int line = p->line;
        char sign = 0;
        while (s < p->end && !(*s == '{' && s + 1 < p->end && (s[1] == '%' || s[1] == '{' || s[1] == '#')))
            s++;
        py_tick(p->r);
        if (s == p->end) {
            j_tok tok = data_token(p, p->at, s, line);
            consume(p, s);
            return tok;
        }
        const char kind = s[1];
        const bool raw =
            word_tag(p, s, "raw", &sign, &after) && (starts(p, after, "%}") || starts(p, after, "-%}"));
        if (!raw) {
            after = s + 2;
            sign = after < p->end && (*after == '-' || *after == '+') ? *after++ : 0;
        } else {
            after = *after == '-' ? skip_space(p, after + 3) : after + 2;
        }
        const char *end = stripped(p, p->at, s, sign, kind == '{');
        j_tok tok = data_token(p, p->at, end, line);
        consume(p, after);
        if (raw) {
            j_tok text = raw_text(p);
            py_buf both = {0};
            kq_py_put(p->r, &both, tok.value.s->p, tok.value.s->n);
            kq_py_put(p->r, &both, text.value.s->p, text.value.s->n);
            tok.value = kq_py_buf_str(p->r, &both);
        } else if (kind == '#') {
            skip_comment(p);
        } else {
            p->state = kind == '%' ? BEFORE_BLOCK : BEFORE_VAR;
            p->n_closing = 0;
        }
        if (tok.value.s->n)
            return tok;
        if (p->state != ROOT)
            return kq_j_lex(p);
    }
    return (j_tok){.kind = T_END, .line = p->line};
}

/* ---- inside tags ---- */

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static void put_cp(j_parser *p, py_buf *b, uint32_t cp)
{
    char out[4];
    if (cp > 0x10ffff)
        bad(p, "a string has an escape beyond U+10FFFF");
    if (cp >= 0xd800 && cp < 0xe000)
        kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a string has the escape of a surrogate");
    kq_py_put(p->r, b, out, kq_utf8_put(cp, out));
}

/* Read one escape as Python's unicode-escape does; s is behind the backslash. Returns where it ends. */
static const char *escape(j_parser *p, py_buf *b, const char *s, const char *end)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = memchr(from, *s, sizeof from - 1);
    if (*s == '\n')
        return s + 1;
    if (simple) {
        kq_py_put(p->r, b, &to[simple - from], 1);
        return s + 1;
    }
    if (*s >= '0' && *s <= '7') {
        uint32_t cp = 0;
        for (int i = 0; i < 3 && s < end && *s >= '0' && *s <= '7'; i++)
            cp = 8 * cp + (uint32_t)(*s++ - '0');
        put_cp(p, b, cp);
        return s;
    }
    const int digits = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0;
    if (digits) {
        uint32_t cp = 0;
        s++;
        for (int i = 0; i < digits; i++, s++) {
            if (s >= end || hex(*s) < 0 || cp >> 28)
                bad(p, "a string has a broken escape");
            cp = 16 * cp + (uint32_t)hex(*s);
        }
        put_cp(p, b, cp);
        return s;
    }
    if (*s == 'N' || (unsigned char)*s >= 0x80)
        kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a string has an escape that kronq does not read");
    kq_py_put(p->r, b, "\\", 1); /* an escape that is not known stays as it is */
    kq_py_put(p->r, b, s, 1);
    return s + 1;
}

static j_tok string_token(j_parser *p)
{
    const char quote = *p->at, *s = p->at + 1;
    const int line = p->line;
    py_buf b = {0};
    while (s < p->end && *s != quote)
        s += *s == '\\' && s + 1 < p->end ? 2 : 1;
    if (s >= p->end)
        bad(p, "a string has no end");
    for (const char *t = p->at + 1; t < s;) {
        const char *stop = memchr(t, '\\', (size_t)(s - t));
        kq_py_put(p->r, &b, t, (size_t)((stop ? stop : s) - t));
        t = stop ? escape(p, &b, stop + 1, s) : s;
    }
    consume(p, s + 1);
    return (j_tok){.kind = T_STRING, .line = line, .value = kq_py_buf_str(p->r, &b)};
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The end of the digits at s, which may have single underscores between them. */
static const char *digits(const j_parser *p, const char *s)
{
    while (s < p->end &&
           (digit(*s) || (*s == '_' && s > p->s && digit(s[-1]) && s + 1 < p->end && digit(s[1]))))
        s++;
    return s;
}

static j_tok number_token(j_parser *p)
{
    char text[400];
    size_t n = 0;
    const char *end = digits(p, p->at), *start = p->at;
    const int line = p->line;
    bool real = false;
    if (*start == '0' && start + 1 < p->end && strchr("xXoObB", start[1]))
        kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a number that is not decimal");
    if (!(start > p->s && start[-1] == '.')) { /* no fraction in x.1.2, which is an item of an item */
        const char *fraction = end;
        if (end + 1 < p->end && *end == '.' && digit(end[1]))
            fraction = digits(p, end + 1);
        real = fraction > end;
        if (fraction < p->end && (*fraction == 'e' || *fraction == 'E')) {
            const char *e = fraction + 1;
            e += e < p->end && (*e == '+' || *e == '-');
            if (e < p->end && digit(*e)) {
                fraction = digits(p, e);
                real = true;
            }
        }
        end = real ? fraction : end;
    }
    for (const char *s = start; s < end; s++)
        if (*s != '_' && n < sizeof text)
            text[n++] = *s;
    if (n == sizeof text)
        kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a number of more than %zu digits", sizeof text);
    consume(p, end);
    j_tok tok = {.kind = real ? T_FLOAT : T_INT, .line = line};
    double d;
    if (real) {
        if (!kq_py_parse_float(text, n, &d))
            kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a number beyond a double's range");
        tok.value = py_float(d);
        return tok;
    }
    int64_t v = 0;
    for (size_t i = 0; i < n; i++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, text[i] - '0', &v))
            kq_py_fail(p->r, KQ_E_UNSUPPORTED, "an integer beyond 64 bits");
    if (n > 1 && text[0] == '0' && v)
        bad(p, "an integer begins with 0");
    tok.value = py_int(v);
    return tok;
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || digit(c);
}

static j_tok op_token(j_parser *p)
{
    static const char *const ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                      "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const int line = p->line;
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!starts(p, p->at, ops[i]))
            continue;
        const char c = *ops[i];
        if (c == '(' || c == '[' || c == '{') {
            if (p->n_closing == KQ_JINJA_MAX_NESTING)
                kq_py_fail(p->r, KQ_E_ARG, "more than %d brackets within each other", KQ_JINJA_MAX_NESTING);
            p->closing[p->n_closing++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if ((c == ')' || c == ']' || c == '}') && (!p->n_closing || p->closing[--p->n_closing] != c)) {
            bad(p, "unexpected '%c'", c);
        }
        consume(p, p->at + strlen(ops[i]));
        return (j_tok){.kind = T_OP, .line = line, .name = ops[i]};
    }
    if ((unsigned char)*p->at >= 0x80)
        kq_py_fail(p->r, KQ_E_UNSUPPORTED, "a name that is not ASCII");
    bad(p, "unexpected character '%c'", *p->at);
}

j_tok kq_j_lex(j_parser *p)
{
    p->r->line = p->line;
    py_tick(p->r);
    if (p->state == BEFORE_BLOCK || p->state == BEFORE_VAR) {
        p->state = p->state == BEFORE_BLOCK ? IN_BLOCK : IN_VAR;
        return (j_tok){.kind = p->state == IN_BLOCK ? T_BLOCK_BEGIN : T_VAR_BEGIN, .line = p->line};
    }
    if (p->state == ROOT)
        return root_token(p);
    for (;;) {
        const int line = p->line;
        const char *end;
        if (!p->n_closing &&
            (end = tag_end(p, p->at, p->state == IN_BLOCK ? "%}" : "}}", p->state == IN_BLOCK))) {
            j_tok tok = {.kind = p->state == IN_BLOCK ? T_BLOCK_END : T_VAR_END, .line = line};
            consume(p, end);
            p->state = ROOT;
            return tok;
        }
        if ((end = skip_space(p, p->at)) == p->at)
            break;
        consume(p, end);
    }
    if (p->at >= p->end)
        return (j_tok){.kind = T_END, .line = p->line};
    if (digit(*p->at))
        return number_token(p);
    if (*p->at == '\'' || *p->at == '"')
        return string_token(p);
    const char *s = p->at;
    while (s < p->end && name_char(*s))
        s++;
    if (s == p->at || (s < p->end && (unsigned char)*s >= 0x80))
        return op_token((p->at = s, p));
    j_tok tok = {.kind = T_NAME, .line = p->line, .name = kq_j_intern(p, p->at, (size_t)(s - p->at))};
    consume(p, s);
    return tok;
}
