/* kronq: quantize language models to 2-4 bits a weight, guided by the curvature of the loss on both sides of
 * every weight matrix; and run, measure, serve and export the result.
 *
 *
 * QUANTIZE: a complete program
 *
 *     #include <kronq.h>
 *     #include <stdio.h>
 *     int main(void)
 *     {
 *         kq_error err;
 *         kq_quantize_options opt = kq_quantize_defaults();
 *         opt.bits = 2;
 *         if (kq_quantize("model.gguf", "out", &opt, NULL, &err)) {
 *             fprintf(stderr, "%s\n", err.message);
 *             return 1;
 *         }
 *         return 0;
 *     }
 *
 * RUN: a complete program
 *
 *     #include <kronq.h>
 *     #include <stdio.h>
 *     static int print(void *ctx, const char *text, size_t size)
 *     {
 *         return fwrite(text, 1, size, ctx) != size;
 *     }
 *     int main(void)
 *     {
 *         kq_error err;
 *         kq_model *model;
 *         kq_message question = {"user", "Why is the sky blue?"};
 *         kq_generation_options opt = kq_generation_defaults();
 *         opt.emit = print;
 *         opt.ctx = stdout;
 *         if (kq_model_open("out", NULL, &model, &err) ||
 *             kq_model_chat(model, &question, 1, NULL, &opt, NULL, &err)) {
 *             fprintf(stderr, "%s\n", err.message);
 *             return 1;
 *         }
 *         kq_model_close(model);
 *         return 0;
 *     }
 *
 * cc program.c $(pkg-config --cflags --libs kronq)        or find_package(kronq) and kronq::kronq in CMake.
 * This header is C99, and C++98 and later.
 * The folder examples/ of the sources has more.
 *
 *
 * WHAT HOLDS EVERYWHERE
 *
 * Models. MODEL is a Hugging Face folder, a .gguf file, a kronq checkpoint (a folder that kq_quantize wrote)
 * or an EXL3 folder (exllamav3's). Tensors and modules have their Hugging Face names, whatever the file calls
 * them.
 *
 * Pointers. A pointer may be NULL only where this header says so; everything else is a mistake of the program
 * that is not looked for. Texts end with a NUL where no size stands beside them. An array of 0 entries may be
 * NULL; so may report_json and result_json, where the report is not wanted, and strings in options whose
 * default is NULL.
 *
 * Errors. A function that can fail returns a kq_status; 0 is success. The last argument, which may be NULL,
 * gets the status and one line for a person. What a function gives back through a pointer is NULL after a
 * failure, where nothing else is said. The library neither prints nor exits. Messages name an option as the
 * command line of `kronq` writes it ("--seq-len" for seq_len).
 *
 * Options. A struct of options begins with its size. Take it from its kq_..._defaults() and change members;
 * NULL in its place stands for the defaults. A program that was compiled with an older header of the same
 * minor version hands in a shorter struct, and what this lacks has its default. A longer struct, of a newer
 * header, is taken while everything in it that this library does not know is zero; else KQ_E_ARG. Strings and
 * arrays in options are borrowed for the call. Members called `reserved` belong to the library: what later
 * versions add to a struct without a size comes out of them. kq_..._options_init(&opt, sizeof opt), which
 * kq_..._defaults() calls, fills a struct that exists already; bindings of other languages call it.
 *
 * Results. Structs that the library gives back are its own: read them, do not copy them, and free them with
 * the function that is named. They may grow at their end. Texts and arrays that it gives back are the
 * caller's: free(). Reports are JSON, in UTF-8; what most programs want of them can be read into a struct,
 * kq_quantize_result and kq_eval_result.
 *
 * Memory. When it runs out a function returns KQ_E_MEMORY, and what it was called on can be used again or be
 * freed. Libraries below kronq may end the process instead: oneDNN does, within a product of matrices.
 *
 * Callbacks. Your own functions (progress, emit, hurry) must return: no longjmp and no C++ exception may
 * leave them. They may call the library on other models. emit may call on its own model what does not
 * compute: tokens, chat prompts, descriptions. What computes with the model's caches returns KQ_E_ARG there,
 * kq_model_truncate does nothing, and kq_model_close is a mistake.
 *
 * Threads. Functions may be called from several threads at the same time, on different outputs and different
 * kq_model. One kq_model is used by one thread at a time.
 *
 * Locale. Numbers in files, texts and messages have a point, whatever locale the program has set. Your own
 * functions (progress, emit, warnings) are called in your locale.
 *
 * Signals. The library installs no handler. Your own handlers (of a profiler, a timer, Ctrl-C) are safe:
 * while a thread multiplies f32 matrices through oneDNN, whose code points the stack pointer at the heap,
 * every signal that does not come from a fault waits until that product is done, a few milliseconds at most.
 * A profiler by SIGPROF or SIGALRM therefore sees such a product at its end.
 *
 *
 * CONTENTS
 *
 *     Version, errors, warnings          kq_version, kq_error, kq_set_warning_handler
 *     What all long work shares          kq_common, kq_text_options
 *     Quantize                           kq_quantize, kq_quantize_gguf, kq_quantize_exl3,
 *                                        kq_quantize_result_read
 *     Factors and importance matrices    kq_calibrate, kq_calibrate_all, kq_imatrix
 *     Tune                               kq_tune
 *     Plans                              kq_plan, kq_plan_ways, kq_plan_gguf, kq_plan_exl3
 *     Export                             kq_export
 *     A model in memory                  kq_model_open, kq_model_get_info, kq_model_load
 *       tokens and chat                  kq_model_tokenize, kq_model_chat_prompt
 *       logits, text, perplexity         kq_model_logits, kq_model_generate, kq_model_perplexity
 *     Serve                              kq_serve
 *     Measure                            kq_eval_text, kq_eval_tasks, kq_eval_result_read
 *     Compare and report                 kq_compare, kq_report
 *     Settings by name                   kq_settings, kq_setting_set
 *     This machine                       kq_selfcheck, kq_openblas_core
 */
#ifndef KRONQ_H
#define KRONQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Version, errors, warnings ------------------------------------------------------------------------- */

/* The version of this header. kq_version tells that of the library that the program runs with. */
#define KRONQ_VERSION_MAJOR 0
#define KRONQ_VERSION_MINOR 2
#define KRONQ_VERSION_PATCH 0
#define KRONQ_VERSION "0.2.0"

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
    KQ_E_MISMATCH,    /* two files that do not belong together (factors of another model) */
    KQ_E_INTERRUPTED, /* the caller's progress function asked to stop */
    KQ_E_NO_GAIN      /* the work was done, and what there was before is better: nothing was written */
} kq_status;

/* One line for a person: file, tensor, found, expected, what to do next. Never more than one line. */
typedef struct kq_error {
    kq_status status;
    char message[1024];
} kq_error;

/* "0.2.0" */
const char *kq_version(void);

