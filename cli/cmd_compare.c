/* kronq compare: compares many ways to quantize one model. A SPEC of the command line is a method with its
 * settings. Each combination of a SPEC, a number of bits and a seed is one row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* One SPEC with one value of every --sweep written into it, and what it says. */
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

/* Add the SPEC `text` once for each combination of values of the sweeps i and following. */
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
    /* only now, because pointers into the array are kept and it does not move any more */
    for (size_t i = 0; i < j->n_spec && status < 0; i++) {
        spec *s = &j->spec[i];
        s->c = *c;
        status = cli_apply_spec(&s->c, s->words);
    }
    return status;
}

/* The library's setting that a list of the command line has the values of. */
static const kq_setting *setting_of(const char *name)
{
    size_t n;
    const kq_setting *s = kq_settings(&n);
    while (n-- && (strcmp(s->name, name) || !(s->takers & KQ_FOR_QUANTIZE)))
        s++;
    return s;
}

/* The spec with one number of bits and one seed. */
static int add_row(job *j, const spec *s, const char *bits, size_t n_bits, const char *seed, size_t n_seed)
{
    char text[64];
    cli row = s->c;
    snprintf(text, sizeof text, "%.*s", (int)n_bits, bits);
    int status = cli_apply(&row, setting_of("bits"), text);
    if (status >= 0)
        return status;
    snprintf(text, sizeof text, "%.*s", (int)n_seed, seed);
    row.typed = "--seeds";
    if ((status = cli_apply(&row, setting_of("seed"), text)) >= 0)
        return status;
    kq_compare_row *grown = realloc(j->row, (j->n_row + 1) * sizeof *grown);
    if (!grown)
        return out_of_memory();
    j->row = grown;
    grown[j->n_row++] = (kq_compare_row){.spec = s->name, .options = row.q};
    return -1;
}

/* Every spec with every number of bits and every seed. */
static int add_rows(job *j, const cli *c)
{
    const char *const all_bits = c->bits ? c->bits : "2", *const all_seeds = c->seeds ? c->seeds : "0";
    for (size_t i = 0; i < j->n_spec; i++)
        for (const char *b = all_bits; *b; b += *b == ',') {
            const size_t n_bits = strcspn(b, ",");
            for (const char *s = all_seeds; *s; s += *s == ',') {
                const size_t n_seed = strcspn(s, ",");
                const int status = add_row(j, &j->spec[i], b, n_bits, s, n_seed);
                if (status >= 0)
                    return status;
                s += n_seed;
            }
            b += n_bits;
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
    json_array_foreach(json_object_get(plan, "rows"), i, row) {
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
    kq_error err;
    char *text = NULL;
    kq_compare_options *o = &c->o;
    o->text = c->ppls;
    o->n_text = c->n_ppl;
    o->tasks = c->tasks;
    o->n_tasks = c->n_task;
    int status = add_specs(j, c);
    if (status < 0)
        status = add_rows(j, c);
    if (status >= 0)
        return status;
    if (c->dry_run) {
        if (kq_compare_plan(c->model, c->out, j->row, j->n_row, o, &text, &err))
            return cli_fail(&err);
        status = print_plan(c, text);
        free(text);
        return status;
    }
    cli_resumable("the same command");
    cli_progress(c, &o->common);
    if (kq_compare(c->model, c->out, j->row, j->n_row, o, &text, &err))
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
                  "text=self in a SPEC stands for text that the model writes itself.");
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
    if ((!c.n_ppl && (status = cli_only_for(&c, KQ_FOR_COMPARE_TASKS, "goes with --ppl")) >= 0) ||
        (!c.n_task && (status = cli_only_for(&c, KQ_FOR_COMPARE_TEXTS, "goes with --task")) >= 0))
        return status;
    cli_fit_seq_len(&c, c.model, &c.q.calibration.seq_len);
    job j = {0};
    status = compare(&c, &j);
    job_free(&j);
    return status;
}
