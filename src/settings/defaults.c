/* Defaults and ranges of whole option structs, and the functions of kronq.h that give them. */
#include <string.h>

#include "settings/words.h"

void kq_settings_defaults(kq_options_id id, void *options)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    for (size_t i = 0; i < n; i++)
        if (s[i].value && s[i].at[id])
            kq_setting_set(id, options, &s[i], s[i].value, NULL);
}

kq_status kq_settings_check(kq_options_id id, unsigned takers, const void *options, kq_error *err)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++)
        if (s[i].takers & takers)
            status = kq_setting_check(id, options, &s[i], err);
    return status;
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

kq_quantize_options kq_quantize_defaults(void)
{
    kq_quantize_options o = {0};
    kq_settings_defaults(KQ_QUANTIZE_OPTIONS, &o);
    return o;
}

kq_eval_text_options kq_eval_text_defaults(void)
{
    kq_eval_text_options o = {0};
    kq_settings_defaults(KQ_EVAL_TEXT_OPTIONS, &o);
    return o;
}

kq_eval_tasks_options kq_eval_tasks_defaults(void)
{
    kq_eval_tasks_options o = {0};
    kq_settings_defaults(KQ_EVAL_TASKS_OPTIONS, &o);
    return o;
}

kq_compare_options kq_compare_defaults(void)
{
    kq_compare_options o = {0};
    kq_settings_defaults(KQ_COMPARE_OPTIONS, &o);
    return o;
}

kq_export_options kq_export_defaults(void)
{
    kq_export_options o = {0};
    kq_settings_defaults(KQ_EXPORT_OPTIONS, &o);
    o.to = "bf16"; /* no setting: it says which function is meant */
    return o;
}
