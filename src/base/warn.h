/* Warnings: what is worth a person's notice, although the work goes on. */
#ifndef KQ_BASE_WARN_H
#define KQ_BASE_WARN_H

#include "kronq.h"

/* Give the handler of kq_set_warning_handler one line (without a line end; control characters become
 * '?'). Does nothing without a handler. Any thread may call it. Say file, tensor or option, what was
 * found, and what kronq does now. */
void kq_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
