#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* What a SPEC may set. */
static const cli_option settings[] = {
    SAMPLE_OPTIONS, ESTIMATE_OPTIONS, ROUNDING_OPTIONS, MODULE_BITS_OPTION, {0}};

static const cli_option options[] = {
    {"out", "DIR", "folder of the comparison; an interrupted one is continued, and rows can be added to it",
     OPT_OUT},
    {"methods", "SPEC,...",
     "ways to quantize: METHOD[:SETTING=VALUE]..., settings being those from --text to --head-bits below; "
     "may be "
     "repeated",
     OPT_METHODS},
    {"sweep", "KEY=V,V,...",
     "every SPEC with each of these values of a setting; may be repeated, all combinations are taken",
     OPT_SWEEP},
    {"bits", "K,K,...",
     "bits a weight (2); 2.5 is an average, shared out to the modules by what each would lose",
     OPT_BITS_LIST},
    MODULE_BITS_OPTION,
    {"seeds", "N,N,...", "seeds (0); several are also averaged", OPT_SEEDS},
    {"ppl", "FILE", "text to measure perplexity and KL divergence on; may be repeated", OPT_PPL},
    {"ctx", "N", "tokens a window (2048, or the model's context if that is less)", OPT_CTX},
    {"chunks", "N", "at most this many windows of each text (all)", OPT_CHUNKS},
    {"task", "NAME=FILE", "also the accuracy on a task's documents, as for kronq eval; may be repeated",
     OPT_TASK},
    {"limit", "N", "at most this many documents of each task (all)", OPT_LIMIT},
    SAMPLE_OPTIONS,
    READING_OPTIONS,
    ESTIMATE_OPTIONS,
    ROUNDING_OPTIONS,
    MEMORY_OPTIONS,
    ONLY_OPTION,
    {"factor-dtype", "T", "store factors as f32 (default) or bf16", OPT_FACTOR_DTYPE},
    {"keep-models", NULL, "keep the checkpoints (DIR/models/), not only their figures", OPT_KEEP_MODELS},
    {"keep-factors", NULL, "keep the factor files (DIR/factors/) when no row needs them any more",
     OPT_KEEP_FACTORS},
    {"dry-run", NULL, "print the rows, and what they share, and stop", OPT_DRY_RUN},
    MACHINE_OPTIONS,
    {"json", NULL, "print the table as JSON on stdout", OPT_JSON},
    {"quiet", NULL, "no progress", OPT_QUIET},
    {0},
};

/* One SPEC as written, with sweeps written into it, and what it says. */
typedef struct spec {
    char *name, *words; /* owned; words are cut up */
    cli c;
} spec;

typedef struct job {
    spec *spec;
    size_t n_spec;
    kq_compare_row *row;
    size_t n_row; /* all owned */
} job;

static void job_free(job *j)
{
    for (size_t i = 0; i < j->n_spec; i++) {
        free(j->spec[i].name);
        free(j->spec[i].words);
    }
    free(j->spec);
    free(j->row);
}

static int out_of_memory(void)
{
    fputs("kronq compare: out of memory\n", stderr);
    return EXIT_FAILED;
}

/* The specs multiplied by the values of sweep i and those after it. */
static int add_spec(job *j, const cli *c, const char *text, size_t i)
{
    if (i < c->n_sweeps) {
        const char *equals = strchr(c->sweeps[i], '=');
        if (!equals || equals == c->sweeps[i] || !equals[1]) {
            cli_say("kronq compare: --sweep %s: KEY=VALUE,VALUE,... is expected; see kronq compare --help",
                    c->sweeps[i]);
            return EXIT_USAGE;
        }
        int status = -1;
        for (const char *v = equals + 1; *v && status < 0; v += *v == ',') {
            const size_t n = strcspn(v, ",");
            char *with = NULL;
            if (asprintf(&with, "%s:%.*s%.*s", text, (int)(equals - c->sweeps[i]) + 1, c->sweeps[i], (int)n,
                         v) < 0)
                return out_of_memory();
            status = add_spec(j, c, with, i + 1);
            free(with);
            v += n;
        }
        return status;
    }
    spec *grown = realloc(j->spec, (j->n_spec + 1) * sizeof *grown);
    if (!grown)
        return out_of_memory();
    j->spec = grown;
    spec *s = &grown[j->n_spec++];
    *s = (spec){.name = strdup(text), .words = strdup(text)};
    return s->name && s->words ? -1 : out_of_memory();
}

