/* Errors: one convention everywhere. kq_status is returned, kq_error is the caller's and may be NULL. */
#ifndef KQ_BASE_ERROR_H
#define KQ_BASE_ERROR_H

#include "kronq.h"

/* Fill *err (when not NULL) with the status and a one-line printf-style message, and return the status.
 * Control characters in the finished message (they may come from a hostile file) are replaced by '?'. */
kq_status kq_fail(kq_error *err, kq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "where: " before an error's message that came from below, which did not know where it was. Returns
 * status; nothing on KQ_OK. */
kq_status kq_fail_within(kq_error *err, kq_status status, const char *where);

#endif
