/* Efforts: one word that sets several members at once, for people who want a result sooner or a better one.
 * The values stand in the rows of the table (kq_setting.low, .high), beside the defaults. */
#include <string.h>

#include "base/locale.h"
#include "settings/settings.h"

const char *kq_setting_effort(const kq_setting *setting, const char *effort)
{
    const char *value = !strcmp(effort, "low")    ? setting->low
                        : !strcmp(effort, "high") ? setting->high
                                                  : NULL;
    return value ? value : setting->low || setting->high ? setting->value : NULL;
}

kq_status kq_quantize_effort(kq_quantize_options *opt, const char *effort, kq_error *err)
{
    KQ_C_LOCALE;
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_status status = KQ_OK;
    if (strcmp(effort, "low") && strcmp(effort, "normal") && strcmp(effort, "high"))
        return kq_fail(err, KQ_E_ARG, "effort %s: low, normal or high is expected", effort);
    for (size_t i = 0; i < n && !status; i++) {
        const char *value = s[i].at[KQ_QUANTIZE_OPTIONS] ? kq_setting_effort(&s[i], effort) : NULL;
        if (value)
            status = kq_setting_set(KQ_QUANTIZE_OPTIONS, opt, &s[i], value, err);
    }
    return status;
}
