/* A stream of UTF-8 -> documents. Only one document is held at a time, whatever the size of the file: a JSON
 * array of documents is walked by its brackets, and each of its values is parsed alone. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/mem.h"
#include "base/warn.h"
#include "format/json.h"
#include "text/conversation.h"
#include "text/stream.h"

enum {
    PIECE = 1 << 16,
    SHOWN = 60,
    MOST_BLANK = 1 << 20 /* before the first character that says what a text is */
};

/* The text that is at hand: bytes [at, n) of buf. */
typedef struct reader {
    const char *path; /* as messages name it */
    const kq_text_how *how;
    kq_stream *s;
    char *buf; /* owned */
    size_t at, n, cap;
    size_t line;  /* of buf[at], from 1 */
    size_t taken; /* bytes before buf[at] */
    size_t most;  /* bytes of one document */
    bool end;     /* nothing comes after buf[n) */
    bool enough;
    kq_hash *hash; /* NULL: none is wanted */
    kq_text_visitor *visit;
    void *ctx;
    kq_text_info *info;
} reader;

static int stop(void *ctx)
{
    const kq_common *c = ctx;
    return c && c->progress ? c->progress(c->ctx, "reading text", 0, NULL) : 0;
}

/* One more piece of text behind what is at hand. */
static kq_status read_more(reader *r, kq_error *err)
{
    if (r->end)
        return KQ_OK;
    if (r->n - r->at > r->most)
        return kq_fail(err, KQ_E_ARG,
                       "%s: line %zu begins a document of more than %zu MiB; cut it up, or ask for less of "
                       "it (--chunks)",
                       r->path, r->line, r->most >> 20);
    if (r->at && r->n - r->at <= r->at) { /* each byte is moved once on average */
        memmove(r->buf, r->buf + r->at, r->n - r->at);
        r->n -= r->at;
        r->at = 0;
    }
    void *block = r->buf;
    kq_status status = kq_grow(&block, &r->cap, r->n, r->n + PIECE, 1, r->path, err);
    r->buf = block;
    if (status)
        return status;
    size_t n;
    status = kq_stream_read(r->s, r->buf + r->n, PIECE, &n, stop, (void *)r->how->common, err);
    if (!status && n && stop((void *)r->how->common))
        status = kq_fail(err, KQ_E_INTERRUPTED, "stopped while reading %s", r->path);
    r->n += n;
    r->end = !n;
    return status;
}

/* The next size bytes have been dealt with. */
static void advance(reader *r, size_t size)
{
    const char *p = r->buf + r->at;
    if (r->hash)
        kq_hash_add(r->hash, p, size);
    for (const char *nl = p; (nl = memchr(nl, '\n', (size_t)(p + size - nl))); nl++)
        r->line++;
    r->at += size;
    r->taken += size;
}