/* Warnings: what is worth a person's notice although the work goes on (an index file that is out of date, a
 * layer without gradient). The library calls this function with one line, from one thread at a time. The
 * function must not call kronq. There is one handler a process; NULL, the default: no warnings. A warning may
 * come twice when a model is opened twice. */
typedef void kq_warning_handler(void *ctx, const char *message);
void kq_set_warning_handler(kq_warning_handler *handler, void *ctx);

/* ---- What all long work shares ------------------------------------------------------------------------- */

/* How to run. Zeros are the defaults. A part of every struct of options for long work. */
typedef struct kq_common {
    int threads; /* 0: as many as the machine has; results do not depend on it */
    /* "ref", "avx2", "avx512", "amx": use no more than this; NULL: the best there is (or the environment's
     * KRONQ_ISA) */
    const char *isa;
    /* matrix products in "f32" or "bf16"; NULL: bf16 where the processor is faster at it */
    const char *compute;
    uint64_t seed; /* of everything random */
    /* NULL, or a function that is called now and then, from one thread at a time: what is being done (never
     * NULL), and what share of that stage is finished (0..1). note is a line worth showing once, or NULL;
     * with one, stage and fraction are those of the work at hand. Nonzero stops the work with
     * KQ_E_INTERRUPTED; it can be resumed. */
    int (*progress)(void *ctx, const char *stage, double fraction, const char *note);
    void *ctx;
    uint64_t reserved[4];
} kq_common;

/* How texts are read (docs/texts.md). A text is a file, "-" for standard input, or a pipe, of plain text
 * (one document), JSON lines or JSON (documents, conversations), packed with gzip or zstd or not. What it is
 * shows in its bytes. */
typedef struct kq_text_options {
    /* NULL or "auto": look; "text": running text, whatever it looks like; "json": JSON lines, or JSON */
    const char *format;
    /* special tokens that a text spells out ("<|im_end|>") are letters like any others; else they become
     * their ids, as in transformers */
    bool spell_special;
} kq_text_options;

/* ---- Quantize ------------------------------------------------------------------------------------------ */

/* Where the curvature comes from. */
typedef struct kq_calibration {
    const char *const *text;
    size_t n_text;           /* texts; none: text sampled from the model itself */
    kq_text_options reading; /* how they are read */
    size_t tokens, seq_len;  /* 32768 in sequences of 1024 */
    size_t batch;            /* sequences summed into one gradient: 1 */
    /* next tokens drawn from the model's own distribution (the true Fisher) instead of the text's */
    bool sampled_labels;
    /* sampled_labels: draws a sequence, from one forward pass: 1 */
    size_t draws;
    /* "flipflop", "fastkron", "yaqa-a", "yaqa-b", "kfac", "flipflop-tokens", "input-only", "diag", "none" */
    const char *method;
    double rho; /* flipflop, flipflop-tokens: regularisation of the inverted factor, 1e-2 */
    int rounds; /* flipflop, flipflop-tokens: 3 */
    /* flipflop: gradients that the rounds before the last take, the first ones: 16; 0: all */
    size_t early;
    int passes; /* yaqa-a: passes over the tokens, 2 */
    /* flipflop: products in f32 even where 16-bit block integers are twice as fast (error 2e-4 at most) */
    bool exact;
    double tol;   /* fastkron, yaqa-b, diag: residual to reach, 1e-3 */
    int max_iter; /* fastkron, yaqa-b, diag: at most this many steps, 32 */
    /* fastkron, yaqa-b, diag: start from a random matrix instead of the identity */
    bool start_random;
    /* Rounding from a factor file: which of the members above must be what the file was made with, by their
     * names in the table of settings ("tokens", "labels", "method", ...: kq_settings, those with
     * KQ_IN_CALIBRATION or KQ_IN_FACTORS). The other members are ignored then. */
    const char *const *given;
    size_t n_given;
    uint64_t reserved[8];
} kq_calibration;

typedef struct kq_quantize_options {
    size_t size;
    kq_common common;
    kq_calibration calibration;
    /* a weight: 2, 3 or 4; or an average between them, shared out to the modules by what each would lose
     * (a method with gradients, or factors of one) */
    double bits;
    /* "REGEX=BITS": exceptions, on Hugging Face names; the first that matches counts */
    const char *const *module_bits;
    size_t n_module_bits;
    const char *code; /* trellis code: "mul1" (default), "hyb", "1mad", "3inst", "mcg" */
    double sigma_reg; /* added to each factor's unit mean diagonal: 0.1 */
    /* of each factor towards its diagonal before that, 0 <= shrink < 1: 0.5 */
    double shrink;
    /* scales of rows and columns before the rounding to a trellis code: "curvature" (default), "rms", "none"
     */
    const char *channel_scales;
    /* regular expression; just the modules whose Hugging Face name matches. NULL: all */
    const char *only;
    /* a file of kq_calibrate, or an imatrix of llama.cpp; NULL: calibrate now */
    const char *factors;
    int embed_bits, head_bits; /* of the embedding, of an untied head: 16, 8, 4 (default), 3 or 2 */
    size_t shard_size;         /* bytes of a file, above which the weights are split: 8 GiB */
    bool resume;               /* continue an interrupted run with the same settings */
    /* discard what an interrupted run has left unfinished, and start anew; a finished result is never
     * touched */
    bool fresh;
    /* what the process may take at its peak, bytes resident (VmHWM): decides what follows; 0: no limit */
    size_t memory;
    /* where a block's gradients are while its factors are found: "memory", "disk" (the same bytes), or
     * "stream": nowhere, made again for every product (the same factors to 1e-3, the same bytes if memory
     * allows). NULL: what fits */
    const char *gradients;
    /* All that follows is kq_quantize_gguf's alone. "Q4_0", "Q4_K_M", ...: llama-quantize's file types, with
     * its mixtures */
    const char *gguf_type;
    bool pure; /* no mixture: every tensor gets the type itself */
    /* "REGEX=TYPE", on Hugging Face and GGUF names; the first that matches counts */
    const char *const *tensor_type;
    size_t n_tensor_type;
    /* where rows are no whole number of blocks: a type, "llama" for llama-quantize's choice; NULL: refuse */
    const char *fallback;
    int sweeps; /* of block descent after the first pass: 0 */
    /* kq_quantize: one of these three instead of `bits`, which is ignored then; 0: not this one. The bits of
     * every linear, of the embedding and of the head are chosen by a forecast of what each would lose, so
     * that the safetensors files have at most most_bytes together, or at most most_bpw bits for a weight of
     * the model; or so that the smallest checkpoint is made whose forecast of the KL divergence is at most
     * most_kld nats a token. It takes a method with gradients, or factors of one. */
    size_t most_bytes;
    double most_bpw, most_kld;
    /* with one of the three: embed_bits, head_bits are to be kept, not chosen */
    bool keep_embed_bits, keep_head_bits;
    /* Where embedding or head have 3 or 2 bits: about this many rows have 4, those of the first ids, which
     * are the most frequent tokens of a BPE vocabulary; and a 256th of the vocabulary at its end, where
     * special tokens are. 0: none */
    size_t frequent_rows;
    /* kq_quantize: "scales": tune the checkpoint after rounding, as kq_tune does with its defaults, on the
     * same text (or on text of the model's own); the rounded one is kept where that does not help. "none":
     * do not. "auto", the default: "none" with `only`, and with the method "none" and no text, else
     * "scales" */
    const char *tune;
    size_t tune_tokens; /* 98304, at most: a shorter text is used whole */
    /* kq_quantize: "yes": round from the lowest block up, each linear towards a target that corrects what the
     * rounded linears below it have got wrong, on at most 32768 tokens of the calibration's text. "none":
     * each by itself. "auto", the default: "none" with `only`, with the method "none", and with a factor file
     * but no text; else "yes" */
    const char *sequential;
} kq_quantize_options;

