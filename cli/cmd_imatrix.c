#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

static const cli_option options[] = {
    {"out", "FILE", "the imatrix (GGUF)", OPT_OUT},
    {"text", "FILE",
     "calibration text: plain, JSON lines, conversations, also in gzip or zstd, - for stdin; may be repeated "
     "(default: text the model writes itself)",
     OPT_TEXT},
    READING_OPTIONS,
    {"tokens", "N", "calibration tokens (131072)", OPT_TOKENS},
    {"seq-len", "N", "tokens a chunk (1024)", OPT_SEQ_LEN},
    {"only", "REGEX", "only modules whose name matches, e.g. 'layers\\.(3|14)\\.'", OPT_ONLY},
    {"threads", "N", "threads (all processors); the result does not depend on it", OPT_THREADS},
    {"isa", "I", "ref, avx2, avx512 or amx: use no more than this", OPT_ISA},
    {"compute", "C", "matrix products in f32 or bf16 (default: what is faster here)", OPT_COMPUTE},
    {"seed", "N", "seed of the text the model writes (0)", OPT_SEED},
    {"resume", NULL, "continue an interrupted run with the same settings", OPT_RESUME},
    {"fresh", NULL,
     "discard what an interrupted run has left unfinished, and start anew (a finished result is never "
     "touched)",
     OPT_FRESH},
    {"json", NULL, "print the report as JSON on stdout", OPT_JSON},
    {"quiet", NULL, "no progress", OPT_QUIET},
    {0},
};

int cmd_imatrix(int argc, char **argv)
{
    cli c;
    int status = cli_parse(&c, argc, argv, "imatrix MODEL -o FILE.gguf [--text FILE]... [options]",
                           "Make an importance matrix for llama.cpp: the sums of squares of every linear's "
                           "inputs, in the file that\n"
                           "llama-quantize --imatrix takes. (kronq's own factors, which know more, come from "
                           "`kronq calibrate`; and\n"
                           "`kronq quantize --factors` reads an imatrix, this one or llama-imatrix's, as an "
                           "input-only diagonal factor.)\n\n"
                           "  kronq imatrix model.gguf -o model.imatrix.gguf --text c4.txt\n"
                           "  llama-quantize --imatrix model.imatrix.gguf model.gguf model-q4_0.gguf Q4_0",
                           options);
    if (status >= 0)
        return status;
    if (!c.out) {
        cli_say("kronq imatrix: -o FILE is missing; see kronq imatrix --help");
        return EXIT_USAGE;
    }
    if ((status = cli_check_output(c.out)) >= 0)
        return status;
    kq_error err;
    char *text = NULL;
    cli_progress(&c, &c.q.common);
    if (kq_imatrix(c.model, c.out, &c.q, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json)
        puts(text);
    json_t *r = json_loads(text, 0, NULL);
    if (!c.quiet && json_object_get(r, "entries"))
        fprintf(stderr, "%s: %lld entries over %lld chunks of %lld tokens [%.1f s]\n", c.out,
                json_integer_value(json_object_get(r, "entries")),
                json_integer_value(json_object_get(r, "chunks")),
                json_integer_value(json_object_get(r, "chunk_size")),
                json_number_value(json_object_get(json_object_get(r, "seconds"), "total")));
    json_decref(r);
    free(text);
    return EXIT_OK;
}
