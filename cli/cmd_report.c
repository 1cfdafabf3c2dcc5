/* kronq report: draws the HTML page of a comparison. */
#include <stdio.h>

#include "cli.h"

int cmd_report(int argc, char **argv)
{
    cli c;
    int status = cli_parse(&c, argc, argv, "report DIR [-o FILE.html]",
                           "Draw what `kronq compare` has measured so far: one HTML page with everything in "
                           "it (quality against tokens\n"
                           "and size, spectra and convergence of the factors, error of every module, all "
                           "figures as tables). It needs\n"
                           "no network and no script.\n\n"
                           "  kronq report cmp -o cmp.html");
    if (status >= 0)
        return status;
    if ((status = cli_check_output(c.out)) >= 0)
        return status;
    kq_error err;
    cli_stop_gently(NULL); /* the page is whole when the program ends */
    if (kq_report(c.model, c.out, &err))
        return cli_fail(&err);
    if (!c.quiet)
        fprintf(stderr, "%s%s\n", c.out ? c.out : c.model, c.out ? "" : "/report.html");
    return EXIT_OK;
}
