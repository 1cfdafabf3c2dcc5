/* What the commands of the program share: options, progress on stderr, numbers, JSON. */
#ifndef KQ_CLI_CLI_H
#define KQ_CLI_CLI_H

#include <jansson.h>

#include "kronq.h"

/* Exit statuses. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Everything any command can be told; a command uses what it understands (cli_parse refuses the rest). */
typedef struct cli {
    const char *command;
    kq_quantize_options q;
    kq_eval_text_options e;
    kq_eval_tasks_options t;
    kq_task_file tasks[16];
    size_t n_task;
    const char *texts[64], *given[20], *tensor_types[64], *module_bits[64], *to;
    const char *host, *kv, *api_key, *model_name, *alias, *cors[16], *allow_host[16]; /* serve */
    size_t n_cors, n_allow_host;
    bool any_model;
    size_t port, slots, queue, max_body, timeout;
    kq_export_options x;
    const char *model, *out, *ppl, *kld, *prompt; /* ppl: the last of ppls */
    const char *ppls[16];
    size_t n_ppl;
    /* compare: lists as they were given */
    const char *methods[32], *sweeps[16], *bits, *seeds;
    size_t n_methods, n_sweeps;
    bool keep_models, keep_factors;
    /* the option that is being read, as it was given (-n), for messages; else NULL */
    const char *typed;
    bool seen[512]; /* by key: the option was given */
    /* the SPEC of compare that is being read, for messages; else NULL */
    const char *spec;
    bool json, dry_run, quiet, chat, tensors, plan, factor_bf16, card;
    size_t n_predict;
    double temperature, top_p, min_p, repeat_penalty; /* negative, and top_k too: not given */
    const char *template_arg[32];
    size_t n_template_arg;                                      /* KEY=VALUE each */
    const char *stop[16], *system, *weights, *pp, *tg, *format; /* stop: of n_stop */
    const char *also[16];                                       /* of n_also */
    size_t n_stop, n_also, repetitions;
    bool table6;
    int top_k;
} cli;

/* One long option of a command. */
typedef struct cli_option {
    const char *name, *argument, *help; /* argument NULL: a switch */
    int key;
} cli_option;

/* Keys of the options, shared by all commands' tables. */
enum cli_key {
    OPT_MIN_P = 256,
    OPT_REPEAT_PENALTY,
    OPT_STOP,
    OPT_SYSTEM,
    OPT_TEMPLATE_ARG,
    OPT_WEIGHTS,
    OPT_PP,
    OPT_TG,
    OPT_REPETITIONS,
    OPT_FORMAT,
    OPT_TABLE6,
    OPT_ALSO,
    OPT_OUT,
    OPT_BITS,
    OPT_TEXT,
    OPT_TOKENS,
    OPT_SEQ_LEN,
    OPT_BATCH,
    OPT_METHOD,
    OPT_RHO,
    OPT_ROUNDS,
    OPT_EARLY,
    OPT_TOL,
    OPT_MAX_ITER,
    OPT_START,
    OPT_CODE,
    OPT_SIGMA_REG,
    OPT_ONLY,
    OPT_FACTORS,
    OPT_FACTOR_DTYPE,
    OPT_EMBED_BITS,
    OPT_HEAD_BITS,
    OPT_SHARD_SIZE,
    OPT_DRY_RUN,
    OPT_RESUME,
    OPT_FRESH,
    OPT_THREADS,
    OPT_ISA,
    OPT_COMPUTE,
    OPT_SEED,
    OPT_JSON,
    OPT_QUIET,
    OPT_PPL,
    OPT_KLD,
    OPT_CTX,
    OPT_CHUNKS,
    OPT_PROMPT,
    OPT_N,
    OPT_TEMP,
    OPT_TOP_K,
    OPT_TOP_P,
    OPT_CHAT,
    OPT_EXACT,
    OPT_LABELS,
    OPT_DRAWS,
    OPT_PASSES,
    OPT_TENSORS,
    OPT_LOGITS,
    OPT_HELP,
    OPT_TEXT_FORMAT,
    OPT_PARSE_SPECIAL,
    OPT_NO_PARSE_SPECIAL,
    OPT_TASK,
    OPT_LIMIT,
    OPT_LOG_SAMPLES,
    OPT_SAVE_LOGITS,
    OPT_PER_WINDOW,
    OPT_CACHE,
    OPT_TO,
    OPT_TYPE,
    OPT_PURE,
    OPT_TENSOR_TYPE,
    OPT_FALLBACK,
    OPT_SWEEPS,
    OPT_CARD,
    OPT_SHRINK,
    OPT_MODULE_BITS,
    OPT_MEMORY,
    OPT_GRADIENTS,
    OPT_PLAN,
    OPT_METHODS,
    OPT_SWEEP,
    OPT_BITS_LIST,
    OPT_SEEDS,
    OPT_KEEP_MODELS,
    OPT_KEEP_FACTORS,
    OPT_HOST = 400,
    OPT_PORT,
    OPT_SLOTS,
    OPT_KV,
    OPT_API_KEY,
    OPT_MODEL_NAME,
    OPT_QUEUE,
    OPT_MAX_BODY,
    OPT_TIMEOUT,
    OPT_ALIAS,
    OPT_ANY_MODEL,
    OPT_CORS,
    OPT_ALLOW_HOST /* serve */
};

