/* Measures what each stage of rounding onto GGUF grids gains, and its time, on blocks of a real model.
 *
 *     bench_grid MODEL FACTORS TYPE [layer...]      (layers 3 14 25 without an argument)
 *
 * FACTORS is a factor file of `kronq calibrate`. For each setting it prints the sum over the blocks' linears
 * of tr(E H_in E^T H_out) / 2 with the factors as they were estimated (eq. 1, nats a sequence). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/time.h"
#include "checkpoint/checkpoint.h"
#include "grid/grid.h"
#include "kern/gemm.h"
#include "factors/file.h"
#include "round/matrix.h"

static const kq_dtype types[] = {KQ_T_Q4_0,    KQ_T_Q4_1,   KQ_T_Q5_0,  KQ_T_Q5_1,    KQ_T_Q8_0, KQ_T_IQ4_NL,
                                 KQ_T_Q2_K,    KQ_T_Q3_K,   KQ_T_Q4_K,  KQ_T_Q5_K,    KQ_T_Q6_K, KQ_T_IQ4_XS,
                                 KQ_T_IQ2_XXS, KQ_T_IQ2_XS, KQ_T_IQ2_S, KQ_T_IQ3_XXS, KQ_T_IQ3_S};

static void die(const kq_error *err)
{
    fprintf(stderr, "bench_grid: %s\n", err->message);
    exit(1);
}

int main(int argc, char **argv)
{
    static const struct setting {
        const char *name;
        int factors;
        double sigma;
        int sweeps;
    } settings[] = {
        {"nearest", 0, 1e-2, 0},
        {"nearest, diag(H_in)", 3, 1e-2, 0},
        {"one-sided", 1, 1e-2, 0},
        {"two-sided", 2, 1e-2, 0},
        {"two-sided, 1 sweep", 2, 1e-2, 1},
        {"two-sided, 2 sweeps", 2, 1e-2, 2},
        {"two-sided, 4 sweeps", 2, 1e-2, 4},
        {"two-sided, 2 sweeps, sigma 1e-3", 2, 1e-3, 2},
        {"two-sided, 2 sweeps, sigma 3e-2", 2, 3e-2, 2},
    };
    kq_error err;
    kq_model_file *model;
    kq_factor_file *file;
    kq_dtype type = KQ_T_OTHER;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_grid MODEL FACTORS TYPE [layer...]\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(kq_dtype_name(types[i]), argv[3]))
            type = types[i];
    kq_kern_init(kq_isa_best());
    if (kq_model_file_open(argv[1], kq_isa_best(), &model, &err) || kq_factor_file_open(argv[2], &file, &err))
        die(&err);
    const kq_weights *weights = kq_model_file_weights(model);
    char *standard[] = {"3", "14", "25"}, **layers = argc > 4 ? argv + 4 : standard;
    const int n_layers = argc > 4 ? argc - 4 : 3;
    double loss[16] = {0}, seconds[16] = {0}, mse[16] = {0};
    const int n_settings = sizeof settings / sizeof *settings;
    for (int l = 0; l < n_layers; l++)
        for (int id = 0; id < KQ_N_LINEAR; id++) {
            size_t m, n, elems, bytes;
            char name[128];
            bool has_out;
            kq_lack lack;
            kq_linear_shape(weights->cfg, id, &m, &n);
            kq_dtype_block(type, &elems, &bytes);
            if (n % elems)
                continue;
            kq_linear_name(name, sizeof name, (size_t)atoi(layers[l]), id);
            float *W = kq_alloc(m * n, 4), *H_in = kq_alloc(n * n, 4), *H_out = kq_alloc(m * m, 4),
                  *diag = kq_calloc(n * n, 4), *What = kq_alloc(m * n, 4);
            uint8_t *blocks = kq_alloc(m * n / elems, bytes);
            if (weights->linear(weights->ctx, (size_t)atoi(layers[l]), id, W, &err) ||
                kq_factor_file_read(file, name, m, n, H_in, H_out, &has_out, &lack, &err))
                die(&err);
            for (size_t j = 0; j < n; j++)
                diag[j * n + j] = H_in[j * n + j];
            for (int s = 0; s < n_settings; s++) {
                kq_grid_options opt = kq_grid_defaults();
                kq_round_report rep;
                opt.sigma_in = opt.sigma_out = settings[s].sigma;
                opt.sweeps = settings[s].sweeps;
                opt.threads = 2;
                const int f = settings[s].factors;
                const double start = kq_now_s();
                if (kq_grid_round(type,
                                  &(kq_round_input){.name = name,
                                                    .W = W,
                                                    .m = m,
                                                    .n = n,
                                                    .H_in = f == 3 ? diag
                                                            : f    ? H_in
                                                                   : NULL,
                                                    .H_out = f == 2 ? H_out : NULL},
                                  &opt, blocks, &rep, &err))
                    die(&err);
                seconds[s] += kq_now_s() - start;
                kq_dequantize(type, blocks, m * n, What);
                for (size_t i = 0; i < m * n; i++)
                    What[i] = W[i] - What[i];
                double x;
                kq_predicted_loss(What, m, n, H_in, H_out, 2, &x, &err);
                loss[s] += x;
                mse[s] += rep.relative_mse / (KQ_N_LINEAR * n_layers);
            }
            kq_free(W);
            kq_free(H_in);
            kq_free(H_out);
            kq_free(diag);
            kq_free(What);
            kq_free(blocks);
        }
    for (int s = 0; s < n_settings; s++)
        printf("%-6s %-34s loss %10.4f  (%.3f of nearest)  mse %.5f  %7.2f s\n", argv[3], settings[s].name,
               loss[s], loss[s] / loss[0], mse[s], seconds[s]);
    return 0;
}