/* Is the text long enough? A file that must be read whole has an end that is told. */
static kq_status check_reach(reader *r, kq_error *err)
{
    if (r->how->reach != SIZE_MAX)
        r->enough = r->enough || r->taken >= r->how->reach;
    else if (r->taken > KQ_TEXT_MOST)
        return kq_fail(err, KQ_E_ARG,
                       "%s: more than %zu GiB of text (unpacked); give a part of it, or say how much is "
                       "wanted (--chunks)",
                       r->path, KQ_TEXT_MOST >> 30);
    return KQ_OK;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Take white space; then *c is the next character, 0 at the end. */
static kq_status skip_space(reader *r, char *c, kq_error *err)
{
    kq_status status = KQ_OK;
    *c = 0;
    while (!status) {
        size_t i = r->at;
        while (i < r->n && is_space(r->buf[i]))
            i++;
        advance(r, i - r->at);
        if (r->at < r->n)
            return *c = r->buf[r->at], KQ_OK;
        if (r->end || (status = check_reach(r, err)) || r->enough)
            return status;
        status = read_more(r, err);
    }
    return status;
}

/* Size of the JSON value `from` bytes after r->at: up to where its brackets close, or, for a number or a
 * word, to the next delimiter. Whether it is JSON is for the parser to say, but a line end within a
 * string ends it here, so that a broken line does not take the rest of the file with it. first_line:
 * every line end does. *closed: it has an end of its own. Nothing is taken. */
static kq_status value_size(reader *r, size_t from, bool first_line, size_t *size, bool *closed,
                            kq_error *err)
{
    size_t i = from, depth = 0;
    bool string = false, escaped = false;
    *closed = false;
    for (;; i++) {
        while (r->at + i == r->n && !r->end) {
            kq_status status = read_more(r, err);
            if (status)
                return status;
        }
        if (r->at + i == r->n)
            break;
        const char c = r->buf[r->at + i];
        if (c == '\n' && (string || first_line))
            break;
        if (string) {
            string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            *closed = !string && !depth;
        } else if (c == '"') {
            string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            *closed = depth == 1;
            if (!depth)
                break;
            depth--;
        } else if (!depth && (c == ',' || is_space(c))) {
            break;
        }
        if (*closed)
            return *size = i + 1 - from, KQ_OK;
    }
    *size = i - from;
    *closed = !depth && !string;
    return KQ_OK;
}

/* Why size bytes at r->at are not JSON, with the line in the file: kq_json_parse counts from the value's
 * first. */
static kq_status not_json(const reader *r, const kq_error *why, kq_error *err)
{
    char text[sizeof why->message];
    const char *colon = strstr(why->message, ": ");
    snprintf(text, sizeof text, "%s", colon ? colon + 2 : why->message);
    char *number = strstr(text, " (line ");
    size_t line = 0;
    for (char *next; number && (next = strstr(number + 1, " (line "));) /* the last */
        number = next;
    if (number && sscanf(number, " (line %zu)", &line) == 1)
        *number = 0;
    return kq_fail(err, why->status, "%s: line %zu: %s (--text-format text reads the file as it is)", r->path,
                   r->line + (line ? line - 1 : 0), text);
}

static kq_status hand_out(reader *r, const char *text, size_t size, bool conversation, kq_error *err)
{
    const kq_text_document doc = {.text = text, .size = size, .conversation = conversation, .line = r->line};
    r->info->documents++;
    r->info->conversations += conversation;
    return r->visit ? r->visit(r->ctx, &doc, &r->enough, err) : KQ_OK;
}

/* The value in the next size bytes is a document. */
static kq_status add_value(reader *r, size_t size, kq_error *err)
{
    kq_error why;
    json_t *value;
    char where[1200], *owned;
    const char *text;
    size_t n;
    bool conversation;
    if (kq_json_parse(r->buf + r->at, size, "", &value, &why))
        return not_json(r, &why, err);
    snprintf(where, sizeof where, "%.1000s: line %zu", r->path, r->line);
    kq_status status = kq_document_text(value, r->how->options.spell_special ? NULL : r->how->tok, where,
                                        &text, &n, &owned, &conversation, err);
    if (!status && conversation && r->how->options.spell_special)
        status = kq_fail(
            err, KQ_E_ARG,
            "%s: is a conversation, whose marks are special tokens: --no-parse-special does not go with it",
            where);
    if (!status)
        status = hand_out(r, text, n, conversation, err);
    kq_free(owned);
    json_decref(value);
    return status;
}

/* One value a line; blank lines are nothing. */
static kq_status read_lines(reader *r, kq_error *err)
{
    char c;
    kq_status status = KQ_OK;
    while (!status && !r->enough && !(status = skip_space(r, &c, err)) && c && !r->enough) {
        const char *nl;
        size_t seen = 0;
        while (!(nl = memchr(r->buf + r->at + seen, '\n', r->n - r->at - seen)) && !r->end) {
            seen = r->n - r->at;
            if ((status = read_more(r, err)))
                return status;
        }
        const size_t size = nl ? (size_t)(nl - (r->buf + r->at)) : r->n - r->at;
        if (!(status = add_value(r, size, err))) {
            advance(r, size);
            status = check_reach(r, err);
        }
    }
    return status;
}

/* The value at r->at, which its brackets bound, is a document. */
static kq_status read_value(reader *r, kq_error *err)
{
    size_t size;
    bool closed;
    kq_status status = value_size(r, 0, false, &size, &closed, err);
    if (!status && !(status = add_value(r, size ? size : 1, err))) {
        advance(r, size);
        status = check_reach(r, err);
    }
    return status;
}

/* *c: the first character from *at (counted from r->at) on that is no white space, 0 at the end or far
 * from here; *at is its place. Nothing is taken. */
static kq_status peek(reader *r, size_t *at, char *c, kq_error *err)
{
    for (*c = 0;; ++*at) {
        while (r->at + *at == r->n && !r->end) {
            kq_status status = read_more(r, err);
            if (status)
                return status;
        }
        if (r->at + *at == r->n || *at > MOST_BLANK)
            return KQ_OK;
        if (!is_space(r->buf[r->at + *at]))
            return *c = r->buf[r->at + *at], KQ_OK;
    }
}

/* At '[': is the list one conversation? Its first entry says. */
static kq_status list_is_conversation(reader *r, bool *is, kq_error *err)
{
    size_t at = 1, size;
    bool closed;
    char c;
    json_t *value = NULL;
    *is = false;
    kq_status status = peek(r, &at, &c, err);
    if (status || c != '{' || (status = value_size(r, at, false, &size, &closed, err)))
        return status;
    if (closed && !kq_json_parse(r->buf + r->at + at, size, "", &value, NULL))
        *is =
            json_is_string(json_object_get(value, "role")) || json_is_string(json_object_get(value, "from"));
    json_decref(value);
    return KQ_OK;
}

/* A list of documents, one at a time. */
static kq_status read_list(reader *r, kq_error *err)
{
    const size_t begins = r->line;
    char c;
    advance(r, 1);
    kq_status status = skip_space(r, &c, err);
    for (size_t i = 0; !status && !r->enough; i++) {
        if (c == ']') {
            advance(r, 1);
            return KQ_OK;
        }
        if (i && c == ',') {
            advance(r, 1);
            status = skip_space(r, &c, err);
        } else if (i && c) {
            return kq_fail(err, KQ_E_FORMAT, "%s: line %zu: a comma or ] is expected after a list's entry",
                           r->path, r->line);
        }
        if (!status && !c && !r->enough)
            return kq_fail(err, KQ_E_FORMAT,
                           "%s: the list that begins in line %zu has no end: the file is cut short", r->path,
                           begins);
        if (!status && !r->enough && !(status = read_value(r, err)))
            status = skip_space(r, &c, err);
    }
    return status;
}

/* Values one after another, over as many lines as they like. */
static kq_status read_values(reader *r, kq_error *err)
{
    char c;
    kq_status status = KQ_OK;
    while (!status && !r->enough && !(status = skip_space(r, &c, err)) && c && !r->enough) {
        bool single = true;
        if (c == '[')
            status = list_is_conversation(r, &single, err);
        if (!status)
            status = single ? read_value(r, err) : read_list(r, err);
    }
    return status;
}

/* ---- plain text ---------------------------------------------------------------------------------------- */

/* Where a text that goes on is cut: after the last line that fits, or between two characters. */
static size_t cut_at(const char *text, size_t size)
{
    const size_t back = size < PIECE ? size : PIECE;
    const char *nl = memrchr(text + size - back, '\n', back);
    if (nl)
        return (size_t)(nl - text) + 1;
    while (size && ((unsigned char)text[size] & 0xC0) == 0x80)
        size--;
    return size;
}

static kq_status read_text(reader *r, kq_error *err)
{
    kq_status status = KQ_OK;
    while (!status && !r->end && r->n - r->at <= r->how->reach)
        status = read_more(r, err);
    size_t size = r->n - r->at;
    if (!status && size > r->how->reach)
        size = cut_at(r->buf + r->at, r->how->reach);
    if (!status && size)
        status = hand_out(r, r->buf + r->at, size, false, err);
    if (!status)
        advance(r, size);
    return status;
}

/* ---- which of them ------------------------------------------------------------------------------------- */

/* Does the name, but for the end that tells of packing, end in one of these? NULL ends them. */
static bool named(const char *path, const char *const *ends)
{
    static const char *const packed[] = {".gz", ".gzip", ".zst", ".zstd"};
    size_t n = strlen(path);
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (n > strlen(packed[i]) &&
            !strncasecmp(path + n - strlen(packed[i]), packed[i], strlen(packed[i]))) {
            n -= strlen(packed[i]);
            break;
        }
    for (; *ends; ends++)
        if (n > strlen(*ends) && !strncasecmp(path + n - strlen(*ends), *ends, strlen(*ends)))
            return true;
    return false;
}

static bool named_json(const char *path)
{
    return named(path, (const char *const[]){".jsonl", ".ndjson", ".jsonlines", ".json", NULL});
}

/* Running text that somebody may have meant otherwise: a word about it. */
static void warn_of_markup(const reader *r, const char *path)
{
    const char *p = r->buf + r->at;
    const size_t n = r->n - r->at;
    if (n > 14 && (!strncasecmp(p, "<!doctype html", 14) || !strncasecmp(p, "<html", 5)))
        kq_warn("%s: is an HTML page: its markup is read as text", r->path);
    else if (named(path, (const char *const[]){".csv", ".tsv", NULL}))
        kq_warn("%s: is named as a table: its commas and quotes are read as text; write the column that is "
                "meant as JSON lines ({\"text\": ...})",
                r->path);
}

/* Is the line `at` bytes on one JSON string and nothing else? *next: where the line ends. */
static kq_status is_string_line(reader *r, size_t at, bool *is, size_t *next, kq_error *err)
{
    bool closed;
    size_t size;
    json_t *value = NULL;
    kq_status status = value_size(r, at, true, &size, &closed, err);
    if (status)
        return status;
    *is = closed && !kq_json_parse(r->buf + r->at + at, size, "", &value, NULL);
    json_decref(value);
    for (*next = at + size; *is && r->at + *next < r->n && r->buf[r->at + *next] != '\n'; ++*next)
        *is = is_space(r->buf[r->at + *next]);
    return KQ_OK;
}

/* JSON by its look? An object or a list begins as Python and jq write them: a brace and a key, a bracket
 * and a brace or a string. "{ int", "[1]" and "[Music]" are text. Two lines that are nothing but JSON
 * strings are JSON lines, and one such line that is the whole file. */
static kq_status looks_json(reader *r, bool *json, kq_error *err)
{
    size_t at = 0, next;
    char c, d = 0;
    *json = false;
    kq_status status = peek(r, &at, &c, err);
    if (status || (c != '{' && c != '[' && c != '"'))
        return status;
    if (c == '"') {
        if ((status = is_string_line(r, at, json, &next, err)) || !*json ||
            (status = peek(r, &next, &c, err)))
            return status;
        *json = !c || c == '"';
        return *json && c ? is_string_line(r, next, json, &next, err) : KQ_OK;
    }
    at++;
    status = peek(r, &at, &d, err);
    if (c == '[' && d == '[') {
        at++;
        status = status ? status : peek(r, &at, &d, err);
        *json = d == '{' || d == '"';
    } else {
        *json = d == '"' || (c == '{' ? d == '}' : d == '{' || d == ']');
    }
    return status;
}

/* JSON lines, or values that take several lines or are a list? */
static kq_status one_a_line(reader *r, bool *lines, kq_error *err)
{
    size_t at = 0, size;
    bool closed;
    char c;
    *lines = false;
    kq_status status = peek(r, &at, &c, err);
    if (status || c == '[' || (status = value_size(r, at, true, &size, &closed, err)))
        return status;
    bool string = false, escaped = false;
    for (const char *p = r->buf + r->at + at, *end = p + size; p < end; p++) {
        const bool quote = *p == '"' && !escaped;
        escaped = string && !escaped && *p == '\\';
        string = quote ? !string : string;
    }
    *lines = closed ||
             string; /* a string that the line's end cuts: a broken line, of which its error is to tell */
    return KQ_OK;
}

static kq_status read_json(reader *r, kq_error *err)
{
    bool lines;
    r->most = KQ_TEXT_MOST_VALUE;
    kq_status status = one_a_line(r, &lines, err);
    if (status)
        return status;
    r->info->format = lines ? "JSON lines" : "JSON";
    return lines ? read_lines(r, err) : read_values(r, err);
}

static kq_status read_as(reader *r, const char *path, kq_error *err)
{
    const char *format = r->how->options.format ? r->how->options.format : "auto";
    bool json = !strcmp(format, "json");
    if (!json && strcmp(format, "text") && strcmp(format, "auto"))
        return kq_fail(err, KQ_E_ARG, "--text-format %s: auto, text or json", format);
    if (!strcmp(format, "auto")) {
        kq_status status = looks_json(r, &json, err);
        if (status)
            return status;
        if (!json && r->n > r->at && named_json(path)) {
            char shown[SHOWN + 1];
            const size_t n = r->n - r->at < SHOWN ? r->n - r->at : SHOWN;
            memcpy(shown, r->buf + r->at, n);
            shown[n] = 0;
            shown[strcspn(shown, "\r\n")] = 0;
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: is named as JSON, but line 1 is \"%s\"; --text-format text reads it as running text",
                r->path, shown);
        }
        if (json && named(path, (const char *const[]){".txt", ".text", ".md", NULL}))
            kq_warn("%s: holds JSON: its documents are read, not its letters (--text-format text reads it as "
                    "it is)",
                    r->path);
    }
    if (json)
        return read_json(r, err);
    warn_of_markup(r, path);
    r->info->format = "text";
    return read_text(r, err);
}

