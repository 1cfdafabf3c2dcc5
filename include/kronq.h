/* kronq: quantize language models to 2-4 bits per weight, guided by the curvature of the loss on both
 * sides
 * of every weight matrix.
 *
 * A complete program:
 *
 *     #include <kronq.h>
 *     #include <stdio.h>
 *     int main(void)
 *     {
 *         kq_error err;
 *         kq_quantize_options opt = kq_quantize_defaults();
 *         opt.bits = 2;
 *         if (kq_quantize("model.gguf", "out", &opt, NULL, &err)) { fprintf(stderr, "%s\n",
 *           err.message); return 1; }
 *         return 0;
 *     }
 *
 * cc program.c $(pkg-config --cflags --libs kronq)
 *
 * MODEL is everywhere a Hugging Face folder, a .gguf file or a kronq checkpoint. The library neither
 * prints nor exits.
 * Strings in option structs are borrowed for the call. Functions may be called from several threads, on
 * different outputs.
 *
 * Signals: the library installs no handler. Your own handlers (of a profiler, a timer, Ctrl-C) are safe:
 * while a thread multiplies f32 matrices through oneDNN, whose code points the stack pointer at the
 * heap, every signal that does not come from a fault waits until that product is done, a few
 * milliseconds at most. A profiler by SIGPROF or SIGALRM therefore sees such a product at its end. */
#ifndef KRONQ_H
#define KRONQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version of this header. kq_version tells that of the library that the program runs with. */
#define KRONQ_VERSION_MAJOR 0
#define KRONQ_VERSION_MINOR 1
#define KRONQ_VERSION_PATCH 0
#define KRONQ_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif
#ifdef __GNUC__
#pragma GCC visibility push(default) /* only what follows is visible outside the library */
#endif

/* What went wrong, in one word; 0 is success. Every function that can fail returns one. */
typedef enum kq_status {
    KQ_OK = 0,
    KQ_E_ARG,         /* the caller asked for something meaningless (bits 7, an unknown method) */
    KQ_E_IO,          /* the system refused: missing file, no permission, disk full */
    KQ_E_FORMAT,      /* a file breaks its own format */
    KQ_E_SHAPE,       /* a tensor has another shape or type than the configuration says */
    KQ_E_UNSUPPORTED, /* well-formed, but not something kronq does (an architecture, a tensor type) */
    KQ_E_MEMORY,      /* out of memory, or over the memory limit that was asked for */
    /* NaN or Inf where a number belongs, or a factor that cannot be made positive definite */
    KQ_E_NUMERIC,
    KQ_E_MISMATCH,   /* two files that do not belong together (factors of another model) */
    KQ_E_INTERRUPTED /* the caller's progress function asked to stop */
} kq_status;

/* One line for a person: file, tensor, found, expected, what to do next. Never more than one line. */
typedef struct kq_error {
    kq_status status;
    char message[1024];
} kq_error;

/* "0.1.0" */
const char *kq_version(void);

/* Warnings: what is worth a person's notice although the work goes on (an index file that is out of
 * date, a layer without gradient). The library prints nothing: it calls this function with one line,
 * from one thread at a time. The function must not call kronq. There is one handler a process; NULL, the
 * default: no warnings. A warning may come twice when a model is opened twice. */
typedef void kq_warning_handler(void *ctx, const char *message);
void kq_set_warning_handler(kq_warning_handler *handler, void *ctx);

/* How to run, common to all long work. */
typedef struct kq_common {
    int threads; /* 0: as many as the machine has; results do not depend on it */
    /* "ref", "avx2", "avx512", "amx"; NULL: the best there is (or the environment's KRONQ_ISA) */
    const char *isa;
    /* matrix products in "f32" or "bf16"; NULL: bf16 where the processor is faster at it */
    const char *compute;
    uint64_t seed;
    /* Called now and then, from one thread at a time: what is being done (never NULL), and what share of
     * that stage is finished (0..1). note is a line worth showing once, or NULL; with one, stage and
     * fraction are those of the work at hand. Nonzero stops the work with KQ_E_INTERRUPTED; it can be
     * resumed. */
    int (*progress)(void *ctx, const char *stage, double fraction, const char *note);
    void *ctx;
} kq_common;

/* How texts are read (docs/texts.md). A text is a file, "-" for standard input, or a pipe, of plain text
 * (one document), JSON lines or JSON (documents, conversations), packed with gzip or zstd or not. What
 * it is shows in its bytes. */
