/* kronq quantize: makes a checkpoint, with --to gguf a file for llama.cpp, with --to exl3 a folder for
 * exllamav3. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static int print_plan(const cli *c, const char *text)
{
    if (c->json) {
        puts(text);
        return EXIT_OK;
    }
    json_t *plan = json_loads(text, 0, NULL), *module;
    size_t i;
    char a[32], b[32], d[32];
    printf("%-44s %13s  %-6s %s\n", "module", "shape", "source",
           json_object_get(plan, "type") ? "type" : "bits  transform");
    const char *gguf = json_string_value(json_object_get(plan, "type"));
    json_array_foreach(json_object_get(plan, "modules"), i, module) {
        const json_t *shape = json_object_get(module, "shape");
        printf("%-44s %6lld x %-5lld %-6s ", json_string_value(json_object_get(module, "name")),
               json_integer_value(json_array_get(shape, 0)), json_integer_value(json_array_get(shape, 1)),
               json_string_value(json_object_get(module, "source")));
        if (gguf)
            printf("%s\n", json_string_value(json_object_get(module, "type")));
        else
            printf("%-5g %s\n", real(module, "bits"),
                   json_string_value(json_object_get(module, "transform")));
    }
    if (gguf)
        printf("\nembedding %s, head %s", json_string_value(json_object_get(plan, "embedding")),
               json_string_value(json_object_get(plan, "head")));
    printf("\n%.0f modules, %.1f M weights at %.3f bits; file about %s", real(plan, "quantized_modules"),
           real(plan, "quantized_weights") / 1e6, real(plan, "bpw"), cli_bytes(real(plan, "file_bytes"), a));
    const char *aim = json_string_value(json_object_get(plan, "aim"));
    if (aim && json_is_false(json_object_get(plan, "bits_settled")))
        printf(" at the most; the bits for %s are chosen when the factors are there (--factors)", aim);
    else if (json_is_false(json_object_get(plan, "bits_settled")))
        printf(" (which module gets how many shows when the factors are there: --factors)");
    printf(gguf ? " and its metadata\n" : " (%.3f bits per weight of the whole model)\n",
           real(plan, "bpw_file"));
    const json_t *chosen = json_object_get(plan, "allocation");
    if (chosen)
        printf(
            "embedding %.0f bits; forecast of the KL divergence %.4g nats a token (linears %.4g, embedding "
            "and head %.4g)\n",
            real(plan, "embed_bits"), real(chosen, "forecast_kld"), real(chosen, "forecast_linears_kld"),
            real(chosen, "forecast_rows_kld"));
    printf(
        "method %s, %.0f calibration tokens; needs about %s of memory and %s of disk; %s, %s, %.0f threads\n",
        json_string_value(json_object_get(plan, "method")), real(plan, "calibration_tokens"),
        cli_bytes(real(plan, "planned_memory_bytes"), b), cli_bytes(real(plan, "planned_disk_bytes"), d),
        json_string_value(json_object_get(plan, "isa")), json_string_value(json_object_get(plan, "compute")),
        real(plan, "threads"));
    json_decref(plan);
    return EXIT_OK;
}

/* The figures of the finished checkpoint or file, on stderr. */
static void print_figures(const cli *c, const json_t *report)
{
    char bytes[32];
    fprintf(stderr,
            "%s: %s; %.3f bits a quantized weight, %.3f bits a weight of the whole file; relative error "
            "%.4f\n",
            c->out, cli_bytes(real(report, "file_bytes"), bytes), real(report, "bpw"),
            real(report, "bpw_file"), real(report, "relative_mse"));
    if (json_is_number(json_object_get(report, "predicted_loss")))
        fprintf(stderr, "predicted rise of the loss: %.4f nats a token (eq. 1)\n",
                real(report, "predicted_loss"));
    const json_t *chosen = json_object_get(report, "allocation");
    if (json_object_get(chosen, "forecast_kld"))
        fprintf(stderr, "forecast of the KL divergence: %.4f nats a token; `kronq eval --kld` measures it\n",
                real(chosen, "forecast_kld"));
    const json_t *tuned = json_object_get(report, "tuned");
    if (json_is_object(tuned))
        fprintf(stderr, "tuned: KL divergence on held-out text %.4f, %.4f before\n", real(tuned, "kld_after"),
                real(tuned, "kld_before"));
    else if (tuned)
        fprintf(stderr, "tuning did not help on held-out text: the rounded checkpoint is kept\n");
    cli_print_costs(report);
}

