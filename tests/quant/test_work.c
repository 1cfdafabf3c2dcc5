/* The frame of long work: a receiver that only writes down what is asked of it, in which order, and what is
 * left on disk when it refuses, fails or is continued. */
#include "base/file.h"
#include "base/mem.h"
#include "base/text.h"
#include "check.h"
#include "quant/work.h"
#include "temp_folder.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"

/* What one output of the receiver does. */
typedef struct recorder {
    char log[200];        /* a letter for each call */
    const char *identity; /* JSON text */
    size_t linears_left;  /* linears that may come before it fails */
    bool refuses_weights;
} recorder;

static void note(const kq_output *o, char call)
{
    recorder *r = o->ctx;
    const size_t n = strlen(r->log);
    if (n + 1 < sizeof r->log)
        r->log[n] = call;
}

static kq_status prepare(kq_output *o, kq_error *err)
{
    (void)err;
    note(o, 'p');
    return KQ_OK;
}

static kq_status identify(kq_output *o, kq_error *err)
{
    const recorder *r = o->ctx;
    note(o, 'i');
    (void)err;
    return (o->identity = strdup(r->identity)) ? KQ_OK : KQ_E_MEMORY;
}

static kq_status check_weights(const kq_output *o, kq_error *err)
{
    const recorder *r = o->ctx;
    note(o, 'w');
    return r->refuses_weights ? kq_fail(err, KQ_E_NUMERIC, "a weight is NaN") : KQ_OK;
}

/* The sweep is planned for the outputs that are not there yet, and for no others. */
static void bytes(const kq_work *w, kq_receiver_bytes *out)
{
    size_t missing = 0;
    for (size_t i = 0; i < w->n; i++)
        missing += !kq_path_exists(w->outputs[i].name);
    note(w->outputs, 'b');
    assert_int_equal(w->sweep.n_estimates, missing);
    *out = (kq_receiver_bytes){.disk = 1};
}

static kq_status opened(kq_output *o, kq_error *err)
{
    (void)err;
    note(o, 'o');
    assert_true(kq_path_is_dir(o->work_dir));
    return KQ_OK;
}

static void describe(const kq_work *w, char line[160])
{
    note(w->outputs, 'd');
    snprintf(line, 160, "%zu modules", w->outputs->p.n_selected);
}

static kq_status sequences(kq_output *o, kq_error *err)
{
    (void)err;
    note(o, 's');
    assert_true(o->p.windows.n >= o->p.n_seq);
    return KQ_OK;
}

static kq_status before(kq_output *o, kq_error *err)
{
    (void)err;
    note(o, 'B');
    return KQ_OK;
}

static kq_status linear(kq_output *o, const kq_linear_factors *f, kq_error *err)
{
    recorder *r = o->ctx;
    assert_non_null(f->H_in);
    if (!r->linears_left)
        return kq_fail(err, KQ_E_IO, "%s: no more", f->name);
    r->linears_left--;
    note(o, (char)('0' + f->layer));
    return KQ_OK;
}

static kq_status block(kq_output *o, size_t layer, const char *path, kq_error *err)
{
    (void)layer;
    note(o, 'k');
    return kq_file_write(path, "part", 4, err);
}

static kq_status check_complete(const kq_output *o, kq_error *err)
{
    (void)err;
    note(o, 'C');
    return KQ_OK;
}

static kq_status finish(kq_output *o, kq_error *err)
{
    note(o, 'f');
    return kq_file_write(o->done_path, "done", 4, err);
}

static kq_status report(kq_work *w, json_t **out, kq_error *err)
{
    (void)err;
    note(w->outputs, 'r');
    *out = json_pack("{s:i}", "n", (int)w->n);
    return KQ_OK;
}

static void close_recorder(kq_output *o)
{
    note(o, 'x');
}

static const kq_receiver recording = {
    .result = "a file",
    .complete = "it is complete already",
    .stage = {.stem = "block", .suffix = "part", .linear = linear, .block = block},
    .prepare = prepare,
    .identify = identify,
    .check_weights = check_weights,
    .bytes = bytes,
    .opened = opened,
    .check_complete = check_complete,
    .describe = describe,
    .sequences = sequences,
    .before = before,
    .finish = finish,
    .report = report,
    .close = close_recorder,
};

/* An output of the blocks 0 and 2, two linears each, by the method input-only. */
static kq_output output(const char *file, recorder *r)
{
    static const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
    kq_output o = {.name = file, .opt = kq_quantize_defaults(), .ctx = r};
    o.opt.only = "layers\\.(0|2)\\.self_attn\\.[qo]_proj";
    o.opt.common.threads = 1;
    o.opt.calibration.text = text;
    o.opt.calibration.n_text = 1;
    o.opt.calibration.tokens = 64;
    o.opt.calibration.seq_len = 16;
    o.opt.calibration.method = "input-only";
    return o;
}