void kq_quantize_options_init(kq_quantize_options *opt, size_t size);
/* Trade time for quality: set every member on which an effort has a say ("low": fast, "normal": the defaults,
 * "high": better and slower). Call it right after kq_quantize_defaults. KQ_E_ARG: there is no such effort. */
kq_status kq_quantize_effort(kq_quantize_options *opt, const char *effort, kq_error *err);

static inline kq_quantize_options kq_quantize_defaults(void)
{
    kq_quantize_options opt;
    kq_quantize_options_init(&opt, sizeof opt);
    return opt;
}

/* Quantize MODEL into the folder OUT, a kronq checkpoint. Until it succeeds OUT has no config.json.
 * report_json (may be NULL): a JSON object with "bits", "bpw", "file_bytes", "seconds", "peak_rss_bytes",
 * "predicted_loss" (nats a token), "relative_mse" and one entry a module (with "identity", a reason, where no
 * gradient came and identity factors served); free() it. It is {"complete": true} when opt->resume finds
 * nothing left to do. Memory, disk and time: kq_plan tells them before. */
kq_status kq_quantize(const char *model, const char *out, const kq_quantize_options *opt, char **report_json,
                      kq_error *err);

/* Quantize MODEL onto the block types of llama.cpp, into one GGUF file that it loads. Options as for
 * kq_quantize; bits, code, embed_bits, head_bits and shard_size have no meaning. Linears that opt->only
 * leaves out keep the type they are stored in. The report as for kq_quantize, with a "type" a module. */
kq_status kq_quantize_gguf(const char *model, const char *out_file, const kq_quantize_options *opt,
                           char **report_json, kq_error *err);

/* Quantize MODEL onto the grid of EXL3, into the folder OUT, which exllamav3 and what builds on it load.
 * Options as for kq_quantize: bits 1 to 8 (an average needs factors), module_bits 1 to 8, code "mul1"
 * (exllamav3's own default), "mcg" or "3inst", head_bits 1 to 8 (6 is exllamav3's default, and the program's)
 * or 16. A head that is tied is stored on its own in fewer than 16 bits, as exllamav3 does. The embedding
 * stays as it is; embed_bits, tuning and the aims have no meaning. The report as for kq_quantize. */
kq_status kq_quantize_exl3(const char *model, const char *out, const kq_quantize_options *opt,
                           char **report_json, kq_error *err);

/* One quantized linear W [rows, columns] = [outputs, inputs]. */
typedef struct kq_module_result {
    const char *name; /* "model.layers.3.self_attn.q_proj" */
    size_t rows, columns;
    double bits;           /* of the code a weight; of the GGUF type, for kq_quantize_gguf */
    double bpw;            /* bits a weight, with signs and scales */
    double relative_mse;   /* |W' - What'|^2 / |W'|^2, in the rotated basis; kq_quantize_gguf: of W itself */
    double predicted_loss; /* nats a token; NaN: the method predicts nothing */
    const char *type;      /* of the GGUF ("Q4_K"); NULL: kronq's trellis */
    const char *identity;  /* why its factors were the identity ("no gradient"); NULL: they were not */
} kq_module_result;

/* What a report of kq_quantize or kq_quantize_gguf says, to its nine digits. NaN: it does not say it. */
typedef struct kq_quantize_result {
    bool complete;          /* it was finished before, and nothing was done: all that follows is NaN or 0 */
    double bits;            /* of the code a weight, on average over the quantized ones */
    double bpw, bpw_file;   /* bits a quantized weight; bits of the file a parameter of the model */
    size_t file_bytes;      /* of all files with tensors */
    size_t n_weights;       /* that were quantized */
    double predicted_loss;  /* rise of the loss, nats a token; NaN: the method predicts nothing */
    double relative_mse;    /* of all quantized weights */
    double calibration_nll; /* of the calibration text under the model, nats a token */
    double seconds;         /* in all */
    size_t peak_rss_bytes;  /* of the process so far */
    size_t n_modules;       /* linears that were quantized */
    const kq_module_result *const *module; /* [n_modules], in the order of the model */
} kq_quantize_result;

/* Read a report, that of a call or what `kronq quantize --json` printed. KQ_E_FORMAT: it is none, or NULL. */
kq_status kq_quantize_result_read(const char *report_json, kq_quantize_result **out, kq_error *err);
void kq_quantize_result_free(kq_quantize_result *result); /* NULL is fine */

/* ---- Factors and importance matrices ------------------------------------------------------------------- */

/* Only the factors, into a safetensors file, to round from several times (opt->factors of kq_quantize). Uses
 * common, calibration, only, shard_size, resume, memory, gradients; factor_bf16: store them in half the
 * space. */
kq_status kq_calibrate(const char *model, const char *out_file, const kq_quantize_options *opt,
                       bool factor_bf16, char **report_json, kq_error *err);

/* One file of kq_calibrate_all. */
typedef struct kq_estimate {
    const char *out_file;
    kq_calibration calibration;
} kq_estimate;

/* Several factor files from one pass over the text. estimates [n] may differ in method, tokens, batch and the
 * method's settings; text, seq_len, sampled_labels and draws are those of opt->calibration for all of them.
 * Each file is what kq_calibrate would have made (with a batch above 1 to 1e-3: sums of gradients rounded to
 * bf16 once more, unless all files share the batch and the tokens). The report holds "estimates": [{"file",
 * "file_bytes", "settings", "modules"}]. */
kq_status kq_calibrate_all(const char *model, const kq_estimate *estimates, size_t n,
                           const kq_quantize_options *opt, bool factor_bf16, char **report_json,
                           kq_error *err);

/* llama.cpp's importance matrix of MODEL (the sums of squares of every linear's inputs), as the GGUF file
 * that llama-quantize --imatrix takes. Uses common, calibration (text, tokens, seq_len) and only. As in
 * llama-imatrix every sequence begins with the beginning token where the tokenizer adds one. */
