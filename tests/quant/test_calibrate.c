/* Several factor files from one pass over the text are the files of as many passes. */
#include "sweep/common.h"

static kq_lack lack;

static void same_files(const char *a, const char *b)
{
    kq_error err;
    kq_map x, y;
    check_ok(kq_map_open(a, &x, &err));
    check_ok(kq_map_open(b, &y, &err));
    if (x.size != y.size || memcmp(x.data, y.data, x.size))
        fail_msg("%s and %s differ", a, b);
    kq_map_close(&x);
    kq_map_close(&y);
}

/* Factors of several methods, numbers of tokens and settings out of one pass are the bytes of as many
 * calibrations; also after interruptions, and when some of the files are there already. */
static void several_from_one_pass(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    enum { N = 7 };
    static const struct {
        const char *method;
        size_t tokens;
        double rho;
        bool input;
    } rows[N] = {{"flipflop", 256, 1e-2, 0},  {"flipflop", 96, 1e-2, 0}, {"flipflop", 256, 1e-1, 0},
                 {"fastkron", 160, 1e-2, 0},  {"kfac", 96, 1e-2, 0},     {"yaqa-a", 256, 1e-2, 0},
                 {"input-only", 160, 1e-2, 1}};
    for (int kind = 0; kind < 3; kind++) { /* text; labels drawn from the model; text the model writes */
        kq_estimate all[N];
        char files[N][256], alone[256], name[48];
        kq_quantize_options o = small(text);
        o.calibration.n_text = kind != 2;
        o.calibration.sampled_labels = kind == 1;
        o.calibration.draws = kind == 1 ? 2 : 1;
        o.only = "layers\\.(0|2)\\.(self_attn\\.[qo]|mlp\\.down)_proj";
        for (int i = 0; i < N; i++) {
            snprintf(name, sizeof name, "pass%d-%d.safetensors", kind, i);
            temp_path(files[i], name);
            all[i] = (kq_estimate){.out_file = files[i], .calibration = o.calibration};
            all[i].calibration.method = rows[i].method;
            all[i].calibration.tokens = rows[i].tokens;
            all[i].calibration.rho = rows[i].rho;
        }
        int left = 25, stops = 0;
        kq_quantize_options p = o;
        p.common.progress = stop_at;
        p.common.ctx = &left;
        kq_status status;
        char *report = NULL;
        while ((status = kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, &report,
                                          &err)) == KQ_E_INTERRUPTED) {
            assert_null(report);
            p.resume = true;
            left = 25 + 20 * ++stops;
        }
        check_ok(status);
        assert_true(stops > 2);
        free(report);
        for (int i = 0; i < N; i++) {
            kq_quantize_options q = o;
            q.calibration = all[i].calibration;
            if (rows[i].input) {
                q.calibration.sampled_labels = false;
                q.calibration.draws = 1;
            }
            snprintf(name, sizeof name, "alone%d-%d.safetensors", kind, i);
            check_ok(
                kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", temp_path(alone, name), &q, false, NULL, &err));
            same_files(files[i], alone);
        }
        if (kind)
            continue;
        /* one is gone: it is made again, the others are recognised */
        temp_path(alone, "alone0-2.safetensors");
        unlink(files[2]);
        left = 1 << 30;
        check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err));
        same_files(files[2], alone);
        char pass[300], part[320]; /* died between the last file and the clean-up */
        snprintf(pass, sizeof pass, "%s.pass", files[0]);
        assert_true(!kq_path_exists(pass) && !mkdir(pass, 0777));
        check_ok(kq_file_write((snprintf(part, sizeof part, "%s/job.json", pass), part), "{}", 2, &err));
        check_ok(
            kq_file_write((snprintf(part, sizeof part, "%s/input-00000.bf16", pass), part), "x", 1, &err));
        check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err));
        assert_false(kq_path_exists(pass));
        all[3].calibration.tokens = 192;
        check_fails(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, N, &p, false, NULL, &err),
                    KQ_E_MISMATCH, "with other settings");
    }
}