size_t kq_text_reach(size_t tokens)
{
    const size_t least = (size_t)16 << 20;
    return tokens > least / 32 ? tokens > SIZE_MAX / 64 ? SIZE_MAX : 32 * tokens : least;
}

static kq_status read_file(const char *path, const kq_text_how *how, kq_text_visitor *visit, void *ctx,
                           bool size_first, kq_hash *hash, kq_text_info *info, kq_error *err)
{
    kq_text_info nothing;
    reader r = {.path = kq_text_shown(path),
                .how = how,
                .line = 1,
                .most = KQ_TEXT_MOST_DOCUMENT,
                .visit = visit,
                .ctx = ctx,
                .hash = hash,
                .info = info ? info : &nothing};
    *r.info = (kq_text_info){.format = "text"};
    kq_status status = kq_stream_open(path, &r.s, stop, (void *)how->common, err);
    if (status)
        return status;
    if (size_first) {
        const uint64_t size = kq_stream_file_bytes(r.s);
        kq_hash_add(hash, &size, sizeof size);
    }
    r.info->packing = kq_stream_packing(r.s);
    r.info->encoding = kq_stream_encoding(r.s);
    status = read_as(&r, path, err);
    if (!status && !r.info->documents)
        status = kq_fail(err, KQ_E_ARG, "%s: holds no text", r.path);
    r.info->bytes = r.taken;
    r.info->whole = r.end && r.at == r.n;
    kq_stream_close(r.s);
    kq_free(r.buf);
    return status;
}

