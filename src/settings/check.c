/* Checks a whole struct of options against the ranges of the table. Every function of kronq.h that takes
 * options calls it, because a host program may put any number into a struct. */
#include <stdio.h>
#include <string.h>

#include "settings/words.h"

static kq_status check_setting(kq_options_id id, const void *options, const kq_setting *setting,
                               kq_error *err)
{
    char value[64], expected[200];
    const char *member = kq_setting_member(id, options, setting);
    double v;
    if (!member || setting->type < KQ_SETTING_INT || setting->type == KQ_SETTING_SEED ||
        kq_setting_is_default(id, options, setting))
        return KQ_OK;
    if (setting->type == KQ_SETTING_REAL)
        memcpy(&v, member, sizeof v);
    else if (setting->type == KQ_SETTING_INT)
        v = *(const int *)(const void *)member;
    else
        v = (double)*(const size_t *)(const void *)member;
    if (kq_setting_in_range(setting, v))
        return KQ_OK;
    snprintf(value, sizeof value, "%.10g", v);
    return kq_setting_refuse(setting, value, kq_setting_range_text(setting, expected), err);
}

kq_status kq_settings_check(kq_options_id id, unsigned takers, const void *options, kq_error *err)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++)
        if (s[i].takers & takers)
            status = check_setting(id, options, &s[i], err);
    return status;
}