typedef struct stages {
    const char *stop;
    double at;
    bool forward, loss, stopped;
} stages;

static int watch_stages(void *ctx, const char *stage, double fraction, const char *note)
{
    stages *s = ctx;
    (void)note;
    if (stage) {
        s->forward = s->forward || !strcmp(stage, "forward");
        s->loss = s->loss || !strcmp(stage, "loss");
        s->stopped = s->stopped || (s->stop && !strcmp(stage, s->stop) && fraction > s->at);
    }
    return s->stopped;
}

/* A run that was stopped on the way down goes on from there: neither the forward pass nor the loss is
 * done again, also where the blocks that were left behind are not wanted. */
static void resumes_on_the_way_down(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"}, *const only[] = {NULL,
                                                                                         "layers\\.0\\."};
    for (int i = 0; i < 2; i++)
        for (int third = 1; third < 3; third++) {
            char out[256], name[32];
            kq_quantize_options o = small(text);
            stages s = {.stop = "backward", .at = third / 3.0 + 0.1};
            o.only = only[i];
            o.common.progress = watch_stages;
            o.common.ctx = &s;
            snprintf(name, sizeof name, "down-%d-%d.f", i, third);
            check_fails(
                kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", temp_path(out, name), &o, false, NULL, &err),
                KQ_E_INTERRUPTED, "stopped");
            assert_true(s.forward && s.loss);
            s = (stages){0};
            o.resume = true;
            check_ok(kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", out, &o, false, NULL, &err));
            assert_true(!s.forward && !s.loss);
        }
}

/* Sums over batches: from stored sums when all estimates share the batch, else from each sequence's
 * gradient, which was rounded to bf16 once. */
static void batches_beside_each_other(void **state)
{
    (void)state;
    kq_error err;
    const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    static const size_t batch[3] = {1, 2, 4};
    kq_estimate all[3];
    char files[3][256], alone[256], name[48];
    kq_quantize_options o = small(text);
    o.only = "layers\\.1\\.mlp\\.down_proj";
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "batch-%d.safetensors", i);
        temp_path(files[i], name);
        all[i] = (kq_estimate){.out_file = files[i], .calibration = o.calibration};
        all[i].calibration.batch = batch[i];
    }
    check_ok(kq_calibrate_all(KRONQ_GOLDEN_DIR "/tiny_cli/hf", all, 3, &o, false, NULL, &err));
    for (int i = 0; i < 3; i++) {
        kq_quantize_options q = o;
        kq_factor_file *a, *b;
        bool has_out;
        q.calibration = all[i].calibration;
        snprintf(name, sizeof name, "batch-alone-%d.safetensors", i);
        check_ok(
            kq_calibrate(KRONQ_GOLDEN_DIR "/tiny_cli/hf", temp_path(alone, name), &q, false, NULL, &err));
        check_ok(kq_factor_file_open(files[i], &a, &err));
        check_ok(kq_factor_file_open(alone, &b, &err));
        enum { IN = 112, OUT = 64 };
        static float H[4][IN * IN];
        check_ok(kq_factor_file_read(a, "model.layers.1.mlp.down_proj", OUT, IN, H[0], H[1], &has_out, &lack,
                                     &err));
        check_ok(kq_factor_file_read(b, "model.layers.1.mlp.down_proj", OUT, IN, H[2], H[3], &has_out, &lack,
                                     &err));
        assert_true(apart(H[0], H[2], IN) < (i ? 3e-3 : 1e-12) &&
                    apart(H[1], H[3], OUT) < (i ? 3e-3 : 1e-12));
        kq_factor_file_close(a);
        kq_factor_file_close(b);
    }
}

int main(void)
{
    kq_kern_init(kq_isa_best());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_from_one_pass),
        cmocka_unit_test(resumes_on_the_way_down),
        cmocka_unit_test(batches_beside_each_other),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