typedef struct kq_text_options {
    /* NULL or "auto": look; "text": running text, whatever it looks like; "json": JSON lines, or JSON */
    const char *format;
    /* special tokens that a text spells out ("<|im_end|>") are letters like any others; else they become
     * their ids, as in transformers */
    bool spell_special;
} kq_text_options;

/* Where the curvature comes from. */
typedef struct kq_calibration {
    const char *const *text;
    size_t n_text;           /* texts; none: text sampled from the model itself */
    kq_text_options reading; /* how they are read */
    size_t tokens, seq_len;  /* 131072 in sequences of 1024 */
    size_t batch;            /* sequences summed into one gradient: 1 */
    /* next tokens drawn from the model's own distribution (the true Fisher) instead of the text's */
    bool sampled_labels;
    /* sampled_labels: draws a sequence, from one forward pass: 1 */
    size_t draws;
    /* "flipflop", "fastkron", "yaqa-a", "yaqa-b", "kfac", "flipflop-tokens", "input-only", "diag",
     * "none" */
    const char *method;
    double rho;
    int rounds; /* flipflop, flipflop-tokens: 1e-2, 3 */
    /* flipflop: gradients that the rounds before the last take, the first ones: 16; 0: all */
    size_t early;
    int passes; /* yaqa-a: passes over the tokens, 2 */
    /* flipflop: products in f32 even where 16-bit block integers are twice as fast (error 2e-4 at most) */
    bool exact;
    double tol;
    int max_iter; /* fastkron, yaqa-b, diag: 1e-3, 32 */
    /* likewise: start from a random matrix instead of the identity */
    bool start_random;
    /* Rounding from a factor file: which of the members above must be what the file was made with
     * ("text", "tokens", "seq_len", "batch", "labels", "draws", "method", "rho", "rounds", "early",
     * "passes", "exact", "tol", "max_iter", "start", "parse_special",
     * "text_format"); the others are not looked at then. */
    const char *const *given;
    size_t n_given;
} kq_calibration;

typedef struct kq_quantize_options {
    kq_common common;
    kq_calibration calibration;
    /* a weight: 2, 3 or 4; or an average between them, shared out to the modules by what each would lose
     * (a method with gradients, or factors of one) */
    double bits;
    /* "REGEX=BITS": exceptions, on Hugging Face names; the first that matches counts */
    const char *const *module_bits;
    size_t n_module_bits;
    const char *code; /* "hyb", "1mad", "3inst" */
    double sigma_reg; /* added to each factor's unit mean diagonal: 0.1 */
    /* of each factor towards its diagonal before that, 0 <= shrink < 1: 0.5 */
    double shrink;
    /* regular expression; just the modules whose Hugging Face name matches. NULL: all */
    const char *only;
    /* a file of kq_calibrate, or an imatrix of llama.cpp; NULL: calibrate now */
    const char *factors;
    int embed_bits, head_bits; /* 16, 8 or 4 */
    size_t shard_size;         /* bytes */
    bool resume;               /* continue an interrupted run with the same settings */
    /* discard what an interrupted run has left unfinished, and start anew; a finished result is never
     * touched */
    bool fresh;
    /* what the process may take at its peak, bytes resident (VmHWM): decides what follows; 0: no limit */
    size_t memory;
    /* where a block's gradients are while its factors are found: "memory", "disk" (the same bytes), or
     * "stream": nowhere, made again for every product (the same factors to 1e-3, the same bytes if
     * memory allows). NULL: what fits */
    const char *gradients;
    /* kq_quantize_gguf only: */
    /* "Q4_0", "Q4_K_M", ...: llama-quantize's file types, with its mixtures */
    const char *gguf_type;
    bool pure; /* no mixture: every tensor gets the type itself */
    /* "REGEX=TYPE", on Hugging Face and GGUF names; the first that matches counts */
    const char *const *tensor_type;
    size_t n_tensor_type;
    /* where rows are no whole number of blocks: a type, "llama" for llama-quantize's choice; NULL:
     * refuse */
    const char *fallback;
    int sweeps; /* of block descent after the first pass: 0 */
} kq_quantize_options;

kq_quantize_options kq_quantize_defaults(void);

/* Quantize MODEL into the folder OUT. report_json (may be NULL): a JSON object with "bits", "bpw",
 * "file_bytes", "seconds", "peak_rss_bytes", "predicted_loss" (nats a token), "relative_mse" and one
 * entry a module (with "identity", a reason, where no gradient came and identity factors served); free()
 * it. Until it succeeds OUT has no config.json. */
