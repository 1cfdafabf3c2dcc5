/* Prints `kronq COMMAND --help`, and the same as JSON, from which scripts/make_man.py makes man pages and
 * completions. Both come from the tables of options, so that no default, method or word is written twice. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { LEFT = 28, WIDTH = 100 };

/* Print a list of words with commas; in the table they are separated by spaces. */
static void add_words(FILE *f, const char *words)
{
    for (; *words; words++)
        fputs(*words == ' ' ? ", " : (const char[]){*words, 0}, f);
}

/* The description of an option: its methods, what it does, its default. The caller frees it (free). NULL: out
 * of memory. */
static char *description(const kq_setting *s)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    if (s->methods && *s->methods != '!') {
        add_words(f, s->methods);
        fputs(": ", f);
    }
    fputs(s->help, f);
    const char *value = s->value ? s->value : s->unset;
    if (value)
        fprintf(f, " (default: %s%s%s%s%s)", value, s->low ? "; effort low: " : "", s->low ? s->low : "",
                s->high ? "; effort high: " : "", s->high ? s->high : "");
    return fclose(f) ? (free(text), NULL) : text;
}

/* Print text in lines of WIDTH columns. On the first line `column` columns are taken already. */
static void print_wrapped(const char *text, int column)
{
    for (const char *w = text; *w;) {
        const int len = (int)strcspn(w, " ");
        if (column + len > WIDTH && column > LEFT) {
            printf("\n%*s", LEFT, "");
            column = LEFT;
        }
        printf("%.*s", len, w);
        column += len;
        w += len;
        if (*w == ' ') {
            w++;
            if (*w && column + 1 + (int)strcspn(w, " ") <= WIDTH) {
                putchar(' ');
                column++;
            } else if (*w) {
                printf("\n%*s", LEFT, "");
                column = LEFT;
            }
        }
    }
    putchar('\n');
}

static void print_option(const kq_setting *s)
{
    char name[64], left[120], letter[8] = "";
    if (s->letter)
        snprintf(letter, sizeof letter, "-%c, ", s->letter);
    snprintf(left, sizeof left, "  %s--%s%s%s%s", letter, s->type == KQ_SETTING_NOT ? "[no-]" : "",
             cli_option_name(s, name), s->argument ? " " : "", s->argument ? s->argument : "");
    char *text = description(s);
    int column = printf("%-*s ", LEFT - 1, left);
    print_wrapped(text ? text : s->help, column);
    free(text);
}

void cli_print_help(const cli *c, const char *usage, const char *about)
{
    const char *group = "options";
    const kq_setting *s;
    printf("usage: kronq %s\n\n%s\n\noptions:\n", usage, about);
    for (size_t i = 0; (s = cli_option_at(c, i)); i++) {
        if (s->group && strcmp(s->group, group)) {
            group = s->group;
            printf("\n%s:\n", group);
        }
        print_option(s);
    }
}

static json_t *word_list(const char *words)
{
    json_t *a = json_array();
    for (const char *w = words; w && *w;) {
        const size_t len = strcspn(w, " ");
        json_array_append_new(a, json_stringn(w, len));
        w += len + (w[len] == ' ');
    }
    return a;
}

static json_t *option_json(const kq_setting *s)
{
    static const char *const types[] = {
        [KQ_SETTING_TEXT] = "text",   [KQ_SETTING_WORD] = "word",    [KQ_SETTING_TEXTS] = "texts",
        [KQ_SETTING_FLAG] = "flag",   [KQ_SETTING_NOT] = "no-flag",  [KQ_SETTING_CHOICE] = "word",
        [KQ_SETTING_INT] = "number",  [KQ_SETTING_COUNT] = "number", [KQ_SETTING_BYTES] = "size",
        [KQ_SETTING_SEED] = "number", [KQ_SETTING_REAL] = "real"};
    char name[64], letter[2] = {s->letter, 0};
    json_t *o = json_pack("{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:s, s:o}", "name", cli_option_name(s, name),
                          "letter", letter, "type", types[s->type], "argument", s->argument, "default",
                          s->value ? s->value : s->unset, "group", s->group, "help", s->help, "words",
                          word_list(s->words));
    if (o && s->methods)
        json_object_set_new(o, *s->methods == '!' ? "not_methods" : "methods",
                            word_list(s->methods + (*s->methods == '!')));
    if (o && s->most > s->least)
        json_object_set_new(o, "range", json_pack("[f, f]", s->least, s->most < 1e18 ? s->most : 1e18));
    return o;
}

void cli_print_help_json(const cli *c, const char *usage, const char *about)
{
    json_t *options = json_array();
    const kq_setting *s;
    for (size_t i = 0; (s = cli_option_at(c, i)); i++)
        json_array_append_new(options, option_json(s));
    json_t *o = json_pack("{s:s, s:s, s:s, s:o}", "command", c->command, "usage", usage, "about", about,
                          "options", options);
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(15)) : NULL;
    puts(text ? text : "{}");
    free(text);
    json_decref(o);
}
