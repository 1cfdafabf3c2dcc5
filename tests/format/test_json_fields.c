/* The typed fields of format/json.h: what each getter takes, what it leaves alone, and the text of every
 * error. */
#include <math.h>

#include "format/json.h"

#include "check.h"

static json_t *root_json;
static kq_json_node root;

static int setup(void **state)
{
    static const char text[] =
        "{\"one\": 1, \"minus\": -1, \"half\": 0.5, \"text\": \"two\", \"nul\": \"a\\u0000b\", \"null\": "
        "null,"
        " \"yes\": true, \"empty\": [], \"object\": {\"inner\": [1, {\"deep\": \"x\"}]}, \"big\": 1e999,"
        " \"long\": \"0123456789012345678901234567890123456789012345678901234567\xc3\xa9\xc3\xa9\xc3\xa9\"}";
    kq_error err;
    (void)state;
    if (kq_json_parse(text, sizeof text - 1, "f.json", &root_json, &err))
        fail_msg("%s", err.message);
    root = kq_json_root(root_json, "f.json");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    json_decref(root_json);
    return 0;
}

static kq_error error;

static void fails(kq_status status, const char *message)
{
    assert_int_equal(status, KQ_E_FORMAT);
    assert_string_equal(error.message, message);
}

static void test_whole_numbers(void **state)
{
    (void)state;
    size_t size = 7;
    int64_t whole = 7;
    assert_int_equal(kq_json_get_size(kq_json_field(&root, "one"), KQ_JSON_REQUIRED, 1, 1, &size, &error),
                     KQ_OK);
    assert_int_equal(size, 1);
    assert_int_equal(
        kq_json_get_whole(kq_json_field(&root, "minus"), KQ_JSON_REQUIRED, -1, 9, &whole, &error), KQ_OK);
    assert_int_equal(whole, -1);
    fails(kq_json_get_size(kq_json_field(&root, "minus"), KQ_JSON_OPTIONAL, 0, 9, &size, &error),
          "f.json: key \"minus\": found -1, a whole number from 0 to 9 is expected");
    fails(kq_json_get_size(kq_json_field(&root, "half"), KQ_JSON_OPTIONAL, 1, SIZE_MAX, &size, &error),
          "f.json: key \"half\": found 0.5, a whole number of at least 1 is expected");
    fails(kq_json_get_whole(kq_json_field(&root, "yes"), KQ_JSON_OPTIONAL, INT64_MIN, INT64_MAX, &whole,
                            &error),
          "f.json: key \"yes\": found true, a whole number is expected");
    assert_int_equal(size, 1);
    assert_int_equal(whole, -1);
}

static void test_absent(void **state)
{
    (void)state;
    static const char *const absent[] = {"null", "nothing"};
    size_t size = 7;
    for (int i = 0; i < 2; i++) {
        assert_true(kq_json_absent(kq_json_field(&root, absent[i])));
        assert_int_equal(
            kq_json_get_size(kq_json_field(&root, absent[i]), KQ_JSON_OPTIONAL, 0, 9, &size, &error), KQ_OK);
        assert_int_equal(size, 7);
    }
    fails(kq_json_get_size(kq_json_field(&root, "nothing"), KQ_JSON_REQUIRED, 0, 9, &size, &error),
          "f.json: key \"nothing\" is missing: a whole number from 0 to 9 is expected");
    fails(kq_json_get_object(kq_json_field(&root, "null"), KQ_JSON_REQUIRED, NULL, &error),
          "f.json: key \"null\": found null, an object is expected");
    assert_int_equal(size, 7);
}

static void test_numbers_and_flags(void **state)
{
    (void)state;
    double x = 7;
    bool flag = false;
    assert_int_equal(kq_json_get_number(kq_json_field(&root, "one"), KQ_JSON_REQUIRED, 0, 1, &x, &error),
                     KQ_OK);
    assert_true(x == 1);
    fails(kq_json_get_number(kq_json_field(&root, "half"), KQ_JSON_REQUIRED, 1, INFINITY, &x, &error),
          "f.json: key \"half\": found 0.5, a number of at least 1 is expected");
    fails(kq_json_get_number(kq_json_field(&root, "half"), KQ_JSON_REQUIRED, 1, 2.5, &x, &error),
          "f.json: key \"half\": found 0.5, a number from 1 to 2.5 is expected");
    fails(kq_json_get_number(kq_json_field(&root, "big"), KQ_JSON_REQUIRED, -INFINITY, INFINITY, &x, &error),
          "f.json: key \"big\": found \"Infinity\", a finite number is expected");
    assert_int_equal(kq_json_get_bool(kq_json_field(&root, "yes"), KQ_JSON_REQUIRED, &flag, &error), KQ_OK);
    assert_true(flag);
    fails(kq_json_get_bool(kq_json_field(&root, "one"), KQ_JSON_REQUIRED, &flag, &error),
          "f.json: key \"one\": found 1, true or false is expected");
    assert_true(x == 1 && flag);
}

