#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/warn.h"
#include "cli.h"

static const char *resumable; /* what continues the command at work: "the same command with --resume" */

void cli_say(const char *format, ...)
{
    char line[4096];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *at = line; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 127)
            *at = '?';
    fprintf(stderr, "%s%s\n", line, n >= (int)sizeof line ? " ..." : "");
}

static int bad(const cli *c, const char *name, const char *value, const char *wanted)
{
    if (c->spec)
        cli_say("kronq %s: in %s: %s=%s: %s; see kronq %s --help", c->command, c->spec, name, value, wanted,
                c->command);
    else
        cli_say("kronq %s: %s%s %s: %s; see kronq %s --help", c->command, c->typed ? "" : "--",
                c->typed ? c->typed : name, value, wanted, c->command);
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
    if (errno || end == text || *end || !isfinite(v) ||
        text[strspn(text, "+-.0123456789eE")]) /* strtod also takes hexadecimal */
        return false;
    *out = v;
    return true;
}

/* What a number may be, whatever else is given; the library knows what it may be for this model. */
typedef struct range {
    int key;
    double low, high;
} range;

static const range ranges[] = {
    {OPT_TOKENS, 1, 1e15},       {OPT_SEQ_LEN, 2, 1 << 20}, {OPT_BATCH, 1, 1e9},
    {OPT_DRAWS, 1, 1024},        {OPT_EARLY, 0, 1e9},       {OPT_ROUNDS, 1, 1e6},
    {OPT_PASSES, 1, 100},        {OPT_MAX_ITER, 1, 10000},  {OPT_RHO, 0, 1e6},
    {OPT_TOL, 0, 1e6},           {OPT_SIGMA_REG, 0, 1e6},   {OPT_SHRINK, 0, HUGE_VAL},
    {OPT_BITS, 0, HUGE_VAL},     {OPT_EMBED_BITS, 0, 1e9},  {OPT_HEAD_BITS, 0, 1e9},
    {OPT_SWEEPS, 0, 1000},       {OPT_THREADS, 0, 1024},    {OPT_SHARD_SIZE, 1 << 10, 1e15},
    {OPT_MEMORY, 1 << 20, 1e18}, {OPT_CTX, 2, 1 << 30},     {OPT_CHUNKS, 1, 1e15},
    {OPT_LIMIT, 1, 1e15},        {OPT_REPETITIONS, 1, 1e6}, {OPT_N, 1, 1e9},
    {OPT_SEED, 0, 9.2e18},       {OPT_TEMP, 0, 100},        {OPT_TOP_K, 0, 1e9},
    {OPT_TOP_P, 0, 1},           {OPT_MIN_P, 0, 1},         {OPT_REPEAT_PENALTY, 0.01, 100},
    {OPT_PORT, 0, 65535},        {OPT_SLOTS, 1, 4096},      {OPT_QUEUE, 1, 1e6},
    {OPT_MAX_BODY, 1, 1 << 30},  {OPT_TIMEOUT, 0, 1e9},
};

static const range *range_of(int key)
{
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ranges[i].key == key)
            return &ranges[i];
    return NULL;
}

static int in_range(const cli *c, const cli_option *o, const char *text, double value)
{
    const range *r = range_of(o->key);
    char wanted[80];
    if (!r || (value >= r->low && value <= r->high))
        return -1;
    if (r->high >= 1e6)
        snprintf(wanted, sizeof wanted, "at least %.10g is expected, and at most %.10g", r->low, r->high);
    else
        snprintf(wanted, sizeof wanted, "%.10g to %.10g is expected", r->low, r->high);
    return bad(c, o->name, text, wanted);
}

