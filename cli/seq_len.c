/* The default of --seq-len is longer than the context of some models. It is a default of the program, and not
 * a wish of the user's: the program shortens it. What the user gave is left to the library, which refuses it.
 */
#include "cli.h"

void cli_fit_seq_len(cli *c, const char *model, size_t *seq_len)
{
    kq_error err;
    kq_model *m;
    kq_model_options opt = kq_model_defaults();
    opt.common.isa = "ref"; /* nothing is computed */
    if (cli_given(c, "seq_len"))
        return;
    kq_set_warning_handler(NULL, NULL); /* what there is to say of the model, the command will say */
    const kq_status st = kq_model_open(model, &opt, &m, &err);
    kq_set_warning_handler(cli_warning, NULL);
    if (st)
        return;
    const size_t context = kq_model_get_info(m)->context;
    kq_model_close(m);
    if (context && context < *seq_len)
        *seq_len = c->fitted_seq_len = context;
}
