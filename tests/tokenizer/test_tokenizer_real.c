/* SmolLM2's own tokenizer, from the GGUF named by KRONQ_TEST_MODEL, against the `tokenizers` package;
 * and its side files. */
#include <unistd.h>

#include "base/time.h"
#include "tokenizer/tokenizer_check.h"
#include "checkpoint/side_files.h"

static const char *model;

static void real_ids(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_tokenizer *tok;
    check_ok(kq_source_open(model, &src, &err));
    double t0 = kq_now_s();
    check_ok(kq_tokenizer_open(src, &tok, &err));
    printf("loading %.3f s\n", kq_now_s() - t0);
    assert_int_equal(kq_tokenizer_vocab_size(tok), 49152);
    assert_int_equal(kq_tokenizer_bos(tok), 1);
    assert_int_equal(kq_tokenizer_eos(tok), 2);
    assert_int_equal(kq_tokenizer_document_end(tok), 0);
    check_family(tok, "real");
    kq_tokenizer_close(tok);
    kq_source_close(src);
}

static void written_and_read(void **state)
{
    (void)state;
    kq_error err;
    kq_source *src;
    kq_tokenizer *tok;
    char dir[64], path[128];
    snprintf(dir, sizeof dir, "side_real_%d", (int)getpid());
    check_ok(kq_mkdirs(dir, &err));
    check_ok(kq_source_open(model, &src, &err));
    check_ok(kq_write_hf_side_files(src, dir, &err));
    kq_source_close(src);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    check_ok(kq_tokenizer_open_file(path, &tok, &err));
    assert_int_equal(kq_tokenizer_bos(tok), 1);
    check_family(tok, "real");
    kq_tokenizer_close(tok);
    check_side_files(dir);
}

int main(void)
{
    model = getenv("KRONQ_TEST_MODEL");
    if (!model) {
        printf("SKIP: set KRONQ_TEST_MODEL to SmolLM2-135M-Instruct's .gguf to test its tokenizer\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(real_ids), cmocka_unit_test(written_and_read)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
