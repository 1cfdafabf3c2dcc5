/* kronq imatrix: writes the importance matrix that llama-quantize reads. */
#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

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
                           "  llama-quantize --imatrix model.imatrix.gguf model.gguf model-q4_0.gguf Q4_0");
    if (status >= 0)
        return status;
    if (!c.out)
        return cli_missing("imatrix", "-o FILE");
    if ((status = cli_check_output(c.out)) >= 0)
        return status;
    cli_fit_seq_len(&c, c.model, &c.q.calibration.seq_len);
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