static void print_help(const char *usage, const char *about, const cli_option *options)
{
    printf("usage: kronq %s\n\n%s\n\noptions:\n", usage, about);
    for (const cli_option *o = options; o->name; o++) {
        char left[80];
        snprintf(left, sizeof left, "%s--%s%s%s",
                 o->key == OPT_OUT      ? "-o, "
                 : o->key == OPT_PROMPT ? "-p, "
                 : o->key == OPT_N      ? "-n, "
                                        : "",
                 o->name, o->argument ? " " : "", o->argument ? o->argument : "");
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
    static const struct {
        int key;
        const char *name;
    } settings[] = {
        {OPT_TEXT, "text"},
        {OPT_TOKENS, "tokens"},
        {OPT_SEQ_LEN, "seq_len"},
        {OPT_BATCH, "batch"},
        {OPT_LABELS, "labels"},
        {OPT_DRAWS, "draws"},
        {OPT_METHOD, "method"},
        {OPT_RHO, "rho"},
        {OPT_ROUNDS, "rounds"},
        {OPT_EARLY, "early"},
        {OPT_PASSES, "passes"},
        {OPT_EXACT, "exact"},
        {OPT_TOL, "tol"},
        {OPT_PARSE_SPECIAL, "parse_special"},
        {OPT_NO_PARSE_SPECIAL, "parse_special"},
        {OPT_TEXT_FORMAT, "text_format"},
        {OPT_MAX_ITER, "max_iter"},
        {OPT_START, "start"},
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
    c->seen[o->key] = true;
    if (v && !*v && !range_of(o->key) && o->key != OPT_PROMPT && o->key != OPT_SYSTEM)
        return bad(c, o->name, "''", "it may not be empty");
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
        if (!parse_size(v, (size_t)1 << 60, &q->memory))
            return bad(c, o->name, v, "a size in bytes is expected (k, M, G may follow)");
        c->e.memory = c->t.memory = q->memory;
        return in_range(c, o, v, (double)q->memory);
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
    case OPT_CORS:
    case OPT_ALLOW_HOST: {
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
    case OPT_TASK: return add_task(c, o->name, v);
    case OPT_TEXT_FORMAT: cal->reading.format = c->e.reading.format = v; return -1;
    case OPT_PARSE_SPECIAL:
    case OPT_NO_PARSE_SPECIAL:
        cal->reading.spell_special = c->e.reading.spell_special = o->key == OPT_NO_PARSE_SPECIAL;
        return -1;
    case OPT_SAVE_LOGITS: c->e.save_logits = v; return -1;
    case OPT_CACHE: c->e.cache = v; return -1;
    case OPT_PER_WINDOW: c->e.per_window = v; return -1;
    case OPT_LIMIT:
        return parse_size(v, (size_t)1 << 50, &c->t.limit) ? in_range(c, o, v, (double)c->t.limit)
                                                           : bad(c, o->name, v, "a whole number is expected");
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
    case OPT_RHO:
    case OPT_TOL:
    case OPT_SIGMA_REG:
    case OPT_BITS:
    case OPT_SHRINK:
    case OPT_TEMP:
    case OPT_TOP_P:
    case OPT_MIN_P:
    case OPT_REPEAT_PENALTY:
        if (!parse_real(v, &real) || real < 0)
            return bad(c, o->name, v, "a number of at least 0 is expected");
        *(o->key == OPT_RHO              ? &cal->rho
          : o->key == OPT_TOL            ? &cal->tol
          : o->key == OPT_SIGMA_REG      ? &q->sigma_reg
          : o->key == OPT_SHRINK         ? &q->shrink
          : o->key == OPT_BITS           ? &q->bits
          : o->key == OPT_TEMP           ? &c->temperature
          : o->key == OPT_MIN_P          ? &c->min_p
          : o->key == OPT_REPEAT_PENALTY ? &c->repeat_penalty
                                         : &c->top_p) = real;
        return in_range(c, o, v, real);
    /* small whole numbers */
    case OPT_ROUNDS:
    case OPT_PASSES:
    case OPT_MAX_ITER:
    case OPT_EMBED_BITS:
    case OPT_HEAD_BITS:
    case OPT_THREADS:
    case OPT_TOP_K:
    case OPT_SWEEPS:
        if (!parse_int(v, &number))
            return bad(c, o->name, v, "a whole number is expected");
        *(o->key == OPT_ROUNDS       ? &cal->rounds
          : o->key == OPT_PASSES     ? &cal->passes
          : o->key == OPT_MAX_ITER   ? &cal->max_iter
          : o->key == OPT_EMBED_BITS ? &q->embed_bits
          : o->key == OPT_HEAD_BITS  ? &q->head_bits
          : o->key == OPT_SWEEPS     ? &q->sweeps
          : o->key == OPT_THREADS    ? &q->common.threads
                                     : &c->top_k) = number;
        return in_range(c, o, v, number);
    case OPT_PORT:
    case OPT_SLOTS:
    case OPT_QUEUE:
    case OPT_MAX_BODY:
    case OPT_TIMEOUT:
        if (!parse_size(v, (size_t)1 << 30, &size))
            return bad(c, o->name, v, "a whole number is expected (k, M, G may follow)");
        *(o->key == OPT_PORT       ? &c->port
          : o->key == OPT_SLOTS    ? &c->slots
          : o->key == OPT_QUEUE    ? &c->queue
          : o->key == OPT_MAX_BODY ? &c->max_body
                                   : &c->timeout) = size;
        return in_range(c, o, v, (double)size);
    /* sizes */
    default:
        if (!parse_size(v, o->key == OPT_SEED ? SIZE_MAX / 2 : (size_t)1 << 50, &size))
            return bad(c, o->name, v,
                       o->key == OPT_SEED ? "a whole number below 2^63 is expected"
                                          : "a whole number is expected (k, M, G may follow)");
        if (o->key == OPT_SEED)
            q->common.seed = size;
        else
            *(o->key == OPT_TOKENS        ? &cal->tokens
              : o->key == OPT_SEQ_LEN     ? &cal->seq_len
              : o->key == OPT_BATCH       ? &cal->batch
              : o->key == OPT_DRAWS       ? &cal->draws
              : o->key == OPT_EARLY       ? &cal->early
              : o->key == OPT_SHARD_SIZE  ? &q->shard_size
              : o->key == OPT_CTX         ? &c->e.ctx
              : o->key == OPT_CHUNKS      ? &c->e.chunks
              : o->key == OPT_REPETITIONS ? &c->repetitions
                                          : &c->n_predict) = size;
        return in_range(c, o, v, (double)size);
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
        else if (o->key == OPT_TEXT &&
                 !own_text) { /* the SPEC's own texts take the place of the common ones */
            own_text = true;
            c->q.calibration.n_text = 0;
            status = strcmp(value, "self") ? cli_apply(c, o, value) : -1;
        } else
            status = cli_apply(c, o, value);
    }
    c->spec = NULL;
    return status;
}

static bool same_letter(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* How far two words are apart, whatever their capitals: letters put in, left out, changed, or exchanged
 * with their neighbour (optimal string alignment). */
static size_t distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    size_t d[MOST + 1][MOST + 1], n = strlen(a), m = strlen(b);
    if (n > MOST || m > MOST)
        return MOST;
    for (size_t i = 0; i <= n; i++)
        for (size_t j = 0; j <= m; j++) {
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            size_t least = d[i - 1][j - 1] + !same_letter(a[i - 1], b[j - 1]);
            least = d[i - 1][j] + 1 < least ? d[i - 1][j] + 1 : least;
            least = d[i][j - 1] + 1 < least ? d[i][j - 1] + 1 : least;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]) &&
                d[i - 2][j - 2] + 1 < least)
                least = d[i - 2][j - 2] + 1;
            d[i][j] = least;
        }
    return d[n][m];
}

