/* The room on thousands of mutated files, always the same ones: run it under the address sanitizer. */
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "fuzz_text.c"

#include "check.h"
#include "mutate.h"

enum { ROUNDS = 700, CAP = 4096 };

static const char *const seeds[] = {
    "{\"text\": \"one\"}\n{\"text\": \"tw\\u00f6\", \"n\": 1e3}\r\n\n{\"messages\": [{\"role\": \"user\", "
    "\"content\": \"x\"}], \"tools\": \"[]\"}\n",
    "[{\"text\": \"one\"}, \"two\",\n [{\"from\": \"human\", \"value\": \"x\"}], {\"prompt\": \"a\", "
    "\"completion\": \"b\"}]",
    "{\n \"conversations\": [\n  {\"from\": \"gpt\", \"value\": \"x\\\"{[\"}\n ], \"system\": "
    "\"s\"\n}\n{\"text\": \"\"}",
    "\"one\"\n\"two \\ud83d\\udca9\"\n",
    "Running text, h\xc3\xa9h\xc3\xa9 \xf0\x9d\x84\x9e\nin two lines.\n",
    "\xef\xbb\xbf{\"text\": \"marked\"}\n",
    "[ [ {\"role\": \"user\", \"content\": \"x\"} ], [{\"role\": \"user\", \"content\": [{\"type\": "
    "\"text\", \"text\": \"x\"}]}] ]\n[]",
};

static const mutations how = {.letters = "0,:[]{}\"\\\n \r\0u\xff\xfe\xef\xc3\xe0\xf0\x80\x9f\x1f\x8b",
                              .n_letters = 24};

static size_t wide(const uint8_t *in, size_t n, uint8_t *out, bool big)
{
    size_t m = 0;
    out[m++] = big ? 0xFE : 0xFF;
    out[m++] = big ? 0xFF : 0xFE;
    for (size_t i = 0; i < n && m + 2 <= CAP; i++) {
        out[m++] = big ? 0 : in[i];
        out[m++] = big ? in[i] : 0;
    }
    return m;
}

static size_t gzipped(const uint8_t *in, size_t n, uint8_t *out)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = CAP;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

/* form: plain, UTF-16LE, UTF-16BE, gzip, zstd; damaged before it is packed, after it, or both */
static void mutated(void **state)
{
    (void)state;
    kq_rng rng = kq_rng_stream(12, "texts");
    for (size_t s = 0; s < sizeof seeds / sizeof *seeds; s++)
        for (int form = 0; form < 5; form++)
            for (int i = 0; i < ROUNDS / 5; i++) {
                uint8_t in[CAP], out[CAP];
                size_t n = strlen(seeds[s]), m;
                memcpy(in, seeds[s], n);
                if (i % 3)
                    n = mutate(&rng, in, n, CAP, &how);
                switch (form) {
                case 1: m = wide(in, n, out, false); break;
                case 2: m = wide(in, n, out, true); break;
                case 3: m = gzipped(in, n, out); break;
                case 4: m = ZSTD_compress(out, CAP, in, n, 3); break;
                default: memcpy(out, in, m = n);
                }
                if (i % 3 != 1)
                    m = mutate(&rng, out, m, CAP, &how);
                LLVMFuzzerTestOneInput(out, m);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
