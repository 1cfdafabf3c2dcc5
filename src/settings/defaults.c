/* Fills whole structs of options with the defaults of the table: the functions of kronq.h that every host
 * program begins with. */
#include <string.h>

#include "base/locale.h"
#include "base/options.h"
#include "settings/words.h"

void kq_settings_defaults(kq_options_id id, void *options)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if (s[i].value && s[i].at[id])
            kq_setting_set(id, options, &s[i], s[i].value, NULL);
}

void kq_settings_copy(kq_options_id id, const void *from, void *to, unsigned marks)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if ((s[i].marks & marks) && s[i].at[id])
            memcpy((char *)kq_setting_member(id, to, &s[i]), kq_setting_member(id, from, &s[i]),
                   kq_setting_size(s[i].type));
}

const kq_setting *kq_setting_find(const char *name, unsigned takers)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if ((s[i].takers & takers) && !strcmp(s[i].name, name))
            return &s[i];
    return NULL;
}

bool kq_setting_counts_with(const kq_setting *setting, const char *method)
{
    const char *methods = setting->methods;
    if (!methods)
        return true;
    return *methods == '!' ? !kq_words_has(methods + 1, method) : kq_words_has(methods, method);
}

void kq_quantize_options_init(kq_quantize_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_quantize_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_QUANTIZE_OPTIONS, &defaults);
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

void kq_eval_text_options_init(kq_eval_text_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_eval_text_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_EVAL_TEXT_OPTIONS, &defaults);
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

void kq_eval_tasks_options_init(kq_eval_tasks_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_eval_tasks_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_EVAL_TASKS_OPTIONS, &defaults);
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

void kq_compare_options_init(kq_compare_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_compare_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_COMPARE_OPTIONS, &defaults);
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

void kq_tune_options_init(kq_tune_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_tune_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_TUNE_OPTIONS, &defaults);
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}

void kq_export_options_init(kq_export_options *opt, size_t size)
{
    KQ_C_LOCALE;
    kq_export_options defaults = {.size = sizeof defaults};
    kq_settings_defaults(KQ_EXPORT_OPTIONS, &defaults);
    defaults.to = "bf16"; /* `to` has no row in the table: it says what kind of output is made */
    kq_options_fill(opt, size, &defaults, sizeof defaults);
}
