#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const char *resumable; /* what continues the command at work: "the same command with --resume" */

static int bad(const cli *c, const char *name, const char *value, const char *wanted)
{
    if (c->spec)
        fprintf(stderr, "kronq %s: in %s: %s=%s: %s; see kronq %s --help\n", c->command, c->spec, name, value, wanted, c->command);
    else
        fprintf(stderr, "kronq %s: --%s %s: %s; see kronq %s --help\n", c->command, name, value, wanted, c->command);
    return EXIT_USAGE;
}

/* A whole number, with k, M or G for 2^10, 2^20, 2^30. */
static bool parse_size(const char *text, size_t max, size_t *out)
{
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long v = strtoull(text, &end, 10);
    int shift = *end == 'k' || *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    end += shift != 0;
    if (errno || *end || v > (unsigned long long)max >> shift)
        return false;
    *out = (size_t)v << shift;
    return true;
}

static bool parse_int(const char *text, int *out)
{
    size_t v;
    if (!parse_size(text, 1 << 30, &v))
        return false;
    *out = (int)v;
    return true;
}

static bool parse_real(const char *text, double *out)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(v))
        return false;
    *out = v;
    return true;
}

static void print_help(const char *usage, const char *about, const cli_option *options)
{
    printf("usage: kronq %s\n\n%s\n\noptions:\n", usage, about);
    for (const cli_option *o = options; o->name; o++) {
        char left[80];
        snprintf(left, sizeof left, "%s--%s%s%s", o->key == OPT_OUT ? "-o, " : o->key == OPT_PROMPT ? "-p, " : o->key == OPT_N ? "-n, " : "", o->name,
                 o->argument ? " " : "", o->argument ? o->argument : "");
        printf("  %-26s %s\n", left, o->help);
    }
}

/* NAME=FILE, an argument of the program: those may be written to, and are cut at the "=". */
static int add_task(cli *c, const char *option, char *v)
{
    char *equals = strchr(v, '=');
    if (!equals || equals == v || !equals[1])
        return bad(c, option, v, "NAME=FILE.jsonl is expected");
    if (c->n_task == sizeof c->tasks / sizeof *c->tasks)
        return bad(c, option, v, "too many tasks");
    *equals = 0;
    c->tasks[c->n_task++] = (kq_task_file){v, equals + 1};
    return -1;
}

/* The settings of a calibration that were given: with --factors they must be the file's. */
static void note_given(cli *c, int key)
{
    static const struct { int key; const char *name; } settings[] = {
        {OPT_TEXT, "text"}, {OPT_TOKENS, "tokens"}, {OPT_SEQ_LEN, "seq_len"}, {OPT_BATCH, "batch"}, {OPT_LABELS, "labels"}, {OPT_DRAWS, "draws"},
        {OPT_METHOD, "method"}, {OPT_RHO, "rho"}, {OPT_ROUNDS, "rounds"}, {OPT_EARLY, "early"}, {OPT_PASSES, "passes"}, {OPT_EXACT, "exact"}, {OPT_TOL, "tol"},
        {OPT_PARSE_SPECIAL, "parse_special"}, {OPT_NO_PARSE_SPECIAL, "parse_special"}, {OPT_TEXT_FORMAT, "text_format"}, {OPT_MAX_ITER, "max_iter"}, {OPT_START, "start"},
    };
    kq_calibration *cal = &c->q.calibration;
    cal->given = c->given;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (settings[i].key != key)
            continue;
        for (size_t k = 0; k < cal->n_given; k++)
            if (!strcmp(c->given[k], settings[i].name))
                return;
        c->given[cal->n_given++] = settings[i].name;
    }
}

