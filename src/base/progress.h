/* What the caller's progress function is promised, whoever calls it within the library. */
#ifndef KQ_BASE_PROGRESS_H
#define KQ_BASE_PROGRESS_H

#include "base/error.h"

/* Stands before the caller's function. Work that only has a note, or only wants to know whether to go
 * on, gives stage NULL: the caller's function then hears the stage and the fraction of before. Once that
 * function has asked to stop, every later call is answered so, without asking again. */
typedef struct kq_progress {
    const kq_common *to; /* borrowed */
    char stage[64];
    double fraction;
    bool stopped;
} kq_progress;

/* *common with the guard in its function's place; p must outlive it. Without a function nothing is
 * changed. */
kq_common kq_progress_guard(const kq_common *common, kq_progress *p);

/* Give a line to common->progress (which may be NULL). KQ_E_INTERRUPTED: it asks to stop. */
kq_status kq_progress_note(const kq_common *common, const char *line, kq_error *err);

/* Only ask common->progress (which may be NULL) whether to go on. KQ_E_INTERRUPTED, "stopped after WHAT": no.
 */
kq_status kq_progress_ask(const kq_common *common, const char *what, kq_error *err);

#endif
