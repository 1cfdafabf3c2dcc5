/* The table of settings (kronq.h, "Settings by name"), for the rooms that use it: defaults, ranges, and
 * values as JSON. One row of table.c a setting; nothing here knows what a setting is good for. */
#ifndef KQ_SETTINGS_SETTINGS_H
#define KQ_SETTINGS_SETTINGS_H

#include <stdio.h>

#include "base/error.h"

struct json_t; /* jansson's json_t */

/* Write the default of every setting that *options has. What has none is left as it is, so clear the
 * struct first. */
void kq_settings_defaults(kq_options_id id, void *options);

/* Are the numbers and words of *options in the ranges of the table? Only rows that one of `takers` (bits
 * of kq_taker) takes are looked at; a default is always right. KQ_E_ARG: "--early 7: ... is expected". */
kq_status kq_settings_check(kq_options_id id, unsigned takers, const void *options, kq_error *err);

/* Copy the members of every setting with one of `marks` from one struct to another of the same kind. Texts
 * and lists are borrowed by both. */
void kq_settings_copy(kq_options_id id, const void *from, void *to, unsigned marks);

/* The row of this name that one of `takers` takes; NULL: there is none. */
const kq_setting *kq_setting_find(const char *name, unsigned takers);
/* Has the member its default? An unset text is the default. */
bool kq_setting_is_default(kq_options_id id, const void *options, const kq_setting *setting);

/* Write " --name value" to the file, as a command line would give it; a regular expression in quotes. */
void kq_setting_print(kq_options_id id, const void *options, const kq_setting *setting, FILE *f);

/* The value as JSON, new: a string ("" for no text), a number, a boolean, or an array of strings. A real
 * number stays one even when it is whole. NULL: out of memory. */
struct json_t *kq_setting_json(kq_options_id id, const void *options, const kq_setting *setting);
/* The default as JSON, new. NULL: out of memory. */
struct json_t *kq_setting_default_json(const kq_setting *setting);
/* Add to the JSON object `into` every setting of *options that has one of `marks` and an effect with
 * `method` (NULL: whatever the method), in the order of the table. Not KQ_WRITTEN_APART. False: out of
 * memory. */
bool kq_settings_write(kq_options_id id, const void *options, unsigned marks, const char *method,
                       struct json_t *into);

#endif
