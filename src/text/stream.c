/* Bytes -> UTF-8: unpacked (gzip, zstd) and decoded (UTF-8, UTF-16, UTF-32 by their byte order marks) as a
 * stream, so that memory does not grow with the file. Damage is an error that names the line: a text that
 * silently lost its end would be another calibration. */
#include "text/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/bytes.h"
#include "text/kind.h"
#include "text/text.h"

enum { RAW = 1 << 17, UNPACKED = 1 << 17, HEAD = 512 };

typedef enum encoding { UTF8, UTF16LE, UTF16BE, UTF32LE, UTF32BE } encoding;

struct kq_stream {
    char *path; /* owned */
    kq_bytes *file;
    kq_byte_kind packing;
    encoding encoding;
    z_stream z;
    ZSTD_DCtx *zstd;
    bool z_open, in_frame, began; /* in_frame: a member or frame is open; began: one was seen */
    bool padded;                  /* gzip: nothing but NULs may follow */
    bool raw_end, end;            /* of the file; of what is unpacked */
    uint8_t *raw; /* owned [RAW]: bytes [raw_at, raw_n) of the file are still to be unpacked */
    size_t raw_at, raw_n;
    uint8_t *bytes; /* owned [UNPACKED]: bytes [at, n) are still to be decoded */
    size_t at, n;
    size_t line, offset; /* of bytes[at] in what is unpacked: line from 1, byte from 0 */
};

typedef struct waiting {
    int (*stop)(void *ctx);
    void *ctx;
} waiting;

/* ---- unpacking ----------------------------------------------------------------------------------------- */

static kq_status fill_raw(kq_stream *s, const waiting *w, kq_error *err)
{
    size_t n = 0;
    if (s->raw_at < s->raw_n || s->raw_end)
        return KQ_OK;
    kq_status status = kq_bytes_read(s->file, s->raw, RAW, &n, w->stop, w->ctx, err);
    s->raw_at = 0;
    s->raw_n = status ? 0 : n;
    s->raw_end = !status && !n;
    return status;
}

static kq_status cut(const kq_stream *s, const char *what, kq_error *err)
{
    return kq_fail(err, KQ_E_FORMAT,
                   "%s: the %s archive is cut short: its end is missing (an unfinished download?)", s->path,
                   what);
}

/* Members one after another are one text, as gzip -d has it; NULs after the last are padding. */
static kq_status between_members(kq_stream *s, kq_error *err)
{
    while (s->raw_at < s->raw_n && !s->raw[s->raw_at] && s->began) {
        s->padded = true;
        s->raw_at++;
    }
    if (s->raw_at == s->raw_n)
        return KQ_OK;
    if (s->padded || (s->began && s->raw[s->raw_at] != 0x1f))
        return kq_fail(err, KQ_E_FORMAT,
                       "%s: something that is not gzip follows the end of the gzip archive: it is damaged",
                       s->path);
    const int z = s->z_open ? inflateReset(&s->z) : inflateInit2(&s->z, 15 + 16);
    if (z != Z_OK)
        return kq_fail(err, KQ_E_MEMORY, "%s: zlib: out of memory", s->path);
    s->z_open = s->in_frame = s->began = true;
    return KQ_OK;
}

static kq_status unpack_gzip(kq_stream *s, uint8_t *out, size_t cap, size_t *n, const waiting *w,
                             kq_error *err)
{
    kq_status status = KQ_OK;
    for (*n = 0; !*n && !(status = fill_raw(s, w, err));) {
        if (s->raw_end)
            return s->in_frame || !s->began ? cut(s, "gzip", err) : KQ_OK;
        if (!s->in_frame && (status = between_members(s, err)))
            return status;
        if (!s->in_frame)
            continue;
        s->z.next_in = s->raw + s->raw_at;
        s->z.avail_in = (uInt)(s->raw_n - s->raw_at);
        s->z.next_out = out;
        s->z.avail_out = (uInt)cap;
        const int z = inflate(&s->z, Z_NO_FLUSH);
        s->raw_at = s->raw_n - s->z.avail_in;
        *n = cap - s->z.avail_out;
        if (z == Z_MEM_ERROR)
            return kq_fail(err, KQ_E_MEMORY, "%s: zlib: out of memory", s->path);
        if (z != Z_OK && z != Z_STREAM_END && z != Z_BUF_ERROR)
            return kq_fail(err, KQ_E_FORMAT, "%s: the gzip archive is damaged: %s", s->path,
                           s->z.msg ? s->z.msg : "it needs a dictionary");
        s->in_frame = z != Z_STREAM_END;
    }
    return status;
}

