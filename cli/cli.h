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
    kq_task_file tasks[16]; size_t n_task;
    const char *texts[64], *given[16], *tensor_types[64], *module_bits[64], *to;
    const char *host, *kv, *api_key, *model_name; /* serve */
    size_t port, slots, queue, max_body, timeout;
    kq_export_options x;
    const char *model, *out, *ppl, *kld, *prompt;
    bool json, dry_run, quiet, chat, tensors, factor_bf16, card;
    size_t n_predict;
    double temperature, top_p;
    double min_p, repeat_penalty;
    const char *stop[16], *system, *weights, *pp, *tg, *format; /* stop: of n_stop */
    const char *also[16]; /* of n_also */
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
    OPT_MIN_P = 256, OPT_REPEAT_PENALTY, OPT_STOP, OPT_SYSTEM, OPT_WEIGHTS, OPT_PP, OPT_TG, OPT_REPETITIONS, OPT_FORMAT, OPT_TABLE6, OPT_ALSO,
    OPT_OUT, OPT_BITS, OPT_TEXT, OPT_TOKENS, OPT_SEQ_LEN, OPT_BATCH, OPT_METHOD, OPT_RHO, OPT_ROUNDS, OPT_TOL, OPT_MAX_ITER, OPT_START,
    OPT_CODE, OPT_SIGMA_REG, OPT_ONLY, OPT_FACTORS, OPT_FACTOR_DTYPE, OPT_EMBED_BITS, OPT_HEAD_BITS, OPT_SHARD_SIZE, OPT_DRY_RUN, OPT_RESUME,
    OPT_THREADS, OPT_ISA, OPT_COMPUTE, OPT_SEED, OPT_JSON, OPT_QUIET, OPT_PPL, OPT_KLD, OPT_CTX, OPT_CHUNKS, OPT_PROMPT, OPT_N, OPT_TEMP,
    OPT_TOP_K, OPT_TOP_P, OPT_CHAT, OPT_EXACT, OPT_LABELS, OPT_DRAWS, OPT_PASSES, OPT_TENSORS, OPT_LOGITS, OPT_HELP,
    OPT_TASK, OPT_LIMIT, OPT_LOG_SAMPLES, OPT_SAVE_LOGITS, OPT_PER_WINDOW,
    OPT_TO, OPT_TYPE, OPT_PURE, OPT_TENSOR_TYPE, OPT_FALLBACK, OPT_SWEEPS, OPT_CARD, OPT_SHRINK, OPT_MODULE_BITS,
    OPT_HOST = 400, OPT_PORT, OPT_SLOTS, OPT_KV, OPT_API_KEY, OPT_MODEL_NAME, OPT_QUEUE, OPT_MAX_BODY, OPT_TIMEOUT /* serve */
};

/* Parse argv of one command against its options (ended by name NULL). usage and about are printed for --help. Returns -1 to go on, else an exit status. */
int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about, const cli_option *options);

/* Print the error as one line and give the exit status that fits it. */
int cli_fail(const kq_error *err);
/* Whether --resume would go on with what this command does, when that is not simply whether it has the option. */
void cli_resumable(bool yes);
/* A progress function for kq_common, ctx is the cli; installs the Ctrl-C handler. */
void cli_progress(cli *c, kq_common *common);
void cli_progress_end(void);

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
int cmd_bench(int argc, char **argv);

#endif