int cli_apply(cli *c, const cli_option *o, char *v)
{
    kq_quantize_options *q = &c->q;
    kq_calibration *cal = &q->calibration;
    note_given(c, o->key);
    size_t size = 0;
    int number = 0;
    double real = 0;
    switch (o->key) {
    /* words */
    case OPT_OUT: c->out = v; return -1;
    case OPT_METHOD: cal->method = v; return -1;
    case OPT_CODE: q->code = v; return -1;
    case OPT_ONLY: q->only = v; return -1;
    case OPT_GRADIENTS: q->gradients = v; return -1;
    case OPT_MEMORY:
        if (parse_size(v, (size_t)1 << 60, &q->memory) && q->memory) {
            c->e.memory = c->t.memory = q->memory;
            return -1;
        }
        return bad(c, o->name, v, "a size in bytes is expected (k, M, G may follow)");
    case OPT_FACTORS: q->factors = v; return -1;
    case OPT_ISA: q->common.isa = v; return -1;
    case OPT_COMPUTE: q->common.compute = v; return -1;
    case OPT_PPL:
        if (c->n_ppl == sizeof c->ppls / sizeof *c->ppls)
            return bad(c, o->name, v, "too many texts");
        c->ppls[c->n_ppl++] = c->ppl = v;
        return -1;
    case OPT_METHODS:
        if (c->n_methods == sizeof c->methods / sizeof *c->methods)
            return bad(c, o->name, v, "too many of them");
        c->methods[c->n_methods++] = v;
        return -1;
    case OPT_SWEEP:
        if (c->n_sweeps == sizeof c->sweeps / sizeof *c->sweeps)
            return bad(c, o->name, v, "too many of them");
        c->sweeps[c->n_sweeps++] = v;
        return -1;
    case OPT_BITS_LIST: c->bits = v; return -1;
    case OPT_SEEDS: c->seeds = v; return -1;
    case OPT_KEEP_MODELS: c->keep_models = true; return -1;
    case OPT_KEEP_FACTORS: c->keep_factors = true; return -1;
    case OPT_KLD: c->kld = v; return -1;
    case OPT_LOGITS: c->e.logits = v; return -1;
    case OPT_PROMPT: c->prompt = v; return -1;
    case OPT_HOST: c->host = v; return -1;
    case OPT_KV: c->kv = v; return -1;
    case OPT_API_KEY: c->api_key = v; return -1;
    case OPT_MODEL_NAME: c->model_name = v; return -1;
    case OPT_ALIAS: c->alias = v; return -1;
    case OPT_ANY_MODEL: c->any_model = true; return -1;
    case OPT_CORS: case OPT_ALLOW_HOST: {
        const bool cors = o->key == OPT_CORS;
        size_t *n = cors ? &c->n_cors : &c->n_allow_host;
        if (*n == sizeof c->cors / sizeof *c->cors)
            return bad(c, o->name, v, "too many of them");
        (cors ? c->cors : c->allow_host)[(*n)++] = v;
        return -1;
    }
    case OPT_SYSTEM: c->system = v; return -1;
    case OPT_TEMPLATE_ARG:
        if (c->n_template_arg == sizeof c->template_arg / sizeof *c->template_arg)
            return bad(c, o->name, v, "too many of them");
        c->template_arg[c->n_template_arg++] = v;
        return -1;
    case OPT_WEIGHTS: c->weights = v; return -1;
    case OPT_PP: c->pp = v; return -1;
    case OPT_TG: c->tg = v; return -1;
    case OPT_FORMAT: c->format = v; return -1;
    case OPT_ALSO:
        if (c->n_also == sizeof c->also / sizeof *c->also)
            return bad(c, o->name, v, "too many models");
        c->also[c->n_also++] = v;
        return -1;
    case OPT_STOP:
        if (c->n_stop == sizeof c->stop / sizeof *c->stop)
            return bad(c, o->name, v, "too many stop strings");
        c->stop[c->n_stop++] = v;
        return -1;
    case OPT_TEXT:
        if (cal->n_text == sizeof c->texts / sizeof *c->texts)
            return bad(c, o->name, v, "too many texts");
        c->texts[cal->n_text++] = v;
        cal->text = c->texts;
        return -1;
    case OPT_TASK:
        return add_task(c, o->name, v);
    case OPT_TEXT_FORMAT: cal->reading.format = c->e.reading.format = v; return -1;
    case OPT_PARSE_SPECIAL:
    case OPT_NO_PARSE_SPECIAL: cal->reading.spell_special = c->e.reading.spell_special = o->key == OPT_NO_PARSE_SPECIAL; return -1;
    case OPT_SAVE_LOGITS: c->e.save_logits = v; return -1;
    case OPT_CACHE: c->e.cache = v; return -1;
    case OPT_PER_WINDOW: c->e.per_window = v; return -1;
    case OPT_LIMIT:
        return parse_size(v, (size_t)1 << 50, &c->t.limit) ? -1 : bad(c, o->name, v, "a whole number is expected");
    case OPT_LOG_SAMPLES: c->t.samples_file = v; return -1;
    case OPT_TO:
        if (strcmp(v, "gguf") && strcmp(v, c->command[0] == 'q' ? "kronq" : "bf16"))
            return bad(c, o->name, v, c->command[0] == 'q' ? "kronq or gguf" : "bf16 or gguf");
        c->to = v;
        return -1;
    case OPT_TYPE: q->gguf_type = v; return -1;
    case OPT_FALLBACK: q->fallback = v; return -1;
    case OPT_TENSOR_TYPE:
        if (q->n_tensor_type == sizeof c->tensor_types / sizeof *c->tensor_types)
            return bad(c, o->name, v, "too many of them");
        c->tensor_types[q->n_tensor_type++] = v;
        q->tensor_type = c->tensor_types;
        return -1;
    case OPT_MODULE_BITS:
        if (q->n_module_bits == sizeof c->module_bits / sizeof *c->module_bits)
            return bad(c, o->name, v, "too many of them");
        c->module_bits[q->n_module_bits++] = v;
        q->module_bits = c->module_bits;
        return -1;
    case OPT_START:
        if (strcmp(v, "identity") && strcmp(v, "random"))
            return bad(c, o->name, v, "identity or random");
        cal->start_random = !strcmp(v, "random");
        return -1;
    case OPT_LABELS:
        if (strcmp(v, "text") && strcmp(v, "sampled"))
            return bad(c, o->name, v, "text or sampled");
        cal->sampled_labels = !strcmp(v, "sampled");
        return -1;
    case OPT_FACTOR_DTYPE:
        if (strcmp(v, "f32") && strcmp(v, "bf16"))
            return bad(c, o->name, v, "f32 or bf16");
        c->factor_bf16 = !strcmp(v, "bf16");
        return -1;
    /* switches */
    case OPT_PURE: q->pure = true; return -1;
    case OPT_EXACT: cal->exact = true; return -1;
    case OPT_DRY_RUN: c->dry_run = true; return -1;
    case OPT_RESUME: q->resume = c->t.resume = true; return -1;
    case OPT_FRESH: q->fresh = true; return -1;
    case OPT_JSON: c->json = true; return -1;
    case OPT_QUIET: c->quiet = true; return -1;
    case OPT_CHAT: c->chat = true; return -1;
    case OPT_TABLE6: c->table6 = true; return -1;
    case OPT_TENSORS: c->tensors = true; return -1;
    case OPT_PLAN: c->plan = true; return -1;
    case OPT_CARD: c->card = true; return -1;
    /* reals */
    case OPT_RHO: case OPT_TOL: case OPT_SIGMA_REG: case OPT_BITS: case OPT_SHRINK: case OPT_TEMP: case OPT_TOP_P: case OPT_MIN_P: case OPT_REPEAT_PENALTY:
        if (!parse_real(v, &real) || real < 0)
            return bad(c, o->name, v, "a number of at least 0 is expected");
        *(o->key == OPT_RHO ? &cal->rho : o->key == OPT_TOL ? &cal->tol : o->key == OPT_SIGMA_REG ? &q->sigma_reg : o->key == OPT_SHRINK ? &q->shrink : o->key == OPT_BITS ? &q->bits : o->key == OPT_TEMP ? &c->temperature
          : o->key == OPT_MIN_P ? &c->min_p : o->key == OPT_REPEAT_PENALTY ? &c->repeat_penalty : &c->top_p) = real;
        return -1;
    /* small whole numbers */
    case OPT_ROUNDS: case OPT_PASSES: case OPT_MAX_ITER: case OPT_EMBED_BITS: case OPT_HEAD_BITS: case OPT_THREADS: case OPT_TOP_K: case OPT_SWEEPS:
        if (!parse_int(v, &number))
            return bad(c, o->name, v, "a whole number is expected");
        *(o->key == OPT_ROUNDS ? &cal->rounds : o->key == OPT_PASSES ? &cal->passes : o->key == OPT_MAX_ITER ? &cal->max_iter
          : o->key == OPT_EMBED_BITS ? &q->embed_bits : o->key == OPT_HEAD_BITS ? &q->head_bits : o->key == OPT_SWEEPS ? &q->sweeps : o->key == OPT_THREADS ? &q->common.threads : &c->top_k) = number;
        return -1;
    case OPT_PORT: case OPT_SLOTS: case OPT_QUEUE: case OPT_MAX_BODY: case OPT_TIMEOUT:
        if (!parse_size(v, (size_t)1 << 30, &size))
            return bad(c, o->name, v, "a whole number is expected (k, M, G may follow)");
        *(o->key == OPT_PORT ? &c->port : o->key == OPT_SLOTS ? &c->slots : o->key == OPT_QUEUE ? &c->queue : o->key == OPT_MAX_BODY ? &c->max_body : &c->timeout) = size;
        return -1;
    /* sizes */
    default:
        if (!parse_size(v, (size_t)1 << 50, &size))
            return bad(c, o->name, v, "a whole number is expected (k, M, G may follow)");
        if (o->key == OPT_SEED)
            q->common.seed = size;
        else
            *(o->key == OPT_TOKENS ? &cal->tokens : o->key == OPT_SEQ_LEN ? &cal->seq_len : o->key == OPT_BATCH ? &cal->batch : o->key == OPT_DRAWS ? &cal->draws
              : o->key == OPT_EARLY ? &cal->early
              : o->key == OPT_SHARD_SIZE ? &q->shard_size : o->key == OPT_CTX ? &c->e.ctx : o->key == OPT_CHUNKS ? &c->e.chunks
              : o->key == OPT_REPETITIONS ? &c->repetitions : &c->n_predict) = size;
        return -1;
    }
}

