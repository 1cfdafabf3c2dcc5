/* The page of a comparison: well-formed (checked by a small parser here), every row a mark in every
 * figure, nothing fetched or run, and nothing of a file's text as markup. The rows are made by
 * kq_compare; further ones are written into the folder, as no run would make them. */
#include <ctype.h>
#include <jansson.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "check.h"
#include "compare/compare.h"
#include "temp_folder.h"

#define MODEL KRONQ_GOLDEN_DIR "/tiny_cli/hf"
static const char *const text[] = {KRONQ_GOLDEN_DIR "/tiny_cli/text.txt"};
enum { ROWS = 9, PREDICTED = 6 };

static kq_compare_row row(const char *spec, const char *method, size_t tokens, int bits, uint64_t seed)
{
    kq_compare_row r = {.spec = spec, .options = kq_quantize_defaults()};
    kq_calibration *c = &r.options.calibration;
    c->text = text;
    c->n_text = 1;
    c->tokens = tokens;
    c->seq_len = 32;
    c->method = method;
    r.options.bits = bits;
    r.options.common.seed = seed;
    return r;
}

static int make_comparison(void **state)
{
    kq_error err;
    if (temp_folder_make(state))
        return 1;
    const kq_compare_row rows[ROWS] = {row("flipflop:tokens=256", "flipflop", 256, 2, 0),
                                       row("flipflop:tokens=256", "flipflop", 256, 2, 1),
                                       row("flipflop:tokens=512", "flipflop", 512, 2, 0),
                                       row("flipflop:tokens=512", "flipflop", 512, 3, 0),
                                       row("fastkron:tokens=256", "fastkron", 256, 2, 0),
                                       row("yaqa-b:tokens=256", "yaqa-b", 256, 3, 0),
                                       row("input-only:tokens=256", "input-only", 256, 2, 0),
                                       row("none", "none", 256, 2, 0),
                                       row("none", "none", 256, 4, 0)};
    kq_compare_options o = kq_compare_defaults();
    o.text = text;
    o.n_text = 1;
    o.ctx = 64;
    o.chunks = 2;
    if (kq_compare(MODEL, temp_folder, rows, ROWS, &o, NULL, &err)) {
        print_error("%s\n", err.message);
        return 1;
    }
    return 0;
}

/* The path of a file of the comparison's folder; kq_free. */
static char *in_dir(const char *folder, const char *name, const char *suffix)
{
    kq_error err;
    char *path;
    check_ok(kq_cmp_path(&path, temp_folder, folder, name, suffix, &err));
    return path;
}

static json_t *load(const char *folder, const char *name)
{
    char *path = in_dir(folder, name, ".json");
    kq_error err;
    json_t *o;
    check_ok(kq_cmp_load(path, &o, &err));
    kq_free(path);
    return o;
}

static void store(const char *folder, const char *name, json_t *o)
{
    char *path = in_dir(folder, name, ".json");
    kq_error err;
    check_ok(kq_cmp_store(path, o, &err));
    kq_free(path);
    json_decref(o);
}

static char *report(void)
{
    char *path = in_dir(NULL, "report", ".html"), *page;
    size_t size;
    kq_error err;
    check_ok(kq_report(temp_folder, NULL, &err));
    check_ok(kq_file_read(path, 1 << 26, &page, &size, &err));
    kq_free(path);
    assert_int_equal(strlen(page), size);
    return page;
}

