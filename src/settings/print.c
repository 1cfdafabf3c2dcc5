/* Writes settings as words of a command line, for the model card, which says how a checkpoint was made. */
#include <inttypes.h>
#include <string.h>

#include "settings/words.h"

static void print_name(const kq_setting *s, bool off, FILE *f)
{
    fprintf(f, " --%s", off ? "no-" : "");
    for (const char *c = s->name; *c; c++)
        fputc(*c == '_' ? '-' : *c, f);
}

static void print_text(const kq_setting *s, const char *text, FILE *f)
{
    const bool quoted = s->argument && strstr(s->argument, "REGEX");
    fprintf(f, quoted ? " '%s'" : " %s", text ? text : "");
}

void kq_setting_print(kq_options_id id, const void *options, const kq_setting *setting, FILE *f)
{
    const void *m = kq_setting_member(id, options, setting);
    const kq_text_list *list = m;
    const size_t first = setting->words ? strcspn(setting->words, " ") : 0;
    if (setting->type == KQ_SETTING_TEXTS) {
        for (size_t i = 0; i < list->n; i++) {
            print_name(setting, false, f);
            print_text(setting, list->text[i], f);
        }
        return;
    }
    print_name(setting, setting->type == KQ_SETTING_NOT && *(const bool *)m, f);
    switch (setting->type) {
    case KQ_SETTING_FLAG:
    case KQ_SETTING_NOT: break;
    case KQ_SETTING_CHOICE:
        fprintf(f, " %.*s", *(const bool *)m ? 100 : (int)first,
                setting->words + (*(const bool *)m ? first + 1 : 0));
        break;
    case KQ_SETTING_INT: fprintf(f, " %d", *(const int *)m); break;
    case KQ_SETTING_COUNT:
    case KQ_SETTING_BYTES: fprintf(f, " %zu", *(const size_t *)m); break;
    case KQ_SETTING_SEED: fprintf(f, " %" PRIu64, *(const uint64_t *)m); break;
    case KQ_SETTING_REAL: fprintf(f, " %g", *(const double *)m); break;
    default: print_text(setting, *(const char *const *)m, f); break;
    }
}
