/* Reads the options of the command line: it finds the row of a table that a word means, and sets its value.
 * The library's table (kronq.h, "Settings by name") has what the library takes, and own_options.c has the
 * rest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static bool is_switch(const kq_setting *s)
{
    return s->type == KQ_SETTING_FLAG || s->type == KQ_SETTING_NOT;
}

/* ---- values ---- */

/* Print the library's message "--NAME VALUE: what is expected" with the option as it was typed instead of
 * NAME. */
static int refuse(const cli *c, const kq_setting *option, const char *message)
{
    char name[64];
    cli_option_name(option, name);
    const char *rest = message + strlen("--") + strlen(name);
    if (c->spec)
        cli_say("kronq %s: in %s: %s=%s; see kronq %s --help", c->command, c->spec, name,
                rest + (*rest == ' '), c->command);
    else
        cli_say("kronq %s: %s%s%s; see kronq %s --help", c->command, c->typed ? "" : "--",
                c->typed ? c->typed : name, rest, c->command);
    return EXIT_USAGE;
}

/* Print such a message for a value that the library does not check. */
static int refuse_value(const cli *c, const char *name, const char *value, const char *expected)
{
    if (c->spec)
        cli_say("kronq %s: in %s: %s=%s: %s; see kronq %s --help", c->command, c->spec, name, value, expected,
                c->command);
    else
        cli_say("kronq %s: %s%s %s: %s; see kronq %s --help", c->command, c->typed ? "" : "--",
                c->typed ? c->typed : name, value, expected, c->command);
    return EXIT_USAGE;
}

static int out_of_memory(const cli *c)
{
    cli_say("kronq %s: out of memory", c->command);
    return EXIT_FAILED;
}

/* The arrays of all lists. They live until the program ends, because copies of a cli share them. */
typedef struct kept {
    struct kept *next;
    const char *texts[];
} kept;
static kept *all_kept;

/* The list of this option, which is made where there is none; NULL: there are too many. */
static cli_list *list_of(cli *c, const kq_setting *option)
{
    for (size_t i = 0; i < c->n_lists; i++)
        if (c->lists[i].option == option)
            return &c->lists[i];
    if (c->n_lists == CLI_MOST_LISTS)
        return NULL;
    c->lists[c->n_lists] = (cli_list){.option = option};
    return &c->lists[c->n_lists++];
}

/* Append value to the list, which gets a new array. False: out of memory. */
static bool append(cli_list *list, const char *value)
{
    kept *k = malloc(sizeof *k + (list->n + 1) * sizeof *k->texts);
    if (!k)
        return false;
    k->next = all_kept;
    all_kept = k;
    for (size_t i = 0; i < list->n; i++)
        k->texts[i] = list->texts[i];
    k->texts[list->n++] = value;
    list->texts = k->texts;
    return true;
}

/* NAME=FILE, an argument of the program: those may be written to, and are cut at the "=". */
static int add_task(cli *c, char *value)
{
    char *equals = strchr(value, '=');
    if (!equals || equals == value || !equals[1])
        return refuse_value(c, "task", value, "NAME=FILE.jsonl is expected");
    if (c->n_task == sizeof c->tasks / sizeof *c->tasks)
        return refuse_value(c, "task", value, "too many tasks");
    *equals = 0;
    c->tasks[c->n_task++] = (kq_task_file){value, equals + 1};
    return -1;
}

/* The structs that an option may be written into, by kq_options_id. */
static void *options_of(cli *c, int id)
{
    switch (id) {
    case KQ_QUANTIZE_OPTIONS: return &c->q;
    case KQ_EVAL_TEXT_OPTIONS: return &c->e;
    case KQ_EVAL_TASKS_OPTIONS: return &c->t;
    case KQ_COMPARE_OPTIONS: return &c->o;
    case KQ_EXPORT_OPTIONS: return &c->x;
    case KQ_TUNE_OPTIONS: return &c->u;
    case KQ_OTHER_OPTIONS: return c;
    default: return NULL;
    }
}

static bool seen(const cli *c, const kq_setting *option)
{
    for (size_t i = 0; i < c->n_seen; i++)
        if (c->seen[i] == option)
            return true;
    return false;
}

