/* The library within a host program: with a locale whose decimal point is a comma it gives the bytes of
 * the C locale, and what it promises of progress holds in every function: a stage that is text, shares
 * from 0 to 1, and the end of the work at the first answer that is not 0. */
#include <jansson.h>
#include <locale.h>
#include <unistd.h>

#include "base/file.h"
#include "check.h"
#include "kronq.h"
#include "temp_folder.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
#define TEXT KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"
static const char *const text[] = {TEXT};
static kq_error err;

static const char *at(char path[300], const char *folder, const char *name)
{
    snprintf(path, 300, "%s/%s/%s", temp_folder, folder, name);
    return path;
}

/* ---- everything the library does, with numbers that have a fraction in every setting ---- */

static kq_quantize_options options(void)
{
    static const char *const rules[] = {"layers\\.1\\.mlp=3"};
    kq_quantize_options o = kq_quantize_defaults();
    o.common.threads = 2;
    o.common.compute = "f32";
    o.calibration.text = text;
    o.calibration.n_text = 1;
    o.calibration.tokens = 256;
    o.calibration.seq_len = 32;
    o.calibration.rho = 0.015;
    o.calibration.tol = 0.0015;
    o.sigma_reg = 0.125;
    o.shrink = 0.375;
    o.bits = 2.75;
    o.module_bits = rules;
    o.n_module_bits = 1;
    o.only = "layers\\.[01]\\.(mlp\\.up|self_attn\\.o)_proj";
    o.gguf_type = "Q4_0";
    return o;
}

/* common: threads and so on are the function's, progress the caller's */
typedef kq_status work(const char *folder, kq_common *common);

static void take(kq_common *to, const kq_common *from)
{
    to->progress = from->progress;
    to->ctx = from->ctx;
}

static kq_status do_quantize(const char *folder, kq_common *common)
{
    char path[300];
    kq_quantize_options o = options();
    take(&o.common, common);
    return kq_quantize(MODEL, at(path, folder, "q"), &o, NULL, &err);
}

static kq_status do_gguf(const char *folder, kq_common *common)
{
    char path[300];
    kq_quantize_options o = options();
    take(&o.common, common);
    return kq_quantize_gguf(MODEL, at(path, folder, "m.gguf"), &o, NULL, &err);
}

static kq_status do_calibrate(const char *folder, kq_common *common)
{
    char path[2][300];
    kq_quantize_options o = options();
    take(&o.common, common);
    kq_estimate e[2] = {{at(path[0], folder, "f.safetensors"), o.calibration},
                        {at(path[1], folder, "g.safetensors"), o.calibration}};
    e[1].calibration.method = "fastkron";
    return kq_calibrate_all(MODEL, e, 2, &o, false, NULL, &err);
}

static kq_status do_imatrix(const char *folder, kq_common *common)
{
    char path[300];
    kq_quantize_options o = options();
    take(&o.common, common);
    return kq_imatrix(MODEL, at(path, folder, "i.gguf"), &o, NULL, &err);
}

static kq_status do_own_text(const char *folder, kq_common *common)
{
    char path[300];
    kq_quantize_options o = options();
    take(&o.common, common);
    o.calibration.n_text = 0;
    o.calibration.method = "input-only";
    o.bits = 2;
    o.n_module_bits = 0;
    return kq_quantize(MODEL, at(path, folder, "own"), &o, NULL, &err);
}

static kq_status do_export(const char *folder, kq_common *common)
{
    char path[300];
    kq_export_options o = kq_export_defaults();
    take(&o.common, common);
    kq_status status = kq_export(MODEL, at(path, folder, "bf16"), &o, NULL, &err);
    o.to = "gguf";
    return status ? status : kq_export(MODEL, at(path, folder, "x.gguf"), &o, NULL, &err);
}

