/* Checks whether a number is in its setting's range, and writes the message for a value that is not. */
#include <math.h>
#include <stdio.h>

#include "settings/words.h"

/* "--seq-len", into buf: what a message calls the setting. */
const char *kq_setting_shown_name(const kq_setting *s, char buf[64])
{
    snprintf(buf, 64, "--%s", s->name);
    for (char *at = buf; *at; at++)
        *at = *at == '_' ? '-' : *at;
    return buf;
}

kq_status kq_setting_refuse(const kq_setting *s, const char *value, const char *expected, kq_error *err)
{
    char name[64];
    return kq_fail(err, KQ_E_ARG, "%s %s: %s", kq_setting_shown_name(s, name), value, expected);
}

/* Which numbers are expected ("from 0 to less than 1"), into buf. */
const char *kq_setting_range_text(const kq_setting *s, char buf[200])
{
    if (s->expected)
        snprintf(buf, 200, "%s", s->expected);
    else if (isinf(s->most))
        snprintf(buf, 200, "at least %.10g is expected", s->least);
    else if (s->most >= 1e6)
        snprintf(buf, 200, "at least %.10g is expected, and at most %.10g", s->least, s->most);
    else
        snprintf(buf, 200, "%.10g to %.10g is expected", s->least, s->most);
    return buf;
}

bool kq_setting_in_range(const kq_setting *s, double v)
{
    char text[32];
    if (s->words && s->type != KQ_SETTING_TEXT) {
        snprintf(text, sizeof text, "%.10g", v);
        return kq_words_has(s->words, text);
    }
    return (s->least == 0 && s->most == 0) || (v >= s->least && v <= s->most);
}