static int add_specs(job *j, const cli *c)
{
    int status = -1;
    for (size_t m = 0; m < c->n_methods; m++)
        for (const char *p = c->methods[m]; *p && status < 0; p += *p == ',') {
            const size_t n = strcspn(p, ",");
            char *one = strndup(p, n);
            status = one ? add_spec(j, c, one, 0) : out_of_memory();
            free(one);
            p += n;
        }
    for (size_t i = 0; i < j->n_spec && status < 0; i++) { /* only now: the array does not move any more */
        spec *s = &j->spec[i];
        s->c = *c;
        if (c->q.calibration.n_text)
            s->c.q.calibration.text = s->c.texts;
        if (c->q.n_module_bits)
            s->c.q.module_bits = s->c.module_bits;
        status = cli_apply_spec(&s->c, settings, s->words);
    }
    return status;
}

/* Every spec with every number of bits and every seed; the lists are read by the options that set one. */
static int add_rows(job *j, const cli *c)
{
    static const cli_option bits = {"bits", "K", "", OPT_BITS}, seed = {"seeds", "N", "", OPT_SEED};
    const char *const all_bits = c->bits ? c->bits : "2", *const all_seeds = c->seeds ? c->seeds : "0";
    for (size_t i = 0; i < j->n_spec; i++)
        for (const char *b = all_bits; *b; b += *b == ',') {
            const size_t nb = strcspn(b, ",");
            for (const char *s = all_seeds; *s; s += *s == ',') {
                const size_t ns = strcspn(s, ",");
                char text[64];
                cli one = j->spec[i].c;
                snprintf(text, sizeof text, "%.*s", (int)nb, b);
                int status = cli_apply(&one, &bits, text);
                if (status >= 0)
                    return status;
                snprintf(text, sizeof text, "%.*s", (int)ns, s);
                if ((status = cli_apply(&one, &seed, text)) >= 0)
                    return status;
                kq_compare_row *grown = realloc(j->row, (j->n_row + 1) * sizeof *grown);
                if (!grown)
                    return out_of_memory();
                j->row = grown;
                one.q.calibration.text = j->spec[i].c.q.calibration.text;
                grown[j->n_row++] = (kq_compare_row){.spec = j->spec[i].name, .options = one.q};
                s += ns;
            }
            b += nb;
        }
    return -1;
}

static int print_plan(const cli *c, const char *text)
{
    if (c->json) {
        puts(text);
        return EXIT_OK;
    }
    json_t *plan = json_loads(text, 0, NULL), *row, *pass;
    size_t i, done = 0;
    char bytes[32];
    printf("%-6s %-10s %-8s %-28s %s\n", "bits", "seed", "", "factors", "method");
    json_array_foreach(json_object_get(plan, "rows"), i, row)
    {
        const char *factors = json_string_value(json_object_get(row, "factors"));
        const bool ready = json_is_true(json_object_get(row, "done"));
        done += ready;
        printf("%-6g %-10lld %-8s %-28s %s\n", json_number_value(json_object_get(row, "bits")),
               json_integer_value(json_object_get(row, "seed")), ready ? "done" : "",
               factors ? factors : "none", json_string_value(json_object_get(row, "spec")));
    }
    printf("\n%zu rows, %zu of them done; %zu passes over the text\n",
           json_array_size(json_object_get(plan, "rows")), done,
           json_array_size(json_object_get(plan, "passes")));
    json_array_foreach(json_object_get(plan, "passes"), i, pass)
        printf("  pass %zu: %zu factor files\n", i + 1, json_array_size(pass));
    printf("factor files need %s of disk\n",
           cli_bytes(json_number_value(json_object_get(plan, "factor_bytes")), bytes));
    json_decref(plan);
    return EXIT_OK;
}