kq_status kq_imatrix(const char *model, const char *out_file, const kq_quantize_options *opt,
                     char **report_json, kq_error *err);

/* ---- Tune ---------------------------------------------------------------------------------------------- */

/* How kq_tune trains. Adam (0.9, 0.95) minimises the mean KL divergence of the quantized model's predictions
 * from the reference's. */
typedef struct kq_tune_options {
    size_t size;
    kq_common common;
    const char *reference; /* the original MODEL, which must be given */
    const char *const *text;
    size_t n_text;           /* texts; none: text sampled from the reference itself */
    kq_text_options reading; /* how they are read */
    /* 98304 in sequences of 256. One sequence in 16 (at least 4 of 16 and more) is held out */
    size_t tokens, seq_len;
    size_t batch;      /* sequences a step: 4 */
    size_t epochs;     /* passes over the text: 1 */
    double lr;         /* learning rate at its peak; 0: as docs/math.md, eq. 105 */
    size_t warmup;     /* steps until then: 5; afterwards a cosine to 0 */
    size_t watch;      /* how often the held-out sequences are measured, the beginning not counted: 4 */
    size_t shard_size; /* bytes of a file, above which a checkpoint's weights are split: 8 GiB */
    bool resume;       /* continue an interrupted run with the same settings */
    bool fresh;        /* discard what an interrupted run has left unfinished, and start anew */
    /* what the process may take at its peak; decides whether decoded weights are kept or decoded again at
     * every use, which changes no byte of the result; 0: no limit */
    size_t memory;
} kq_tune_options;

void kq_tune_options_init(kq_tune_options *opt, size_t size);
static inline kq_tune_options kq_tune_defaults(void)
{
    kq_tune_options opt;
    kq_tune_options_init(&opt, sizeof opt);
    return opt;
}

/* Tune CHECKPOINT, a quantized model of opt->reference, after its rounding, into OUT. OUT gets the state that
 * was best on the held-out sequences.
 * A kronq checkpoint (a folder): its codes stay, and the scales of rows and columns and the norms are
 * trained. Until the folder OUT is complete it has no config.json. A GGUF file, of kronq, llama-quantize or
 * whomever: its integers stay, and the F16 scales and minima of its blocks (d; of some types also m, or dmin)
 * and the norms are trained. The file OUT has the size and layout of CHECKPOINT, and differs from it in those
 * bytes alone. Matrices in types without such scales keep their weights. The report has "trained_matrices"
 * and "kept_matrices", how many there are of each type, and "kept_scales", the F16 numbers that would have
 * become Inf or 0 and keep their value. With opt->resume an OUT that differs from CHECKPOINT in those bytes
 * alone counts as complete. report_json (may be NULL): "steps", "tokens", "trained" (numbers), "kld_before"
 * and "kld_after" (held-out, nats a token), "best_step", "watched", "loss" (of every step), "seconds",
 * "peak_rss_bytes"; free() it. It is {"complete": true} when opt->resume finds nothing left to do.
 * KQ_E_NO_GAIN: no state was better than CHECKPOINT, and nothing was written; KQ_E_MISMATCH: the reference is
 * not the checkpoint's original; KQ_E_UNSUPPORTED: a GGUF in several parts. */
kq_status kq_tune(const char *checkpoint, const char *out, const kq_tune_options *opt, char **report_json,
                  kq_error *err);

/* ---- Plans --------------------------------------------------------------------------------------------- */

/* What kq_quantize would do, without doing it: shapes, types, sizes, memory, disk. A JSON object; free()
 * it. */
kq_status kq_plan(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);

/* What kq_quantize would do for each way of keeping gradients, with an estimate of the time, from rates that
 * this machine is measured for (a second): {"ways": [{"gradients", "memory_bytes", "disk_bytes", "seconds":
 * {"total", ...}}], "measured": ...}. MODEL needs no weights: a folder with a config.json will do. */
kq_status kq_plan_ways(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);

/* What kq_quantize_gguf would do. */
kq_status kq_plan_gguf(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);
/* What kq_quantize_exl3 would do. */
kq_status kq_plan_exl3(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);

/* ---- Export -------------------------------------------------------------------------------------------- */

typedef struct kq_export_options {
    size_t size;
    kq_common common;
    const char *to; /* "bf16": a Hugging Face folder; "gguf": a file for llama.cpp */
    /* gguf: "F16" (also NULL), "BF16", "Q8_0", "F32"; or one that kq_quantize_gguf writes: then matrices are
     * rounded to it, each row by itself, which for a checkpoint is a second rounding */
    const char *type;
    /* gguf: the type of tensors whose rows are no whole number of blocks; with the types of kq_quantize_gguf
     * also "llama"; NULL: refuse them by name */
    const char *fallback;
    size_t shard_size; /* bf16: bytes of a file, above which the weights are split: 8 GiB */
} kq_export_options;

void kq_export_options_init(kq_export_options *opt, size_t size);
static inline kq_export_options kq_export_defaults(void)
{
    kq_export_options opt;
    kq_export_options_init(&opt, sizeof opt);
    return opt;
}

/* MODEL's weights, dequantized, as an ordinary model that needs no kronq. OUT is a folder (bf16) or a file
 * (gguf) that is not there yet; it appears, or gets its config.json, only when it is whole. report_json (may
 * be NULL): "file_bytes", "tensors", "seconds", "peak_rss_bytes", where weights were rounded "relative_mse"
 * and "second_rounding"; free() it. */
kq_status kq_export(const char *model, const char *out, const kq_export_options *opt, char **report_json,
                    kq_error *err);

/* ---- A model in memory --------------------------------------------------------------------------------- */

typedef struct kq_model kq_model;

typedef struct kq_model_options {
    size_t size;
    /* Its seed is not used. compute NULL: bf16. compute "f32": weights and sums in f32; "bf16": dense weights
     * in bf16, packed ones in 13-bit integers; "auto": what this processor is faster at. The threads wait for
     * each other several times a block, so a small model gets fewer than asked for. */
    kq_common common;
    /* what a checkpoint's packed weights become: "packed": they stay so, and are decoded at every use;
     * "dense": decoded once; "auto", the default: packed with bf16, dense with f32 */
    const char *weights;
    const char *kv;   /* key/value cache in "bf16" (also NULL), "f16" or "f32" */
    size_t context;   /* tokens a sequence may have; 0: what the model knows, at most 4096 */
    size_t sequences; /* kept side by side, each with a cache of `context` tokens: 1 (at most 65536) */
} kq_model_options;

void kq_model_options_init(kq_model_options *opt, size_t size);
static inline kq_model_options kq_model_defaults(void)
{
    kq_model_options opt;
    kq_model_options_init(&opt, sizeof opt);
    return opt;
}

