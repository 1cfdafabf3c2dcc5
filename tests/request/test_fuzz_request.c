/* The fuzzer's function over the corpus and tens of thousands of mutations of it, always the same ones. */
#include "check.h"

#include "fuzz_request.c"
#include "mutate.h"
#include "requests.h"

enum { ROUNDS = 60000, CAP = 1024 };

static void mutated(void **state)
{
    (void)state;
    static const char *const word[] = {
        "null",    "true", "-1",  "1e999", "9223372036854775808", "\"",  "[",  "{", "}", "]", "\\u0000",
        "\\ud800", "\xff", "0.0", "[[",    "\"prompt\":",         "NaN", "-0", ",,"};
    static const mutations how = {.letters = "0123456789,:[]{}\"\\-e. \xe2",
                                  .word = word,
                                  .n_word = sizeof word / sizeof *word,
                                  .least = 1};
    kq_rng rng = kq_rng_stream(1, "requests");
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t buf[CAP];
        const char *seed = good_requests[kq_rng_u64(&rng) % (sizeof good_requests / sizeof *good_requests)];
        const size_t n = strlen(seed);
        memcpy(buf, seed, n);
        LLVMFuzzerTestOneInput(buf, mutate(&rng, buf, n, CAP, &how));
    }
}

/* Heads, with bytes changed, taken out and put in. */
static void heads(void **state)
{
    (void)state;
    static const char *const seed[] = {
        "HGET /v1/models?a=b HTTP/1.1\r\nHost: localhost:8080\r\nAccept: */*\r\n\r\n",
        "HPOST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n"
        "{}",
        "H\r\nPOST http://x/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n"
        "Content-Length: 2\r\n\r\n"};
    kq_rng rng = kq_rng_stream(2, "heads");
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t buf[CAP];
        const char *s = seed[kq_rng_u64(&rng) % 3];
        size_t n = strlen(s);
        memcpy(buf, s, n);
        for (size_t k = kq_rng_u64(&rng) % 3 + 1; k; k--) {
            const size_t at = kq_rng_u64(&rng) % (n - 1) + 1;
            if (kq_rng_u64(&rng) % 2)
                buf[at] = (uint8_t) "\r\n :\t/[]0\0\x7f\xff"[kq_rng_u64(&rng) % 12];
            else
                memmove(buf + at, buf + at + 1, --n - at);
        }
        LLVMFuzzerTestOneInput(buf, n);
    }
}

static void deep(void **state)
{
    (void)state;
    static uint8_t buf[200002];
    memset(buf, '[', sizeof buf);
    memcpy(buf, "0{\"prompt\":", 11);
    LLVMFuzzerTestOneInput(buf, sizeof buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mutated), cmocka_unit_test(heads),
                                       cmocka_unit_test(deep)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
