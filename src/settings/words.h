/* Inside the room: what its files share. Lists of words in one text ("text sampled", a space between two
 * words), and where the value of a setting is in a struct of options. */
#ifndef KQ_SETTINGS_WORDS_H
#define KQ_SETTINGS_WORDS_H

#include "settings/settings.h"

/* The member of a KQ_SETTING_TEXTS. In the structs of options it is two members, one behind the other. */
typedef struct kq_text_list {
    const char *const *text;
    size_t n;
} kq_text_list;

/* Is `word` one of the words? */
bool kq_words_has(const char *words, const char *word);
bool kq_words_first_is(const char *words, const char *word);
/* "identity or random", "f32, bf16 or auto", into buf. */
const char *kq_words_list(const char *words, char buf[200]);

/* Bytes of a member of this type. */
size_t kq_setting_size(kq_setting_type type);
/* Where the setting's value is in *options; NULL: nowhere. */
const char *kq_setting_member(kq_options_id id, const void *options, const kq_setting *setting);
/* "--max-iter", as messages name the setting. */
const char *kq_setting_shown_name(const kq_setting *setting, char buf[64]);
/* KQ_E_ARG: "--early 7: what is expected". */
kq_status kq_setting_refuse(const kq_setting *setting, const char *value, const char *expected,
                            kq_error *err);
/* Which numbers are expected ("from 0 to less than 1"), into buf. */
const char *kq_setting_range_text(const kq_setting *setting, char buf[200]);
bool kq_setting_in_range(const kq_setting *setting, double v);

#endif
