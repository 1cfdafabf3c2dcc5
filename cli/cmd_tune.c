/* kronq tune: trains the scales and norms of a kronq checkpoint or of a GGUF, so that it predicts more as the
 * original does. */
#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

int cmd_tune(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "tune CHECKPOINT|FILE.gguf --reference MODEL -o OUT [options]",
        "Train what a quantized model has besides its integers, so that its predictions come nearer to those "
        "of the original\n"
        "MODEL: scales of rows and columns in a kronq checkpoint, scales and minima of blocks in a GGUF, and "
        "norms. Some of the\n"
        "text is held out, and the state that is best there is written. When no state is better than before, "
        "nothing is written\n"
        "and the exit status is 1.\n\n"
        "  kronq quantize model.gguf -o out --bits 2\n"
        "  kronq tune out --reference model.gguf --text c4.txt -o out-tuned\n\n"
        "A GGUF may come from llama-quantize too. Its copy has the same size and layout, and llama.cpp loads "
        "it as before:\n\n"
        "  kronq tune model-Q4_0.gguf --reference model.gguf --text c4.txt --lr 0.001 -o tuned-Q4_0.gguf");
    if (status >= 0)
        return status;
    if (!c.out)
        return cli_missing("tune", "-o OUT");
    if (!c.u.reference)
        return cli_missing("tune", "--reference MODEL, the original,");
    cli_fit_seq_len(&c, c.u.reference, &c.u.seq_len);
    kq_error err;
    char *text = NULL;
    cli_progress(&c, &c.u.common);
    if (kq_tune(c.model, c.out, &c.u, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json)
        puts(text);
    json_t *report = json_loads(text, 0, NULL);
    if (!c.quiet && json_object_get(report, "seconds")) {
        char bytes[32];
        fprintf(stderr, "%s: %s; KL divergence on held-out text %.4f, %.4f before tuning\n", c.out,
                cli_bytes(json_number_value(json_object_get(report, "file_bytes")), bytes),
                json_number_value(json_object_get(report, "kld_after")),
                json_number_value(json_object_get(report, "kld_before")));
        const json_t *s = json_object_get(report, "seconds");
        fprintf(stderr, "%.1f s (reference %.1f, tuning %.1f); peak memory %s\n",
                json_number_value(json_object_get(s, "total")),
                json_number_value(json_object_get(s, "reference")),
                json_number_value(json_object_get(s, "tuning")),
                cli_bytes(json_number_value(json_object_get(report, "peak_rss_bytes")), bytes));
    }
    json_decref(report);
    free(text);
    return EXIT_OK;
}