int cli_apply_spec(cli *c, const cli_option *settings, char *text)
{
    char whole[300];
    bool own_text = false;
    snprintf(whole, sizeof whole, "%s", text);
    c->spec = whole;
    char *next = strchr(text, ':');
    if (next)
        *next++ = 0;
    int status = *text ? -1 : bad(c, "method", "", "a SPEC begins with a method");
    c->q.calibration.method = text;
    while (next && status < 0) {
        char *key = next, *value;
        if ((next = strchr(key, ':')))
            *next++ = 0;
        if ((value = strchr(key, '=')))
            *value++ = 0;
        const cli_option *o = settings;
        while (o->name && strcmp(o->name, key))
            o++;
        if (!o->name)
            status = bad(c, key, value ? value : "", "no such setting of a method");
        else if (o->argument && (!value || !*value))
            status = bad(c, key, "", "a value is missing");
        else if (!o->argument && value)
            status = bad(c, key, value, "takes no value");
        else if (o->key == OPT_TEXT && !own_text) { /* the SPEC's own texts take the place of the common ones */
            own_text = true;
            c->q.calibration.n_text = 0;
            status = strcmp(value, "self") ? cli_apply(c, o, value) : -1;
        } else
            status = cli_apply(c, o, value);
    }
    c->spec = NULL;
    return status;
}

