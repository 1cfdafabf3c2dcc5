/* Reasons for identity factors. They are collected first and warned of once, because a model may have
 * hundreds of such modules for one reason. */
#include "factors/lacks.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/warn.h"

enum { NAMED = 6 };

void kq_lacks_add(kq_lacks *l, kq_lack lack, const char *module)
{
    if (!lack || (unsigned)lack >= KQ_N_LACK)
        return;
    char *names = l->names[lack];
    const size_t len = strlen(names);
    if (l->n[lack]++ < NAMED)
        snprintf(names + len, sizeof l->names[lack] - len, "%s%s", len ? ", " : "", module);
}

kq_lack kq_lack_in_report(const char *report)
{
    json_t *o = report ? json_loads(report, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const kq_lack lack = kq_lack_of(json_string_value(json_object_get(o, "identity")));
    json_decref(o);
    return lack;
}

static const char *words(kq_lack lack)
{
    switch (lack) {
    case KQ_LACK_GRADIENT: return "no gradient comes to";
    case KQ_LACK_ROUNDING: return "nothing but rounding errors is left of the gradients of";
    case KQ_LACK_INPUT: return "all inputs are zero of";
    case KQ_LACK_ENTRY: return "the imatrix has no entry for";
    case KQ_LACK_COUNT: return "the imatrix never counted an input of";
    default: return "the imatrix is zero throughout for";
    }
}

void kq_lacks_warn(const kq_lacks *l)
{
    for (int i = 1; i < KQ_N_LACK; i++) {
        char more[40] = "";
        if (l->n[i] > NAMED)
            snprintf(more, sizeof more, " and %zu more", l->n[i] - NAMED);
        if (l->n[i])
            kq_warn("%s %zu module%s (%s%s): rounded with identity factors", words((kq_lack)i), l->n[i],
                    l->n[i] == 1 ? "" : "s", l->names[i], more);
    }
}