static kq_status unpack_zstd(kq_stream *s, uint8_t *out, size_t cap, size_t *n, const waiting *w,
                             kq_error *err)
{
    kq_status status = KQ_OK;
    if (!s->zstd && !(s->zstd = ZSTD_createDCtx()))
        return kq_fail(err, KQ_E_MEMORY, "%s: zstd: out of memory", s->path);
    for (*n = 0; !*n && !(status = fill_raw(s, w, err));) {
        ZSTD_inBuffer in = {s->raw, s->raw_n, s->raw_at};
        ZSTD_outBuffer o = {out, cap, 0};
        if (s->raw_end && !s->in_frame)
            return KQ_OK;
        /* at the file's end: what it still holds back */
        const size_t left = ZSTD_decompressStream(s->zstd, &o, &in);
        s->raw_at = in.pos;
        *n = o.pos;
        if (ZSTD_isError(left))
            return kq_fail(
                err, KQ_E_FORMAT,
                "%s: the zstd archive is damaged, or needs a dictionary or a window above 128 MB: %s",
                s->path, ZSTD_getErrorName(left));
        s->in_frame = left != 0;
        if (s->raw_end && !*n)
            return s->in_frame ? cut(s, "zstd", err) : KQ_OK;
    }
    return status;
}

static kq_status copy_raw(kq_stream *s, uint8_t *out, size_t cap, size_t *n, const waiting *w, kq_error *err)
{
    kq_status status = fill_raw(s, w, err);
    *n = status ? 0 : s->raw_n - s->raw_at < cap ? s->raw_n - s->raw_at : cap;
    if (*n)
        memcpy(out, s->raw + s->raw_at, *n);
    s->raw_at += *n;
    return status;
}

/* Have at least so many bytes at s->at; fewer only at the end. */
static kq_status fill(kq_stream *s, size_t least, const waiting *w, kq_error *err)
{
    kq_status status = KQ_OK;
    if (s->n - s->at >= least || s->end)
        return KQ_OK;
    if (s->at)
        memmove(s->bytes, s->bytes + s->at, s->n - s->at);
    s->n -= s->at;
    s->at = 0;
    while (s->n < least && !s->end && !status) {
        size_t n = 0;
        uint8_t *out = s->bytes + s->n;
        const size_t cap = UNPACKED - s->n;
        status = s->packing == KQ_BYTES_GZIP   ? unpack_gzip(s, out, cap, &n, w, err)
                 : s->packing == KQ_BYTES_ZSTD ? unpack_zstd(s, out, cap, &n, w, err)
                                               : copy_raw(s, out, cap, &n, w, err);
        s->n += n;
        s->end = !status && !n;
    }
    return status;
}

/* ---- decoding ------------------------------------------------------------------------------------------ */

static kq_status bad_byte(const kq_stream *s, kq_error *err)
{
    const uint8_t *b = s->bytes + s->at;
    const size_t n = s->n - s->at;
    char where[64];
    snprintf(where, sizeof where, "line %zu, byte %zu", s->line, s->offset);
    if (!*b) {
        size_t even = 0, odd = 0; /* NULs from here: the high halves of UTF-16's Latin letters */
        for (size_t i = 0; i + 1 < n && i < HEAD; i += 2) {
            even += !b[i];
            odd += !b[i + 1];
        }
        const bool wide = n > 8 && (even > 8 * odd + 2) && even * 8 > (n < HEAD ? n : HEAD);
        return wide ? kq_fail(err, KQ_E_UNSUPPORTED,
                              "%s: %s: a NUL byte: UTF-16 without a byte order mark, by its look; convert it "
                              "first (iconv -f UTF-16%s -t UTF-8)",
                              s->path, where, s->offset % 2 ? "LE" : "BE")
                    : kq_fail(err, KQ_E_UNSUPPORTED,
                              "%s: %s: a NUL byte: this is binary, no text; a text, JSON lines, or either in "
                              "gzip or zstd is expected",
                              s->path, where);
    }
    if (s->end && kq_utf8_next((const char *)b, n).kind == KQ_UTF8_INCOMPLETE)
        return kq_fail(err, KQ_E_FORMAT, "%s: %s: the file ends within a character: it is cut short", s->path,
                       where);
    const bool letter_before = s->at && s->bytes[s->at - 1] < 0x80, letter_after = n < 2 || b[1] < 0x80;
    const bool latin = *b >= 0x80 && letter_after && (letter_before || !s->at);
    return kq_fail(
        err, KQ_E_FORMAT, "%s: %s: 0x%02X is no UTF-8%s", s->path, where, *b,
        latin ? ", by its look Latin-1 or Windows-1252; convert it first (iconv -f WINDOWS-1252 -t UTF-8)"
              : "; convert the text to UTF-8 first (iconv), or is this no text?");
}

