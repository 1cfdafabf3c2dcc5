/* Writes settings as JSON, by which a factor file, a job, a checkpoint and a row of a comparison are
 * identified. The bytes of files depend on the order of the table and on the JSON types that are
 * chosen here. */
#include <jansson.h>
#include <string.h>

#include "settings/words.h"

static const char *text_of(const char *member)
{
    const char *text;
    memcpy(&text, member, sizeof text);
    return text;
}

/* The word that the value of a KQ_SETTING_CHOICE stands for, as JSON. */
static json_t *choice(const kq_setting *s, bool second)
{
    const size_t first = strcspn(s->words, " ");
    return second ? json_string(s->words + first + 1) : json_stringn(s->words, first);
}

static json_t *list(const kq_text_list *texts)
{
    json_t *a = json_array();
    for (size_t i = 0; a && i < texts->n; i++)
        if (json_array_append_new(a, json_string(texts->text[i]))) {
            json_decref(a);
            return NULL;
        }
    return a;
}

json_t *kq_setting_json(kq_options_id id, const void *options, const kq_setting *setting)
{
    const char *member = kq_setting_member(id, options, setting);
    const void *m = member;
    const char *text;
    switch (setting->type) {
    case KQ_SETTING_TEXTS: return list(m);
    case KQ_SETTING_FLAG: return json_boolean(*(const bool *)m);
    case KQ_SETTING_NOT: return json_boolean(!*(const bool *)m);
    case KQ_SETTING_CHOICE: return choice(setting, *(const bool *)m);
    case KQ_SETTING_INT: return json_integer(*(const int *)m);
    case KQ_SETTING_COUNT:
    case KQ_SETTING_BYTES: return json_integer((json_int_t) * (const size_t *)m);
    case KQ_SETTING_SEED: return json_integer((json_int_t) * (const uint64_t *)m);
    case KQ_SETTING_REAL: return json_real(*(const double *)m);
    default: /* a text that is not set counts as the default */
        text = text_of(member);
        return json_string(text ? text : setting->value ? setting->value : "");
    }
}

/* Room for a member of any type, so that a default can be written without a struct of options. */
typedef union kq_any {
    kq_text_list texts;
    const char *text;
    bool flag;
    int number;
    size_t count;
    uint64_t seed;
    double real;
} kq_any;

/* A row like s whose member is *room, which gets the default. */
static kq_setting alone(const kq_setting *s, kq_any *room)
{
    kq_setting row = *s;
    memset(row.at, 0, sizeof row.at);
    row.at[KQ_OTHER_OPTIONS] = 1;
    memset(room, 0, sizeof *room);
    if (s->value)
        kq_setting_set(KQ_OTHER_OPTIONS, room, &row, s->value, NULL);
    return row;
}

json_t *kq_setting_default_json(const kq_setting *setting)
{
    kq_any room;
    const kq_setting row = alone(setting, &room);
    return kq_setting_json(KQ_OTHER_OPTIONS, &room, &row);
}

bool kq_setting_is_default(kq_options_id id, const void *options, const kq_setting *setting)
{
    kq_any room;
    alone(setting, &room);
    const void *m = kq_setting_member(id, options, setting), *d = &room;
    switch (setting->type) {
    case KQ_SETTING_TEXTS: return !((const kq_text_list *)m)->n;
    case KQ_SETTING_FLAG:
    case KQ_SETTING_NOT:
    case KQ_SETTING_CHOICE: return *(const bool *)m == *(const bool *)d;
    case KQ_SETTING_INT: return *(const int *)m == *(const int *)d;
    case KQ_SETTING_COUNT:
    case KQ_SETTING_BYTES: return *(const size_t *)m == *(const size_t *)d;
    case KQ_SETTING_SEED: return *(const uint64_t *)m == *(const uint64_t *)d;
    case KQ_SETTING_REAL: return *(const double *)m == *(const double *)d;
    default: return !text_of(m) || (setting->value && !strcmp(text_of(m), setting->value));
    }
}

/* Is this setting written? It is not where it has no effect with the method or beside another setting's
 * default, and not where it has its default and is marked KQ_UNLESS_DEFAULT. */
static bool counts(kq_options_id id, const void *options, const kq_setting *s, const char *method)
{
    const kq_setting *with = s->with ? kq_setting_find(s->with, s->takers) : NULL;
    if ((method && !kq_setting_counts_with(s, method)) ||
        (with && with->at[id] && kq_setting_is_default(id, options, with)))
        return false;
    return !(s->marks & KQ_UNLESS_DEFAULT) || !kq_setting_is_default(id, options, s);
}

bool kq_settings_write(kq_options_id id, const void *options, unsigned marks, const char *method,
                       json_t *into)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    bool ok = true;
    for (size_t i = 0; i < n; i++)
        if ((s[i].marks & marks) && !(s[i].marks & KQ_WRITTEN_APART) && s[i].at[id] &&
            counts(id, options, &s[i], method))
            ok = !json_object_set_new(into, s[i].name, kq_setting_json(id, options, &s[i])) && ok;
    return ok;
}