/* Options that several commands have, and the settings that a SPEC of compare may name. */
#define SAMPLE_OPTIONS                                                                                \
    {"text", "FILE",                                                                                  \
     "calibration text: plain, JSON lines, conversations, also in gzip or zstd, - for stdin; may be " \
     "repeated (default: text the model writes itself)",                                              \
     OPT_TEXT},                                                                                       \
        {"tokens", "N", "calibration tokens (131072)", OPT_TOKENS},                                   \
        {"seq-len", "N", "tokens a sequence (1024)", OPT_SEQ_LEN},                                    \
        {"batch", "B", "sequences summed into one gradient (1)", OPT_BATCH},                          \
        {"labels", "L",                                                                               \
         "text (default), or sampled: next tokens drawn from the model's own distribution (the true " \
         "Fisher)",                                                                                   \
         OPT_LABELS},                                                                                 \
    {                                                                                                 \
        "draws", "N", "with --labels sampled: draws a sequence, from one forward pass (1)", OPT_DRAWS \
    }

/* How every text of the command is read. */
#define READING_OPTIONS                                                                                   \
    {"text-format", "F",                                                                                  \
     "what texts are: auto (default: by their bytes), text (running text, whatever it looks like), json " \
     "(JSON lines, or JSON)",                                                                             \
     OPT_TEXT_FORMAT},                                                                                    \
        {"parse-special", NULL,                                                                           \
         "special tokens spelled out in a text, as <|im_end|>, become their ids (the default, as in "     \
         "transformers)",                                                                                 \
         OPT_PARSE_SPECIAL},                                                                              \
    {                                                                                                     \
        "no-parse-special", NULL,                                                                         \
            "... are letters like any others (llama-imatrix's default); conversations need their marks",  \
            OPT_NO_PARSE_SPECIAL                                                                          \
    }

#define METHOD_OPTION                                                                                      \
    {                                                                                                      \
        "method", "M",                                                                                     \
            "flipflop (default), fastkron, yaqa-a, yaqa-b, kfac, flipflop-tokens, input-only, diag, none", \
            OPT_METHOD                                                                                     \
    }

#define ESTIMATE_OPTIONS                                                                                   \
    {"rho", "R", "flipflop: regularisation of the inverted factor (0.01)", OPT_RHO},                       \
        {"rounds", "N", "flipflop: rounds (3)", OPT_ROUNDS},                                               \
        {"early", "N",                                                                                     \
         "flipflop: gradients that the rounds before the last take, the first ones; 0: all (16)",          \
         OPT_EARLY},                                                                                       \
        {"passes", "N", "yaqa-a: passes over the tokens (2)", OPT_PASSES},                                 \
        {"exact", NULL, "flipflop: factor products in f32, not in 16-bit block integers (twice the time)", \
         OPT_EXACT},                                                                                       \
        {"tol", "T", "fastkron, yaqa-b, diag: residual to reach (0.001)", OPT_TOL},                        \
        {"max-iter", "N", "likewise: at most this many steps (32)", OPT_MAX_ITER},                         \
    {                                                                                                      \
        "start", "S", "likewise: identity (default) or random", OPT_START                                  \
    }

#define ONLY_OPTION                                                                             \
    {                                                                                           \
        "only", "REGEX", "only modules whose name matches, e.g. 'layers\\.(3|14)\\.'", OPT_ONLY \
    }