static void note_seen(cli *c, const kq_setting *option)
{
    if (seen(c, option))
        return;
    if (c->n_seen < CLI_MOST_OPTIONS)
        c->seen[c->n_seen++] = option;
    /* with --factors the file must have been made with these values */
    kq_calibration *cal = &c->q.calibration;
    if ((option->marks & (KQ_IN_CALIBRATION | KQ_IN_FACTORS)) && cal->n_given < CLI_MOST_OPTIONS) {
        c->given[cal->n_given++] = option->name;
        cal->given = c->given;
    }
}

int cli_apply(cli *c, const kq_setting *option, char *value)
{
    kq_error err;
    cli_list *list = NULL;
    note_seen(c, option);
    if (option->type == KQ_SETTING_TEXTS && (!(list = list_of(c, option)) || !append(list, value)))
        return out_of_memory(c);
    for (int id = 0; id < KQ_N_OPTIONS; id++) {
        void *options = options_of(c, id);
        if (!option->at[id] || !options)
            continue;
        if (list ? kq_setting_set_list((kq_options_id)id, options, option, list->texts, list->n, &err)
                 : kq_setting_set((kq_options_id)id, options, option, value, &err))
            return refuse(c, option, err.message);
    }
    return strcmp(option->name, "task") ? -1 : add_task(c, value);
}

/* Apply one KEY=VALUE of a SPEC. *own_text: the SPEC has given a text of its own already. */
static int apply_setting(cli *c, char *key, bool *own_text)
{
    char name[64], *value = strchr(key, '=');
    if (value)
        *value++ = 0;
    const kq_setting *option = NULL, *s;
    for (size_t i = 0; (s = cli_option_at(c, i)) && !option; i++)
        if ((s->takers & KQ_FOR_COMPARE_ROW) && !strcmp(cli_option_name(s, name), key))
            option = s;
    if (!option)
        return refuse_value(c, key, value ? value : "", "no such setting of a method");
    if (!is_switch(option) && (!value || !*value))
        return refuse_value(c, key, "", "a value is missing");
    if (is_switch(option) && value)
        return refuse_value(c, key, value, "takes no value");
    /* a SPEC's texts take the place of those that all SPECs share */
    if (!strcmp(key, "text") && !*own_text) {
        *own_text = true;
        *list_of(c, option) = (cli_list){.option = option};
        c->q.calibration.n_text = 0;
        if (!strcmp(value, "self"))
            return -1;
    }
    return cli_apply(c, option, value);
}

int cli_apply_spec(cli *c, char *text)
{
    bool own_text = false;
    char *whole = strdup(text), *next = strchr(text, ':');
    if (!whole)
        return out_of_memory(c);
    c->spec = whole;
    if (next)
        *next++ = 0;
    int status = *text ? -1 : refuse_value(c, "method", "", "a SPEC begins with a method");
    c->q.calibration.method = text;
    while (next && status < 0) {
        char *key = next;
        if ((next = strchr(key, ':')))
            *next++ = 0;
        status = apply_setting(c, key, &own_text);
    }
    c->spec = NULL;
    free(whole);
    return status;
}

/* ---- the command line ---- */

/* The words that may be typed behind "--": "seq-len", "parse-special", "no-parse-special". */
typedef struct typed_names {
    char text[2 * CLI_MOST_OPTIONS][64 + 3];
    size_t n;
} typed_names;

static void list_names(const cli *c, typed_names *list)
{
    const kq_setting *s;
    char name[64];
    list->n = 0;
    for (size_t i = 0; i < CLI_MOST_OPTIONS && (s = cli_option_at(c, i)); i++) {
        snprintf(list->text[list->n++], sizeof *list->text, "%s", cli_option_name(s, name));
        if (s->type == KQ_SETTING_NOT)
            snprintf(list->text[list->n++], sizeof *list->text, "no-%s", name);
    }
}

static const char *nth_name(const void *list, size_t i)
{
    const typed_names *all = list;
    return i < all->n ? all->text[i] : NULL;
}

static int unknown(const cli *c, const char *option)
{
    char word[64];
    typed_names all;
    snprintf(word, sizeof word, "%s", option + strspn(option, "-"));
    word[strcspn(word, "=")] = 0;
    list_names(c, &all);
    const char *meant = cli_nearest(word, nth_name, &all);
    cli_say("kronq %s: unknown option %s%s%s%s; see kronq %s --help", c->command, option,
            meant ? "; did you mean --" : "", meant ? meant : "", meant ? "?" : "", c->command);
    return EXIT_USAGE;
}