static kq_status run(const char *file, recorder *r, bool resume, bool fresh, char **text, kq_error *err)
{
    kq_output o = output(file, r);
    o.opt.resume = resume;
    o.opt.fresh = fresh;
    memset(r->log, 0, sizeof r->log);
    return kq_work_run(MODEL, &recording, &o, 1, text, err);
}

static bool exists(const char *file, const char *suffix)
{
    char *path;
    assert_int_equal(kq_format(&path, NULL, "%s%s", file, suffix), KQ_OK);
    const bool there = kq_path_exists(path);
    kq_free(path);
    return there;
}

static void steps_in_order(void **state)
{
    (void)state;
    kq_error err;
    char file[256], *text;
    recorder r = {.identity = "{\"a\": 1}", .linears_left = SIZE_MAX};
    temp_path(file, "order");
    check_ok(run(file, &r, false, false, &text, &err));
    assert_string_equal(r.log, "piwbobdsB00k22kfrx");
    assert_string_equal(text, "{\n \"n\": 1\n}");
    free(text);
    assert_true(exists(file, "") && !exists(file, ".work"));

    check_fails(run(file, &r, false, false, &text, &err), KQ_E_ARG, "exists already");
    assert_string_equal(r.log, "x");
    check_fails(run(file, &r, false, true, &text, &err), KQ_E_ARG, "exists already");
    assert_null(text);
    check_ok(run(file, &r, true, false, &text, &err));
    assert_string_equal(r.log, "piCx");
    assert_string_equal(text, "{\"complete\": true}");
    free(text);
}

static void refusals_leave_nothing(void **state)
{
    (void)state;
    kq_error err;
    char file[256];
    recorder r = {.identity = "{\"a\": 1}", .linears_left = SIZE_MAX, .refuses_weights = true};
    temp_path(file, "refused");
    check_fails(run(file, &r, false, false, NULL, &err), KQ_E_NUMERIC, "NaN");
    assert_string_equal(r.log, "piwx");
    assert_true(!exists(file, "") && !exists(file, ".work"));
    r.refuses_weights = false;
    r.linears_left = 1; /* the first block is not finished: nothing is worth keeping */
    check_fails(run(file, &r, false, false, NULL, &err), KQ_E_IO, "no more");
    assert_string_equal(r.log, "piwbobdsB0x");
    assert_true(!exists(file, "") && exists(file, ".work")); /* block inputs stay for --resume */
}

static void unfinished_work_is_continued(void **state)
{
    (void)state;
    kq_error err;
    char file[256];
    recorder r = {.identity = "{\"a\": 1}", .linears_left = 3}, other = {.identity = "{\"a\": 2}"};
    temp_path(file, "continued");
    check_fails(run(file, &r, false, false, NULL, &err), KQ_E_IO, "layers.2.self_attn.o_proj: no more");
    assert_string_equal(r.log, "piwbobdsB00k2x");
    assert_true(exists(file, ".work/block-00000.part.seal") && !exists(file, ".work/block-00002.part"));
    r.linears_left = SIZE_MAX;
    check_fails(run(file, &r, false, false, NULL, &err), KQ_E_ARG, "--resume continues it");
    check_fails(run(file, &other, true, false, NULL, &err), KQ_E_MISMATCH, "a 1, now it is 2");
    check_ok(run(file, &r, true, false, NULL, &err));
    assert_string_equal(r.log, "piwbobdsB22kfrx");

    temp_path(file, "anew");
    r.linears_left = 3;
    check_fails(run(file, &r, false, false, NULL, &err), KQ_E_IO, "no more");
    r.linears_left = SIZE_MAX;
    check_ok(run(file, &r, false, true, NULL, &err)); /* --fresh begins with the first block again */
    assert_string_equal(r.log, "piwbobdsB00k22kfrx");
}

/* Several outputs share the sweep; one that is there already is left as it is. */
static void several_outputs(void **state)
{
    (void)state;
    kq_error err;
    enum { N = 3 };
    char file[N][256], name[20];
    recorder r[N];
    kq_output o[N];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "several-%d", i);
        temp_path(file[i], name);
        r[i] = (recorder){.identity = "{\"a\": 1}", .linears_left = SIZE_MAX};
        o[i] = output(file[i], &r[i]);
        o[i].opt.calibration.tokens = i == 2 ? 32 : 64;
        o[i].opt.resume = true;
    }
    check_ok(kq_file_write(file[1], "done", 4, &err));
    check_ok(kq_work_run(MODEL, &recording, o, N, NULL, &err));
    assert_string_equal(r[0].log, "piwbobdsB00k22kfrx");
    assert_string_equal(r[1].log, "piCx");
    assert_string_equal(r[2].log, "pio00k22kfx");
    for (int i = 0; i < N; i++)
        assert_true(exists(file[i], "") && !exists(file[i], ".work") && !exists(file[i], ".pass"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_in_order),
        cmocka_unit_test(refusals_leave_nothing),
        cmocka_unit_test(unfinished_work_is_continued),
        cmocka_unit_test(several_outputs),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