static void test_strings_and_containers(void **state)
{
    (void)state;
    const char *text = "";
    const json_t *value = NULL;
    assert_int_equal(kq_json_get_text(kq_json_field(&root, "text"), KQ_JSON_REQUIRED, &text, &error), KQ_OK);
    assert_string_equal(text, "two");
    fails(kq_json_get_text(kq_json_field(&root, "nul"), KQ_JSON_REQUIRED, &text, &error),
          "f.json: key \"nul\": found \"a\", a string without a NUL character is expected");
    fails(kq_json_get_text(kq_json_field(&root, "object"), KQ_JSON_REQUIRED, &text, &error),
          "f.json: key \"object\": found an object, a string is expected");
    /* cut between characters, not inside one */
    fails(kq_json_get_list(kq_json_field(&root, "long"), KQ_JSON_REQUIRED, &value, &error),
          "f.json: key \"long\": found "
          "\"0123456789012345678901234567890123456789012345678901234567\xc3\xa9...\", "
          "a list is expected");
    fails(kq_json_get_object(kq_json_field(&root, "empty"), KQ_JSON_REQUIRED, &value, &error),
          "f.json: key \"empty\": found an empty list, an object is expected");
    assert_int_equal(kq_json_get_list(kq_json_field(&root, "empty"), KQ_JSON_REQUIRED, &value, &error),
                     KQ_OK);
    assert_true(json_is_array(value));
}

/* The whole way to a value is in the message; a missing parent is the missing key of all that is below it. */
static void test_ways(void **state)
{
    (void)state;
    const kq_json_node object = kq_json_field(&root, "object"), inner = kq_json_field(&object, "inner"),
                       entry = kq_json_entry(&inner, 1), nothing = kq_json_field(&root, "nothing");
    const char *text = NULL;
    assert_int_equal(kq_json_get_text(kq_json_field(&entry, "deep"), KQ_JSON_REQUIRED, &text, &error), KQ_OK);
    assert_string_equal(text, "x");
    fails(kq_json_get_bool(kq_json_field(&entry, "deep"), KQ_JSON_REQUIRED, NULL, &error),
          "f.json: key \"object.inner[1].deep\": found \"x\", true or false is expected");
    fails(kq_json_get_bool(kq_json_entry(&inner, 2), KQ_JSON_REQUIRED, NULL, &error),
          "f.json: key \"object.inner[2]\" is missing: true or false is expected");
    fails(kq_json_get_bool(kq_json_field(&nothing, "x"), KQ_JSON_REQUIRED, NULL, &error),
          "f.json: key \"nothing.x\" is missing: true or false is expected");
    fails(kq_json_get_list(root, KQ_JSON_REQUIRED, NULL, &error),
          "f.json: found an object, a list is expected");
    const kq_json_node nameless = kq_json_root(root_json, NULL);
    fails(kq_json_unexpected(kq_json_field(&nameless, "one"), "a list of two numbers", &error),
          "key \"one\": found 1, a list of two numbers is expected");
}

/* A key of any length is cut and written behind no buffer (the address sanitizer looks on). */
static void test_long_ways(void **state)
{
    (void)state;
    char key[1001];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = 0;
    const kq_json_node one = kq_json_field(&root, key), two = kq_json_field(&one, key),
                       three = kq_json_entry(&two, 3);
    assert_int_equal(kq_json_get_bool(three, KQ_JSON_REQUIRED, NULL, &error), KQ_E_FORMAT);
    assert_non_null(strstr(error.message, "kkk\" is missing: true or false is expected"));
}

static void test_truthy(void **state)
{
    (void)state;
    static const char *const yes[] = {"one", "minus", "half", "text", "yes", "object"};
    static const char *const no[] = {"null", "nothing", "empty"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(kq_json_truthy(json_object_get(root_json, yes[i])));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(kq_json_truthy(json_object_get(root_json, no[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_numbers),
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_numbers_and_flags),
        cmocka_unit_test(test_strings_and_containers),
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_long_ways),
        cmocka_unit_test(test_truthy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
