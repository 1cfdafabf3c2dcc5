#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const cli_option quantize_options[] = {
    {"out", "PATH", "folder for the checkpoint, or with --to gguf the file", OPT_OUT},
    {"bits", "K",
     "bits a weight: 2 (default), 3 or 4; or an average such as 2.5, shared out to the modules by what each "
     "would lose",
     OPT_BITS},
    MODULE_BITS_OPTION,
    {"to", "FORMAT",
     "kronq (default): trellis code, smallest; gguf: llama.cpp's own block types, which it runs as they are",
     OPT_TO},
    {"type", "T",
     "gguf: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, Q2_K to Q6_K, with llama-quantize's mixtures (Q4_K_M, ...)",
     OPT_TYPE},
    {"pure", NULL, "gguf: no mixture, every tensor gets the type itself", OPT_PURE},
    {"tensor-type", "REGEX=T",
     "gguf: another type (also F32, F16, BF16) for tensors whose name matches; may be repeated",
     OPT_TENSOR_TYPE},
    {"fallback", "T",
     "gguf: the type where rows are no whole number of blocks; llama: what llama-quantize takes (default: "
     "refuse)",
     OPT_FALLBACK},
    {"sweeps", "N",
     "gguf: sweeps of block descent after the first pass (0): each doubles the time of the rounding, for 1% "
     "of the KLD",
     OPT_SWEEPS},
    CALIBRATION_OPTIONS,
    {"factors", "FILE",
     "round from factors that `kronq calibrate` left, or a llama.cpp imatrix; calibration options given too "
     "must be those it was made with",
     OPT_FACTORS},
    ROUNDING_OPTIONS,
    {"shard-size", "BYTES", "split the checkpoint above this size (8G)", OPT_SHARD_SIZE},
    {"dry-run", NULL, "print the plan (shapes, types, sizes, memory) and stop", OPT_DRY_RUN},
    COMMON_OPTIONS,
    {0},
};

static const cli_option calibrate_options[] = {
    {"out", "FILE", "the factor file (safetensors)", OPT_OUT},
    CALIBRATION_OPTIONS,
    {"factor-dtype", "T", "store factors as f32 (default) or bf16", OPT_FACTOR_DTYPE},
    {"shard-size", "BYTES", "one file a block above this size (8G)", OPT_SHARD_SIZE},
    COMMON_OPTIONS,
    {0},
};

/* Settings of another method. What belongs to a method is said in the help of ESTIMATE_OPTIONS; the
 * method is a known one, or is refused later. */
static void warn_of_settings(const cli *c, const cli_option *options)
{
    static const int flipflop[] = {OPT_RHO, OPT_ROUNDS, OPT_EARLY, OPT_EXACT, 0}, yaqa_a[] = {OPT_PASSES, 0},
                     power[] = {OPT_TOL, OPT_MAX_ITER, OPT_START, 0},
                     text[] = {OPT_TEXT, OPT_TOKENS, OPT_SEQ_LEN, OPT_BATCH, OPT_LABELS, OPT_DRAWS, 0};
    const char *m = c->q.calibration.method;
    char beside[64];
    if (c->q.factors) /* they bring their method */
        return;
    snprintf(beside, sizeof beside, "--method %.40s", m);
    if (strncmp(m, "flipflop", 8))
        cli_no_effect(c, options, flipflop, beside);
    if (strcmp(m, "yaqa-a"))
        cli_no_effect(c, options, yaqa_a, beside);
    if (strcmp(m, "fastkron") && strcmp(m, "yaqa-b") && strcmp(m, "diag"))
        cli_no_effect(c, options, power, beside);
    if (!strcmp(m, "none"))
        cli_no_effect(c, options, text, beside);
}

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
    json_array_foreach(json_object_get(plan, "modules"), i, module)
    {
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
    if (json_is_false(json_object_get(plan, "bits_settled")))
        printf(" (which module gets how many shows when the factors are there: --factors)");
    printf(gguf ? " and its metadata\n" : " (%.3f bits per weight of the whole model)\n",
           real(plan, "bpw_file"));
    printf(
        "method %s, %.0f calibration tokens; needs about %s of memory and %s of disk; %s, %s, %.0f threads\n",
        json_string_value(json_object_get(plan, "method")), real(plan, "calibration_tokens"),
        cli_bytes(real(plan, "planned_memory_bytes"), b), cli_bytes(real(plan, "planned_disk_bytes"), d),
        json_string_value(json_object_get(plan, "isa")), json_string_value(json_object_get(plan, "compute")),
        real(plan, "threads"));
    json_decref(plan);
    return EXIT_OK;
}

