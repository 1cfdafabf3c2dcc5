#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const cli_option options[] = {
    {"to", "FORMAT", "bf16: a Hugging Face folder; gguf: one file for llama.cpp and what builds on it",
     OPT_TO},
    {"out", "PATH", "the folder, or the .gguf file; it must not be there yet", OPT_OUT},
    {"type", "T", "gguf: F16 (default), BF16, Q8_0 (half the size, hardly any loss) or F32", OPT_TYPE},
    {"fallback", "T",
     "gguf: store tensors that Q8_0 cannot hold (rows not divisible by 32) as F16 or BF16; else they are "
     "refused",
     OPT_FALLBACK},
    {"shard-size", "BYTES", "bf16: split the weights above this size (8G)", OPT_SHARD_SIZE},
    {"isa", "I", "ref, avx2, avx512 or amx: use no more than this", OPT_ISA},
    {"json", NULL, "print the report as JSON on stdout", OPT_JSON},
    {"quiet", NULL, "no progress", OPT_QUIET},
    {0},
};

int cmd_export(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "export MODEL --to bf16|gguf -o PATH [options]",
        "Write MODEL's weights, dequantized, as an ordinary model that loads without kronq: the quality of "
        "the quantized model, the\n"
        "size of an unquantized one. Tokenizer, chat template and settings come along.\n\n"
        "  kronq export out --to bf16 -o out-bf16                  # transformers, vLLM, lm-eval, ...\n"
        "  kronq export out --to gguf --type Q8_0 -o out.gguf      # llama.cpp, ollama, LM Studio\n\n"
        "Norms stay F32 in a GGUF, as llama.cpp's own converter has them. (For a GGUF that is small, let "
        "`kronq quantize --to gguf`\n"
        "round onto llama.cpp's own types.)",
        options);
    if (status >= 0)
        return status;
    if (!c.to) {
        cli_say("kronq export: --to bf16 or --to gguf is missing; see kronq export --help");
        return EXIT_USAGE;
    }
    if (!c.out) {
        cli_say("kronq export: -o PATH is missing; see kronq export --help");
        return EXIT_USAGE;
    }
    static const int of_folder[] = {OPT_SHARD_SIZE, 0}, of_gguf[] = {OPT_TYPE, OPT_FALLBACK, 0};
    const bool gguf = !strcmp(c.to, "gguf");
    if ((status = gguf ? cli_misplaced(&c, options, of_folder, "belongs to --to bf16")
                       : cli_misplaced(&c, options, of_gguf, "goes with --to gguf")) >= 0 ||
        (gguf && (status = cli_check_output(c.out)) >= 0))
        return status;
    c.x.to = c.to;
    c.x.type = c.q.gguf_type;
    c.x.fallback = c.q.fallback;
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
            fprintf(stderr,
                    "%.0f tensors are stored as %s, because their rows are no whole number of %s's blocks\n",
                    other, c.x.fallback, c.x.type);
        json_decref(r);
    }
    free(text);
    return EXIT_OK;
}
