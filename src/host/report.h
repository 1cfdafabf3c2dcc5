/* Inside the room: reads figures from a report in JSON, for the structs of kronq.h. A figure that the report
 * does not have, or that is null, becomes NaN or 0, because reports of different work have
 * different figures. */
#ifndef KQ_HOST_REPORT_H
#define KQ_HOST_REPORT_H

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "format/json.h"

/* The number with this key; NaN: there is none. object may be NULL. */
static inline double kq_report_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* A size; 0: it is none. Some reports write it as a real. */
static inline size_t kq_report_size(const json_t *value)
{
    const double size = json_is_number(value) ? json_number_value(value) : 0;
    return size > 0 && size < 0x1p63 ? (size_t)size : 0;
}

/* The size under this key; 0: there is none. */
static inline size_t kq_report_whole(const json_t *object, const char *key)
{
    return kq_report_size(json_object_get(object, key));
}

/* Read the JSON of a report, which must be an object. KQ_E_FORMAT: "this is no WHAT: ...". *out: json_decref.
 */
static inline kq_status kq_report_load(const char *text, const char *what, json_t **out, kq_error *err)
{
    json_error_t wrong;
    if (!text) /* what a call that failed has left */
        return kq_fail(err, KQ_E_FORMAT, "this is no %s: it is NULL", what);
    const kq_status status = kq_json_load(text, strlen(text), 0, out, &wrong);
    return status == KQ_E_FORMAT ? kq_fail(err, status, "this is no %s: %s", what, wrong.text)
           : status              ? kq_fail(err, status, "%s", wrong.text)
                                 : KQ_OK;
}

#endif
