#ifndef KQ_JINJA_CASE_TABLE_H
#define KQ_JINJA_CASE_TABLE_H
#include <stdint.h>
/* title NULL: one character */
typedef struct kq_j_special_case {
    uint32_t cp;
    const char *upper, *title;
} kq_j_special_case;
/* ends with cp 0 */
extern const kq_j_special_case kq_j_special_cases[];
#endif
