/* What a comparison's folder holds, read as if an enemy had written it: a folder is often somebody else's,
 * and a page is made from it. Every member that is used has its type, and no name leaves the folder. */
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "compare/compare.h"
#include "format/json.h"

/* What a member of an object must be. MAYBE: a number or null */
typedef enum kind { TEXT, NUMBER, MAYBE, WHOLE, BITS, OBJECT, ARRAY } kind;

typedef struct member {
    const char *name;
    kind kind;
} member;

enum { MAX_TEXT = 4096, MAX_LIST = 100000 };
/* Nothing that is measured comes near; sums and ratios of such numbers stay finite. */
static const double max_number = 1e30;

static kq_status check_member(kq_json_node node, kind k, kq_error *err)
{
    const char *text = "";
    const json_t *list = NULL;
    kq_status status = KQ_OK;
    switch (k) {
    case TEXT:
        status = kq_json_get_text(node, KQ_JSON_REQUIRED, &text, err);
        if (!status && strlen(text) >= MAX_TEXT)
            status = kq_json_unexpected(node, "a text of less than 4096 bytes", err);
        return status;
    case NUMBER: return kq_json_get_number(node, KQ_JSON_REQUIRED, -max_number, max_number, NULL, err);
    case MAYBE:
        return json_is_null(node.value)
                   ? KQ_OK
                   : kq_json_get_number(node, KQ_JSON_REQUIRED, -max_number, max_number, NULL, err);
    case WHOLE: return kq_json_get_whole(node, KQ_JSON_REQUIRED, 0, INT64_MAX, NULL, err);
    case BITS: return kq_json_get_number(node, KQ_JSON_REQUIRED, 1, 32, NULL, err);
    case OBJECT: return kq_json_get_object(node, KQ_JSON_REQUIRED, NULL, err);
    case ARRAY:
        status = kq_json_get_list(node, KQ_JSON_REQUIRED, &list, err);
        if (!status && json_array_size(list) > MAX_LIST)
            status = kq_json_unexpected(node, "a list of at most 100000 entries", err);
        return status;
    }
    return status;
}

static kq_status check_members(kq_json_node object, const member *m, size_t n, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = check_member(kq_json_field(&object, m[i].name), m[i].kind, err);
    return status;
}

/* The object must have these members. */
#define CHECK_MEMBERS(object, ...)                       \
    check_members(object, (const member[]){__VA_ARGS__}, \
                  sizeof(const member[]){__VA_ARGS__} / sizeof(member), err)

/* Every entry of the list must be an object with these members. */
static kq_status check_entries(kq_json_node list, const member *m, size_t n, kq_error *err)
{
    kq_status status = KQ_OK;
    for (size_t i = 0; i < json_array_size(list.value) && !status; i++)
        status = check_members(kq_json_entry(&list, i), m, n, err);
    return status;
}

/* A name of a file that kq_compare made, which cannot leave its folder. */
static kq_status check_file_name(kq_json_node node, kq_error *err)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=+-";
    const char *s = json_string_value(node.value);
    if (s && strlen(s) == json_string_length(node.value) && strlen(s) < KQ_CMP_NAME && *s && *s != '.' &&
        !s[strspn(s, plain)])
        return KQ_OK;
    return kq_json_unexpected(node, "the name of a file that `kronq compare` wrote", err);
}

static kq_status check_about(const char *path, const json_t *o, kq_error *err)
{
    static const member name[] = {{"name", TEXT}};
    const kq_json_node root = kq_json_root(o, path), rows = kq_json_field(&root, "rows");
    kq_status status =
        CHECK_MEMBERS(root, {"format", WHOLE}, {"model", TEXT}, {"texts", ARRAY}, {"tasks", ARRAY},
                      {"rows", ARRAY}, {"ctx", WHOLE}, {"chunks", WHOLE}, {"compute", TEXT}, {"isa", TEXT});
    if (!status && json_integer_value(json_object_get(o, "format")) != 1)
        return kq_fail(err, KQ_E_UNSUPPORTED, "%s: format %lld, this kronq reads 1", path,
                       (long long)json_integer_value(json_object_get(o, "format")));
    if (!status)
        status = check_entries(kq_json_field(&root, "texts"), name, 1, err);
    if (!status)
        status = check_entries(kq_json_field(&root, "tasks"), name, 1, err);
    for (size_t i = 0; i < json_array_size(rows.value) && !status; i++)
        status = check_file_name(kq_json_entry(&rows, i), err);
    return status;
}

