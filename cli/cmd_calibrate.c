/* kronq calibrate: writes the factors alone into a file, from which kronq quantize can round
 * several times. */
#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

int cmd_calibrate(int argc, char **argv)
{
    cli c;
    int status = cli_parse(
        &c, argc, argv, "calibrate MODEL -o FACTORS.safetensors [options]",
        "Find the curvature factors of every linear layer and keep them, so that several bit widths, codes "
        "or seeds\n"
        "can be rounded from one calibration: kronq quantize MODEL -o OUT --factors FACTORS.safetensors");
    if (status >= 0)
        return status;
    if (!c.out)
        return cli_missing("calibrate", "-o FILE");
    if ((status = cli_check_output(c.out)) >= 0)
        return status;
    cli_no_effect_with_method(&c);
    cli_fit_seq_len(&c, c.model, &c.q.calibration.seq_len);
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
        fprintf(stderr, "%s: %s\n", c.out,
                cli_bytes(json_number_value(json_object_get(report, "file_bytes")), a));
        cli_print_costs(report);
    }
    json_decref(report);
    free(text);
    return EXIT_OK;
}
