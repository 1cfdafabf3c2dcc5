/* Finds the word of a list that is nearest to a mistyped one, for "did you mean" in messages. */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "cli.h"

static bool same_letter(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* The distance of two words: how many letters must be inserted, left out, changed, or exchanged with their
 * neighbour (optimal string alignment). Capitals count as small letters. */
static size_t distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    size_t d[MOST + 1][MOST + 1], n = strlen(a), m = strlen(b);
    if (n > MOST || m > MOST)
        return MOST;
    for (size_t i = 0; i <= n; i++)
        for (size_t j = 0; j <= m; j++) {
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            size_t least = d[i - 1][j - 1] + !same_letter(a[i - 1], b[j - 1]);
            least = d[i - 1][j] + 1 < least ? d[i - 1][j] + 1 : least;
            least = d[i][j - 1] + 1 < least ? d[i][j - 1] + 1 : least;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]) &&
                d[i - 2][j - 2] + 1 < least)
                least = d[i - 2][j - 2] + 1;
            d[i][j] = least;
        }
    return d[n][m];
}

const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 1; /* a third of the letters may be wrong */
    for (size_t i = 0; name(list, i); i++) {
        const char *n = name(list, i);
        const bool begins = strlen(word) > 1 && !strncasecmp(word, n, strlen(word));
        const size_t d = begins ? 0 : distance(word, n);
        if (d < least || (d == least && !best && d < strlen(word))) {
            best = n;
            least = d;
        }
    }
    return best;
}
