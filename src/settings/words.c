/* Lists of words in one text, with a space between two words: "text sampled". A row of the table can then
 * have its words as a plain string. */
#include "settings/words.h"

#include <stdio.h>
#include <string.h>

bool kq_words_has(const char *words, const char *word)
{
    const size_t n = strlen(word);
    for (const char *w = words; *w;) {
        const size_t len = strcspn(w, " ");
        if (len == n && !memcmp(w, word, n))
            return true;
        w += len + (w[len] == ' ');
    }
    return false;
}

bool kq_words_first_is(const char *words, const char *word)
{
    const size_t n = strcspn(words, " ");
    return strlen(word) == n && !memcmp(words, word, n);
}

const char *kq_words_list(const char *words, char buf[200])
{
    size_t used = 0;
    buf[0] = 0;
    for (const char *w = words; *w && used < 200;) {
        const size_t len = strcspn(w, " ");
        const char *next = w + len + (w[len] == ' ');
        const bool last = *next && !next[strcspn(next, " ")];
        used += (size_t)snprintf(buf + used, 200 - used, "%.*s%s", (int)len, w,
                                 !*next ? ""
                                 : last ? " or "
                                        : ", ");
        w = next;
    }
    return buf;
}

size_t kq_setting_size(kq_setting_type type)
{
    switch (type) {
    case KQ_SETTING_TEXTS: return sizeof(kq_text_list);
    case KQ_SETTING_FLAG:
    case KQ_SETTING_NOT:
    case KQ_SETTING_CHOICE: return sizeof(bool);
    case KQ_SETTING_INT: return sizeof(int);
    case KQ_SETTING_COUNT:
    case KQ_SETTING_BYTES: return sizeof(size_t);
    case KQ_SETTING_SEED: return sizeof(uint64_t);
    case KQ_SETTING_REAL: return sizeof(double);
    default: return sizeof(const char *);
    }
}

const char *kq_setting_member(kq_options_id id, const void *options, const kq_setting *setting)
{
    return setting->at[id] ? (const char *)options + setting->at[id] - 1 : NULL;
}
