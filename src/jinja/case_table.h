#ifndef KQ_JINJA_CASE_TABLE_H
#define KQ_JINJA_CASE_TABLE_H
#include <stdint.h>
typedef struct kq_j_special_case { uint32_t cp; const char *upper, *title; } kq_j_special_case; /* title NULL: one character */
extern const kq_j_special_case kq_j_special_cases[];                                            /* ends with cp 0 */
#endif
