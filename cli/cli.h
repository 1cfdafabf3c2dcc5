/* What the commands of the program share: options, progress on stderr, numbers, JSON. */
#ifndef KQ_CLI_CLI_H
#define KQ_CLI_CLI_H

#include <jansson.h>

#include "kronq.h"

/* Exit statuses. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* A list that was given by repeating an option. */
typedef struct cli_list {
    const kq_setting *option;
    const char *const *texts; /* stays until the program ends */
    size_t n;
} cli_list;

enum { CLI_MOST_LISTS = 12, CLI_MOST_OPTIONS = 128 };

/* Everything any command can be told; a command uses what it understands (cli_parse refuses the rest).
 * What the library takes is in the option structs; the other members have rows in own_options.c. */
typedef struct cli {
    const char *command;
    unsigned takers; /* bits of kq_taker: what the command may turn out to be */
    const char *model;
    /* options of the library; a setting is written into each that has it */
    kq_quantize_options q;
    kq_eval_text_options e;
    kq_eval_tasks_options t;
    kq_compare_options o;
    kq_export_options x;
    /* what was given: the rows, and for a factor file the names of the calibration's settings */
    const kq_setting *seen[CLI_MOST_OPTIONS];
    size_t n_seen;
    const char *given[CLI_MOST_OPTIONS];
    cli_list lists[CLI_MOST_LISTS];
    size_t n_lists;
    /* for messages: the option that is being read, as it was given (-n); the SPEC of compare; or NULL */
    const char *typed, *spec;
    /* several commands */
    const char *out, *to, *kv, *weights;
    bool json, quiet, dry_run, factor_bf16;
    const char *ppl, *kld;
    const char *const *task_words; /* NAME=FILE, of n_task_words */
    size_t n_task_words;
    kq_task_file tasks[16]; /* the same, cut up */
    size_t n_task;
    bool card, tensors, plan;
    /* compare: lists as they were given */
    const char *const *ppls;
    size_t n_ppl;
    const char *const *methods;
    size_t n_methods;
    const char *const *sweeps;
    size_t n_sweeps;
    const char *bits, *seeds;
    /* run */
    const char *prompt, *system;
    bool chat;
    size_t n_predict;
    double temperature, top_p, min_p, repeat_penalty; /* negative, and top_k too: not given */
    int top_k;
    const char *const *template_arg; /* KEY=VALUE each */
    size_t n_template_arg;
    const char *const *stop;
    size_t n_stop;
    /* serve */
    const char *host, *api_key, *model_name, *alias;
    const char *const *cors;
    size_t n_cors;
    const char *const *allow_host;
    size_t n_allow_host;
    bool any_model;
    size_t port, slots, queue, max_body, timeout;
    /* bench */
    const char *pp, *tg, *format;
    const char *const *also;
    size_t n_also, repetitions;
    bool table6;
} cli;

/* Who takes a setting (bits of kq_taker) when the command has this name; 0: there is no such command. */
unsigned cli_takers_of(const char *command);
/* The rows of the program's own options, static. */
const kq_setting *cli_own_options(size_t *n);
/* The option that this command takes, by its name ("seq_len"): the program's own or the library's; NULL:
 * it takes none of that name. */
const kq_setting *cli_option(const cli *c, const char *name);
/* The i-th option that the command takes, in the order of the help; NULL behind the last. */
const kq_setting *cli_option_at(const cli *c, size_t i);
/* What a person writes for it: "seq-len", into buf. */
const char *cli_option_name(const kq_setting *option, char buf[64]);

/* Parse argv of one command. usage and about are printed for --help; the second word of usage is what the
 * command works on (MODEL, DIR), "[options]" when it takes nothing. Returns -1 to go on, else an exit
 * status. */
int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about);

/* Set one option of c from a text, as the command line would; value is NULL for a switch, may be cut up
 * and must live as long as c. Returns -1, else an exit status after saying what is wrong. */
int cli_apply(cli *c, const kq_setting *option, char *value);
/* Read a SPEC of compare, "flipflop:rho=1e-1:rounds=2", over what c says already. text is cut up and must
 * live as long as c. Returns what cli_apply does. */
int cli_apply_spec(cli *c, char *text);

/* The help text of the command; the same as one JSON object, for man pages and completions. */
void cli_print_help(const cli *c, const char *usage, const char *about);
void cli_print_help_json(const cli *c, const char *usage, const char *about);

/* Was the option of this name given on the command line? */
bool cli_given(const cli *c, const char *name);
/* The command has turned out to be `takers`: an option that was given and that none of them takes is
 * refused, "--sweeps " and why. Returns -1 when there is none. */
int cli_only_for(const cli *c, unsigned takers, const char *why);
/* Options (names, ended by NULL) that mean nothing here: the first one that was given is refused, "--system
 * " and why. Returns -1 when none was. */
int cli_misplaced(const cli *c, const char *const *names, const char *why);
/* The same options are only warned of: "--top-p has no effect with --temp 0". */
void cli_no_effect(const cli *c, const char *const *names, const char *beside);
/* Warn of given options that have no effect with the method of calibration (not with --factors, which
 * brings its method). */
void cli_no_effect_with_method(const cli *c);
/* A file that is to be written after long work: is there a folder for it that may be written to? path
 * NULL: none. Returns -1, else an exit status after saying why not. */
int cli_check_output(const char *path);
/* The name nearest to a mistyped word, or NULL when none is near. name gives the names of a list one by
 * one, then NULL. */
const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list);

/* One line on stderr, whatever the words of the command line hold that are quoted in it: control
 * characters become '?', what is longer than 4 kB is cut. */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The report's seconds and memory, on stderr. */
void cli_print_costs(const json_t *report);
/* Print the error as one line and give the exit status that fits it. */
int cli_fail(const kq_error *err);
/* What continues an interrupted run of this command, when that is not simply --resume where it has the
 * option: "the same command", or NULL for nothing. */
void cli_resumable(const char *how);
/* A progress function for kq_common, ctx is the cli; a signal stops the work through it from now on. */
void cli_progress(cli *c, kq_common *common);
void cli_progress_end(void);

/* SIGINT, SIGTERM and SIGHUP. At first each ends the program at once, as if nothing had been done about
 * it. What is ignored when the program begins stays ignored, but for a SIGINT by kill. Call it before
 * there is any other thread. */
void cli_signals_begin(void);
/* From now on the first signal only asks to stop; a second one ends the program at once. notice: what to
 * say on a terminal when the stop takes more than a second, or NULL; it must stay. */
void cli_stop_gently(const char *notice);
/* The signal that asked to stop, or 0. */
int cli_stop_asked(void);
/* Wait for it. */
void cli_stop_wait(void);
/* It asked for no more than what has been stopped. */
void cli_stop_forget(void);
/* End by the signal that asked, if one did; and the next one ends the program at once. */
void cli_stop_at_once(void);

/* The kq_warning_handler of the program. */
void cli_warning(void *ctx, const char *message);

/* A warning of the program's own, shown like one of the library. */
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Seconds since an arbitrary start, monotonic. */
double cli_now_s(void);
/* "1.23 GB"; "90 s", "43 min", "2.5 h"; into buf. */
const char *cli_bytes(double bytes, char buf[32]);
const char *cli_duration(double seconds, char buf[32]);
/* Fill *err as the library does, and return the status. */
kq_status cli_error(kq_error *err, kq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

int cmd_info(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_imatrix(int argc, char **argv);
int cmd_quantize(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_selfcheck(int argc, char **argv);

#endif