static void print_seconds(const json_t *report)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(report, "seconds"), key, value)
        fprintf(stderr, "  %-10s %8.1f s\n", key, json_number_value(value));
    char a[32], b[32];
    fprintf(stderr, "peak memory %s (planned %s; gradients: %s)\n",
            cli_bytes(real(report, "peak_rss_bytes"), a), cli_bytes(real(report, "planned_bytes"), b),
            json_string_value(json_object_get(report, "gradients")));
}

int cmd_quantize(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "quantize MODEL -o OUT [--bits K] [options]",
        "Quantize every linear layer of MODEL to K bits a weight and write the checkpoint OUT (a Hugging "
        "Face folder).\n"
        "The curvature of the loss is measured on --text, or on text that the model writes itself.\n\n"
        "  kronq quantize model.gguf -o out --bits 2\n"
        "  kronq quantize llama/ -o out --bits 3 --text c4.txt --tokens 96k\n\n"
        "With --to gguf the weights are rounded onto the block types of llama.cpp itself, as one file that "
        "it loads:\n\n"
        "  kronq quantize model.gguf --to gguf --type Q4_K_M -o small.gguf",
        quantize_options);
    if (status >= 0)
        return status;
    const bool gguf = c.to && !strcmp(c.to, "gguf");
    static const int of_gguf[] = {OPT_TYPE, OPT_PURE, OPT_TENSOR_TYPE, OPT_FALLBACK, OPT_SWEEPS, 0},
                     of_kronq[] = {OPT_BITS,      OPT_MODULE_BITS, OPT_CODE, OPT_EMBED_BITS,
                                   OPT_HEAD_BITS, OPT_SHARD_SIZE,  0};
    if ((status = gguf ? cli_misplaced(&c, quantize_options, of_kronq,
                                       "does not belong to --to gguf (--type and --tensor-type do)")
                       : cli_misplaced(&c, quantize_options, of_gguf, "belongs to --to gguf")) >= 0)
        return status;
    warn_of_settings(&c, quantize_options);
    kq_error err;
    char *text = NULL;
    if (c.dry_run) {
        if (gguf ? kq_plan_gguf(c.model, &c.q, &text, &err) : kq_plan(c.model, &c.q, &text, &err))
            return cli_fail(&err);
        status = print_plan(&c, text);
        free(text);
        return status;
    }
    if (!c.out) {
        cli_say("kronq quantize: -o OUT is missing; see kronq quantize --help");
        return EXIT_USAGE;
    }
    cli_progress(&c, &c.q.common);
    if (gguf ? kq_quantize_gguf(c.model, c.out, &c.q, &text, &err)
             : kq_quantize(c.model, c.out, &c.q, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json)
        puts(text);
    json_t *report = json_loads(text, 0, NULL);
    if (!c.quiet && json_object_get(report, "bpw")) {
        char a[32];
        fprintf(stderr,
                "%s: %s; %.3f bits a quantized weight, %.3f bits a weight of the whole file; relative error "
                "%.4f\n",
                c.out, cli_bytes(real(report, "file_bytes"), a), real(report, "bpw"),
                real(report, "bpw_file"), real(report, "relative_mse"));
        if (json_is_number(json_object_get(report, "predicted_loss")))
            fprintf(stderr, "predicted rise of the loss: %.4f nats a token (eq. 1)\n",
                    real(report, "predicted_loss"));
        print_seconds(report);
    }
    json_decref(report);
    free(text);
    return EXIT_OK;
}

int cmd_calibrate(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "calibrate MODEL -o FACTORS.safetensors [options]",
        "Find the curvature factors of every linear layer and keep them, so that several bit widths, codes "
        "or seeds\n"
        "can be rounded from one calibration: kronq quantize MODEL -o OUT --factors FACTORS.safetensors",
        calibrate_options);
    if (status >= 0)
        return status;
    if (!c.out) {
        cli_say("kronq calibrate: -o FILE is missing; see kronq calibrate --help");
        return EXIT_USAGE;
    }
    if ((status = cli_check_output(c.out)) >= 0)
        return status;
    warn_of_settings(&c, calibrate_options);
    kq_error err;
    char *text = NULL;
    cli_progress(&c, &c.q.common);
    if (kq_calibrate(c.model, c.out, &c.q, c.factor_bf16, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json)
        puts(text);
    json_t *report = json_loads(text, 0, NULL);
    if (!c.quiet && json_object_get(report, "seconds")) {
        char a[32];
        fprintf(stderr, "%s: %s\n", c.out, cli_bytes(real(report, "file_bytes"), a));
        print_seconds(report);
    }
    json_decref(report);
    free(text);
    return EXIT_OK;
}
