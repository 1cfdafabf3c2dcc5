/* What Python's str knows about a character, taken from utf8proc's tables. Python 3.11 has Unicode 14.
 * utf8proc may have a later version; the answers then differ for characters that the later version
 * has added. */
#include "pyvalue/unicode.h"

#include <utf8proc.h>

#include "pyvalue/case_table.h"

bool kq_py_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x20) || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

bool kq_py_is_printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

bool kq_py_is_alpha(uint32_t cp)
{
    const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

const kq_py_special_case *kq_py_special_case_of(uint32_t cp)
{
    for (const kq_py_special_case *s = kq_py_special_cases; s->cp && s->cp <= cp; s++)
        if (s->cp == cp)
            return s;
    return NULL;
}
