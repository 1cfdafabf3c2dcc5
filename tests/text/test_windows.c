/* Calibration text cut into windows. */
#include <string.h>

#include "base/mem.h"
#include "check.h"
#include "temp_folder.h"
#include "text/windows.h"

static void windows_of_texts(void **state)
{
    (void)state;
    kq_error err;
    kq_tokenizer *tok;
    char a[256], b[256];
    check_ok(kq_tokenizer_open_file(KRONQ_GOLDEN_DIR "/tiny_cli/hf/tokenizer.json", &tok, &err));
    temp_path(a, "a.txt");
    temp_path(b, "b.jsonl");
    temp_write(a, "the water of the people and the long day, one by one");
    temp_write(b,
               "{\"text\": \"many words for her\"}\n\r\n{\"id\": 3, \"text\": \"what \\u00e9 would he\"}\n");
    const char *const files[] = {a, b}, *const documents[] = {
                                            "the water of the people and the long day, one by one",
                                            "many words for her", "what \u00e9 would he"};
    int32_t all[400], *ids;
    kq_windows w;
    uint32_t picked[100];
    size_t n_all = 0, n;
    for (int i = 0; i < 3; i++) { /* joined by the end-of-text token, which is id 0 here */
        if (i)
            all[n_all++] = 0;
        check_ok(kq_tokenizer_encode(tok, documents[i], strlen(documents[i]), false, false, &ids, &n, &err));
        memcpy(all + n_all, ids, n * sizeof *ids);
        n_all += n;
        kq_free(ids);
    }
    const size_t T = 4, windows = n_all / T;
    assert_true(windows >= 5);
    for (size_t n_seq = 1; n_seq <= windows; n_seq++) {
        for (size_t other = 1; other <= windows; other++) { /* alone, and beside another count */
            const size_t counts[] = {n_seq, other};
            check_ok(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, counts, other == n_seq ? 1 : 2, T,
                                     &w, &err));
            assert_int_equal(w.of, windows);
            assert_true(w.n >= n_seq && w.n >= other && w.n <= n_seq + other);
            for (int c = 0; c < 2; c++) {
                kq_windows_pick(&w, counts[c], picked);
                for (size_t i = 0; i < counts[c]; i++) {
                    assert_int_equal(w.number[picked[i]], i * (windows / counts[c]));
                    assert_memory_equal(w.ids + picked[i] * T, all + i * (windows / counts[c]) * T,
                                        T * sizeof *ids);
                }
            }
            kq_windows_free(&w);
        }
    }
    const size_t one = 1, many = windows + 1;
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &many, 1, T, &w, &err), KQ_E_ARG,
                "are asked for");
    assert_null(w.ids);
    temp_write(b, "");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_ARG,
                "b.jsonl: holds no text");
    temp_write(b, "{\"text\": \"x\"}\n{\"txt\": \"y\"}\n");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_FORMAT,
                "line 2 has no \"text\" string");
    temp_write(b, "{\"text\": \"x\"}\n\n[1,\n");
    check_fails(kq_text_windows(&(kq_text_how){.tok = tok}, files, 2, &one, 1, T, &w, &err), KQ_E_FORMAT,
                "line 3");
    kq_tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_of_texts),
    };
    return cmocka_run_group_tests(tests, temp_folder_make, temp_folder_remove);
}
