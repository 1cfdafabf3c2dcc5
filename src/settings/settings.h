/* The table of settings (kronq.h, "Settings by name"), for the rooms that use it: defaults, ranges, and
 * values as JSON. Every setting is one row of table.c. This room does not know what a setting does. */
#ifndef KQ_SETTINGS_SETTINGS_H
#define KQ_SETTINGS_SETTINGS_H

#include <stdio.h>

#include "base/error.h"

struct json_t; /* jansson's json_t */

/* Write the default of every setting that *options has. Members without a setting stay as they are, so clear
 * the struct first. */
void kq_settings_defaults(kq_options_id id, void *options);

/* Check that the numbers and words of *options are in the ranges of the table. Only rows that one of `takers`
 * (bits of kq_taker) takes are checked; a default is always right. KQ_E_ARG: "--early 7: ... is expected". */
kq_status kq_settings_check(kq_options_id id, unsigned takers, const void *options, kq_error *err);

/* Copy the members of every setting with one of `marks` from one struct to another of the same kind. Texts
 * and lists are borrowed by both. */
void kq_settings_copy(kq_options_id id, const void *from, void *to, unsigned marks);

/* The row of this name that one of `takers` takes; NULL: there is none. */
const kq_setting *kq_setting_find(const char *name, unsigned takers);
/* Does the member have its default? A text that is not set has it. */
bool kq_setting_is_default(kq_options_id id, const void *options, const kq_setting *setting);

/* Write " --name value" to the file, as on a command line. A regular expression is put in quotes. */
void kq_setting_print(kq_options_id id, const void *options, const kq_setting *setting, FILE *f);

/* The value as new JSON: a string ("" for no text), a number, a boolean, or an array of strings. A whole
 * number is a JSON real where the setting is real. NULL: out of memory. */
struct json_t *kq_setting_json(kq_options_id id, const void *options, const kq_setting *setting);
/* The default as new JSON. NULL: out of memory. */
struct json_t *kq_setting_default_json(const kq_setting *setting);
/* Add to the JSON object `into` every setting of *options that has one of `marks` and an effect with
 * `method` (NULL: whatever the method), in the order of the table. Settings marked KQ_WRITTEN_APART are left
 * out. False: out of memory. */
bool kq_settings_write(kq_options_id id, const void *options, unsigned marks, const char *method,
                       struct json_t *into);

#endif