kq_status kq_quantize(const char *model, const char *out, const kq_quantize_options *opt, char **report_json,
                      kq_error *err);

/* Quantize MODEL onto the block types of llama.cpp, into one GGUF file that it loads (options: those
 * above, and bits, code, embed_bits, head_bits and shard_size have no meaning). Linears that `only`
 * leaves out keep the type they are stored in. The report as for kq_quantize. */
kq_status kq_quantize_gguf(const char *model, const char *out_file, const kq_quantize_options *opt,
                           char **report_json, kq_error *err);

/* Only the factors, into a safetensors file, to round from several times. Uses common, calibration,
 * only, shard_size, resume, memory, gradients; factor_bf16: store them in half the space. */
kq_status kq_calibrate(const char *model, const char *out_file, const kq_quantize_options *opt,
                       bool factor_bf16, char **report_json, kq_error *err);

/* Several factor files from one pass over the text. They may differ in method, tokens, batch and the
 * method's settings; text, seq_len, sampled_labels and draws are those of opt->calibration for all of
 * them. Each file is what kq_calibrate would have made (with a batch above 1 to 1e-3: sums of gradients
 * rounded to bf16 once more, unless all files share the batch and the tokens). The report holds
 * "estimates": [{"file", "file_bytes", "settings", "modules"}]. */
typedef struct kq_estimate {
    const char *out_file;
    kq_calibration calibration;
} kq_estimate;
kq_status kq_calibrate_all(const char *model, const kq_estimate *estimates, size_t n,
                           const kq_quantize_options *opt, bool factor_bf16, char **report_json,
                           kq_error *err);

/* llama.cpp's importance matrix of MODEL (the sums of squares of every linear's inputs), as the GGUF
 * file that llama-quantize --imatrix takes. Uses common, calibration (text, tokens, seq_len) and only.
 * As in llama-imatrix every sequence begins with the beginning token where the tokenizer adds one. */
kq_status kq_imatrix(const char *model, const char *out_file, const kq_quantize_options *opt,
                     char **report_json, kq_error *err);

/* What kq_quantize would do, without doing it: shapes, types, sizes, memory, disk. A JSON object; free()
 * it. */
kq_status kq_plan(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);
/* The same for each way of keeping gradients, with an estimate of the time, from rates that this machine
 * is measured for (a second): {"ways": [{"gradients", "memory_bytes", "disk_bytes", "seconds": {"total",
 * ...}}], "measured": ...}. MODEL needs no weights: a folder with a config.json will do. */
kq_status kq_plan_ways(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);
kq_status kq_plan_gguf(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);

typedef struct kq_eval_text_options {
    kq_common common;
    /* tokens a window; 0: those of the saved logits, else 2048 or the model's context if that is less */
    size_t ctx;
    size_t chunks; /* at most this many windows (0: all) */
    /* what the process may take at its peak, bytes resident: fewer windows at once, the same figures; 0:
     * no limit */
    size_t memory;
    /* write MODEL's predictions in llama.cpp's format (llama-perplexity --kl-divergence-base) to this
     * file; NULL: no */
    const char *save_logits;
    /* a folder for the reference's hidden states on these windows, f32 [windows, ctx, d_model]: computed
     * once, then read. The figures are the same bits with and without. NULL: none */
    const char *cache;
    const char *per_window;  /* write one line a window to this file (CSV); NULL: no */
    kq_text_options reading; /* how the text is read */
    /* a safetensors file to write with the first window's "ids" I32 [ctx] and "logits" F32 [ctx, vocab];
     * NULL: none */
    const char *logits;
} kq_eval_text_options;
kq_eval_text_options kq_eval_text_defaults(void);

/* Perplexity of MODEL on a text (documents are joined by the end-of-text token) and, when reference is
 * not NULL, its KL divergence to that model on the same windows, as a JSON object, result_json (may be
 * NULL: "ppl", "nll", "tokens", "kld", "top1", each with "..._stderr"; "kld_percentiles"; "per_window");
 * free() it.
 * reference may also be a file of saved logits, which brings its own windows: text_file may then be
 * NULL. With one, or with save_logits, llama.cpp's convention holds ("convention" in the JSON;
 * docs/format.md, "Saved logits"). KQ_E_ARG when ctx is beyond a model's context. */