/* Open MODEL: files are mapped and checked, which takes milliseconds; weights and tokenizer are made ready
 * when they are first used. *out: kq_model_close. KQ_E_IO: no such file; KQ_E_FORMAT, KQ_E_SHAPE: damaged;
 * KQ_E_UNSUPPORTED names what kronq does not know. The files must stay as they are until the model is closed;
 * opt->common.progress and ctx are kept for kq_model_perplexity. */
kq_status kq_model_open(const char *model, const kq_model_options *opt, kq_model **out, kq_error *err);
void kq_model_close(kq_model *model); /* NULL is fine */

/* What the files say. */
typedef struct kq_model_info {
    const char *path;
    const char *kind;         /* "kronq checkpoint", "EXL3 folder", "GGUF" or "Hugging Face folder" */
    const char *architecture; /* "llama" or "qwen3" */
    size_t n_layer, d_model, n_head, n_kv_head, head_dim, d_ff, vocab_size;
    size_t context; /* tokens the model was made for; 0: it does not say */
    bool tied_embeddings;
    double rope_theta;
    const char *rope_scaling_json; /* as in a config.json; NULL: none */
    /* the quantization_config of a kronq checkpoint or an EXL3 folder; NULL: none */
    const char *quantization_json;
    double bits;         /* of the linears' weights as stored in kronq's trellis, on average; 0: none */
    size_t n_parameters; /* of the architecture */
    size_t n_tensors;    /* in the files */
    size_t tensor_elements, tensor_bytes; /* of all of them, as stored */
} kq_model_info;

/* Owned by the model. */
const kq_model_info *kq_model_get_info(const kq_model *model);

/* A tensor as it is stored. */
typedef struct kq_tensor_info {
    const char *name;      /* "model.layers.0.mlp.up_proj.weight" */
    const char *type;      /* "BF16", "Q4_1", ... */
    size_t rank, shape[4]; /* row-major, outermost first */
    size_t n_elements, bytes;
} kq_tensor_info;

/* Tensor i < n_tensors, in the order of the file, owned by the model; NULL: no such tensor. */
const kq_tensor_info *kq_model_get_tensor(const kq_model *model, size_t i);

/* Make weights and caches ready now, for sequences of `context` tokens (0: the options'). The functions that
 * compute do it themselves when it is not done. With a larger context than before the weights are made ready
 * anew and what the sequences held is forgotten; with a smaller one nothing happens. Beyond the model's own
 * context its predictions mean nothing. KQ_E_MEMORY; KQ_E_UNSUPPORTED: a rotary scaling that is not known for
 * so long a context. */
kq_status kq_model_load(kq_model *model, size_t context, kq_error *err);

/* What a loaded model is computed with. */
typedef struct kq_engine_info {
    const char *isa, *compute, *kv; /* as in the options */
    const char *weights;            /* "packed", "bf16" or "f32" */
    double bits;                    /* a weight of the linears, as they are held */
    int threads;
    size_t context, sequences;
    size_t bytes;           /* of memory: weights (mapped ones counted), caches and scratch */
    size_t bytes_per_token; /* of the weights that one step of one sequence reads */
} kq_engine_info;

/* Owned by the model; NULL: not loaded yet. */
const kq_engine_info *kq_model_get_engine(const kq_model *model);

/* ---- Tokens and chat ---- */

/* Token ids of text [size bytes]; invalid UTF-8 is replaced by U+FFFD. add_special: with what the tokenizer
 * itself puts before or behind a text (LLaMA: a beginning token; SmolLM2 and Qwen: nothing). parse_special:
 * special tokens that the text spells out ("<|im_end|>") become their ids. *ids: free(). KQ_E_UNSUPPORTED:
 * the model's tokenizer is not known. */
kq_status kq_model_tokenize(kq_model *model, const char *text, size_t size, bool add_special,
                            bool parse_special, int32_t **ids, size_t *n_ids, kq_error *err);

/* The bytes of ids [n_ids], not always whole UTF-8 characters, with a final NUL that *size does not count.
 * skip_special leaves special tokens out. An id that the tokenizer does not have adds nothing: a model's
 * vocabulary may be larger than its tokenizer's. *text: free(). KQ_E_ARG: a negative id. */
kq_status kq_model_detokenize(kq_model *model, const int32_t *ids, size_t n_ids, bool skip_special,
                              char **text, size_t *size, kq_error *err);

/* The bytes that one token adds inside a text, owned by the model. A character may come in parts. None for an
 * id that the tokenizer does not have; KQ_E_ARG: a negative id. */
kq_status kq_model_token_bytes(kq_model *model, int32_t id, const char **bytes, size_t *size, kq_error *err);

typedef enum kq_token_role {
    KQ_TOKEN_BEGIN = 0,   /* the tokenizer's bos */
    KQ_TOKEN_END,         /* the tokenizer's eos */
    KQ_TOKEN_DOCUMENT_END /* what separates documents: "<|endoftext|>" where there is one, else eos */
} kq_token_role;

/* The id that has a role, or that is spelt exactly so ("<|im_end|>"). -1: none, or no tokenizer. */
int32_t kq_model_token(kq_model *model, kq_token_role role);
int32_t kq_model_token_id(kq_model *model, const char *token);
/* Does it mark something, instead of being text? Does it end an answer? False without a tokenizer, and for an
 * id that is none. */
bool kq_model_is_special(kq_model *model, int32_t id);
bool kq_model_ends(kq_model *model, int32_t id);

/* One turn of a conversation. Both are UTF-8. */
typedef struct kq_message {
    const char *role; /* "system", "user", "assistant", or what the model's template knows */
    const char *content;
} kq_message;

typedef struct kq_chat_options {
    size_t size;
    /* "KEY=VALUE" each: variables for the template, VALUE being JSON or else a text ("enable_thinking=false")
     */
    const char *const *argument;
    size_t n_argument;
    /* JSON: an array of tools as OpenAI's API has them; NULL: none */
    const char *tools_json;
    /* the prompt ends within the last message, which the model goes on with, instead of with the beginning of
     * an assistant's answer */
    bool continue_last;
} kq_chat_options;

void kq_chat_options_init(kq_chat_options *opt, size_t size);
static inline kq_chat_options kq_chat_defaults(void)
{
    kq_chat_options opt;
    kq_chat_options_init(&opt, sizeof opt);
    return opt;
}

/* Has the model a chat template that kronq reads, and are the options in order? KQ_E_UNSUPPORTED and KQ_E_ARG
 * say why not. */
kq_status kq_model_check_chat(kq_model *model, const kq_chat_options *opt, kq_error *err);

/* Messages [n] as the text that the model is given, by its own chat template as transformers runs it.
 * *prompt: free(). Tokenize it with add_special false and parse_special true: it holds the beginning token
 * where the template writes one. KQ_E_ARG: there is no message, the template refuses these, or one is not
 * UTF-8 or NULL. A special token that is spelt in a message becomes one, as with transformers. */
