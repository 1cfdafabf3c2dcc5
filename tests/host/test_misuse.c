/* What a host program may do wrong, and what may go wrong under it: calls out of a callback, NULL where a
 * text belongs, numbers out of range, memory that is not there. Each ends with an error that names the cause,
 * and leaves a model that works. */
#include <errno.h>
#include <jansson.h>
#include <locale.h>

#include "check.h"
#include "kronq.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
#define GGUF KRONQ_GOLDEN_DIR "/tiny_cli/model.gguf"
static kq_error err;

static const int32_t prompt[6] = {5, 6, 7, 8, 9, 10};

static kq_model *open_model(const char *path)
{
    kq_model *m;
    kq_model_options opt = kq_model_defaults();
    opt.common.threads = 1;
    opt.context = 64;
    check_ok(kq_model_open(path, &opt, &m, &err));
    return m;
}

static kq_generation_options greedy(size_t n_max)
{
    kq_generation_options opt = kq_generation_defaults();
    opt.n_max = n_max;
    opt.temperature = 0;
    return opt;
}

/* ---- calls out of a callback ---- */

static int call_back(void *ctx, const char *text, size_t size)
{
    (void)text, (void)size;
    kq_model *m = ctx;
    kq_generation *g;
    kq_server *server;
    int32_t *ids;
    size_t n;
    check_fails(kq_model_generate(m, prompt, 3, NULL, &g, &err), KQ_E_ARG, "at work");
    check_fails(kq_model_append(m, 0, prompt, 3, 0, NULL, &err), KQ_E_ARG, "at work");
    check_fails(kq_model_load(m, 500, &err), KQ_E_ARG, "at work");
    check_fails(kq_serve(m, NULL, &server, &err), KQ_E_ARG, "at work");
    kq_model_truncate(m, 0, 0);
    check_ok(
        kq_model_tokenize(m, "a", 1, false, true, &ids, &n, &err)); /* what does not compute may be called */
    free(ids);
    return 0;
}

static void emit_cannot_disturb_its_answer(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL), *fresh = open_model(MODEL);
    kq_generation_options opt = greedy(20);
    kq_generation *a, *b;
    check_ok(kq_model_generate(fresh, prompt, 6, &opt, &a, &err));
    opt.emit = call_back;
    opt.ctx = m;
    check_ok(kq_model_generate(m, prompt, 6, &opt, &b, &err));
    assert_string_equal(a->text, b->text);
    kq_generation_free(a);
    kq_generation_free(b);
    check_ok(kq_model_generate(m, prompt, 6, NULL, NULL, &err)); /* and it is free again */
    kq_model_close(m);
    kq_model_close(fresh);
}

static void a_served_model_is_the_servers(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL);
    kq_serve_options opt = kq_serve_defaults();
    kq_server *server, *second;
    opt.port = 70000;
    check_fails(kq_serve(m, &opt, &server, &err), KQ_E_ARG, "65535");
    assert_null(server);
    check_fails(kq_serve_check(&opt, NULL, &err), KQ_E_ARG, "65535");
    opt.port = 0;
    opt.host = NULL; /* the default */
    check_ok(kq_serve(m, &opt, &server, &err));
    check_fails(kq_serve(m, &opt, &second, &err), KQ_E_ARG, "kq_server_stop");
    assert_null(second);
    check_fails(kq_model_generate(m, prompt, 6, NULL, NULL, &err), KQ_E_ARG, "kq_server_stop");
    assert_true(kq_server_stop(server, NULL, NULL));
    check_ok(kq_model_generate(m, prompt, 6, NULL, NULL, &err));
    kq_model_close(m);
}

typedef struct place {
    kq_model *other;
    locale_t expected;
    int calls, elsewhere;
} place;

static int where(void *ctx, const char *text, size_t size)
{
    (void)text, (void)size;
    place *p = ctx;
    char *back;
    size_t n;
    p->calls++;
    p->elsewhere += uselocale((locale_t)0) != p->expected;
    check_ok(kq_model_detokenize(p->other, prompt, 1, false, &back, &n, &err));
    p->elsewhere += uselocale((locale_t)0) != p->expected;
    free(back);
    return 0;
}