/* A word of the command line that begins an option. */
typedef struct word {
    const kq_setting *option;
    char typed[64]; /* as it was given: "-n", "--tokens" */
    char *value;    /* what stands in the same word; or NULL */
    bool off;       /* --no-NAME */
} word;

/* --name, --name=value, or -o, -p and -n with or without their value behind. False: there is no such
 * option. */
static bool find_option(const cli *c, char *text, word *w)
{
    static char no[] = "no-";
    const bool is_long = text[1] == '-';
    const size_t n = is_long ? strcspn(text, "=") : 2;
    char name[64];
    *w = (word){.value = is_long   ? text[n] ? text + n + 1 : NULL
                         : text[2] ? text + 2 + (text[2] == '=')
                                   : NULL};
    snprintf(w->typed, sizeof w->typed, "%.*s", (int)n, text);
    for (size_t i = 0; (w->option = cli_option_at(c, i)); i++) {
        if (!is_long) {
            if (w->option->letter == text[1])
                return true;
            continue;
        }
        cli_option_name(w->option, name);
        const size_t skip = w->option->type == KQ_SETTING_NOT && !strncmp(text + 2, no, strlen(no)) ? 3 : 0;
        if (strlen(name) == n - 2 - skip && !strncmp(name, text + 2 + skip, n - 2 - skip)) {
            w->off = skip != 0;
            return true;
        }
    }
    return false;
}

/* Parse one option and its value. The value may be the next word of the command line; then *i is moved on. */
static int parse_option(cli *c, int argc, char **argv, int *i)
{
    static char off[] = "no";
    word w, other;
    if (!find_option(c, argv[*i], &w))
        return unknown(c, argv[*i]);
    if (is_switch(w.option) && w.value) {
        cli_say("kronq %s: %s takes no value (%s); see kronq %s --help", c->command, w.typed, argv[*i],
                c->command);
        return EXIT_USAGE;
    }
    if (!is_switch(w.option) && !w.value) {
        char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
        const bool is_option = next && !strncmp(next, "--", 2) && (!next[2] || find_option(c, next, &other));
        if (!next || is_option) {
            cli_say("kronq %s: %s needs a value (%s)%s%s; see kronq %s --help", c->command, w.typed,
                    w.option->argument, is_option ? " before " : "", is_option ? next : "", c->command);
            return EXIT_USAGE;
        }
        w.value = next;
        ++*i;
    }
    c->typed = w.typed;
    const int status = cli_apply(c, w.option, w.off ? off : w.value);
    c->typed = NULL;
    return status;
}

/* Take a word that is neither an option nor a value: MODEL or DIR. noun: what the command calls it; NULL: the
 * command takes no such word. */
static int parse_operand(cli *c, char *text, const char *noun, bool words_only)
{
    if (!noun)
        cli_say("kronq %s: %s is one argument too many (it takes options only); see kronq %s --help",
                c->command, text, c->command);
    else if (c->model)
        cli_say("kronq %s: %s is one argument too many (%s is %s already%s); see kronq %s --help", c->command,
                text, noun, c->model, words_only ? ", and after -- nothing is an option" : "", c->command);
    else if (!*text)
        cli_say("kronq %s: %s is an empty word; see kronq %s --help", c->command, noun, c->command);
    else
        c->model = text;
    return c->model == text ? -1 : EXIT_USAGE;
}

static void set_defaults(cli *c, const char *command)
{
    size_t n;
    const kq_setting *own = cli_own_options(&n);
    *c = (cli){.command = command,
               .takers = cli_takers_of(command),
               .q = kq_quantize_defaults(),
               .e = kq_eval_text_defaults(),
               .t = kq_eval_tasks_defaults(),
               .o = kq_compare_defaults(),
               .x = kq_export_defaults(),
               .u = kq_tune_defaults(),
               .temperature = -1,
               .top_p = -1,
               .top_k = -1,
               .min_p = -1,
               .repeat_penalty = -1};
    for (size_t i = 0; i < n; i++)
        if (own[i].value && own[i].at[KQ_OTHER_OPTIONS])
            kq_setting_set(KQ_OTHER_OPTIONS, c, &own[i], own[i].value, NULL);
}