kq_status kq_model_chat_prompt(kq_model *model, const kq_message *messages, size_t n,
                               const kq_chat_options *opt, char **prompt, kq_error *err);

/* ---- Logits, text, perplexity ---- */

/* logits [n_ids, vocab_size], the caller's: for each position of ids the scores of the next token, before any
 * softmax, computed from an empty cache in sequence 0, which holds ids afterwards (nothing after a failure).
 * The same bits for every number of threads. KQ_E_ARG: n_ids is 0 or beyond the context, or an id is not the
 * model's; KQ_E_NUMERIC: NaN or Inf. */
kq_status kq_model_logits(kq_model *model, const int32_t *ids, size_t n_ids, float *logits, kq_error *err);

/* Append ids (one at least) to a sequence (0 <= sequence < sequences); logits [n_logits, vocab_size]: after
 * each of the last n_logits of them (0: none wanted, NULL). The logits of a position are the same bits
 * however its sequence was cut into pieces. Errors as for kq_model_logits; on failure the sequence is as long
 * as before. */
kq_status kq_model_append(kq_model *model, size_t sequence, const int32_t *ids, size_t n_ids, size_t n_logits,
                          float *logits, kq_error *err);
/* Tokens in the sequence's cache (0: no such sequence, or not loaded yet); and forget all but the first
 * `length` of them, if there are more. */
size_t kq_model_length(const kq_model *model, size_t sequence);
void kq_model_truncate(kq_model *model, size_t sequence, size_t length);

/* How tokens are drawn: first the temperature, then the top_k most likely, then of those the fewest most
 * likely whose probabilities reach top_p, then min_p (the order of Hugging Face). */
typedef struct kq_sampling {
    double temperature; /* 0: the most likely */
    int top_k;          /* 0: off */
    double top_p;       /* 1: off */
    uint64_t seed;
    /* tokens less likely than this share of the most likely one's probability are left out; 0: off */
    double min_p;
    /* logits of tokens that are in the context are divided by it if positive, else multiplied; 0 or 1: off */
    double repetition_penalty;
} kq_sampling;

typedef struct kq_generation_options {
    size_t size;
    /* new tokens at most, no more than the context has room for: 128. 0: nothing is computed, and the
     * sequence keeps what it has in common with the prompt */
    size_t n_max;
    /* Negative (the default): as the model's generation_config.json recommends (what it leaves out is off);
     * if it says nothing, temperature 0.8, top_k 40, top_p 0.95. A recommended repetition penalty is not
     * applied with temperature 0. kq_sampling explains them. */
    double temperature, top_p, min_p, repetition_penalty;
    int top_k;
    uint64_t seed;
    /* texts that end the answer before them; the one that begins first counts, "" is passed over */
    const char *const *stop;
    size_t n_stop;
    /* NULL, or a function that gets the text as it comes: whole UTF-8 characters, held back only while they
     * may be the beginning of a stop text. Nonzero ends the answer, which is no error: kq_generation then has
     * the text up to here. */
    int (*emit)(void *ctx, const char *text, size_t size);
    void *ctx;
    /* the sequence that it happens in: what it holds of the prompt already is not computed again, and after
     * it the sequence holds the prompt and the new tokens, but not the last one unless an end token followed;
     * after a failure it may hold nothing */
    size_t sequence;
} kq_generation_options;

void kq_generation_options_init(kq_generation_options *opt, size_t size);
static inline kq_generation_options kq_generation_defaults(void)
{
    kq_generation_options opt;
    kq_generation_options_init(&opt, sizeof opt);
    return opt;
}

/* Why an answer ended. */
typedef enum kq_end {
    KQ_END_LENGTH = 0, /* n_max, or the context is full */
    KQ_END_TOKEN,      /* the model's own end token */
    KQ_END_STOP,       /* a stop text */
    KQ_END_CALLER      /* emit said so */
} kq_end;

typedef struct kq_generation {
    const char *text; /* UTF-8 with a final NUL; bytes that are no UTF-8 are U+FFFD */
    size_t text_size;
    const int32_t *ids; /* [n_ids] the new tokens, without an end token */
    size_t n_ids;
    kq_end end;
    size_t n_prompt, n_prompt_run; /* tokens of the prompt; of these, what was computed */
    double prompt_seconds, answer_seconds;
    double prompt_rate, answer_rate; /* tokens a second; the first new token belongs to the prompt's pass */
} kq_generation;

void kq_generation_free(kq_generation *generation); /* NULL is fine */

/* Continue a prompt of token ids. *out (out may be NULL): kq_generation_free. KQ_E_ARG: the prompt is empty,
 * or fills the context. */
kq_status kq_model_generate(kq_model *model, const int32_t *ids, size_t n_ids,
                            const kq_generation_options *opt, kq_generation **out, kq_error *err);
/* Continue a text (UTF-8, ended by a NUL). */
kq_status kq_model_complete(kq_model *model, const char *text, const kq_generation_options *opt,
                            kq_generation **out, kq_error *err);
/* Answer messages [n]. For a conversation call it with all of its messages each time: only what is new is
 * computed. */
kq_status kq_model_chat(kq_model *model, const kq_message *messages, size_t n, const kq_chat_options *chat,
                        const kq_generation_options *opt, kq_generation **out, kq_error *err);

typedef struct kq_eval_result kq_eval_result;

/* Perplexity of ids [n_ids] in whole windows of `window` tokens (0: 2048, or the model's context if that is
 * less), each from an empty context, its first token not scored: the figures of kq_eval_text on these ids. It
 * runs block by block, with one block in memory, without kq_model_load; in the options' compute type (NULL or
 * "auto": bf16 where the processor is faster at it). *out: kq_eval_result_free. KQ_E_ARG: there is not one
 * whole window, a window is beyond the model's context, or an id is not the model's. KQ_E_INTERRUPTED. */
kq_status kq_model_perplexity(kq_model *model, const int32_t *ids, size_t n_ids, size_t window,
                              kq_eval_result **out, kq_error *err);

/* ---- Serve --------------------------------------------------------------------------------------------- */

typedef struct kq_serve_options {
    size_t size;
    const char *host;    /* an address or a name of this machine: "127.0.0.1" (also NULL) */
    unsigned port;       /* 8080, at most 65535; 0: any that is free */
    const char *api_key; /* NULL: none is asked for */
    /* what the model is called in answers; NULL: other_name */
    const char *model_name;
    /* what requests may call it too, beside its path; NULL: the last part of its path */
    const char *other_name;
    bool any_model;       /* requests may call it anything */
    kq_sampling sampling; /* where neither a request nor the model's generation_config.json says anything:
                             temperature 1, everything else off */
    /* With no key and only loopback addresses, a request whose Host header is no name of loopback and none of
     * these is refused (DNS rebinding). */
    const char *const *allowed_host;
    size_t n_allowed_host;
    /* origins whose pages may ask, as browsers send them ("https://host[:port]"), or "*" for all */
    const char *const *cors;
    size_t n_cors;
    size_t max_body;    /* bytes of a request: 4 MiB */
    size_t max_choices; /* answers of one request (prompts * n): 128 */
    size_t max_jobs;    /* requests that wait or run: 256 */
    /* 1024, or what file descriptors there are; an idle one is closed for one that asks */
    size_t max_connections;
    size_t max_per_address;                   /* of one client's address: 512, at most half of them */
    double receive_s;                         /* from a request's first byte to its last: 30 s */
    double request_s;                         /* and to its answer: 600 s; 0: no limit */
    double idle_s;                            /* a connection on which nothing moves is closed after: 60 s */
    double drain_s;                           /* kq_server_stop, what runs may take: 30 s */
    void (*log)(void *ctx, const char *line); /* one line a request; NULL: none. From several threads */
    void *log_ctx;
} kq_serve_options;