/* What --to names: who takes its settings, what a wrong one is told, and what it calls. */
typedef struct target {
    const char *name; /* NULL: without --to */
    unsigned taker;
    const char *misplaced;
    kq_status (*make)(const char *model, const char *out, const kq_quantize_options *opt, char **report_json,
                      kq_error *err);
    kq_status (*plan)(const char *model, const kq_quantize_options *opt, char **plan_json, kq_error *err);
} target;

static const target targets[] = {
    {"gguf", KQ_FOR_QUANTIZE_GGUF, "does not belong to --to gguf (--type and --tensor-type do)",
     kq_quantize_gguf, kq_plan_gguf},
    {"exl3", KQ_FOR_QUANTIZE_EXL3, "does not belong to --to exl3", kq_quantize_exl3, kq_plan_exl3},
    {NULL, KQ_FOR_QUANTIZE, "belongs to --to gguf", kq_quantize, kq_plan},
};

static const target *target_of(const cli *c)
{
    const target *t = targets;
    while (t->name && (!c->to || strcmp(t->name, c->to)))
        t++;
    return t;
}

static int plan(const cli *c, const target *to)
{
    kq_error err;
    char *text = NULL;
    if (to->plan(c->model, &c->q, &text, &err))
        return cli_fail(&err);
    const int status = print_plan(c, text);
    free(text);
    return status;
}

static int quantize(cli *c, const target *to)
{
    kq_error err;
    char *text = NULL;
    cli_progress(c, &c->q.common);
    if (to->make(c->model, c->out, &c->q, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c->json)
        puts(text);
    json_t *report = json_loads(text, 0, NULL);
    if (!c->quiet && json_object_get(report, "bpw"))
        print_figures(c, report);
    json_decref(report);
    free(text);
    return EXIT_OK;
}

/* With --size, --bpw or --kld: --bits is refused, and what is said of the embedding and the head is kept. -1:
 * go on. */
static int take_aim(cli *c)
{
    static const char *const aims[] = {"size", "bpw", "kld"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof aims / sizeof *aims; i++)
        n += cli_given(c, aims[i]);
    if (!n)
        return -1;
    if (n > 1 || cli_given(c, "bits")) {
        cli_say("kronq quantize: --bits, --size, --bpw and --kld each decide the bits; give one of them");
        return EXIT_USAGE;
    }
    c->q.keep_embed_bits = cli_given(c, "embed_bits");
    c->q.keep_head_bits = cli_given(c, "head_bits");
    return -1;
}

int cmd_quantize(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "quantize MODEL -o OUT [--bits K | --size SIZE] [options]",
        "Quantize every linear layer of MODEL to K bits a weight and write the checkpoint OUT (a Hugging "
        "Face folder).\n"
        "The curvature of the loss is measured on --text, or on text that the model writes itself.\n\n"
        "  kronq quantize model.gguf -o out --bits 2\n"
        "  kronq quantize llama/ -o out --bits 3 --text c4.txt --tokens 96k\n"
        "  kronq quantize model.gguf -o out --size 60MB\n\n"
        "With --to gguf the weights are rounded onto the block types of llama.cpp itself, as one file that "
        "it loads:\n\n"
        "  kronq quantize model.gguf --to gguf --type Q4_K_M -o small.gguf\n\n"
        "With --to exl3 they are rounded onto the grid of exllamav3, as a folder that it loads:\n\n"
        "  kronq quantize llama/ --to exl3 --bits 3 -o llama-exl3");
    if (status >= 0)
        return status;
    const target *to = target_of(&c);
    status = cli_only_for(&c, to->taker, to->misplaced);
    if (status >= 0)
        return status;
    if ((status = take_aim(&c)) >= 0)
        return status;
    if (to->taker == KQ_FOR_QUANTIZE_EXL3 && !cli_given(&c, "head_bits"))
        c.q.head_bits = 6; /* exllamav3's default */
    cli_no_effect_with_method(&c);
    if (!c.q.factors && strcmp(c.q.calibration.method, "none"))
        cli_fit_seq_len(&c, c.model, &c.q.calibration.seq_len);
    if (c.dry_run)
        return plan(&c, to);
    if (!c.out)
        return cli_missing("quantize", "-o OUT");
    return quantize(&c, to);
}
