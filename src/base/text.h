/* Strings that are made to measure: every path and every message of a length that is not known beforehand. */
#ifndef KQ_BASE_TEXT_H
#define KQ_BASE_TEXT_H

#include "base/error.h"

/* *out = the printf-style text as a new string, the caller's (kq_free). KQ_E_MEMORY: *out is NULL. A path is
 * kq_format(&path, err, "%s/%s", dir, name). */
kq_status kq_format(char **out, kq_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
