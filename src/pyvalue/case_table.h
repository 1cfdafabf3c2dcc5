/* The table that kq_py_special_case_of searches. */
#ifndef KQ_PYVALUE_CASE_TABLE_H
#define KQ_PYVALUE_CASE_TABLE_H

#include "pyvalue/unicode.h"

extern const kq_py_special_case kq_py_special_cases[]; /* in order of cp; ends with cp 0 */

#endif
