/* Tasks against lm-evaluation-harness (tests/golden/tasks, made by scripts/check_tasks.py), hostile
 * documents, interrupted runs. */
#include <jansson.h>
#include <unistd.h>

#include "check.h"

#include "base/file.h"
#include "base/mem.h"
#include "tasks/python_text.h"
#include "tasks/tasks.h"

static const char *const names[] = {"arc_easy", "arc_challenge", "piqa", "boolq", "hellaswag", "winogrande"};
enum { N_TASK = 6 };
#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"

static const char *golden_file(const char *name)
{
    static char path[N_TASK][512];
    static int next;
    char *p = path[next++ % N_TASK];
    snprintf(p, sizeof *path, "%s/tasks/%s.jsonl", KRONQ_GOLDEN_DIR, name);
    return p;
}

static kq_eval_tasks_options options(int threads)
{
    kq_eval_tasks_options opt = kq_eval_tasks_defaults();
    opt.common.threads = threads;
    opt.common.compute = "f32";
    return opt;
}

static void all_tasks(kq_task_file file[N_TASK])
{
    for (int i = 0; i < N_TASK; i++)
        file[i] = (kq_task_file){names[i], golden_file(names[i])};
}

/* ---- against the harness ------------------------------------------------------------------------------- */

static void test_golden(void **state)
{
    (void)state;
    kq_error err;
    kq_task_file file[N_TASK];
    char *text, *samples = NULL;
    size_t size, line_at = 0;
    kq_eval_tasks_options opt = options(2);
    opt.samples_file = "golden.jsonl";
    unlink("golden.jsonl.partial");
    all_tasks(file);
    check_ok(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err));
    check_ok(kq_file_read("golden.jsonl", 1 << 24, &samples, &size, &err));
    json_t *got = json_loads(text, 0, NULL),
           *want = json_load_file(KRONQ_GOLDEN_DIR "/tasks/expected.json", 0, NULL);
    assert_non_null(got);
    assert_non_null(want);
    size_t choices = 0;
    for (int t = 0; t < N_TASK; t++) {
        const json_t *w = json_object_get(want, names[t]), *metrics = json_object_get(w, "metrics"), *value;
        const json_t *g = json_object_get(json_object_get(got, "results"), names[t]);
        const char *key;
        json_object_foreach((json_t *)metrics, key, value)
            if (!(fabs(json_number_value(json_object_get(g, key)) - json_number_value(value)) < 1e-12))
                fail_msg("%s %s: %.17g, lm_eval has %.17g", names[t], key,
                         json_number_value(json_object_get(g, key)), json_number_value(value));
        /* name, alias, sample_len */
        assert_int_equal(json_object_size(g), json_object_size(metrics) + 3);
        assert_true(json_number_value(json_object_get(json_object_get(got, "versions"), names[t])) ==
                    json_number_value(json_object_get(w, "version")));
        const json_t *docs = json_object_get(w, "ll");
        for (size_t d = 0; d < json_array_size(docs); d++) {
            char *end = strchr(samples + line_at, '\n');
            assert_non_null(end);
            json_t *s = json_loadb(samples + line_at, (size_t)(end - samples) - line_at, 0, NULL);
            line_at = (size_t)(end - samples) + 1;
            assert_string_equal(json_string_value(json_object_get(s, "task")), names[t]);
            assert_int_equal(json_integer_value(json_object_get(s, "doc_id")), (json_int_t)d);
            const json_t *resps = json_object_get(s, "filtered_resps"), *ll = json_array_get(docs, d);
            assert_int_equal(json_array_size(resps), json_array_size(ll));
            for (size_t k = 0; k < json_array_size(ll); k++, choices++) {
                const double a = atof(json_string_value(json_array_get(json_array_get(resps, k), 0))),
                             b = json_number_value(json_array_get(ll, k));
                if (!(fabs(a - b) < 2e-4)) /* f32 there: the sums of a dozen log-probabilities of some -6 each
                                              agree to 4e-5 here */
                    fail_msg("%s document %zu choice %zu: %.7f, lm_eval has %.7f", names[t], d, k, a, b);
                const bool greedy =
                    json_is_true(json_array_get(json_array_get(json_object_get(w, "greedy"), d), k));
                assert_string_equal(json_string_value(json_array_get(json_array_get(resps, k), 1)),
                                    greedy ? "True" : "False");
            }
            json_decref(s);
        }
    }
    assert_int_equal(samples[line_at], 0);
    assert_true(choices > 200);
    assert_false(kq_path_exists("golden.jsonl.partial"));
    kq_free(samples);
    json_decref(got);
    json_decref(want);
    free(text);
}

