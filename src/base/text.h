/* Strings that are made to measure: every path and every message of a length that is not known beforehand. */
#ifndef KQ_BASE_TEXT_H
#define KQ_BASE_TEXT_H

#include "base/error.h"

/* *out = the printf-style text as a new string, the caller's (kq_free). KQ_E_MEMORY: *out is NULL. */
kq_status kq_format(char **out, kq_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* *out = the path of a file in the folder dir, whose name is the printf-style text: kq_path_in(&path, err,
 * dir, "block-%zu", i). There is one slash between them, also where dir ends in one. The caller's (kq_free).
 */
kq_status kq_path_in(char **out, kq_error *err, const char *dir, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