kq_status kq_eval_text(const char *model, const char *reference, const char *text_file,
                       const kq_eval_text_options *opt, char **result_json, kq_error *err);

/* One of "arc_easy", "arc_challenge", "piqa", "boolq", "hellaswag", "winogrande", and its documents: a
 * JSON-lines file with the data set's own fields. */
typedef struct kq_task_file {
    const char *name, *file;
} kq_task_file;

typedef struct kq_eval_tasks_options {
    kq_common common;
    size_t limit; /* at most this many documents of each task, the first ones (0: all) */
    /* as above: the model's blocks are read again for every group of documents, the same figures; 0: no
     * limit */
    size_t memory;
    /* what became of each document, as JSON lines; NULL: not wanted. What is scored so far is kept in
     * FILE.partial */
    const char *samples_file;
    bool resume; /* go on from FILE.partial */
} kq_eval_tasks_options;
kq_eval_tasks_options kq_eval_tasks_defaults(void);

/* Accuracy of MODEL on multiple-choice tasks, zero-shot, prompts and scores as lm-evaluation-harness
 * defines them. result_json (may be NULL): a JSON object in the harness's layout ("results":
 * {"arc_easy": {"acc,none", "acc_stderr,none", "acc_norm,none", ...}}, "versions", "n-samples", ...);
 * free() it. */
kq_status kq_eval_tasks(const char *model, const kq_task_file *tasks, size_t n_tasks,
                        const kq_eval_tasks_options *opt, char **result_json, kq_error *err);

/* One row of a comparison: MODEL quantized in one way. */
typedef struct kq_compare_row {
    const char *spec; /* what the tables call the method: "flipflop:rho=1e-1" */
    /* calibration, bits, code, sigma_reg, only, ..., and common.seed; the rest of common, factors and
     * resume are not looked at */
    kq_quantize_options options;
} kq_compare_row;

typedef struct kq_compare_options {
    kq_common common; /* its seed is not looked at */
    /* measured: perplexity and KL divergence to MODEL on each */
    const char *const *text;
    size_t n_text;
    /* how these are read; the rows' texts: calibration.reading, which must be the same in all rows */
    kq_text_options reading;
    size_t ctx, chunks; /* as for kq_eval_text; 0: its defaults */
    const kq_task_file *tasks;
    size_t n_tasks;   /* and accuracy on each */
    size_t limit;     /* documents a task; 0: all */
    size_t memory;    /* of the evaluation, as there; rows have their own */
    bool factor_bf16; /* factor files in half the space */
    /* else a checkpoint goes once it is measured, a factor file once no row needs it any more */
    bool keep_models, keep_factors;
} kq_compare_options;
kq_compare_options kq_compare_defaults(void);

/* Quantize MODEL in every way that rows names, measure each result against MODEL, and keep the figures
 * in the folder DIR: rows/ROW.json, the factors' reports factors/NAME.json, and after every row
 * table.md, table.csv and table.json of all rows that DIR has (docs/format.md, "Comparisons"). Rows that
 * need the same factors share them, and factors that need the same gradients share one pass over the
 * text (kq_calibrate_all).
 * What is done is not done again: an interrupted comparison continues when it is asked for again, and
 * more rows can be added to DIR. KQ_E_MISMATCH: DIR is a comparison of another model, of other texts or
 * settings of the evaluation. result_json (may be NULL): as table.json. */
kq_status kq_compare(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                     const kq_compare_options *opt, char **result_json, kq_error *err);
/* What kq_compare would do: a JSON object with "rows" (name, spec, done, factors), "passes" and
 * "disk_bytes"; free() it. Nothing is written. */
kq_status kq_compare_plan(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                          const kq_compare_options *opt, char **plan_json, kq_error *err);

/* One self-contained HTML page of what DIR, a folder of kq_compare, holds so far: figures and tables,
 * without script or network. out_file NULL: DIR/report.html. Texts from DIR are escaped; KQ_E_FORMAT
 * when a file is not what kq_compare writes. */
kq_status kq_report(const char *dir, const char *out_file, kq_error *err);

typedef struct kq_export_options {
    kq_common common;
    const char *to;   /* "bf16": a Hugging Face folder; "gguf": a file for llama.cpp */
    const char *type; /* gguf: "F16" (also NULL), "BF16", "Q8_0", "F32" */
    /* gguf: the type of tensors whose rows are no whole number of Q8_0's blocks; NULL: refuse them by
     * name */
    const char *fallback;
    size_t shard_size; /* bf16: bytes */
} kq_export_options;
kq_export_options kq_export_defaults(void);

