/* kronq export: writes the weights as an ordinary model, for other programs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* What rounding onto a smaller type has cost. */
static void tell_rounding(const json_t *report)
{
    const json_t *mse = json_object_get(report, "relative_mse");
    const bool second = json_is_true(json_object_get(report, "second_rounding"));
    if (mse)
        fprintf(
            stderr,
            "rounded without curvature%s: the squared error is %.2g of the weights' squares; `kronq quantize "
            "%s --to gguf` %s loses much less\n",
            second ? ", a second time after the checkpoint's own rounding" : "", json_number_value(mse),
            second ? "ORIGINAL" : "MODEL", second ? "rounds once and" : "has curvature and");
}

int cmd_export(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "export MODEL --to bf16|gguf -o PATH [options]",
        "Write MODEL's weights, dequantized, as an ordinary model that loads without kronq: the quality of "
        "the quantized model, the\n"
        "size of an unquantized one. Tokenizer, chat template and settings come along.\n\n"
        "  kronq export out --to bf16 -o out-bf16                  # transformers, vLLM, lm-eval, ...\n"
        "  kronq export out --to gguf --type Q8_0 -o out.gguf      # llama.cpp, ollama, LM Studio\n"
        "  kronq export out --to gguf --type Q4_K_M -o out.gguf    # small: a second rounding, see below\n\n"
        "Norms stay F32 in a GGUF, as llama.cpp's own converter has them. Types below Q8_0 round the weights "
        "once more, each row by itself, and\n"
        "the report says by how much. With the original, `kronq quantize ORIGINAL --to gguf` rounds once and "
        "loses much less. Without it,\n"
        "export to bf16 and let `kronq quantize` of that folder round the second time with curvature.");
    if (status >= 0)
        return status;
    if (!c.to)
        return cli_missing("export", "--to bf16 or --to gguf");
    if (!c.out)
        return cli_missing("export", "-o PATH");
    const bool gguf = !strcmp(c.to, "gguf");
    if ((status = gguf ? cli_only_for(&c, KQ_FOR_EXPORT_GGUF, "belongs to --to bf16")
                       : cli_only_for(&c, KQ_FOR_EXPORT_FOLDER, "goes with --to gguf")) >= 0 ||
        (gguf && (status = cli_check_output(c.out)) >= 0))
        return status;
    c.x.to = c.to;
    kq_error err;
    char *text = NULL, a[32];
    cli_progress(&c, &c.x.common);
    if (kq_export(c.model, c.out, &c.x, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json)
        puts(text);
    if (!c.quiet) {
        json_t *r = json_loads(text, 0, NULL);
        const double other = json_number_value(json_object_get(r, "fallback_tensors"));
        fprintf(stderr, "%s: %s in %.1f s\n", c.out,
                cli_bytes(json_number_value(json_object_get(r, "file_bytes")), a),
                json_number_value(json_object_get(r, "seconds")));
        if (other > 0)
            fprintf(
                stderr,
                "%.0f tensors are stored as --fallback %s has it, because their rows are no whole number of "
                "their type's blocks\n",
                other, c.x.fallback);
        tell_rounding(r);
        json_decref(r);
    }
    free(text);
    return EXIT_OK;
}