const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list)
{
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 1; /* a third of the letters may be wrong */
    for (size_t i = 0; name(list, i); i++) {
        const char *n = name(list, i);
        const bool begins = strlen(word) > 1 && !strncasecmp(word, n, strlen(word));
        const size_t d = begins ? 0 : distance(word, n);
        if (d < least || (d == least && !best && d < strlen(word))) {
            best = n;
            least = d;
        }
    }
    return best;
}

static const char *option_name(const void *list, size_t i)
{
    return ((const cli_option *)list)[i].name;
}

static int unknown(const cli *c, const char *option, const cli_option *options)
{
    char word[64];
    snprintf(word, sizeof word, "%s", option + strspn(option, "-"));
    word[strcspn(word, "=")] = 0;
    const char *meant = cli_nearest(word, option_name, options);
    cli_say("kronq %s: unknown option %s%s%s%s; see kronq %s --help", c->command, option,
            meant ? "; did you mean --" : "", meant ? meant : "", meant ? "?" : "", c->command);
    return EXIT_USAGE;
}

/* The option that a word of the command line begins: --name, --name=value, or -o, -p and -n with or
 * without their value behind. *value: what stands in the same word, or NULL. typed: the name as it was
 * given. */
static const cli_option *find_option(const cli_option *options, char *word, char typed[64], char **value)
{
    static const struct {
        char letter;
        int key;
    } letters[] = {{'o', OPT_OUT}, {'p', OPT_PROMPT}, {'n', OPT_N}};
    const bool is_long = word[1] == '-';
    const size_t n = is_long ? strcspn(word, "=") : 2;
    *value = is_long ? word[n] ? word + n + 1 : NULL : word[2] ? word + 2 + (word[2] == '=') : NULL;
    snprintf(typed, 64, "%.*s", (int)n, word);
    for (const cli_option *o = options; o->name; o++) {
        if (is_long && strlen(o->name) == n - 2 && !strncmp(o->name, word + 2, n - 2))
            return o;
        for (size_t i = 0; !is_long && i < sizeof letters / sizeof *letters; i++)
            if (word[1] == letters[i].letter && o->key == letters[i].key)
                return o;
    }
    return NULL;
}

