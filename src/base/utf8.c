#include "base/utf8.h"

kq_utf8 kq_utf8_next(const char *s, size_t n)
{
    const unsigned char *b = (const unsigned char *)s;
    unsigned char lo = 0x80, hi = 0xBF; /* allowed second byte (Unicode standard, table 3-7) */
    size_t want;
    if (b[0] < 0x80)
        return (kq_utf8){KQ_UTF8_CHAR, 1};
    else if (b[0] >= 0xC2 && b[0] <= 0xDF)
        want = 2;
    else if (b[0] >= 0xE0 && b[0] <= 0xEF)
        want = 3;
    else if (b[0] >= 0xF0 && b[0] <= 0xF4)
        want = 4;
    else
        return (kq_utf8){KQ_UTF8_INVALID, 1};
    switch (b[0]) {
    case 0xE0: lo = 0xA0; break;
    case 0xED: hi = 0x9F; break;
    case 0xF0: lo = 0x90; break;
    case 0xF4: hi = 0x8F; break;
    default: break;
    }
    for (size_t i = 1; i < want; i++) {
        if (i == n)
            return (kq_utf8){KQ_UTF8_INCOMPLETE, n};
        if (b[i] < lo || b[i] > hi)
            return (kq_utf8){KQ_UTF8_INVALID, i};
        lo = 0x80;
        hi = 0xBF;
    }
    return (kq_utf8){KQ_UTF8_CHAR, want};
}