/* The figures go into a file, too. */
static kq_status do_eval(const char *folder, kq_common *common)
{
    char path[300], *json = NULL;
    kq_eval_text_options o = kq_eval_text_defaults();
    o.common.threads = 2;
    o.common.compute = "f32";
    take(&o.common, common);
    o.ctx = 64;
    o.chunks = 3;
    o.per_window = at(path, folder, "windows.csv");
    kq_status status = kq_eval_text(MODEL, KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf", TEXT, &o, &json, &err);
    o.per_window = at(path, folder, "own.csv");
    if (!status) /* the file alone is wanted */
        status = kq_eval_text(MODEL, NULL, TEXT, &o, NULL, &err);
    if (!status) /* its last two members are of the machine */
        status = kq_file_write(at(path, folder, "eval.json"), json,
                               (size_t)(strstr(json, "\"seconds\"") - json), &err);
    free(json);
    return status;
}

static kq_status do_plan(const char *folder, kq_common *common)
{
    char path[300], *json = NULL;
    kq_quantize_options o = options();
    take(&o.common, common);
    kq_status status = kq_plan(MODEL, &o, &json, &err);
    if (!status)
        status = kq_file_write(at(path, folder, "plan.json"), json, strlen(json), &err);
    free(json);
    return status;
}

static kq_status do_compare(const char *folder, kq_common *common)
{
    char path[300];
    kq_compare_row rows[2] = {{"flipflop:rho=0.015", options()}, {"none", options()}};
    rows[0].options.calibration.rho = 0.015;
    rows[1].options.calibration.method = "none";
    rows[1].options.bits = 2;
    rows[0].options.n_module_bits = rows[1].options.n_module_bits = 0;
    kq_compare_options o = kq_compare_defaults();
    o.common.threads = 2;
    o.common.compute = "f32";
    take(&o.common, common);
    o.text = text;
    o.n_text = 1;
    o.ctx = 64;
    o.chunks = 3;
    kq_status status = kq_compare(MODEL, at(path, folder, "compare"), rows, 2, &o, NULL, &err);
    return status ? status : kq_report(path, NULL, &err);
}

static const struct {
    const char *name;
    work *fn;
} all[] = {
    {"quantize", do_quantize}, {"gguf", do_gguf},         {"calibrate", do_calibrate},
    {"imatrix", do_imatrix},   {"own text", do_own_text}, {"export", do_export},
    {"eval", do_eval},         {"plan", do_plan},         {"compare", do_compare},
};
enum { N_ALL = sizeof all / sizeof *all };

/* ---- progress ---- */

typedef struct listener {
    int calls, stop_at, after; /* after: calls that came after the stop */
    int bad;
} listener;

static int hear(void *ctx, const char *stage, double fraction, const char *note)
{
    listener *l = ctx;
    if (!stage || !*stage || !(fraction >= 0 && fraction <= 1) || (note && !*note))
        l->bad++;
    l->calls++;
    l->after += l->stop_at && l->calls > l->stop_at;
    return l->stop_at && l->calls >= l->stop_at;
}

static void progress_is_text_and_obeyed(void **state)
{
    (void)state;
    char path[300], folder[64];
    for (int i = 0; i < N_ALL; i++) {
        int stops = 0;
        for (int n = 0;; n = 2 * n + 1) { /* the call that is answered with a stop; 0: none */
            listener l = {.stop_at = n};
            kq_common common = {.progress = hear, .ctx = &l};
            snprintf(folder, sizeof folder, "p%d-%d", i, n);
            check_ok(kq_mkdirs(at(path, folder, ""), &err));
            const kq_status status = all[i].fn(folder, &common);
            if (l.bad || l.after)
                fail_msg(
                    "%s, stopped at call %d: %d calls without a stage or a share, %d calls after the stop",
                    all[i].name, n, l.bad, l.after);
            if (status != (n && l.calls >= n ? KQ_E_INTERRUPTED : KQ_OK))
                fail_msg("%s, stopped at call %d of %d: status %d, %s", all[i].name, n, l.calls, status,
                         status ? err.message : "");
            check_ok(kq_remove_tree(at(path, folder, ""), &err));
            stops += status == KQ_E_INTERRUPTED;
            if (n && status == KQ_OK)
                break;
        }
        if (all[i].fn != do_plan && stops < 2)
            fail_msg("%s was stopped only %d times", all[i].name, stops);
    }
}

/* ---- locale ---- */

static size_t count(const char *path, char what)
{
    char *t;
    size_t size, n = 0;
    check_ok(kq_file_read(path, 1 << 24, &t, &size, &err));
    for (size_t i = 0; i < size; i++)
        n += t[i] == what;
    free(t);
    return n;
}

/* A comma's share of a locale, made by localedef in the test's own folder. */
static bool comma_locale(void)
{
    char cmd[600], full[400];
    if (!realpath(temp_folder, full))
        return false;
    snprintf(cmd, sizeof cmd, "localedef -i de_DE -f UTF-8 '%s/de_DE.UTF-8' >/dev/null 2>&1", full);
    if (system(cmd) == -1)
        return false;
    setenv("LOCPATH", full, 1);
    if (!setlocale(LC_ALL, "de_DE.UTF-8"))
        return false;
    snprintf(cmd, sizeof cmd, "%.1f", 0.5);
    return !strcmp(cmd, "0,5");
}

static int in_comma(void *ctx, const char *stage, double fraction, const char *note)
{
    char number[16];
    (void)stage, (void)fraction, (void)note;
    snprintf(number, sizeof number, "%.1f", 0.5);
    *(int *)ctx += strcmp(number, "0,5") != 0; /* the host's own functions run in its locale */
    return 0;
}

static void same_bytes_in_a_comma_locale(void **state)
{
    (void)state;
    char cmd[1000], path[2][300];
    int strangers = 0;
    const kq_common quiet = {.progress = NULL};
    for (int k = 0; k < 2; k++) {
        if (k && !comma_locale()) {
            print_message("SKIP: localedef makes no de_DE.UTF-8 here (the package \"locales\")\n");
            skip();
        }
        check_ok(kq_mkdirs(at(path[k], k ? "comma" : "point", ""), &err));
        for (int i = 0; i < N_ALL; i++) {
            kq_common common = quiet;
            if (k && (all[i].fn == do_quantize || all[i].fn == do_imatrix))
                common = (kq_common){.progress = in_comma, .ctx = &strangers};
            check_ok(all[i].fn(k ? "comma" : "point", &common));
        }
    }
    snprintf(cmd, sizeof cmd, "%.1f", 0.5);
    assert_string_equal(cmd, "0,5"); /* and its locale is as it was */
    assert_int_equal(strangers, 0);
    /* what was done in the one locale is recognised in the other */
    kq_quantize_options o = options();
    char *json;
    o.resume = true;
    check_ok(kq_quantize(MODEL, at(path[0], "point", "q"), &o, &json, &err));
    assert_string_equal(json, "{\"complete\": true}");
    free(json);
    /* a comparison tells times: as many commas and points all the same */
    static const char *const tables[] = {"compare/table.csv", "compare/table.md",
                                         "compare/rows/none-2bit-seed0.json"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        assert_int_equal(count(at(path[0], "point", tables[i]), ','),
                         count(at(path[1], "comma", tables[i]), ','));
    snprintf(cmd, sizeof cmd,
             "for d in point comma; do sed 's/[0-9.]*[0-9]/N/g' %s/$d/compare/report.html | grep -c "
             "'N,N[^0-9]' ; done | uniq | wc -l | grep -qx 1",
             temp_folder);
    assert_int_equal(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "rm -rf %s/*/compare; diff -r %s/point %s/comma", temp_folder, temp_folder,
             temp_folder);
    assert_int_equal(system(cmd), 0);
    setlocale(LC_ALL, "C");
}

/* A host that forgot kq_..._defaults() hears what is wrong. Nothing is made, and an error that nobody wants
 * is dropped. */
static void structs_of_zeros(void **state)
{
    (void)state;
    char path[300];
    static const kq_quantize_options q;
    static const kq_eval_text_options e;
    static const kq_eval_tasks_options t;
    static const kq_export_options x;
    static const kq_compare_options c;
    kq_compare_options text_only = kq_compare_defaults();
    text_only.text = text;
    text_only.n_text = 1;
    at(path, "zero", "out");
    for (int i = 0; i < 2; i++) {
        kq_error *to = i ? NULL : &err;
        assert_int_equal(kq_quantize(MODEL, path, &q, NULL, to), KQ_E_ARG);
        if (to)
            assert_non_null(strstr(to->message, "begin with the struct that kq_quantize_defaults() returns"));
        assert_int_equal(kq_quantize_gguf(MODEL, path, &q, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_calibrate(MODEL, path, &q, false, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_imatrix(MODEL, path, &q, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_export(MODEL, path, &x, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_eval_text(MODEL, NULL, TEXT, &e, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_eval_tasks(MODEL, NULL, 0, &t, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_compare(MODEL, path, &(kq_compare_row){"zero", q}, 1, &text_only, NULL, to),
                         KQ_E_ARG);
        assert_int_equal(kq_compare(MODEL, path, NULL, 0, &c, NULL, to), KQ_E_ARG);
        assert_int_equal(kq_compare(MODEL, path, NULL, 0, &text_only, NULL, to), KQ_E_ARG);
    }
    assert_non_null(strstr(err.message, "nothing to compare"));
    assert_false(kq_path_exists(path));
    check_ok(kq_eval_text(MODEL, NULL, TEXT, NULL, NULL, &err)); /* NULL: the defaults */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(structs_of_zeros),
                                       cmocka_unit_test(progress_is_text_and_obeyed),
                                       cmocka_unit_test(same_bytes_in_a_comma_locale)};
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