int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about, const cli_option *options)
{
    *c = (cli){.command = argv[0], .port = 8080, .slots = 8, .queue = 256, .max_body = 4u << 20, .timeout = 600, .q = kq_quantize_defaults(), .e = kq_eval_text_defaults(), .t = kq_eval_tasks_defaults(), .x = kq_export_defaults(), .n_predict = 128, .temperature = -1, .top_p = -1, .top_k = -1, .min_p = -1, .repeat_penalty = -1};
    c->repetitions = 5;
    struct option longs[64] = {0};
    size_t n = 0;
    for (; options[n].name; n++) {
        resumable = options[n].key == OPT_RESUME ? "the same command with --resume" : resumable;
        longs[n] = (struct option){options[n].name, options[n].argument ? required_argument : no_argument, NULL, options[n].key};
    }
    longs[n] = (struct option){"help", no_argument, NULL, OPT_HELP};
    optind = 1;
    opterr = 0;
    for (int key; (key = getopt_long(argc, argv, ":o:p:n:h", longs, NULL)) != -1;) {
        if (key == OPT_HELP || key == 'h') {
            print_help(usage, about, options);
            return EXIT_OK;
        }
        key = key == 'o' ? OPT_OUT : key == 'p' ? OPT_PROMPT : key == 'n' ? OPT_N : key;
        const cli_option *o = options;
        while (o->name && o->key != key)
            o++;
        if (key == ':') {
            fprintf(stderr, "kronq %s: %s needs a value; see kronq %s --help\n", c->command, argv[optind - 1], c->command);
            return EXIT_USAGE;
        }
        if (!o->name) {
            fprintf(stderr, "kronq %s: unknown option %s; see kronq %s --help\n", c->command, argv[optind - 1], c->command);
            return EXIT_USAGE;
        }
        int status = cli_apply(c, o, optarg);
        if (status >= 0)
            return status;
    }
    if (optind >= argc) {
        fprintf(stderr, "kronq %s: MODEL is missing (a folder, a .gguf file or a kronq checkpoint); see kronq %s --help\n", c->command, c->command);
        return EXIT_USAGE;
    }
    c->model = argv[optind++];
    if (optind < argc) {
        fprintf(stderr, "kronq %s: %s is one argument too many; see kronq %s --help\n", c->command, argv[optind], c->command);
        return EXIT_USAGE;
    }
    c->e.common = c->t.common = c->x.common = c->q.common;
    c->x.shard_size = c->q.shard_size;
    return -1;
}

void cli_resumable(const char *how)
{
    resumable = how;
}

int cli_fail(const kq_error *err)
{
    cli_progress_end();
    const bool hint = err->status == KQ_E_INTERRUPTED && resumable;
    fprintf(stderr, "kronq: %s%s%s%s\n", err->message, hint ? "; " : "", hint ? resumable : "", hint ? " continues" : "");
    return err->status == KQ_E_ARG ? EXIT_USAGE : EXIT_FAILED;
}

const char *cli_bytes(double bytes, char buf[32])
{
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    while (bytes >= 1000 && u < 4) {
        bytes /= 1000;
        u++;
    }
    snprintf(buf, 32, u ? "%.2f %s" : "%.0f %s", bytes, unit[u]);
    return buf;
}