/* Valid UTF-8 from s->bytes. */
static kq_status copy_utf8(kq_stream *s, char *buf, size_t cap, size_t *n, kq_error *err)
{
    size_t done = 0;
    while (s->at < s->n && done < cap) {
        const uint8_t *b = s->bytes + s->at;
        size_t size = 1;
        if (*b && *b != '\n' && *b < 0x80) { /* most of a text */
            size_t run = 1;
            const size_t most = s->n - s->at < cap - done ? s->n - s->at : cap - done;
            while (run < most && b[run] && b[run] != '\n' && b[run] < 0x80)
                run++;
            memcpy(buf + done, b, run);
            s->offset += run;
            s->at += run;
            done += run;
            continue;
        }
        if (*b >= 0x80) {
            const kq_utf8 c = kq_utf8_next((const char *)b, s->n - s->at);
            if (c.kind != KQ_UTF8_CHAR) {
                if (done) /* the next call says what is wrong */
                    break;
                return bad_byte(s, err);
            }
            size = c.size;
        } else if (!*b) {
            if (done)
                break;
            return bad_byte(s, err);
        }
        if (size > cap - done)
            break;
        for (size_t i = 0; i < size; i++)
            buf[done + i] = (char)b[i];
        s->line += *b == '\n';
        s->offset += size;
        s->at += size;
        done += size;
    }
    *n = done;
    return KQ_OK;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80)
        return out[0] = (char)c, 1;
    if (c < 0x800)
        return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
               out[2] = (char)(0x80 | (c & 63)), 3;
    return out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63)),
           out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63)), 4;
}

static uint32_t unit(const kq_stream *s, size_t i)
{
    const uint8_t *b = s->bytes + s->at + i;
    switch (s->encoding) {
    case UTF16LE: return (uint32_t)(b[0] | b[1] << 8);
    case UTF16BE: return (uint32_t)(b[1] | b[0] << 8);
    case UTF32LE: return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    default: return (uint32_t)b[3] | (uint32_t)b[2] << 8 | (uint32_t)b[1] << 16 | (uint32_t)b[0] << 24;
    }
}

/* The character at s->at and its bytes; size 0: none. */
static uint32_t wide_character(const kq_stream *s, size_t *size)
{
    const size_t width = s->encoding == UTF16LE || s->encoding == UTF16BE ? 2 : 4, left = s->n - s->at;
    *size = 0;
    if (left < width)
        return 0;
    uint32_t c = unit(s, 0);
    size_t took = width;
    if (width == 2 && c >= 0xD800 && c < 0xDC00 && left >= 4) {
        const uint32_t low = unit(s, 2);
        if (low >= 0xDC00 && low < 0xE000) {
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
            took = 4;
        }
    }
    if (!c || (c >= 0xD800 && c < 0xE000) || c > 0x10FFFF)
        return c;
    *size = took;
    return c;
}

static kq_status copy_wide(kq_stream *s, char *buf, size_t cap, size_t *n, kq_error *err)
{
    *n = 0;
    while (s->at < s->n && cap - *n >= 4) {
        size_t size;
        if (!s->end && s->n - s->at < 4 && *n)
            break; /* perhaps the first half of a pair */
        const uint32_t c = wide_character(s, &size);
        if (!size) {
            if (*n)
                break;
            if (s->end && s->n - s->at < (s->encoding == UTF16LE || s->encoding == UTF16BE ? 2 : 4))
                return kq_fail(err, KQ_E_FORMAT,
                               "%s: line %zu, byte %zu: the file ends within a character: it is cut short",
                               s->path, s->line, s->offset);
            return kq_fail(err, KQ_E_FORMAT, "%s: line %zu, byte %zu: 0x%X is no character of %s", s->path,
                           s->line, s->offset, (unsigned)c, kq_stream_encoding(s));
        }
        *n += put_utf8(buf + *n, c);
        s->line += c == '\n';
        s->at += size;
        s->offset += size;
    }
    return KQ_OK;
}