static char *run_samples(const char *path, const kq_eval_tasks_options *o, size_t *size)
{
    kq_eval_tasks_options opt = *o;
    kq_task_file file[N_TASK];
    kq_error err;
    char *text, *samples;
    opt.samples_file = path;
    all_tasks(file);
    check_ok(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err));
    free(text);
    check_ok(kq_file_read(path, 1 << 24, &samples, size, &err));
    return samples;
}

static int stop_at; /* progress calls until the job is asked to stop */
static int count_down(void *ctx, const char *stage, double fraction, const char *note)
{
    (void)ctx;
    (void)stage;
    (void)note;
    assert_true(fraction >= 0 && fraction <= 1 + 1e-12);
    return --stop_at == 0;
}

/* An interrupted and resumed run, and one with other threads, give the same bytes. */
static void test_resume(void **state)
{
    (void)state;
    kq_error err;
    kq_task_file file[N_TASK];
    size_t n, m;
    char *text;
    kq_eval_tasks_options opt = options(1);
    unlink("whole.jsonl.partial");
    unlink("cut.jsonl.partial");
    char *whole = run_samples("whole.jsonl", &opt, &n);
    opt.common.threads = 3;
    opt.common.progress = count_down;
    opt.samples_file = "cut.jsonl";
    all_tasks(file);
    for (int k = 0; k < 3; k++) { /* two interruptions, then to the end */
        stop_at = k == 0 ? 6 : k == 1 ? 10 : 1000;
        opt.resume = k > 0;
        kq_status st = kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err);
        assert_int_equal(st, k < 2 ? KQ_E_INTERRUPTED : KQ_OK);
        assert_int_equal(kq_path_exists("cut.jsonl.partial"), k < 2);
        if (k == 0) { /* as if it had been killed while it wrote */
            FILE *f = fopen("cut.jsonl.partial", "a");
            fputs("0123456789abcdef {\"task\":1,", f);
            fclose(f);
            opt.resume = false;
            check_fails(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err), KQ_E_ARG,
                        "--resume continues it");
            opt.resume = true;
            opt.limit = 3;
            check_fails(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err), KQ_E_MISMATCH,
                        "is of another run");
            opt.limit = 0;
        }
        if (k == 2)
            free(text);
    }
    assert_true(stop_at > 0);
    char *cut;
    check_ok(kq_file_read("cut.jsonl", 1 << 24, &cut, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(whole, cut, n);
    kq_free(whole);
    kq_free(cut);
    /* a bit flipped in what was kept */
    opt.resume = false;
    stop_at = 10;
    assert_int_equal(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err), KQ_E_INTERRUPTED);
    FILE *f = fopen("cut.jsonl.partial", "r+");
    fseek(f, -20, SEEK_END);
    int c = fgetc(f);
    fseek(f, -20, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
    opt.resume = true;
    stop_at = 0;
    check_fails(kq_eval_tasks(MODEL, file, N_TASK, &opt, &text, &err), KQ_E_FORMAT, "is damaged");
    unlink("cut.jsonl.partial");
}

/* ---- documents ----------------------------------------------------------------------------------------- */

static void test_bad_documents(void **state)
{
    (void)state;
    static const struct {
        const char *task, *text, *words;
    } cases[] = {
        {"piqa", "", "holds no document"},
        {"piqa", "\n \n\r\n", "holds no document"},
        {"piqa", "\n\n{\"goal\":\"a\"", "line 3: "},
        {"piqa", "[1]", "line 1: not a JSON object"},
        {"piqa", "{\"goal\":\"a\",\"goal\":\"b\"}", "line 1: duplicate"},
        {"piqa", "{\"goal\":\"a\\u0000b\"}", "line 1: "},
        {"piqa", "{\"goal\":\"\xff\"}", "line 1, byte 9: 0xFF is no UTF-8"},
        {"piqa", "{\"goal\":\"\\ud800\"}", "line 1: "},
        {"piqa", "{\"sol1\":\"a\"}", "line 1: field \"goal\" is missing"},
        {"piqa", "{\"goal\":3}", "line 1: field \"goal\" is no string"},
        {"piqa", "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\"}", "field \"label\" is missing"},
        {"piqa", "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\",\"label\":-1}", "labels 0..1"},
        {"piqa", "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\",\"label\":2}", "labels 0..1"},
        {"piqa", "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\",\"label\":0.5}", "labels 0..1"},
        {"piqa", "{\"goal\":\"a\",\"sol1\":\"b\",\"sol2\":\"c\",\"label\":99999999999999999999}", "line 1: "},
        {"arc_easy", "{\"question\":\"q\",\"answerKey\":\"A\"}", "field \"choices\" is missing"},
        {"arc_easy", "{\"question\":\"q\",\"answerKey\":\"A\",\"choices\":[]}",
         "field \"choices\" is no object"},
        {"arc_easy",
         "{\"question\":\"q\",\"answerKey\":\"A\",\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]}}",
         "\"choices.text\" holds fewer than 2"},
        {"arc_easy",
         "{\"question\":\"q\",\"answerKey\":\"A\",\"choices\":{\"text\":[\"a\",1],\"label\":[\"A\",\"B\"]}}",
         "no string"},
        {"arc_easy",
         "{\"question\":\"q\",\"answerKey\":\"A\",\"choices\":{\"text\":[\"a\",\"b\",\"c\"],\"label\":[\"A\","
         "\"B\"]}}",
         "not as many entries"},
        {"arc_challenge",
         "{\"question\":\"q\",\"answerKey\":\"E\",\"choices\":{\"text\":[\"a\",\"b\"],\"label\":[\"A\",\"B\"]"
         "}}",
         "\"answerKey\" is none of"},
        {"hellaswag",
         "{\"activity_label\":\"a\",\"ctx_a\":\"b\",\"ctx_b\":\"c\",\"endings\":[\"x\",\"y\"],\"label\":"
         "\"\"}",
         "labels 0..1"},
        {"hellaswag",
         "{\"activity_label\":\"a\",\"ctx_a\":\"b\",\"ctx_b\":\"c\",\"endings\":\"x\",\"label\":\"0\"}",
         "\"endings\" is no list"},
        {"winogrande", "{\"sentence\":\"no blank\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"1\"}",
         "has no blank"},
        {"winogrande", "{\"sentence\":\"a _ b\",\"option1\":\"a\",\"option2\":\"b\",\"answer\":\"\"}",
         "neither \"1\" nor \"2\""},
        {"boolq", "{\"passage\":\"a\",\"question\":\"b\",\"label\":null}", "labels 0..1"},
    };
    kq_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kq_document *docs;
        size_t n, n_file;
        check_ok(kq_file_write("bad.jsonl", cases[i].text, strlen(cases[i].text), &err));
        check_fails(kq_documents_read(kq_task_find(cases[i].task), "bad.jsonl", 0, &docs, &n, &n_file, &err),
                    KQ_E_FORMAT, cases[i].words);
        assert_non_null(strstr(err.message, "bad.jsonl: "));
        assert_null(docs);
    }
    /* every cut of a good line */
    static const char good[] = "{\"question\":\"q\",\"answerKey\":\"B\",\"choices\":{\"text\":[\"a\",\"b\"],"
                               "\"label\":[\"A\",\"B\"]}}";
    for (size_t i = 1; i < sizeof good - 1; i++) {
        kq_document *docs;
        size_t n, n_file;
        check_ok(kq_file_write("bad.jsonl", good, i, &err));
        check_fails(kq_documents_read(kq_task_find("arc_easy"), "bad.jsonl", 0, &docs, &n, &n_file, &err),
                    KQ_E_FORMAT, "line 1");
    }
    /* a context of white space alone has no token */
    static const char blank[] =
        "{\"sentence\":\"_ b\",\"option1\":\" \",\"option2\":\"b\",\"answer\":\"1\"}\n";
    const kq_task_file file = {"winogrande", "bad.jsonl"};
    kq_eval_tasks_options opt = options(1);
    char *text;
    check_ok(kq_file_write("bad.jsonl", blank, sizeof blank - 1, &err));
    check_fails(kq_eval_tasks(MODEL, &file, 1, &opt, &text, &err), KQ_E_FORMAT,
                "bad.jsonl: line 1: the context of a choice is empty");
    const kq_task_file unknown = {"mmlu", "bad.jsonl"};
    check_fails(kq_eval_tasks(MODEL, &unknown, 1, &opt, &text, &err), KQ_E_ARG,
                "--task mmlu: unknown; there are arc_easy");
    opt.resume = true;
    const kq_task_file piqa = {"piqa", golden_file("piqa")};
    check_fails(kq_eval_tasks(MODEL, &piqa, 1, &opt, &text, &err), KQ_E_ARG, "--log-samples");
}