/* The figures of the texts: those that compare.json names, in its order. */
static kq_status check_texts(const char *path, kq_json_node texts, const json_t *about, kq_error *err)
{
    static const member figures[] = {{"text", TEXT},           {"ctx", WHOLE},
                                     {"windows", WHOLE},       {"tokens", WHOLE},
                                     {"nll", NUMBER},          {"ppl", NUMBER},
                                     {"kld", NUMBER},          {"kld_stderr", MAYBE},
                                     {"top1", NUMBER},         {"top1_stderr", MAYBE},
                                     {"loss_rise", NUMBER},    {"loss_rise_stderr", MAYBE},
                                     {"ppl_stderr", MAYBE},    {"reference_nll", NUMBER},
                                     {"reference_ppl", NUMBER}};
    const json_t *asked = json_object_get(about, "texts");
    kq_status status = check_entries(texts, figures, sizeof figures / sizeof *figures, err);
    for (size_t i = 0; i < json_array_size(asked) && !status; i++) {
        const json_t *name = json_object_get(json_array_get(asked, i), "name");
        if (!json_equal(json_object_get(json_array_get(texts.value, i), "text"), name))
            status = kq_fail(err, KQ_E_FORMAT, "%s: has no figures of %s", path, json_string_value(name));
    }
    return status;
}

static kq_status check_modules(kq_json_node modules, kq_error *err)
{
    const char *name;
    json_t *module;
    kq_status status = KQ_OK;
    json_object_foreach((json_t *)modules.value, name, module) {
        if (!status)
            status = CHECK_MEMBERS(kq_json_field(&modules, name), {"bits", BITS}, {"relative_mse", NUMBER},
                                   {"predicted_loss", MAYBE}, {"shape", ARRAY});
    }
    return status;
}

static kq_status check_row(const char *path, const json_t *o, const json_t *about, kq_error *err)
{
    const kq_json_node root = kq_json_root(o, path), factors = kq_json_field(&root, "factors"),
                       task_figures = kq_json_field(&root, "tasks");
    const json_t *tasks = json_object_get(about, "tasks");
    kq_status status = CHECK_MEMBERS(
        root, {"row", TEXT}, {"spec", TEXT}, {"method", TEXT}, {"bits", BITS}, {"seed", WHOLE},
        {"tokens", MAYBE}, {"texts", ARRAY}, {"settings", OBJECT}, {"seconds", OBJECT},
        {"peak_rss_bytes", OBJECT}, {"file_bytes", WHOLE}, {"bpw", NUMBER}, {"bpw_file", NUMBER},
        {"relative_mse", NUMBER}, {"predicted_loss", MAYBE}, {"modules", OBJECT});
    if (!status)
        status = CHECK_MEMBERS(kq_json_field(&root, "seconds"), {"calibration", MAYBE}, {"factors", MAYBE},
                               {"rounding", MAYBE}, {"evaluation", MAYBE});
    if (!status)
        status = CHECK_MEMBERS(kq_json_field(&root, "peak_rss_bytes"), {"calibration", MAYBE},
                               {"rounding", MAYBE}, {"evaluation", MAYBE});
    if (!status && factors.value)
        status = check_file_name(factors, err);
    if (!status)
        status = check_texts(path, kq_json_field(&root, "texts"), about, err);
    if (!status)
        status = check_modules(kq_json_field(&root, "modules"), err);
    for (size_t i = 0; i < json_array_size(tasks) && !status; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(tasks, i), "name"));
        status = CHECK_MEMBERS(kq_json_field(&task_figures, name), {"acc", NUMBER});
    }
    return status;
}

/* Append the row of this name to rows, if it is finished. */
static kq_status read_row(const char *dir, const char *name, const json_t *about, json_t *rows, kq_error *err)
{
    json_t *row;
    char *path;
    kq_status status = kq_cmp_path(&path, dir, "rows", name, ".json", err);
    if (!status && !(status = kq_cmp_load_if_there(dir, "rows", name, &row, err)) && row) {
        status = check_row(path, row, about, err);
        if (!status && json_array_append(rows, row))
            status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
        json_decref(row);
    }
    kq_free(path);
    return status;
}

kq_status kq_cmp_read(const char *dir, json_t **about, json_t **rows, kq_error *err)
{
    char *path;
    json_t *name;
    size_t i;
    *about = *rows = NULL;
    kq_status status = kq_cmp_path(&path, dir, NULL, "compare", ".json", err);
    if (status)
        return status;
    if (!kq_path_exists(path))
        status = kq_fail(err, KQ_E_IO, "%s: is not there: %s is no folder of `kronq compare`", path, dir);
    else if (!(status = kq_cmp_load(path, about, err)) && !(status = check_about(path, *about, err)) &&
             !(*rows = json_array()))
        status = kq_fail(err, KQ_E_MEMORY, "%s: out of memory", path);
    json_array_foreach(json_object_get(*about, "rows"), i, name) {
        if (!status)
            status = read_row(dir, json_string_value(name), *about, *rows, err);
    }
    if (status) {
        json_decref(*about);
        json_decref(*rows);
        *about = *rows = NULL;
    }
    kq_free(path);
    return status;
}
