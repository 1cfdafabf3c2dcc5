/* Sets settings from texts. The command line, SPECs and the defaults of the table are all read here, so that
 * a text means the same everywhere. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/locale.h"
#include "settings/words.h"

/* Read a whole number, which may end in k, M or G for 2^10, 2^20, 2^30. */
static bool parse_whole(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    const unsigned long long v = strtoull(text, &end, 10);
    const int shift = *end == 'k' || *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    end += shift != 0;
    if (errno || *end || v > most >> shift)
        return false;
    *out = (uint64_t)v << shift;
    return true;
}

/* Read a number of bytes: 700M and 700MiB are 700 times 2^20, 700MB is 700 times 10^6, and 1.5G is 1.5 times
 * 2^30. */
static bool parse_bytes(const char *text, uint64_t most, uint64_t *out)
{
    static const char letters[] = "kMG";
    char *end;
    if (*text < '0' || *text > '9' || parse_whole(text, most, out))
        return *text >= '0' && *text <= '9';
    errno = 0;
    double v = strtod(text, &end);
    const char *letter = *end == 'K' ? letters : *end ? strchr(letters, *end) : NULL;
    if (errno || !letter || strspn(text, ".0123456789") != (size_t)(end - text))
        return false;
    end++;
    const double step = !strcmp(end, "B") ? 1000 : 1024;
    if (*end && strcmp(end, "B") && strcmp(end, "iB"))
        return false;
    for (const char *at = letters; at <= letter; at++)
        v *= step;
    if (!(v <= (double)most))
        return false;
    *out = (uint64_t)v;
    return true;
}

static bool parse_real(const char *text, double *out)
{
    char *end;
    errno = 0;
    const double v = strtod(text, &end);
    /* strtod also takes hexadecimal */
    if (errno || end == text || *end || !isfinite(v) || v < 0 || text[strspn(text, "+-.0123456789eE")])
        return false;
    *out = v;
    return true;
}

/* What is expected, for the message about a text that is no value of the setting's type. */
static const char *type_text(const kq_setting *s)
{
    switch (s->type) {
    case KQ_SETTING_INT: return "a whole number is expected";
    case KQ_SETTING_COUNT: return "a whole number is expected (k, M, G may follow)";
    case KQ_SETTING_BYTES: return "a size in bytes is expected (k, M, G may follow; MB is 10^6 bytes)";
    case KQ_SETTING_SEED: return "a whole number below 2^63 is expected";
    case KQ_SETTING_REAL: return "a number of at least 0 is expected";
    default: return "yes or no";
    }
}

/* Read the number in text. False: it is no number of the setting's type. */
static bool parse_number(const kq_setting *s, const char *text, double *real, uint64_t *whole)
{
    static const uint64_t most[] = {[KQ_SETTING_INT] = (uint64_t)1 << 30,
                                    [KQ_SETTING_COUNT] = (uint64_t)1 << 50,
                                    [KQ_SETTING_BYTES] = (uint64_t)1 << 60,
                                    [KQ_SETTING_SEED] = INT64_MAX};
    if (s->type == KQ_SETTING_REAL)
        return parse_real(text, real);
    if (!(s->type == KQ_SETTING_BYTES ? parse_bytes : parse_whole)(text, most[s->type], whole))
        return false;
    *real = (double)*whole;
    return true;
}

static kq_status set_number(const kq_setting *s, char *member, const char *text, kq_error *err)
{
    char expected[200];
    double real;
    uint64_t whole = 0;
    if (!parse_number(s, text, &real, &whole))
        return kq_setting_refuse(s, text, type_text(s), err);
    if (!(s->marks & KQ_CHECKED_AT_WORK) && !kq_setting_in_range(s, real))
        return kq_setting_refuse(s, text, kq_setting_range_text(s, expected), err);
    switch (s->type) {
    case KQ_SETTING_INT: memcpy(member, &(int){(int)whole}, sizeof(int)); break;
    case KQ_SETTING_SEED: memcpy(member, &whole, sizeof whole); break;
    case KQ_SETTING_REAL: memcpy(member, &real, sizeof real); break;
    default: memcpy(member, &(size_t){(size_t)whole}, sizeof(size_t)); break;
    }
    return KQ_OK;
}

