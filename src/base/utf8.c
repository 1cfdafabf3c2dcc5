/* UTF-8 as RFC 3629 defines it; ill-formed bytes are cut into the same parts as by the Unicode standard
 * (section 3.9). */
#include "base/utf8.h"

kq_utf8 kq_utf8_next(const char *s, size_t n)
{
    const unsigned char *b = (const unsigned char *)s;
    unsigned char lo = 0x80, hi = 0xBF; /* allowed second byte (Unicode standard, table 3-7) */
    size_t length;
    if (b[0] < 0x80)
        return (kq_utf8){KQ_UTF8_CHAR, 1};
    else if (b[0] >= 0xC2 && b[0] <= 0xDF)
        length = 2;
    else if (b[0] >= 0xE0 && b[0] <= 0xEF)
        length = 3;
    else if (b[0] >= 0xF0 && b[0] <= 0xF4)
        length = 4;
    else
        return (kq_utf8){KQ_UTF8_INVALID, 1};
    switch (b[0]) {
    case 0xE0: lo = 0xA0; break;
    case 0xED: hi = 0x9F; break;
    case 0xF0: lo = 0x90; break;
    case 0xF4: hi = 0x8F; break;
    default: break;
    }
    for (size_t i = 1; i < length; i++) {
        if (i == n)
            return (kq_utf8){KQ_UTF8_INCOMPLETE, n};
        if (b[i] < lo || b[i] > hi)
            return (kq_utf8){KQ_UTF8_INVALID, i};
        lo = 0x80;
        hi = 0xBF;
    }
    return (kq_utf8){KQ_UTF8_CHAR, length};
}

size_t kq_utf8_valid(const char *s, size_t size)
{
    size_t i = 0;
    while (i < size) {
        if ((unsigned char)s[i] < 0x80) {
            i++;
            continue;
        }
        const kq_utf8 step = kq_utf8_next(s + i, size - i);
        if (step.kind != KQ_UTF8_CHAR)
            break;
        i += step.size;
    }
    return i;
}

kq_status kq_utf8_lossy(const char *s, size_t size, kq_buffer *out, kq_error *err)
{
    for (size_t i = 0; i < size;) {
        const size_t good = kq_utf8_valid(s + i, size - i);
        kq_status status = kq_buffer_add(out, s + i, good, err);
        i += good;
        if (!status && i < size) {
            i += kq_utf8_next(s + i, size - i).size;
            status = kq_buffer_add(out, "\xef\xbf\xbd", 3, err);
        }
        if (status)
            return status;
    }
    return KQ_OK;
}

uint32_t kq_utf8_get(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80)
        return u[0];
    if (u[0] < 0xe0)
        return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
    if (u[0] < 0xf0)
        return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 |
           (u[3] & 0x3f);
}

size_t kq_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}