#define MEMORY_OPTIONS                                                                                   \
    {"memory", "SIZE", "peak memory to stay below, e.g. 700M or 20G: what does not fit goes to disk",    \
     OPT_MEMORY},                                                                                        \
    {                                                                                                    \
        "gradients", "WAY",                                                                              \
            "a block's gradients in memory, on disk, or stream: made again for every product (default: " \
            "what fits --memory)",                                                                       \
            OPT_GRADIENTS                                                                                \
    }

#define CALIBRATION_OPTIONS \
    SAMPLE_OPTIONS, READING_OPTIONS, METHOD_OPTION, ESTIMATE_OPTIONS, MEMORY_OPTIONS, ONLY_OPTION

#define MODULE_BITS_OPTION                                                                                \
    {                                                                                                     \
        "module-bits", "REGEX=K",                                                                         \
            "2, 3 or 4 bits for the modules whose name matches; may be repeated, the first that matches " \
            "counts",                                                                                     \
            OPT_MODULE_BITS                                                                               \
    }

#define ROUNDING_OPTIONS                                                                           \
    {"code", "C", "trellis code: hyb (default), 1mad or 3inst", OPT_CODE},                         \
        {"sigma-reg", "S", "added to each factor's unit mean diagonal (0.1)", OPT_SIGMA_REG},      \
        {"shrink", "S", "shrink each factor towards its diagonal by this share, 0 <= S < 1 (0.5)", \
         OPT_SHRINK},                                                                              \
        {"embed-bits", "B", "bits of the embedding: 16, 8 (default) or 4", OPT_EMBED_BITS},        \
    {                                                                                              \
        "head-bits", "B", "bits of an untied head: 16, 8 (default) or 4", OPT_HEAD_BITS            \
    }

#define MACHINE_OPTIONS                                                                              \
    {"threads", "N", "threads (all processors); the result does not depend on it", OPT_THREADS},     \
        {"isa", "I", "ref, avx2, avx512 or amx: use no more than this", OPT_ISA},                    \
    {                                                                                                \
        "compute", "C", "matrix products in f32 or bf16 (default: what is faster here)", OPT_COMPUTE \
    }

#define COMMON_OPTIONS                                                                                      \
    MACHINE_OPTIONS, {"seed", "N", "seed of everything random (0)", OPT_SEED},                              \
        {"resume", NULL, "continue an interrupted run with the same settings", OPT_RESUME},                 \
        {"fresh", NULL,                                                                                     \
         "discard what an interrupted run has left unfinished, and start anew (a finished result is never " \
         "touched)",                                                                                        \
         OPT_FRESH},                                                                                        \
        {"json", NULL, "print the report as JSON on stdout", OPT_JSON},                                     \
    {                                                                                                       \
        "quiet", NULL, "no progress", OPT_QUIET                                                             \
    }

/* Parse argv of one command against its options (ended by name NULL). usage and about are printed for
 * --help; the
 * second word of usage is what the command works on (MODEL, DIR), "[options]" when it takes nothing.
 * Returns -1 to go on, else an exit status. */
int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about, const cli_option *options);

/* Set one option of c from a text, as the command line would: option is a row of the command's table, v
 * its value (NULL for a switch; may be cut up and must live as long as c). Returns -1, else an exit
 * status after saying what is wrong. */
int cli_apply(cli *c, const cli_option *option, char *v);
/* Read a SPEC of compare, "flipflop:rho=1e-1:rounds=2", over what c says already; settings is the table
 * of names it may use. text is cut up and must live as long as c. Returns as cli_apply. */
int cli_apply_spec(cli *c, const cli_option *settings, char *text);

/* Was the option given on the command line? */
bool cli_given(const cli *c, int key);
/* Options (keys, ended by 0) that mean nothing here: the first one that was given is refused, "--sweeps
 * " and why. Returns -1 when none was. */
int cli_misplaced(const cli *c, const cli_option *options, const int *keys, const char *why);
/* As cli_misplaced, but only a warning: "--rounds has no effect with --method fastkron". */
void cli_no_effect(const cli *c, const cli_option *options, const int *keys, const char *beside);
/* A file that is to be written after long work: is there a folder for it that may be written to? path
 * NULL: none. Returns -1, else an exit status after saying why not. */
int cli_check_output(const char *path);
/* The name nearest to a mistyped word, or NULL when none is near. name gives the names of a list one by
 * one, then NULL. */
const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list);

/* One line on stderr, whatever the words of the command line hold that are quoted in it: control
 * characters become '?', what is longer than 4 kB is cut. */
void cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
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

/* "1.23 GB", into buf. */
const char *cli_bytes(double bytes, char buf[32]);

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