void kq_serve_options_init(kq_serve_options *opt, size_t size);
static inline kq_serve_options kq_serve_defaults(void)
{
    kq_serve_options opt;
    kq_serve_options_init(&opt, sizeof opt);
    return opt;
}

/* Can the options' address be listened on, and are their words in order? To be asked before a model is
 * opened. *loopback (may be NULL): only this machine itself can connect to it. Errors as kq_serve. */
kq_status kq_serve_check(const kq_serve_options *opt, bool *loopback, kq_error *err);

typedef struct kq_server kq_server;

/* Answer over HTTP as OpenAI's API does (docs/serve.md), on threads of its own, from now until
 * kq_server_stop. Requests that come at the same time are computed together, as many as the model has
 * sequences; each may have as many tokens as its context. The model must stay open and is the server's alone
 * until then (what computes with its caches returns KQ_E_ARG); so must the options' strings. KQ_E_ARG: an
 * origin or a host name is none, or the model is at work already; KQ_E_IO: the host has no address here, or
 * another program listens on the port. */
kq_status kq_serve(kq_model *model, const kq_serve_options *opt, kq_server **out, kq_error *err);
/* The port that it listens on. */
unsigned kq_server_port(const kq_server *server);
/* Take no more requests and wait for those at work, drain_s at most or until `hurry` (may be NULL) says so;
 * then stop and free. True: all were finished, or server is NULL. */
bool kq_server_stop(kq_server *server, bool (*hurry)(void *ctx), void *ctx);

/* ---- Measure ------------------------------------------------------------------------------------------- */