static void a_call_out_of_emit_leaves_the_locale(void **state)
{
    (void)state;
    kq_model *m = open_model(MODEL);
    place here = {.other = open_model(GGUF), .expected = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0)};
    assert_true(here.expected != (locale_t)0);
    const locale_t before = uselocale(here.expected);
    kq_generation_options opt = greedy(6);
    opt.emit = where;
    opt.ctx = &here;
    check_ok(kq_model_generate(m, prompt, 6, &opt, NULL, &err));
    assert_true(here.calls > 1);
    assert_int_equal(here.elsewhere, 0);
    assert_true(uselocale(before) == here.expected);
    freelocale(here.expected);
    kq_model_close(here.other);
    kq_model_close(m);
}

/* ---- arguments ---- */

static void arguments_out_of_range(void **state)
{
    (void)state;
    kq_model *m;
    kq_model_options opt = kq_model_defaults();
    static const size_t sequences[] = {0, 65537, SIZE_MAX};
    for (int i = 0; i < 3; i++) {
        opt.sequences = sequences[i];
        check_fails(kq_model_open(MODEL, &opt, &m, &err), KQ_E_ARG, "sequences");
        assert_null(m);
    }
    m = open_model(MODEL);
    char *text;
    kq_message message = {"user", NULL};
    check_fails(kq_model_chat_prompt(m, &message, 1, NULL, &text, &err), KQ_E_ARG, "content is NULL");
    message = (kq_message){NULL, "the water"};
    check_fails(kq_model_chat_prompt(m, &message, 1, NULL, &text, &err), KQ_E_ARG, "role is NULL");
    assert_null(text);
    assert_int_equal(kq_model_length(m, 7), 0);
    check_ok(kq_model_load(m, 0, &err));
    assert_int_equal(kq_model_length(m, 7), 0);
    kq_model_truncate(m, (size_t)1 << 50, 0);
    kq_model_close(m);
    size_t n;
    const kq_setting *s = kq_settings(&n);
    kq_quantize_options q = kq_quantize_defaults();
    check_fails(kq_setting_set((kq_options_id)-1, &q, s, "2", &err), KQ_E_ARG, "no setting");
    check_fails(kq_setting_set(KQ_N_OPTIONS, &q, s, "2", &err), KQ_E_ARG, "no setting");
}

static void reports_with_strange_numbers(void **state)
{
    (void)state;
    kq_quantize_result *r;
    check_fails(kq_quantize_result_read("{\"bpw\": 2, \"modules\": 5}", &r, &err), KQ_E_FORMAT, "modules");
    assert_null(r);
    check_fails(kq_quantize_result_read(NULL, &r, &err), KQ_E_FORMAT, "NULL"); /* of a call that failed */
    check_ok(kq_quantize_result_read("{\"bpw\": 2, \"file_bytes\": 1e300, \"modules\":"
                                     "{\"a\": {\"shape\": [-1, \"x\"]}, \"b\": 5}}",
                                     &r, &err));
    assert_int_equal(r->n_modules, 2);
    assert_int_equal(r->file_bytes, 0);
    assert_int_equal(r->module[0]->rows, 0);
    assert_int_equal(r->module[0]->columns, 0);
    kq_quantize_result_free(r);
}

/* ---- memory ---- */

static long left; /* allocations of jansson until one fails; 0: none does */

static void *failing_malloc(size_t size)
{
    if (left && !--left) {
        errno = ENOMEM;
        return NULL;
    }
    return malloc(size);
}

/* Every n-th allocation of the JSON reader: no file is to blame for it. */
static void lack_of_memory_is_called_so(void **state)
{
    (void)state;
    const kq_generation_options opt = greedy(2);
    json_set_alloc_funcs(failing_malloc, free);
    int failures = 0;
    for (long n = 1; n < 2500; n += n < 400 ? 3 : 53) {
        kq_model *m;
        left = n;
        kq_status status = kq_model_open(MODEL, NULL, &m, &err);
        if (!status)
            status = kq_model_complete(m, "the water", &opt, NULL, &err);
        left = 0;
        failures += status != KQ_OK;
        if (status && status != KQ_E_MEMORY)
            fail_msg("allocation %ld: status %d, %s", n, (int)status, err.message);
        kq_model_close(m);
    }
    json_set_alloc_funcs(malloc, free);
    assert_true(failures > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(emit_cannot_disturb_its_answer),
        cmocka_unit_test(a_served_model_is_the_servers),
        cmocka_unit_test(a_call_out_of_emit_leaves_the_locale),
        cmocka_unit_test(arguments_out_of_range),
        cmocka_unit_test(reports_with_strange_numbers),
        cmocka_unit_test(lack_of_memory_is_called_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
