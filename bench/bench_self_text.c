/* Times the calibration text that a model writes itself, and says how much memory it takes.
 *
 *     bench_self_text MODEL [tokens] [seq-len] [threads] [TEXT_FILE]      (32768, 1024, all processors)
 *
 * The last line has a hash of the ids: equal settings must give an equal hash for every number of threads.
 * TEXT_FILE receives the text, so that `kronq eval MODEL --text TEXT_FILE` can say what the model makes of
 * it. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "generate/self_text.h"
#include "tokenizer/tokenizer.h"

/* The lines of /proc/self/status that tell own memory (anonymous) from mapped files. */
static void print_memory(const char *when)
{
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    printf("%s:", when);
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmHWM", 5) || !strncmp(line, "RssAnon", 7) || !strncmp(line, "RssFile", 7)) {
            line[strcspn(line, "\n")] = 0;
            printf(" %s;", line);
        }
    printf("\n");
    if (f)
        fclose(f);
}

static int on_progress(void *ctx, const char *stage, double fraction)
{
    double *next = ctx;
    (void)stage;
    if (fraction >= *next) {
        print_memory("while it writes");
        *next = 2;
    }
    return 0;
}

static kq_status write_text(const kq_tokenizer *tok, const int32_t *ids, size_t n, const char *path,
                            kq_error *err)
{
    char *text;
    size_t length;
    kq_status st = kq_tokenizer_decode(tok, ids, n, true, &text, &length, err);
    if (st)
        return st;
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(text, 1, length, f) != length)
        st = kq_fail(err, KQ_E_IO, "%s: cannot be written", path);
    if (f)
        fclose(f);
    kq_free(text);
    return st;
}

int main(int argc, char **argv)
{
    const size_t tokens = argc > 2 ? (size_t)atol(argv[2]) : 32768,
                 len = argc > 3 ? (size_t)atol(argv[3]) : 1024;
    kq_eval_options opt = kq_eval_defaults();
    kq_model_file *model = NULL;
    kq_tokenizer *tok = NULL;
    kq_error err;
    double half = 0.5;
    if (argc < 2 || len < 1) {
        fprintf(stderr, "usage: bench_self_text MODEL [tokens] [seq-len] [threads] [TEXT_FILE]\n");
        return 2;
    }
    opt.threads = argc > 4 ? atoi(argv[4]) : 0;
    opt.progress = on_progress, opt.progress_ctx = &half;
    const size_t n_seq = tokens / len;
    int32_t *ids = kq_alloc(n_seq * len, sizeof *ids);
    kq_status st = kq_isa_pick(NULL, &opt.isa, &err);
    if (!st)
        kq_kern_init(opt.isa);
    opt.compute = kq_compute_best(opt.isa);
    if (!st && !(st = kq_model_file_open(argv[1], opt.isa, &model, &err)))
        st = kq_tokenizer_open(kq_model_file_source(model), &tok, &err);
    const double start = kq_now_s();
    if (!st)
        st = kq_self_text(kq_model_file_weights(model), tok, n_seq, len, &opt, 0, ids, &err);
    const double seconds = kq_now_s() - start;
    if (!st && argc > 5)
        st = write_text(tok, ids, n_seq * len, argv[5], &err);
    if (st) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    kq_hash *h = kq_hash_new();
    char hex[33];
    kq_hash_add(h, ids, n_seq * len * sizeof *ids);
    kq_hash_finish(h, hex);
    print_memory("at the end");
    printf("isa %s, compute %s: %zu tokens in %.1f s (%.0f a second), ids %s\n", kq_isa_name(opt.isa),
           opt.compute == KQ_BF16 ? "bf16" : "f32", n_seq * len, seconds, (double)(n_seq * len) / seconds,
           hex);
    kq_tokenizer_close(tok);
    kq_model_file_close(model);
    kq_free(ids);
    return 0;
}