/* One option and its value, which may be the word after it: *i is moved on. */
static int parse_option(cli *c, int argc, char **argv, int *i, const cli_option *options)
{
    char typed[64], other[64], *value, *unused;
    const cli_option *o = find_option(options, argv[*i], typed, &value);
    if (!o)
        return unknown(c, argv[*i], options);
    if (!o->argument && value) {
        cli_say("kronq %s: %s takes no value (%s); see kronq %s --help", c->command, typed, argv[*i],
                c->command);
        return EXIT_USAGE;
    }
    if (o->argument && !value) {
        char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
        const bool is_option =
            next && !strncmp(next, "--", 2) && (!next[2] || find_option(options, next, other, &unused));
        if (!next || is_option) {
            cli_say("kronq %s: %s needs a value (%s)%s%s%s; see kronq %s --help", c->command, typed,
                    o->argument, is_option ? " before " : "", is_option ? next : "", "", c->command);
            return EXIT_USAGE;
        }
        value = next;
        ++*i;
    }
    c->typed = typed;
    const int status = cli_apply(c, o, value);
    c->typed = NULL;
    return status;
}

int cli_parse(cli *c, int argc, char **argv, const char *usage, const char *about, const cli_option *options)
{
    *c = (cli){.command = argv[0],
               .port = 8080,
               .slots = 8,
               .queue = 256,
               .max_body = 4u << 20,
               .timeout = 600,
               .q = kq_quantize_defaults(),
               .e = kq_eval_text_defaults(),
               .t = kq_eval_tasks_defaults(),
               .x = kq_export_defaults(),
               .n_predict = 128,
               .temperature = -1,
               .top_p = -1,
               .top_k = -1,
               .min_p = -1,
               .repeat_penalty = -1};
    c->repetitions = 5;
    for (size_t n = 0; options[n].name; n++)
        resumable = options[n].key == OPT_RESUME ? "the same command with --resume" : resumable;
    char noun[32]; /* what the command works on is the second word of its usage */
    snprintf(noun, sizeof noun, "%.*s", (int)strcspn(usage + strcspn(usage, " ") + 1, " "),
             usage + strcspn(usage, " ") + 1);
    const bool alone = noun[0] == '[';
    bool words_only = false;
    for (int i = 1; i < argc; i++) {
        if (!words_only && !strcmp(argv[i], "--")) {
            words_only = true;
        } else if (!words_only && (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))) {
            print_help(usage, about, options);
            return EXIT_OK;
        } else if (!words_only && argv[i][0] == '-' && argv[i][1]) {
            const int status = parse_option(c, argc, argv, &i, options);
            if (status >= 0)
                return status;
        } else if (alone) {
            cli_say("kronq %s: %s is one argument too many (it takes options only); see kronq %s --help",
                    c->command, argv[i], c->command);
            return EXIT_USAGE;
        } else if (c->model) {
            cli_say("kronq %s: %s is one argument too many (%s is %s already%s); see kronq %s --help",
                    c->command, argv[i], noun, c->model,
                    words_only ? ", and after -- nothing is an option" : "", c->command);
            return EXIT_USAGE;
        } else if (!*argv[i]) {
            cli_say("kronq %s: %s is an empty word; see kronq %s --help", c->command, noun, c->command);
            return EXIT_USAGE;
        } else {
            c->model = argv[i];
        }
    }
    if (!c->model && !alone) {
        cli_say("kronq %s: %s is missing (%s); see kronq %s --help", c->command, noun,
                strcmp(noun, "MODEL") ? "the folder that kronq compare wrote"
                                      : "a folder, a .gguf file or a kronq checkpoint",
                c->command);
        return EXIT_USAGE;
    }
    if (c->seen[OPT_RESUME] && c->seen[OPT_FRESH]) {
        cli_say("kronq %s: --resume continues unfinished work and --fresh discards it; give one of them",
                c->command);
        return EXIT_USAGE;
    }
    c->e.common = c->t.common = c->x.common = c->q.common;
    c->x.shard_size = c->q.shard_size;
    return -1;
}

