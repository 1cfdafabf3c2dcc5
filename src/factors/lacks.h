/* Modules that are rounded with the identity because they have no factors: collected, then warned of
 * together. */
#ifndef KQ_FACTORS_LACKS_H
#define KQ_FACTORS_LACKS_H

#include "fisher/fisher.h"

/* Zeroed at first. */
typedef struct kq_lacks {
    size_t n[KQ_N_LACK];
    char names[KQ_N_LACK][400]; /* the first ones, "a, b, c" */
} kq_lacks;

/* KQ_LACK_NOTHING: does nothing. */
void kq_lacks_add(kq_lacks *l, kq_lack lack, const char *module);
/* The lack that a module's report (JSON text, may be NULL) in a factor file tells of. */
kq_lack kq_lack_in_report(const char *report);
/* One warning (kq_warn) for each reason that there is: it names the first modules and counts the rest. */
void kq_lacks_warn(const kq_lacks *l);

#endif