static size_t count(const char *page, const char *what)
{
    size_t n = 0;
    for (const char *p = page; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

/* XML's rules as far as this page needs them: tags nest, attributes are quoted, "&" begins a reference. */
static void well_formed(const char *page)
{
    const char *stack[64], *p = page;
    size_t length[64], depth = 0, elements = 0;
    const char doctype[] = "<!DOCTYPE html>\n";
    assert_memory_equal(p, doctype, strlen(doctype));
    for (p += strlen(doctype); *p;) {
        if (*p == '&') {
            const char *end = strchr(p, ';');
            const size_t n = end ? (size_t)(end - p) : 99;
            if (n > 8 || !(p[1] == '#' || !strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) ||
                           !strncmp(p, "&amp;", 5) || !strncmp(p, "&quot;", 6)))
                fail_msg("not a reference: %.40s", p);
        }
        if (*p == '>')
            fail_msg("a stray >: %.40s", p);
        if (*p != '<') {
            if (!depth && !isspace((unsigned char)*p))
                fail_msg("text outside the document: %.40s", p);
            p++;
            continue;
        }
        const bool closing = p[1] == '/';
        const char *name = p + 1 + closing;
        const size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz123456789");
        assert_true(n > 0);
        p = name + n;
        if (closing) {
            if (!depth || n != length[depth - 1] || memcmp(name, stack[depth - 1], n) || *p != '>')
                fail_msg("</%.20s closes <%.20s", name, depth ? stack[depth - 1] : "nothing");
            depth--;
            p++;
            continue;
        }
        elements++;
        for (;;) {
            p += strspn(p, " ");
            if (*p == '>' || *p == '/')
                break;
            const size_t a = strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789");
            if (!a || strncmp(p + a, "=\"", 2))
                fail_msg("attribute: %.60s", p);
            p += a + 2;
            p += strcspn(p, "\"<");
            if (*p != '"')
                fail_msg("an attribute is not closed before %.40s", p);
            p++;
        }
        if (*p == '/') {
            assert_memory_equal(p, "/>", 2);
            p += 2;
            continue;
        }
        assert_true(depth < 64);
        length[depth] = n;
        stack[depth++] = name;
        p++;
        if (n == 5 && !memcmp(name, "style", 5)) /* rules are text of their own; they hold no < */
            p += strcspn(p, "<");
    }
    assert_int_equal(depth, 0);
    assert_true(elements > 100);
}

static void stands_alone(const char *page)
{
    static const char *const never[] = {"http:", "https:",  "//",         "<script", " src=", "href=",
                                        "url(",  "@import", "javascript", "onload",  "nan",   "inf "};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (strstr(page, never[i]))
            fail_msg("the page holds %s: %.60s", never[i], strstr(page, never[i]));
}

static double kld_of(const char *name)
{
    json_t *o = load("rows", name);
    const double kld =
        json_number_value(json_object_get(json_array_get(json_object_get(o, "texts"), 0), "kld"));
    json_decref(o);
    return kld;
}

static void test_page(void **state)
{
    (void)state;
    char *page = report();
    well_formed(page);
    stands_alone(page);
    assert_int_equal(count(page, "<figure id=\"tokens-0\""), 1);
    assert_int_equal(count(page, "<path class=\"pt "), 2 * ROWS); /* against tokens and against size */
    assert_int_equal(count(page, "<path class=\"pt hollow"), 0);
    assert_int_equal(count(page, "<path class=\"pp "), PREDICTED);
    assert_int_equal(count(strstr(page, "<table id=\"rows\""), "<tr>"), ROWS + 2);
    assert_int_equal(count(page, "figcaption>"), 2 * count(page, "<figure"));
    /* 3 blocks of 7 linears: a line of the convergence of fastkron and yaqa-b each, and every layer in a
     * histogram */
    assert_int_equal(count(page, "<path class=\"line s0 thin\""), 2 * 21 + 1); /* one is the legend's */
    size_t layers = 0, bars = 0;
    for (const char *p = page; (p = strstr(p, "<rect class=\"bar\"")); p++, bars++) {
        const char *to = strstr(p, ": ");
        layers += (size_t)atoi(to + 2);
    }
    assert_true(bars > 1);
    assert_int_equal(layers, 2 * 21);
    assert_non_null(strstr(page, "wrong way round"));
    assert_non_null(strstr(page, "<th>KLD of the first text<br/>over predicted</th>"));
    /* a map of errors for each number of bits, and one of predicted rises where the best method there
     * predicts */
    static const char *const at2[] = {"flipflop_tokens=256-2bit-seed0",   "flipflop_tokens=256-2bit-seed1",
                                      "flipflop_tokens=512-2bit-seed0",   "fastkron_tokens=256-2bit-seed0",
                                      "input-only_tokens=256-2bit-seed0", "none-2bit-seed0"},
                             *const at3[] = {"flipflop_tokens=512-3bit-seed0",
                                             "yaqa-b_tokens=256-3bit-seed0"};
    double kld[6];
    for (int i = 0; i < 6; i++)
        kld[i] = kld_of(at2[i]);
    const double flipflop = fmin((kld[0] + kld[1]) / 2, kld[2]), gradients = fmin(flipflop, kld[3]),
                 others = fmin(kld[4], kld[5]);
    assert_true(kld_of(at3[0]) > 0 && kld_of(at3[1]) > 0);
    assert_int_equal(count(page, "<rect class=\"cell "), 21 * ((gradients < others ? 2 : 1) + 2 + 1));
    assert_non_null(strstr(page, "prefers-color-scheme: dark"));
    assert_non_null(strstr(page, "@media print"));
    kq_free(page);
}

/* A row with mixed bits, worth less than the line between its neighbours, and with a name that wants to
 * be markup. */
static void test_foreign_rows(void **state)
{
    (void)state;
    static const char evil[] = "flipflop:tokens=512:</code><script>alert('x')</script>&amp;\"\x07\xc3\xa9";
    json_t *about = load(NULL, "compare"), *mixed = load("rows", "flipflop_tokens=512-2bit-seed0"),
           *odd = json_deep_copy(mixed), *m;
    const char *name;
    size_t i = 0;
    const double kld =
        json_number_value(json_object_get(json_array_get(json_object_get(mixed, "texts"), 0), "kld"));
    json_object_set_new(mixed, "bits", json_real(2.5));
    json_object_set_new(mixed, "bpw", json_real(json_number_value(json_object_get(mixed, "bpw")) + 0.5));
    json_object_set_new(json_array_get(json_object_get(mixed, "texts"), 0), "kld", json_real(0.1 * kld));
    json_object_foreach(json_object_get(mixed, "modules"), name, m)
        json_object_set_new(m, "bits", json_integer(2 + (json_int_t)(i++ % 2)));
    json_object_set_new(odd, "spec", json_string(evil));
    json_object_set_new(odd, "tokens", json_real(98304));
    json_object_set_new(
        json_object_get(odd, "modules"), "model.layers.99999999999.mlp.<b>up_proj",
        json_deep_copy(json_object_get(json_object_get(odd, "modules"), "model.layers.0.mlp.up_proj")));
    json_t *t = json_array_get(json_object_get(odd, "texts"), 0);
    json_object_set_new(t, "kld", json_real(-1e-9)); /* rounding can do that */
    json_object_set_new(t, "loss_rise", json_real(-0.1));
    json_array_append_new(json_object_get(about, "rows"), json_string("mixed"));
    json_array_append_new(json_object_get(about, "rows"), json_string("odd"));
    json_t *saved = json_deep_copy(about);
    store(NULL, "compare", about);
    store("rows", "mixed", mixed);
    store("rows", "odd", odd);
    char *page = report();
    well_formed(page);
    stands_alone(page);
    assert_int_equal(count(page, "<path class=\"pt "), 2 * (ROWS + 2));
    assert_int_equal(count(page, "<path class=\"pt hollow"),
                     1); /* against size; against tokens it has a panel of its own */
    assert_int_equal(count(page, "<path class=\"pp "), PREDICTED + 2);
    assert_non_null(strstr(page, "1 of 1 mixed results lie below the line"));
    assert_non_null(strstr(page, "Numbers in the cells are its bits"));
    assert_non_null(
        strstr(page, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;amp;&quot;\xef\xbf\xbd\xc3\xa9"));
    assert_non_null(strstr(page, "96k"));
    kq_free(page);
    json_array_remove(json_object_get(saved, "rows"), ROWS + 1);
    json_array_remove(json_object_get(saved, "rows"), ROWS);
    store(NULL, "compare", saved);
}

static void test_hostile(void **state)
{
    (void)state;
    kq_error err;
    char *path = in_dir(NULL, "bad", ".html");
    json_t *fast = load("rows", "fastkron_tokens=256-2bit-seed0"), *o;
    char factors[KQ_CMP_NAME];
    snprintf(factors, sizeof factors, "%s", json_string_value(json_object_get(fast, "factors")));
    json_decref(fast);
    static const struct {
        const char *key, *value, *words;
    } bad[] = {
        {"sigma1", "\"<b>\"", "sigma1 is not a number"},
        {"sigma2", "1e40", "sigma2 is not a number"},
        {"residual", "[]", "residual is not a number"},
        {"trace", "{\"a\": 1}", "trace is not a list"},
        {"trace", "[1, 2]", "trace[0] is not [products, residual]"},
        {"trace", "[[1, 0.5], [2]]", "trace[1] is not [products, residual]"},
        {"trace", "[[1, 0.5], [2, \"</svg>\"]]", "trace[1] is not [products, residual]"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o = load("factors", factors);
        json_t *whole = json_deep_copy(o);
        json_object_set_new(json_object_get(json_object_get(o, "modules"), "model.layers.0.mlp.up_proj"),
                            bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        store("factors", factors, o);
        check_fails(kq_report(temp_folder, path, &err), KQ_E_FORMAT, bad[i].words);
        assert_false(kq_path_exists(path));
        store("factors", factors, whole);
    }
    o = load("factors", factors);
    json_t *whole = json_deep_copy(o);
    json_object_set_new(o, "modules", json_array());
    store("factors", factors, o);
    check_fails(kq_report(temp_folder, path, &err), KQ_E_FORMAT, "modules is not an object");
    store("factors", factors, whole);

    o = load(NULL, "compare");
    whole = json_deep_copy(o);
    json_object_set_new(o, "rows", json_array());
    store(NULL, "compare", o);
    check_fails(kq_report(temp_folder, path, &err), KQ_E_ARG, "no row is finished yet");
    store(NULL, "compare", whole);
    check_fails(kq_report("no/such/folder", path, &err), KQ_E_IO, "no folder of `kronq compare`");
    check_ok(kq_report(temp_folder, path, &err));
    assert_true(kq_path_exists(path));
    kq_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_page), cmocka_unit_test(test_foreign_rows),
                                       cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, make_comparison, temp_folder_remove);
}