static void test_limit(void **state)
{
    (void)state;
    kq_error err;
    char *text;
    kq_eval_tasks_options opt = options(1);
    const kq_task_file piqa = {"piqa", golden_file("piqa")};
    opt.limit = 1;
    check_ok(kq_eval_tasks(MODEL, &piqa, 1, &opt, &text, &err));
    json_t *r = json_loads(text, 0, NULL);
    json_int_t original, effective;
    const char *error;
    double acc;
    assert_int_equal(json_unpack(r, "{s:{s:{s:I, s:I}}, s:{s:{s:F, s:s}}}", "n-samples", "piqa", "original",
                                 &original, "effective", &effective, "results", "piqa", "acc,none", &acc,
                                 "acc_stderr,none", &error),
                     0);
    assert_int_equal(original, 14);
    assert_int_equal(effective, 1);
    assert_string_equal(error, "N/A");
    json_decref(r);
    free(text);
}

/* ---- Python's str -------------------------------------------------------------------------------------- */

static void test_python_text(void **state)
{
    (void)state;
    kq_error err;
    /* values of Python 3.11's str.capitalize */
    static const struct {
        const char *in, *out;
    } capital[] = {
        {"", ""},
        {"hello World", "Hello world"},
        {"\xc3\x9fTRASSE", "Sstrasse"},
        {"\xef\xac\x81N", "Fin"},
        {"\xce\x9f\xce\x94\xce\x9f\xce\xa3", "\xce\x9f\xce\xb4\xce\xbf\xcf\x82"},
        {"a\xce\xa3z", "A\xcf\x83z"},
        {"\xc7\x86x", "\xc7\x85x"},
        {"a\xc4\xb0", "Ai\xcc\x87"},
        {"1A", "1a"},
        {"\xce\x90", "\xce\x99\xcc\x88\xcc\x81"},
        {" A", " a"},
    };
    for (size_t i = 0; i < sizeof capital / sizeof *capital; i++) {
        char *out;
        check_ok(kq_str_capitalize(capital[i].in, &out, &err));
        assert_string_equal(out, capital[i].out);
        kq_free(out);
    }
    static const struct {
        const char *in, *out;
    } clean[] = {
        {"  a \n", "a"},    {"x [title] y", "x. y"},        {"a[b]c[d", "ac[d"}, {"[a\nb] [c]", "[a\nb] "},
        {"a    b", "a  b"}, {"\xc2\xa0z\xe3\x80\x80", "z"}, {"[a[b]]", "]"},
    };
    for (size_t i = 0; i < sizeof clean / sizeof *clean; i++) {
        char buf[64];
        strcpy(buf, clean[i].in);
        kq_hellaswag_clean(buf);
        assert_string_equal(buf, clean[i].out);
    }
    assert_int_equal(kq_str_len("a\xc3\xa9\xf0\x9f\x98\x80"), 3);
    assert_int_equal(kq_str_rstrip("ab \x1f\xe2\x80\x89"), 2);
    assert_int_equal(kq_str_rstrip(" \t"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_python_text), cmocka_unit_test(test_bad_documents),
        cmocka_unit_test(test_golden),      cmocka_unit_test(test_resume),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