kq_status kq_text_read(const char *path, const kq_text_how *how, kq_text_visitor *visit, void *ctx,
                       kq_text_info *info, kq_error *err)
{
    return read_file(path, how, visit, ctx, false, NULL, info, err);
}

kq_status kq_text_hash(const char *path, const kq_text_how *how, bool size_first, kq_hash *hash,
                       kq_text_info *info, kq_error *err)
{
    return read_file(path, how, NULL, NULL, size_first, hash, info, err);
}

kq_status kq_text_load(const char *path, size_t most, char **text, size_t *size, kq_error *err)
{
    const kq_text_how how = {.reach = SIZE_MAX};
    reader r = {.path = kq_text_shown(path), .how = &how, .line = 1, .most = SIZE_MAX};
    *text = NULL;
    *size = 0;
    kq_status status = kq_stream_open(path, &r.s, NULL, NULL, err);
    while (!status && !r.end && r.n <= most)
        status = read_more(&r, err);
    if (!status && r.n > most)
        status = kq_fail(err, KQ_E_ARG, "%s: more than %zu MB, the most that is read", r.path, most >> 20);
    if (!status && !r.buf)
        status = kq_alloc_for((void **)&r.buf, 1, 1, r.path, err);
    kq_stream_close(r.s);
    if (status) {
        kq_free(r.buf);
        return status;
    }
    r.buf[r.n] = 0; /* read_more left room for a piece, and the last one was empty */
    *text = r.buf;
    *size = r.n;
    return KQ_OK;
}
