/* Figures of a report in JSON, for the structs of kronq.h. What a report does not say is NaN or 0: reports of
 * different work have different figures, and null stands for a figure that means nothing. Internal to this
 * room. */
#ifndef KQ_HOST_REPORT_H
#define KQ_HOST_REPORT_H

#include <jansson.h>
#include <math.h>

#include "base/error.h"

/* The number under this key; NaN: there is none. object may be NULL. */
static inline double kq_report_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* The whole number under this key; 0: there is none. Some reports write it as a real. */
static inline size_t kq_report_whole(const json_t *object, const char *key)
{
    const double value = kq_report_number(object, key);
    return value > 0 ? (size_t)value : 0;
}

#endif
