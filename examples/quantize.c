/* Quantize a model to 2 bits a weight and print what it costs:
 *
 *     quantize MODEL OUT [TEXT...]
 *
 * MODEL is a Hugging Face folder or a .gguf file; OUT becomes a folder that `kronq run`, the library and
 * kronq's plug-in for transformers read. Without TEXT the model writes its own text for calibration. */
#include <kronq.h>
#include <stdio.h>
#include <stdlib.h>

static void warn(void *ctx, const char *message)
{
    (void)ctx;
    fprintf(stderr, "warning: %s\n", message);
}

static const kq_module_result *worst_module(const kq_quantize_result *r)
{
    const kq_module_result *worst = NULL;
    for (size_t i = 0; i < r->n_modules; i++)
        if (!worst || r->module[i]->relative_mse > worst->relative_mse)
            worst = r->module[i];
    return worst;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: quantize MODEL OUT [TEXT...]\n");
        return 2;
    }
    kq_error err;
    char *report = NULL;
    kq_quantize_result *result = NULL;
    kq_quantize_options opt = kq_quantize_defaults();
    opt.bits = 2;
    opt.calibration.text = (const char *const *)argv + 3;
    opt.calibration.n_text = (size_t)argc - 3;
    opt.calibration.tokens = 16384; /* an eighth of the default: good enough for a first look */
    opt.calibration.seq_len = 256;

    kq_set_warning_handler(warn, NULL);
    if (kq_quantize(argv[1], argv[2], &opt, &report, &err) ||
        kq_quantize_result_read(report, &result, &err)) {
        fprintf(stderr, "quantize: %s\n", err.message);
        free(report);
        return 1;
    }
    printf("%s: %.1f MB, %.2f bits a quantized weight\n", argv[2], (double)result->file_bytes / 1e6,
           result->bpw);
    printf("%zu modules in %.0f s, at most %.0f MB of memory\n", result->n_modules, result->seconds,
           (double)result->peak_rss_bytes / 1e6);
    printf("expected rise of the loss: %.3f nats a token\n", result->predicted_loss);
    const kq_module_result *worst = worst_module(result);
    if (worst)
        printf("largest relative error: %.3f, %s\n", worst->relative_mse, worst->name);
    kq_quantize_result_free(result);
    free(report);
    return 0;
}