static kq_status set_flag(const kq_setting *s, char *member, const char *text, kq_error *err)
{
    const bool on = !text || kq_words_has("yes true", text);
    if (!on && !kq_words_has("no false", text))
        return kq_setting_refuse(s, text, type_text(s), err);
    memcpy(member, &(bool){s->type == KQ_SETTING_NOT ? !on : on}, sizeof(bool));
    return KQ_OK;
}

/* Set a member to one of the setting's words. */
static kq_status set_word(const kq_setting *s, char *member, const char *text, kq_error *err)
{
    char expected[200];
    if (!kq_words_has(s->words, text))
        return kq_setting_refuse(s, text, kq_words_list(s->words, expected), err);
    if (s->type == KQ_SETTING_CHOICE)
        memcpy(member, &(bool){!kq_words_first_is(s->words, text)}, sizeof(bool));
    else
        memcpy(member, &text, sizeof text);
    return KQ_OK;
}

/* Does *options have this setting's member? The struct of a program that was compiled with an older kronq.h
 * may end before it. */
static bool is_long_enough(kq_options_id id, const void *options, const kq_setting *s)
{
    size_t size;
    memcpy(&size, options, sizeof size);
    return id == KQ_OTHER_OPTIONS || s->at[id] - 1u + kq_setting_size(s->type) <= size;
}

static kq_status find_member(kq_options_id id, void *options, const kq_setting *s, char **member,
                             kq_error *err)
{
    char name[64];
    *member = id >= 0 && id < KQ_N_OPTIONS ? (char *)kq_setting_member(id, options, s) : NULL;
    return *member && is_long_enough(id, options, s)
               ? KQ_OK
               : kq_fail(err, KQ_E_ARG, "%s: is no setting of these options", kq_setting_shown_name(s, name));
}

kq_status kq_setting_set(kq_options_id id, void *options, const kq_setting *setting, const char *text,
                         kq_error *err)
{
    KQ_C_LOCALE;
    char name[64], *member;
    const bool flag = setting->type == KQ_SETTING_FLAG || setting->type == KQ_SETTING_NOT;
    kq_status status = find_member(id, options, setting, &member, err);
    if (status)
        return status;
    if (flag)
        return set_flag(setting, member, text, err);
    if (!text)
        return kq_fail(err, KQ_E_ARG, "%s: a value is missing", kq_setting_shown_name(setting, name));
    switch (setting->type) {
    case KQ_SETTING_TEXTS:
        return kq_fail(err, KQ_E_ARG, "%s: is a list; kq_setting_set_list sets it",
                       kq_setting_shown_name(setting, name));
    case KQ_SETTING_TEXT:
        if (!*text && !(setting->marks & KQ_MAY_BE_EMPTY))
            return kq_setting_refuse(setting, "''", "it may not be empty", err);
        memcpy(member, &text, sizeof text);
        return KQ_OK;
    case KQ_SETTING_WORD:
    case KQ_SETTING_CHOICE: return set_word(setting, member, *text ? text : "''", err);
    default: return set_number(setting, member, text, err);
    }
}

kq_status kq_setting_set_list(kq_options_id id, void *options, const kq_setting *setting,
                              const char *const *texts, size_t n, kq_error *err)
{
    char name[64], *member;
    kq_status status = find_member(id, options, setting, &member, err);
    if (status)
        return status;
    if (setting->type != KQ_SETTING_TEXTS)
        return kq_fail(err, KQ_E_ARG, "%s: is no list", kq_setting_shown_name(setting, name));
    for (size_t i = 0; i < n; i++)
        if (!texts[i] || !*texts[i])
            return kq_setting_refuse(setting, "''", "it may not be empty", err);
    memcpy(member, &(kq_text_list){texts, n}, sizeof(kq_text_list));
    return KQ_OK;
}