/* MODEL's weights, dequantized, as an ordinary model that needs no kronq. OUT is a folder (bf16) or a
 * file (gguf) that is not there yet; it appears, or gets its config.json, only when it is whole.
 * report_json (may be NULL): "file_bytes", "tensors", "seconds", "peak_rss_bytes"; free() it. */
kq_status kq_export(const char *model, const char *out, const kq_export_options *opt, char **report_json,
                    kq_error *err);

/* Compare every kernel of every instruction set that this processor has (at or below common->isa) with
 * plain C, on random inputs: a second or two. common may be NULL; of it isa, progress and ctx count.
 * report_json (may be NULL): "isa", "checked", "failed" and one entry a kernel in "checks" ("room",
 * "kernel", "isa", "error", "bound", "ok"); free() it. It is given also with KQ_E_NUMERIC: a kernel
 * differs, the message names the first. The environment's KRONQ_WITHOUT=vnni,vbmi checks what a
 * processor without them would run. */
kq_status kq_selfcheck(const kq_common *common, char **report_json, kq_error *err);

/* ---- Settings by name ----
 *
 * Every member of the option structs that a person may set, as one table: name, type, default, range,
 * help. The defaults functions above are filled from it, every function checks its options against it,
 * and the command line of `kronq`, its help and the settings in files come from it. A program that takes
 * options of its own from words (a command line, a form, a configuration file) can use it for the same
 * purposes. */

/* What a setting is, and the C type of its member. */
typedef enum kq_setting_type {
    KQ_SETTING_TEXT = 0, /* const char *, not empty unless KQ_MAY_BE_EMPTY; borrowed */
    KQ_SETTING_WORD,     /* const char *, one of the setting's words */
    KQ_SETTING_TEXTS,    /* const char *const *, and a size_t directly behind it: a list, borrowed */
    KQ_SETTING_FLAG,     /* bool */
    KQ_SETTING_NOT, /* bool, true when the setting is off ("parse_special" is spell_special turned round) */
    KQ_SETTING_CHOICE, /* bool: false for the first of two words, true for the second */
    KQ_SETTING_INT,    /* int */
    KQ_SETTING_COUNT,  /* size_t; in a text k, M or G may follow for 2^10, 2^20, 2^30 */
    KQ_SETTING_BYTES,  /* size_t, the same */
    KQ_SETTING_SEED,   /* uint64_t below 2^63 */
    KQ_SETTING_REAL    /* double, at least 0 */
} kq_setting_type;

/* Which option struct a member belongs to. */
typedef enum kq_options_id {
    KQ_QUANTIZE_OPTIONS = 0, /* kq_quantize_options */
    KQ_EVAL_TEXT_OPTIONS,    /* kq_eval_text_options */
    KQ_EVAL_TASKS_OPTIONS,   /* kq_eval_tasks_options */
    KQ_COMPARE_OPTIONS,      /* kq_compare_options */
    KQ_EXPORT_OPTIONS,       /* kq_export_options */
    KQ_OTHER_OPTIONS,        /* a struct of your own, with a table of your own */
    KQ_N_OPTIONS
} kq_options_id;

/* Who takes a setting: the functions of this header, then commands that only the program has. */
enum kq_taker {
    KQ_FOR_QUANTIZE = 1 << 0,      /* kq_quantize, kq_plan */
    KQ_FOR_QUANTIZE_GGUF = 1 << 1, /* kq_quantize_gguf, kq_plan_gguf */
    KQ_FOR_CALIBRATE = 1 << 2,     /* kq_calibrate, kq_calibrate_all */
    KQ_FOR_IMATRIX = 1 << 3,
    KQ_FOR_PLAN_WAYS = 1 << 4,      /* kq_plan_ways: `kronq info --plan` */
    KQ_FOR_EVAL_TEXT = 1 << 5,      /* kq_eval_text: `kronq eval --ppl` */
    KQ_FOR_EVAL_TASKS = 1 << 6,     /* kq_eval_tasks: `kronq eval --task` */
    KQ_FOR_COMPARE_ROW = 1 << 7,    /* kq_compare_row.options; what a SPEC of `kronq compare` may set */
    KQ_FOR_COMPARE_TEXTS = 1 << 8,  /* kq_compare with texts: `kronq compare --ppl` */
    KQ_FOR_COMPARE_TASKS = 1 << 9,  /* kq_compare with tasks: `kronq compare --task` */
    KQ_FOR_EXPORT_FOLDER = 1 << 10, /* kq_export to "bf16" */
    KQ_FOR_EXPORT_GGUF = 1 << 11,   /* kq_export to "gguf" */
    KQ_FOR_SELFCHECK = 1 << 12,
    KQ_FOR_RUN = 1 << 13,
    KQ_FOR_SERVE = 1 << 14,
    KQ_FOR_BENCH = 1 << 15,
    KQ_FOR_INFO = 1 << 16,
    KQ_FOR_REPORT = 1 << 17
};

