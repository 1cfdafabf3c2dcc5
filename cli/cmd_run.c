#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "cli.h"
#include "eval/eval.h"

static const cli_option options[] = {
    {"prompt", "TEXT", "what the model is given", OPT_PROMPT},
    {"n", "N", "at most this many new tokens (128)", OPT_N},
    {"chat", NULL, "the prompt is a user's message in the model's chat format", OPT_CHAT},
    {"temp", "T", "temperature (0.8); 0: always the most likely token", OPT_TEMP},
    {"top-k", "K", "draw from the K most likely tokens (40); 0: all", OPT_TOP_K},
    {"top-p", "P", "draw from the most likely tokens that make up this probability (0.95)", OPT_TOP_P},
    {"seed", "N", "seed of the draws (0)", OPT_SEED},
    {"threads", "N", "threads (all processors)", OPT_THREADS},
    {"isa", "I", "ref, avx2, avx512 or amx: use no more than this", OPT_ISA},
    {"compute", "C", "matrix products in f32 or bf16 (default: what is faster here)", OPT_COMPUTE},
    {"json", NULL, "print the answer as JSON on stdout", OPT_JSON},
    {"quiet", NULL, "no figures on stderr", OPT_QUIET},
    {0},
};

typedef struct answer {
    bool print;
    char *text; /* owned */
    size_t size, cap;
    bool failed;
} answer;

static int emit(void *ctx, const char *text, size_t size)
{
    answer *a = ctx;
    if (a->print) {
        return fwrite(text, 1, size, stdout) != size || fflush(stdout); /* nobody is listening: stop */
    }
    if (size > a->cap - a->size) {
        size_t cap = 2 * (a->cap + size);
        char *grown = realloc(a->text, cap);
        if (!grown) {
            a->failed = true;
            return 1;
        }
        a->text = grown;
        a->cap = cap;
    }
    memcpy(a->text + a->size, text, size);
    a->size += size;
    return 0;
}

int cmd_run(int argc, char **argv)
{
    cli c;
    int exit_status = cli_parse(&c, argc, argv, "run MODEL -p TEXT [-n N] [--chat] [options]",
                                "Continue a text, or answer a message.\n\n  kronq run out -p \"Why is the sky blue?\" --chat --temp 0", options);
    if (exit_status >= 0)
        return exit_status;
    if (!c.prompt) {
        fprintf(stderr, "kronq run: -p TEXT is missing; see kronq run --help\n");
        return EXIT_USAGE;
    }
    kq_error err;
    kq_isa isa;
    kq_compute kind;
    kq_model_file *model = NULL;
    kq_tokenizer *tok = NULL;
    kq_decoder *dec = NULL;
    char *rendered = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0, made = 0;
    answer out = {.print = !c.json};
    kq_status status;
    if ((status = kq_isa_pick(c.q.common.isa, &isa, &err)) || (status = kq_compute_pick(c.q.common.compute, isa, &kind, &err)))
        goto out;
    kq_kern_init(isa);
    if ((status = kq_model_file_open(c.model, isa, &model, &err)) || (status = kq_tokenizer_open(kq_model_file_source(model), &tok, &err)))
        goto out;
    const char *prompt = c.prompt;
    if (c.chat) {
        const kq_message message = {"user", c.prompt};
        if ((status = kq_chat_render(tok, &message, 1, &rendered, &err)))
            goto out;
        prompt = rendered;
    }
    /* a chat template writes the beginning token itself where the model wants one */
    if ((status = kq_tokenizer_encode(tok, prompt, strlen(prompt), !c.chat, true, &ids, &n_ids, &err)))
        goto out;
    if (!n_ids) {
        status = kq_fail(&err, KQ_E_ARG, "-p: the prompt is empty");
        goto out;
    }
    const size_t context = kq_source_config(kq_model_file_source(model))->max_position;
    if (context && n_ids >= context) {
        status = kq_fail(&err, KQ_E_ARG, "-p: the prompt has %zu tokens, the model's context is %zu", n_ids, context);
        goto out;
    }
    if (context && c.n_predict > context - n_ids)
        c.n_predict = context - n_ids; /* the model knows no positions beyond */
    const int threads = c.q.common.threads > 0 ? c.q.common.threads : omp_get_num_procs();
    const kq_sampling s = {.temperature = c.temperature, .top_k = c.top_k, .top_p = c.top_p, .seed = c.q.common.seed};
    if ((status = kq_decoder_new(kq_model_file_weights(model), isa, kind, n_ids + c.n_predict, threads, &dec, &err)))
        goto out;
    const double start = kq_now_s();
    if ((status = kq_generate(dec, tok, kq_source_config(kq_model_file_source(model)), ids, n_ids, c.n_predict, &s, emit, &out, &made, &err)))
        goto out;
    const double seconds = kq_now_s() - start;
    if (out.failed) {
        status = kq_fail(&err, KQ_E_MEMORY, "out of memory: the answer");
        goto out;
    }
    if (c.json) {
        json_t *j = json_pack("{s:s, s:s%, s:I, s:I, s:f}", "model", c.model, "text", out.text ? out.text : "", out.size, "prompt_tokens",
                              (json_int_t)n_ids, "tokens", (json_int_t)made, "seconds", seconds);
        char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
        puts(text ? text : "{}");
        free(text);
        json_decref(j);
    } else {
        putchar('\n');
        if (!c.quiet)
            fprintf(stderr, "[%zu tokens in %.2f s, prompt of %zu included: %.1f tokens/s]\n", made, seconds, n_ids, (double)made / seconds);
    }
out:
    kq_decoder_free(dec);
    if (tok)
        kq_tokenizer_close(tok);
    kq_model_file_close(model);
    kq_free(rendered);
    kq_free(ids);
    free(out.text);
    return status ? cli_fail(&err) : EXIT_OK;
}
