#include <stdio.h>
#include <stdlib.h>

#include "cli.h"

static const cli_option options[] = {
    {"ppl", "FILE", "text to measure the perplexity on", OPT_PPL},
    {"kld", "REFERENCE", "also the KL divergence to this model, on the same text", OPT_KLD},
    {"ctx", "N", "tokens a window (2048)", OPT_CTX},
    {"chunks", "N", "at most this many windows (all)", OPT_CHUNKS},
    {"logits", "FILE", "write the first window's ids and logits to a safetensors file, to compare with another program (choose a small --ctx)", OPT_LOGITS},
    {"threads", "N", "threads (all processors); the result does not depend on it", OPT_THREADS},
    {"isa", "I", "ref, avx2, avx512 or amx: use no more than this", OPT_ISA},
    {"compute", "C", "matrix products in f32 or bf16 (default: what is faster here)", OPT_COMPUTE},
    {"json", NULL, "print the result as JSON on stdout", OPT_JSON},
    {"quiet", NULL, "no progress", OPT_QUIET},
    {0},
};

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

int cmd_eval(int argc, char **argv)
{
    cli c;
    int status = cli_parse(&c, argc, argv, "eval MODEL --ppl FILE [--kld REFERENCE] [options]",
                           "Perplexity of MODEL on consecutive windows of a text, and how far its predictions are from a reference model's\n"
                           "(KL divergence in nats, share of positions with the same most likely token).\n\n"
                           "  kronq eval out --ppl wiki.txt --kld original.gguf --chunks 8", options);
    if (status >= 0)
        return status;
    if (!c.ppl) {
        fprintf(stderr, "kronq eval: --ppl FILE is missing: it names the text%s; see kronq eval --help\n", c.kld ? " that --kld is measured on" : "");
        return EXIT_USAGE;
    }
    kq_error err;
    char *text = NULL;
    cli_progress(&c, &c.e.common);
    if (kq_eval_text(c.model, c.kld, c.ppl, &c.e, &text, &err))
        return cli_fail(&err);
    cli_progress_end();
    if (c.json) {
        puts(text);
    } else {
        json_t *r = json_loads(text, 0, NULL);
        printf("perplexity %.4f +/- %.4f over %.0f tokens in %.0f windows of %.0f\n", real(r, "ppl"), real(r, "ppl_stderr"), real(r, "tokens"),
               real(r, "windows"), real(r, "ctx"));
        if (c.kld)
            printf("KL divergence to %s: %.5f +/- %.5f nats; same most likely token %.2f%% +/- %.2f%%\n", c.kld, real(r, "kld"),
                   real(r, "kld_stderr"), 100 * real(r, "top1"), 100 * real(r, "top1_stderr"));
        json_decref(r);
    }
    free(text);
    return EXIT_OK;
}