kq_status kq_stream_read(kq_stream *s, char *buf, size_t cap, size_t *n, int (*stop)(void *ctx), void *ctx,
                         kq_error *err)
{
    const waiting w = {stop, ctx};
    *n = 0;
    kq_status status = fill(s, 4, &w, err);
    if (status || s->at == s->n)
        return status;
    return s->encoding == UTF8 ? copy_utf8(s, buf, cap, n, err) : copy_wide(s, buf, cap, n, err);
}

static void take_mark(kq_stream *s)
{
    static const struct {
        encoding e;
        size_t size;
        const char *mark;
    } marks[] = {
        {UTF8, 3, "\xEF\xBB\xBF"}, {UTF32LE, 4, "\xFF\xFE\0\0"}, {UTF32BE, 4, "\0\0\xFE\xFF"},
        {UTF16LE, 2, "\xFF\xFE"},  {UTF16BE, 2, "\xFE\xFF"},
    };
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (s->n - s->at >= marks[i].size && !memcmp(s->bytes + s->at, marks[i].mark, marks[i].size)) {
            s->encoding = marks[i].e;
            s->at += marks[i].size;
            s->offset = marks[i].size;
            return;
        }
}

/* head [n]: as the file has it, or unpacked. */
static kq_status refuse_other(const kq_stream *s, const uint8_t *head, size_t n, kq_error *err)
{
    const char *what, *hint,
        *within = s->packing == KQ_BYTES_GZIP   ? " in a gzip archive"
                  : s->packing == KQ_BYTES_ZSTD ? " in a zstd archive"
                                                : "";
    const kq_byte_kind kind = kq_byte_kind_of(head, n, &what, &hint);
    if (kind == KQ_BYTES_OTHER)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: is %s%s, no text: %s", s->path, what, within, hint);
    if (*within && kind != KQ_BYTES_PLAIN)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: is packed twice (%s%s): unpack it once", s->path,
                       kind == KQ_BYTES_GZIP ? "gzip" : "zstd", within);
    return KQ_OK;
}

/* Read the file's first HEAD bytes, before any unpacking, and find out what they are. */
static kq_status read_head(kq_stream *s, const waiting *w, kq_error *err)
{
    const char *what, *hint;
    while (s->raw_n < HEAD && !s->raw_end) {
        size_t n;
        kq_status status =
            kq_bytes_read(s->file, s->raw + s->raw_n, RAW - s->raw_n, &n, w->stop, w->ctx, err);
        if (status)
            return status;
        s->raw_n += n;
        s->raw_end = !n;
    }
    kq_status status = refuse_other(s, s->raw, s->raw_n, err);
    if (status)
        return status;
    s->packing = kq_byte_kind_of(s->raw, s->raw_n, &what, &hint);
    s->raw_end = s->raw_end && !s->raw_n;
    return KQ_OK;
}

kq_status kq_stream_open(const char *path, kq_stream **out, int (*stop)(void *ctx), void *ctx, kq_error *err)
{
    const waiting w = {stop, ctx};
    *out = NULL;
    kq_stream *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(kq_text_shown(path))) || !(s->raw = malloc(RAW)) ||
        !(s->bytes = malloc(UNPACKED))) {
        kq_stream_close(s);
        return kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    }
    s->line = 1;
    kq_status status = kq_bytes_open(path, &s->file, err);
    if (!status)
        status = read_head(s, &w, err);
    if (!status)
        status = fill(s, HEAD, &w, err);
    if (!status && s->packing != KQ_BYTES_PLAIN)
        status = refuse_other(s, s->bytes, s->n, err);
    if (status) {
        kq_stream_close(s);
        return status;
    }
    take_mark(s);
    *out = s;
    return KQ_OK;
}

const char *kq_stream_packing(const kq_stream *s)
{
    return s->packing == KQ_BYTES_GZIP ? "gzip" : s->packing == KQ_BYTES_ZSTD ? "zstd" : NULL;
}

const char *kq_stream_encoding(const kq_stream *s)
{
    static const char *const name[] = {"UTF-8", "UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"};
    return name[s->encoding];
}

uint64_t kq_stream_file_bytes(const kq_stream *s)
{
    return kq_bytes_size(s->file);
}

void kq_stream_close(kq_stream *s)
{
    if (!s)
        return;
    if (s->z_open)
        inflateEnd(&s->z);
    ZSTD_freeDCtx(s->zstd);
    kq_bytes_close(s->file);
    free(s->raw);
    free(s->bytes);
    free(s->path);
    free(s);
}
