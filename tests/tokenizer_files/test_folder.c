/* Folders as AutoTokenizer reads them: added tokens of every file, classes with steps of their own
 * (scripts/make_golden_tokenizer_folders.py). */
#include <stdlib.h>
#include <unistd.h>

#include "base/rng.h"
#include "base/warn.h"
#include "tokenizer/tokenizer_check.h"
#include "base/buffer.h"
#include "base/mem.h"

/* Without kq_file_write's wait for the disk: there are thousands. */
static void put_file(const char *path, const char *text, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void write_file(const char *dir, const char *name, const json_t *v)
{
    char path[256], *text = json_dumps(v, 0);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    put_file(path, text, strlen(text));
    free(text);
}

static void make_folder(const char *dir, const json_t *c)
{
    const char *name;
    json_t *v, *tok = golden_json(json_string_value(json_object_get(c, "base")));
    kq_error err;
    check_ok(kq_mkdirs(dir, &err));
    json_object_update(tok, json_object_get(c, "set"));
    write_file(dir, "tokenizer.json", tok);
    json_object_foreach(json_object_get(c, "files"), name, v)
        write_file(dir, name, v);
    json_decref(tok);
}

static void remove_folder(const char *dir)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "config.json",
                                        "special_tokens_map.json", "added_tokens.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static int32_t id_of(const json_t *v)
{
    return json_is_integer(v) ? (int32_t)json_integer_value(v) : -1;
}

static void check_case(const json_t *c, const json_t *texts, size_t index)
{
    kq_error err;
    kq_tokenizer *tok;
    char dir[64], path[128], what[300], *files = json_dumps(json_object_get(c, "files"), 0);
    const json_t *text;
    size_t i, n;
    int32_t *ids;
    kq_buffer buf = {0};
    snprintf(dir, sizeof dir, "tokenizer_folder_%d", (int)getpid());
    make_folder(dir, c);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (kq_tokenizer_open_file(path, &tok, &err))
        fail_msg("case %zu, %s: %s", index, json_string_value(json_object_get(c, "name")), err.message);
    json_array_foreach(texts, i, text) {
        for (int bare = 0; bare < 2; bare++) {
            snprintf(what, sizeof what, "case %zu, %.80s (%s), text %zu, %s: %.120s", index,
                     json_string_value(json_object_get(c, "name")),
                     json_string_value(json_object_get(c, "class")), i, bare ? "bare" : "ids", files);
            check_ok(kq_tokenizer_encode(tok, json_string_value(text), json_string_length(text), !bare, true,
                                         &ids, &n, &err));
            same_ids(what, ids, n, json_array_get(json_object_get(c, bare ? "bare" : "ids"), i));
            if (!bare) {
                const json_t *want = json_array_get(json_object_get(c, "decoded"), i);
                decoded_like_rust(tok, ids, n, false, &buf);
                if (buf.size != json_string_length(want) ||
                    (buf.size && memcmp(buf.data, json_string_value(want), buf.size)))
                    fail_msg("%s: decoded \"%.*s\", want \"%s\"", what, (int)buf.size, buf.data,
                             json_string_value(want));
            }
            kq_free(ids);
        }
    }
    if (kq_tokenizer_bos(tok) != id_of(json_object_get(c, "bos")) ||
        kq_tokenizer_eos(tok) != id_of(json_object_get(c, "eos")))
        fail_msg("%s: bos %d eos %d, want %d %d", what, kq_tokenizer_bos(tok), kq_tokenizer_eos(tok),
                 id_of(json_object_get(c, "bos")), id_of(json_object_get(c, "eos")));
    kq_free(buf.data);
    kq_tokenizer_close(tok);
    remove_folder(dir);
    free(files);
}

static void as_auto_tokenizer_does(void **state)
{
    (void)state;
    const char *other = getenv("KRONQ_TOKENIZER_FOLDERS"); /* a longer list, made by the same script */
    json_t *all = other ? json_load_file(other, JSON_ALLOW_NUL, NULL)
                        : golden_json("cases/20-tokenizer-folders/folders.json"),
           *c;
    size_t i;
    assert_true(json_array_size(json_object_get(all, "cases")) > 80);
    json_array_foreach(json_object_get(all, "cases"), i, c)
        check_case(c, json_object_get(all, "texts"), i);
    json_decref(all);
}

/* One byte of a side file changed: read or refused with a message, never a crash (meant for the
 * sanitizers). */
static void hostile_side_files(void **state)
{
    (void)state;
    kq_error err;
    json_t *all = golden_json("cases/20-tokenizer-folders/folders.json"),
           *cases = json_object_get(all, "cases"), *v;
    kq_rng rng = kq_rng_stream(20, "side files");
    char dir[64], path[160];
    const char *name;
    snprintf(dir, sizeof dir, "tokenizer_hostile_%d", (int)getpid());
    for (size_t round = 0; round < 60; round++) {
        const json_t *c = json_array_get(cases, kq_rng_u64(&rng) % json_array_size(cases));
        if (strcmp(json_string_value(json_object_get(c, "base")), "tiny_cli/hf/tokenizer.json") != 0)
            continue;
        make_folder(dir, c);
        json_object_foreach(json_object_get(c, "files"), name, v) {
            char *text = json_dumps(v, 0);
            const size_t size = strlen(text);
            snprintf(path, sizeof path, "%s/%s", dir, name);
            for (size_t i = 0; i < 20; i++) {
                const size_t at = kq_rng_u64(&rng) % size;
                const char old = text[at];
                kq_tokenizer *tok = NULL;
                char json[128];
                text[at] = "0\"[{}],:9-ex\\ "[kq_rng_u64(&rng) % 14];
                put_file(path, text, size);
                snprintf(json, sizeof json, "%s/tokenizer.json", dir);
                err.message[0] = 0;
                if (kq_tokenizer_open_file(json, &tok, &err) && !err.message[0])
                    fail_msg("%s: refused without a message", name);
                kq_tokenizer_close(tok);
                text[at] = old;
            }
            put_file(path, text, size);
            free(text);
        }
        remove_folder(dir);
    }
    json_decref(all);
}

static int n_warned;
static char warned[400];
static void on_warning(void *ctx, const char *message)
{
    (void)ctx;
    n_warned++;
    snprintf(warned, sizeof warned, "%s", message);
}

static void copy_golden(const char *dir, const char *name)
{
    char from[128], to[128];
    size_t size;
    snprintf(from, sizeof from, "tiny_cli/hf/%s", name);
    snprintf(to, sizeof to, "%s/%s", dir, name);
    char *data = golden_read(from, &size);
    put_file(to, data, size);
    kq_free(data);
}

/* The model has 384 rows: a 385th token warns when the model is opened, and a text with it is refused;
 * the GGUF of such a folder leaves it out. A token that every text begins with is refused at once. */
static void tokens_without_a_row(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_tokenizer *tok;
    int32_t *ids;
    size_t n;
    char dir[64], path[128];
    snprintf(dir, sizeof dir, "tokenizer_rows_%d", (int)getpid());
    check_ok(kq_mkdirs(dir, &err));
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json"};
    for (size_t i = 0; i < 3; i++)
        copy_golden(dir, names[i]);
    json_t *config =
        json_pack("{s:s,s:s,s:{s:{s:s,s:b}}}", "tokenizer_class", "PreTrainedTokenizerFast", "bos_token",
                  "<|endoftext|>", "added_tokens_decoder", "384", "content", "<|new|>", "special", 1);
    write_file(dir, "tokenizer_config.json", config);
    json_decref(config);
    check_ok(kq_source_open(dir, &src, &err));
    kq_set_warning_handler(on_warning, NULL);
    n_warned = 0;
    check_ok(kq_tokenizer_open(src, &tok, &err));
    kq_set_warning_handler(NULL, NULL);
    assert_int_equal(n_warned, 1);
    assert_non_null(strstr(warned, "<|new|>"));
    assert_non_null(strstr(warned, "384 rows"));
    check_fails(kq_tokenizer_encode(tok, "a<|new|>b", 9, true, true, &ids, &n, &err), KQ_E_MISMATCH,
                "<|new|>");
    check_ok(kq_tokenizer_encode(tok, "a<|new|>b", 9, true, false, &ids, &n, &err)); /* spelled out */
    assert_true(n > 3);
    kq_free(ids);
    kq_tokenizer_close(tok);

    json_t *root = golden_json("tiny_cli/hf/tokenizer.json");
    json_object_set_new(root, "post_processor",
                        json_pack("{s:s,s:[{s:{s:s}},{s:{s:s}}],s:{s:{s:[i]}}}", "type", "TemplateProcessing",
                                  "single", "SpecialToken", "id", "<|new|>", "Sequence", "id", "A",
                                  "special_tokens", "<|new|>", "ids", 384));
    write_file(dir, "tokenizer.json", root);
    json_decref(root);
    check_fails(kq_tokenizer_open(src, &tok, &err), KQ_E_MISMATCH, "384 rows");
    kq_source_close(src);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    remove_folder(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_auto_tokenizer_does),
                                       cmocka_unit_test(hostile_side_files),
                                       cmocka_unit_test(tokens_without_a_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
