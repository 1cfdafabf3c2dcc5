/* Lists of words in one text, a space between: short, static, and readable in the table. */
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