/* Check a whole command line for what every command needs or refuses. */
static int check_whole(const cli *c, const char *noun)
{
    if (!c->model && noun) {
        cli_say("kronq %s: %s is missing (%s); see kronq %s --help", c->command, noun,
                strcmp(noun, "MODEL") ? "the folder that kronq compare wrote"
                                      : "a folder, a .gguf file, a kronq checkpoint or an EXL3 folder",
                c->command);
        return EXIT_USAGE;
    }
    if (c->q.resume && c->q.fresh) {
        cli_say("kronq %s: --resume continues unfinished work and --fresh discards it; give one of them",
                c->command);
        return EXIT_USAGE;
    }
    return -1;
}

/* --effort: what it says of the options that were not given. */
static int apply_effort(cli *c)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_error err;
    for (size_t i = 0; i < n; i++) {
        const char *value = s[i].takers & c->takers ? kq_setting_effort(&s[i], c->effort) : NULL;
        if (value && s[i].at[KQ_QUANTIZE_OPTIONS] && !seen(c, &s[i]) &&
            kq_setting_set(KQ_QUANTIZE_OPTIONS, &c->q, &s[i], value, &err))
            return refuse(c, &s[i], err.message);
    }
    return -1;
}

int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about)
{
    set_defaults(c, argv[0]);
    if (cli_option(c, "resume"))
        cli_resumable("the same command with --resume");
    char noun[32]; /* what the command works on is the second word of its usage */
    snprintf(noun, sizeof noun, "%.*s", (int)strcspn(usage + strcspn(usage, " ") + 1, " "),
             usage + strcspn(usage, " ") + 1);
    const char *operand = noun[0] == '[' ? NULL : noun;
    bool words_only = false;
    int status = -1;
    for (int i = 1; i < argc && status < 0; i++) {
        const bool option = !words_only && argv[i][0] == '-' && argv[i][1];
        if (option && !strcmp(argv[i], "--")) {
            words_only = true;
        } else if (option && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))) {
            cli_print_help(c, usage, about);
            return EXIT_OK;
        } else if (option && !strcmp(argv[i], "--help-json")) {
            cli_print_help_json(c, usage, about);
            return EXIT_OK;
        } else {
            status =
                option ? parse_option(c, argc, argv, &i) : parse_operand(c, argv[i], operand, words_only);
        }
    }
    if (status < 0 && c->effort)
        status = apply_effort(c);
    return status >= 0 ? status : check_whole(c, operand);
}

/* ---- what was given ---- */

bool cli_given(const cli *c, const char *name)
{
    for (size_t i = 0; i < c->n_seen; i++)
        if (!strcmp(c->seen[i]->name, name))
            return true;
    return false;
}

static int misplaced(const cli *c, const char *name, const char *why)
{
    char shown[64];
    cli_say("kronq %s: --%s %s; see kronq %s --help", c->command, cli_option_name(cli_option(c, name), shown),
            why, c->command);
    return EXIT_USAGE;
}

int cli_only_for(const cli *c, unsigned takers, const char *why)
{
    for (size_t i = 0; i < c->n_seen; i++)
        if (!(c->seen[i]->takers & takers))
            return misplaced(c, c->seen[i]->name, why);
    return -1;
}

int cli_misplaced(const cli *c, const char *const *names, const char *why)
{
    for (; *names; names++)
        if (cli_given(c, *names))
            return misplaced(c, *names, why);
    return -1;
}

void cli_no_effect(const cli *c, const char *const *names, const char *beside)
{
    char shown[64];
    for (; *names; names++)
        if (cli_given(c, *names))
            cli_warn("--%s has no effect with %s", cli_option_name(cli_option(c, *names), shown), beside);
}

void cli_no_effect_with_method(const cli *c)
{
    const char *method = c->q.calibration.method;
    char beside[64];
    if (c->q.factors) /* a factor file brings its method */
        return;
    snprintf(beside, sizeof beside, "--method %.40s", method);
    for (size_t i = 0; i < c->n_seen; i++)
        if (!kq_setting_counts_with(c->seen[i], method))
            cli_no_effect(c, (const char *const[]){c->seen[i]->name, NULL}, beside);
}
