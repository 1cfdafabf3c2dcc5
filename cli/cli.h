/* What the commands of the program share: reading options, showing progress on stderr, ending by a signal,
 * printing numbers and errors. */
#ifndef KQ_CLI_CLI_H
#define KQ_CLI_CLI_H

#include <jansson.h>

#include "kronq.h"

/* Exit statuses. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* The values of an option that was given several times. */
typedef struct cli_list {
    const kq_setting *option;
    const char *const *texts; /* stays until the program ends */
    size_t n;
} cli_list;

enum { CLI_MOST_LISTS = 12, CLI_MOST_OPTIONS = 128 };

/* Everything that can be said on a command line. Each command reads the part that it takes; cli_parse refuses
 * the rest. What the library takes is in its structs of options; the other members have rows in
 * own_options.c. */
typedef struct cli {
    const char *command;
    unsigned takers; /* bits of kq_taker: all that the command may turn out to do */
    const char *model;
    /* the library's options; a setting is written into every struct that has it */
    kq_quantize_options q;
    kq_eval_text_options e;
    kq_eval_tasks_options t;
    kq_compare_options o;
    kq_export_options x;
    kq_tune_options u;
    /* seen: the rows of the options that were given; given: the names of those settings of the calibration
     * that a factor file must agree with */
    const kq_setting *seen[CLI_MOST_OPTIONS];
    size_t n_seen;
    const char *given[CLI_MOST_OPTIONS];
    cli_list lists[CLI_MOST_LISTS];
    size_t n_lists;
    /* for messages; typed: the option that is being read, as it was given (-n); spec: the SPEC of compare; or
     * NULL */
    const char *typed, *spec;
    /* several commands */
    const char *out, *to, *kv, *weights, *effort;
    bool json, quiet, dry_run, factor_bf16;
    size_t fitted_seq_len; /* by cli_fit_seq_len, and not said yet; 0: none */
    const char *ppl, *kld;
    const char *const *task_words; /* NAME=FILE, of n_task_words */
    size_t n_task_words;
    kq_task_file tasks[16]; /* the same, cut at the "=" */
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

/* The bits of kq_taker that stand for the command of this name; 0: there is no such command. */
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

/* Parse the arguments of one command. usage and about are printed for --help. The second word of usage is
 * what the command works on (MODEL, DIR), or "[options]" when it works on nothing. Returns -1 to go on, or an
 * exit status to end with. */
int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about);

/* Set one option of c from a text, as the command line would. value is NULL for a switch; it may be changed,
 * and must live as long as c. Returns -1; or an exit status after saying what is wrong. */
int cli_apply(cli *c, const kq_setting *option, char *value);
/* Read a SPEC of compare, "flipflop:rho=1e-1:rounds=2", on top of what c holds already. text is changed, and
 * must live as long as c. Returns -1; or an exit status after saying what is wrong. */
int cli_apply_spec(cli *c, char *text);

/* Print the help text of the command; or the same as one JSON object, for man pages and completions. */
void cli_print_help(const cli *c, const char *usage, const char *about);
void cli_print_help_json(const cli *c, const char *usage, const char *about);

/* Was the option of this name given on the command line? */
bool cli_given(const cli *c, const char *name);
/* Call it once it is known what the command does (`takers`). An option that was given, but that none of
 * `takers` takes, is refused with the message "--sweeps " and why. Returns -1 when there is none, or an exit
 * status. */
int cli_only_for(const cli *c, unsigned takers, const char *why);
/* Refuse options (names, ended by NULL) that mean nothing here: the first one that was given gets the message
 * "--system " and why. Returns -1 when none was given, or an exit status. */
int cli_misplaced(const cli *c, const char *const *names, const char *why);
/* Warn of options (names, ended by NULL) that were given and have no effect: "--top-p has no effect with
 * --temp 0". */
void cli_no_effect(const cli *c, const char *const *names, const char *beside);
/* Warn of given options that have no effect with the method of calibration (not with --factors, which
 * brings its method). */
void cli_no_effect_with_method(const cli *c);
/* Shorten the default *seq_len of the command to the context of the model; the program says so when the work
 * begins. Nothing happens where --seq-len was given, or where the model cannot be opened. */
void cli_fit_seq_len(cli *c, const char *model, size_t *seq_len);
/* Check before long work that the file `path` can be written: that its folder exists and may be written to.
 * path may be NULL. Returns -1; or an exit status after saying why not. */
int cli_check_output(const char *path);
/* The name that is nearest to a mistyped word; NULL: none is near. name(list, i) gives the i-th name, and
 * NULL behind the last. */
const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list);

/* Print one line on stderr. It may quote words of the command line, so control characters become '?', and a
 * line of more than 4 kB is cut. */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Say that an option is missing, "-o OUT", and which help to read. The exit status, EXIT_USAGE. */
int cli_missing(const char *command, const char *option);
/* Print the report's seconds and memory on stderr. */
void cli_print_costs(const json_t *report);
/* Print the error as one line and give the exit status that fits it. */
int cli_fail(const kq_error *err);
/* Say what continues an interrupted run of this command: "the same command"; NULL: nothing does. Without this
 * call it is --resume where the command has that option. */
void cli_resumable(const char *how);
/* Put the program's progress function into *common. From now on a signal stops the work through it. */
void cli_progress(cli *c, kq_common *common);
void cli_progress_end(void);

/* Begin to wait for SIGINT, SIGTERM and SIGHUP. At first each of them ends the program at once, as it would
 * without this call. A signal that is ignored when the program begins stays ignored, except a SIGINT that was
 * sent with kill. Call it before any other thread is started. */
void cli_signals_begin(void);
/* From now on the first signal only asks to stop, and a second one ends the program at once. notice: the line
 * that is shown on a terminal when stopping takes more than a second; NULL: none. It must live until the
 * program ends. */
void cli_stop_gently(const char *notice);
/* The signal that asked to stop, or 0. */
int cli_stop_asked(void);
/* Wait for a signal that asks to stop. */
void cli_stop_wait(void);
/* Forget the signal, because it meant only what has been stopped by now (one answer, say). */
void cli_stop_forget(void);
/* End the program by the signal that asked to stop, if there was one. Otherwise the next signal ends it at
 * once. */
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
int cmd_tune(int argc, char **argv);
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