typedef struct kq_eval_text_options {
    size_t size;
    kq_common common;
    /* tokens a window; 0: those of the saved logits, else 2048 or the model's context if that is less */
    size_t ctx;
    size_t chunks; /* at most this many windows (0: all) */
    /* what the process may take at its peak, bytes resident: fewer windows at once, the same figures; 0: no
     * limit */
    size_t memory;
    /* write MODEL's predictions in llama.cpp's format (llama-perplexity --kl-divergence-base) to this file;
     * NULL: no */
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

void kq_eval_text_options_init(kq_eval_text_options *opt, size_t size);
static inline kq_eval_text_options kq_eval_text_defaults(void)
{
    kq_eval_text_options opt;
    kq_eval_text_options_init(&opt, sizeof opt);
    return opt;
}

/* Perplexity of MODEL on a text (documents are joined by the end-of-text token) and, when reference is not
 * NULL, its KL divergence to that model on the same windows. result_json (may be NULL): a JSON object with
 * "ppl", "nll", "tokens", "kld", "top1", each with "..._stderr"; "kld_percentiles"; "per_window"; free() it.
 * reference may also be a file of saved logits, which brings its own windows: text_file may then be NULL.
 * With one, or with save_logits, llama.cpp's convention holds ("convention" in the JSON; docs/format.md,
 * "Saved logits"). KQ_E_ARG when ctx is beyond a model's context. */
kq_status kq_eval_text(const char *model, const char *reference, const char *text_file,
                       const kq_eval_text_options *opt, char **result_json, kq_error *err);

/* Figures of one model on one text. A `_stderr` takes the tokens as independent draws, a `_stderr_windows`
 * the windows' means (docs/math.md, "Measures"): the first is somewhat too small, the second rough with few
 * windows and NaN with one. What compares with a reference is NaN when there was none. */
struct kq_eval_result {
    const char *text;    /* what reports call the text; NULL: ids, or the text of the saved logits */
    size_t windows, ctx; /* consecutive windows of ctx tokens each */
    size_t tokens;       /* that were scored */
    bool llama_cpp;      /* by llama.cpp's convention: only the second half of each window */
    double nll, nll_stderr, nll_stderr_windows; /* nats a token */
    double ppl, ppl_stderr, ppl_stderr_windows; /* exp(nll) */
    bool has_reference;
    /* mean over the positions of KL(reference || model), nats */
    double kld, kld_stderr, kld_stderr_windows;
    double kld_median, kld_90, kld_95, kld_99, kld_999, kld_max; /* percentiles; kld_999 is the 99.9th */
    /* share of the positions with the same most likely token, 0..1 */
    double top1, top1_stderr, top1_stderr_windows;
    double reference_ppl;
    double ln_ppl_ratio, ln_ppl_ratio_stderr; /* ln(ppl / reference_ppl), its paired standard error */
    /* mean and root mean square of the difference of the next token's probability, model - reference */
    double dp_mean, dp_rms;
    double seconds;
};

/* Read a result, that of kq_eval_text or what `kronq eval --ppl --json` printed. KQ_E_FORMAT: it is none, or
 * NULL. */
kq_status kq_eval_result_read(const char *result_json, kq_eval_result **out, kq_error *err);
void kq_eval_result_free(kq_eval_result *result); /* NULL is fine */

/* One of "arc_easy", "arc_challenge", "piqa", "boolq", "hellaswag", "winogrande", and its documents: a
 * JSON-lines file with the data set's own fields. */
typedef struct kq_task_file {
    const char *name, *file;
} kq_task_file;

typedef struct kq_eval_tasks_options {
    size_t size;
    kq_common common;
    size_t limit; /* at most this many documents of each task, the first ones (0: all) */
    /* what the process may take at its peak, bytes resident: the model's blocks are read again for every
     * group of documents, the same figures; 0: no limit */
    size_t memory;
    /* what became of each document, as JSON lines; NULL: not wanted. What is scored so far is kept in
     * FILE.partial */
    const char *samples_file;
    bool resume; /* go on from FILE.partial */
} kq_eval_tasks_options;

void kq_eval_tasks_options_init(kq_eval_tasks_options *opt, size_t size);
static inline kq_eval_tasks_options kq_eval_tasks_defaults(void)
{
    kq_eval_tasks_options opt;
    kq_eval_tasks_options_init(&opt, sizeof opt);
    return opt;
}

/* Accuracy of MODEL on multiple-choice tasks [n_tasks], zero-shot, prompts and scores as
 * lm-evaluation-harness defines them. result_json (may be NULL): a JSON object in the harness's layout
 * ("results": {"arc_easy": {"acc,none", "acc_stderr,none", "acc_norm,none", ...}}, "versions", "n-samples",
 * ...); free() it. */
kq_status kq_eval_tasks(const char *model, const kq_task_file *tasks, size_t n_tasks,
                        const kq_eval_tasks_options *opt, char **result_json, kq_error *err);

/* Put a figure into the model card DIR/README.md: a row of the table between the lines "<!-- kronq eval -->"
 * and "<!-- kronq eval end -->", in the place of the row with the same `what`. README.md and the two lines
 * are made where they are missing; the rest of the file stays. Text for one line each; '|' and line breaks
 * become spaces. */
kq_status kq_card_add_figure(const char *dir, const char *what, const char *value, kq_error *err);

/* ---- Compare and report -------------------------------------------------------------------------------- */

/* One row of a comparison: MODEL quantized in one way. All rows of a call have options of the same size. */
typedef struct kq_compare_row {
    const char *spec; /* what the tables call the method: "flipflop:rho=1e-1" */
    /* calibration, bits, code, sigma_reg, only, and so on, and common.seed. fresh: what an interrupted
     * comparison left unfinished for this row is not continued. The rest of common, factors and resume are
     * ignored. */
    kq_quantize_options options;
} kq_compare_row;

typedef struct kq_compare_options {
    size_t size;
    kq_common common; /* its seed is ignored */
    /* texts to measure on: perplexity, and KL divergence to MODEL, on each */
    const char *const *text;
    size_t n_text;
    /* how these are read; the rows' texts: calibration.reading, which must be the same in all rows */
    kq_text_options reading;
    size_t ctx, chunks; /* as for kq_eval_text; 0: its defaults */
    /* tasks to measure accuracy on */
    const kq_task_file *tasks;
    size_t n_tasks;
    size_t limit;     /* documents a task; 0: all */
    size_t memory;    /* as for kq_eval_text; rows have their own */
    bool factor_bf16; /* factor files in half the space */
    /* else a checkpoint goes once it is measured, a factor file once no row needs it any more */
    bool keep_models, keep_factors;
} kq_compare_options;

void kq_compare_options_init(kq_compare_options *opt, size_t size);
static inline kq_compare_options kq_compare_defaults(void)
{
    kq_compare_options opt;
    kq_compare_options_init(&opt, sizeof opt);
    return opt;
}

/* Quantize MODEL in every way that rows [n_rows] name, measure each result against MODEL, and keep the
 * figures in the folder DIR: rows/ROW.json, the factors' reports factors/NAME.json, and after every row
 * table.md, table.csv and table.json of all rows that DIR has (docs/format.md, "Comparisons"). Rows that need
 * the same factors share them, and factors that need the same gradients share one pass over the text
 * (kq_calibrate_all). What is done is not done again: an interrupted comparison continues when it is asked
 * for again, and more rows can be added to DIR. KQ_E_MISMATCH: DIR is a comparison of another model, of other
 * texts or settings of the evaluation. result_json (may be NULL): as table.json. */
kq_status kq_compare(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                     const kq_compare_options *opt, char **result_json, kq_error *err);

/* What kq_compare would do: a JSON object with "rows" (name, spec, done, factors), "passes" and "disk_bytes";
 * free() it. Nothing is written. */
kq_status kq_compare_plan(const char *model, const char *dir, const kq_compare_row *rows, size_t n_rows,
                          const kq_compare_options *opt, char **plan_json, kq_error *err);

/* One self-contained HTML page of what DIR, a folder of kq_compare, holds so far: figures and tables, without
 * script or network. out_file NULL: DIR/report.html. Texts from DIR are escaped; KQ_E_FORMAT when a file is
 * not what kq_compare writes. */
kq_status kq_report(const char *dir, const char *out_file, kq_error *err);

/* ---- Settings by name ---------------------------------------------------------------------------------- */

/* Every member of the option structs that a person may set, as one table: name, type, default, range,
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
    KQ_TUNE_OPTIONS,         /* kq_tune_options */
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
    KQ_FOR_REPORT = 1 << 17,
    KQ_FOR_TUNE = 1 << 18,         /* kq_tune */
    KQ_FOR_QUANTIZE_EXL3 = 1 << 19 /* kq_quantize_exl3, kq_plan_exl3 */
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
    const char *low, *high; /* its values with the efforts "low" and "high"; NULL: the default */
} kq_setting;
#define KQ_SETTING_AT(options, member) (offsetof(options, member) + 1)

/* The library's table: *n rows, static. A name comes twice where two functions mean different things by
 * it ("type" of kq_quantize_gguf and of kq_export); takers tell them apart. */
const kq_setting *kq_settings(size_t *n);

/* Set one member of an option struct from a text. text is borrowed as long as the options are used; for
 * KQ_SETTING_FLAG and _NOT NULL, "yes" or "true" is on, "no" or "false" off. KQ_E_ARG: it is no value of
 * this setting (the message names setting, value and what is expected), the setting is not one of these
 * options (or of a newer version than they), or it is a list. Members are only written on success. */
kq_status kq_setting_set(kq_options_id id, void *options, const kq_setting *setting, const char *text,
                         kq_error *err);
/* The same for KQ_SETTING_TEXTS: the whole list, borrowed. */
kq_status kq_setting_set_list(kq_options_id id, void *options, const kq_setting *setting,
                              const char *const *texts, size_t n, kq_error *err);

/* The value that an effort ("low", "normal", "high") gives the setting; NULL: the effort does not change it.
 */
const char *kq_setting_effort(const kq_setting *setting, const char *effort);

/* Has the setting an effect with this method of calibration ("kfac")? */
bool kq_setting_counts_with(const kq_setting *setting, const char *method);

/* ---- This machine -------------------------------------------------------------------------------------- */

/* Compare every kernel of every instruction set that this processor has (at or below common->isa) with plain
 * C, on random inputs: a second or two. common may be NULL; of it isa, progress and ctx count. report_json
 * (may be NULL): "isa", "checked", "failed" and one entry a kernel in "checks" ("room", "kernel", "isa",
 * "error", "bound", "ok"); free() it. It is given also with KQ_E_NUMERIC: a kernel differs, the message names
 * the first. The environment's KRONQ_WITHOUT=vnni,vbmi checks what a processor without them would run. */
kq_status kq_selfcheck(const kq_common *common, char **report_json, kq_error *err);

/* kq_common.isa holds kronq's own kernels and oneDNN to an instruction set. OpenBLAS chooses its kernels when
 * it is loaded, before main, by the environment's OPENBLAS_CORETYPE: this is the value that holds it to isa,
 * static; NULL: none is needed, or isa is no instruction set of this machine. A program that wants
 * reproducible bytes sets it and starts itself again, as `kronq` does. */
const char *kq_openblas_core(const char *isa);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