static int compare(cli *c, job *j)
{
    kq_compare_options o = kq_compare_defaults();
    kq_error err;
    char *text = NULL;
    o.common = c->q.common;
    o.text = c->ppls;
    o.n_text = c->n_ppl;
    o.reading = c->e.reading;
    o.ctx = c->e.ctx;
    o.chunks = c->e.chunks;
    o.tasks = c->tasks;
    o.n_tasks = c->n_task;
    o.limit = c->t.limit;
    o.memory = c->e.memory;
    o.factor_bf16 = c->factor_bf16;
    o.keep_models = c->keep_models;
    o.keep_factors = c->keep_factors;
    int status = add_specs(j, c);
    if (status < 0)
        status = add_rows(j, c);
    if (status >= 0)
        return status;
    if (c->dry_run) {
        if (kq_compare_plan(c->model, c->out, j->row, j->n_row, &o, &text, &err))
            return cli_fail(&err);
        status = print_plan(c, text);
        free(text);
        return status;
    }
    cli_resumable("the same command");
    cli_progress(c, &o.common);
    if (kq_compare(c->model, c->out, j->row, j->n_row, &o, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c->json)
        puts(text);
    else if (!c->quiet)
        fprintf(stderr, "%s: table.md, table.csv and table.json\n", c->out);
    free(text);
    return EXIT_OK;
}

int cmd_compare(int argc, char **argv)
{
    cli c;
    int status =
        cli_parse(&c, argc, argv, "compare MODEL -o DIR --methods SPEC[,SPEC...] --ppl FILE [options]",
                  "Quantize MODEL in several ways, measure every result against MODEL, and write one table "
                  "(DIR/table.md, .csv\n"
                  "and .json). A SPEC is a method with settings of its own. Factors are found once for all "
                  "bits and seeds that\n"
                  "need them, in one pass over the text for all methods and settings that allow it.\n\n"
                  "  kronq compare model.gguf -o cmp --methods "
                  "flipflop,flipflop:rho=1e-1:rounds=2,fastkron,input-only,none \\\n"
                  "      --bits 2,3,4 --text c4.txt --ppl wiki.txt --chunks 8\n"
                  "  kronq compare model.gguf -o tokens --methods flipflop,fastkron --sweep "
                  "tokens=16k,32k,64k --seeds 0,1,2 \\\n"
                  "      --text c4.txt --ppl wiki.txt --chunks 8\n\n"
                  "text=self in a SPEC stands for text that the model writes itself.",
                  options);
    if (status >= 0)
        return status;
    const struct {
        bool missing;
        const char *what;
    } needed[] = {
        {!c.out, "-o DIR is missing"},
        {!c.n_methods, "--methods SPEC,... is missing, e.g. --methods flipflop,fastkron"},
        {!c.n_ppl && !c.n_task,
         "--ppl FILE is missing: it names the text to measure on; or --task NAME=FILE.jsonl"},
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (needed[i].missing) {
            cli_say("kronq compare: %s; see kronq compare --help", needed[i].what);
            return EXIT_USAGE;
        }
    static const int of_text[] = {OPT_CTX, OPT_CHUNKS, 0}, of_tasks[] = {OPT_LIMIT, 0};
    if ((!c.n_ppl && (status = cli_misplaced(&c, options, of_text, "goes with --ppl")) >= 0) ||
        (!c.n_task && (status = cli_misplaced(&c, options, of_tasks, "goes with --task")) >= 0))
        return status;
    job j = {0};
    status = compare(&c, &j);
    job_free(&j);
    return status;
}