bool cli_given(const cli *c, int key)
{
    return c->seen[key];
}

int cli_misplaced(const cli *c, const cli_option *options, const int *keys, const char *why)
{
    for (; *keys; keys++)
        for (const cli_option *o = options; c->seen[*keys] && o->name; o++)
            if (o->key == *keys) {
                cli_say("kronq %s: --%s %s; see kronq %s --help", c->command, o->name, why, c->command);
                return EXIT_USAGE;
            }
    return -1;
}

void cli_no_effect(const cli *c, const cli_option *options, const int *keys, const char *beside)
{
    for (; *keys; keys++)
        for (const cli_option *o = options; c->seen[*keys] && o->name; o++)
            if (o->key == *keys)
                kq_warn("--%s has no effect with %s", o->name, beside);
}

int cli_check_output(const char *path)
{
    char folder[4096];
    struct stat st;
    const char *slash = path ? strrchr(path, '/') : NULL;
    if (!path)
        return -1;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + (slash == path) : 1,
             slash ? path : ".");
    const bool there = !stat(path, &st);
    if (there && S_ISDIR(st.st_mode))
        errno = EISDIR;
    else if (access(folder, F_OK) == 0 && !(stat(folder, &st) == 0 && S_ISDIR(st.st_mode)))
        errno = ENOTDIR;
    else if (access(there ? path : folder, W_OK) == 0)
        return -1;
    cli_say("kronq: %s: cannot be written: %s", path, strerror(errno));
    return EXIT_FAILED;
}

void cli_resumable(const char *how)
{
    resumable = how;
}

int cli_fail(const kq_error *err)
{
    cli_progress_end();
    const bool hint = err->status == KQ_E_INTERRUPTED && resumable;
    cli_say("kronq: %s%s%s%s", err->message, hint ? "; " : "", hint ? resumable : "",
            hint ? " continues" : "");
    return err->status == KQ_E_ARG ? EXIT_USAGE : EXIT_FAILED;
}

const char *cli_bytes(double bytes, char buf[32])
{
    return kq_bytes_text(bytes, buf);
}