/* What else is to be known of a setting. */
enum kq_setting_mark {
    /* Identity: a result that was made with another value is another result. */
    KQ_IN_CALIBRATION = 1 << 0, /* of a factor file: a member of its settings' "calibration" */
    KQ_IN_FACTORS = 1 << 1,     /* of a factor file: a member of its settings themselves */
    KQ_IN_CHECKPOINT = 1 << 2,  /* of kq_quantize's checkpoint, of its job, and of a comparison's row */
    KQ_IN_GGUF = 1 << 3,        /* of kq_quantize_gguf's file, and of its job */
    /* How it is written there. */
    KQ_UNLESS_DEFAULT = 1 << 4, /* left out when it has its default */
    KQ_WRITTEN_APART = 1 << 5,  /* by code that knows more than the option (a text's hash, whole sequences) */
    /* The range is checked when the work begins, not when the text is read. */
    KQ_CHECKED_AT_WORK = 1 << 6,
    /* Factor files that are made in one pass over the text (kq_calibrate_all) have the same value. */
    KQ_OF_THE_PASS = 1 << 7,
    KQ_MAY_BE_EMPTY = 1 << 8 /* KQ_SETTING_TEXT: "" is a value too */
};

/* One row of a table of settings. All strings are static. */
typedef struct kq_setting {
    /* "seq_len", as in files and in kq_calibration.given; a command line writes "--seq-len" */
    const char *name;
    char letter;          /* of a command line's short form: 'o' for -o; 0: none */
    kq_setting_type type; /* of the member */
    const char *argument; /* what stands for the value in a help text: "N"; NULL: KQ_SETTING_FLAG, _NOT */
    const char *value;    /* the default, as kq_setting_set takes it; NULL: 0, false, NULL or no texts */
    const char *unset;  /* what the default does, where `value` does not say it: "all processors"; or NULL */
    double least, most; /* range of a number; both 0: any */
    const char *expected; /* what to say of a number outside; NULL: the range */
    /* The words that can stand there, with a space between: all of them for KQ_SETTING_WORD and _CHOICE,
     * and for numbers that have no range; for KQ_SETTING_TEXT what a shell can complete. Or NULL. */
    const char *words;
    /* The methods of calibration with which it has an effect: "flipflop flipflop-tokens"; "!none": with
     * all but that. NULL: with all. */
    const char *methods;
    const char *with;  /* a setting beside whose default this one has no effect: "labels"; or NULL */
    const char *group; /* the heading it stands under in a help text */
    const char *help;  /* a phrase without a full stop */
    unsigned takers;   /* bits of kq_taker */
    unsigned marks;    /* bits of kq_setting_mark */
    /* KQ_SETTING_AT of its member in each option struct that has it; 0: it has none there */
    uint16_t at[KQ_N_OPTIONS];
} kq_setting;
#define KQ_SETTING_AT(options, member) (offsetof(options, member) + 1)

/* The library's table: *n rows, static. A name comes twice where two functions mean different things by
 * it ("type" of kq_quantize_gguf and of kq_export); takers tell them apart. */
const kq_setting *kq_settings(size_t *n);

/* Set one member of an option struct from a text. text is borrowed as long as the options are used; for
 * KQ_SETTING_FLAG and _NOT NULL, "yes" or "true" is on, "no" or "false" off. KQ_E_ARG: it is no value of
 * this setting (the message names setting, value and what is expected), the setting is not one of these
 * options, or it is a list. Members are only written on success. */
kq_status kq_setting_set(kq_options_id id, void *options, const kq_setting *setting, const char *text,
                         kq_error *err);
/* The same for KQ_SETTING_TEXTS: the whole list, borrowed. */
kq_status kq_setting_set_list(kq_options_id id, void *options, const kq_setting *setting,
                              const char *const *texts, size_t n, kq_error *err);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
