/* Requests: what is understood, and that everything else is refused with the right status, parameter and code. */
#include "check.h"

#include "requests.h"
#include "serve/request.h"

static const kq_api_limits limits = {.model = "tiny", .model_path = "models/tiny", .vocab_size = 384, .context = 512, .max_choices = 16};

static void accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good_requests / sizeof *good_requests; i++) {
        kq_api_request r;
        kq_api_error e;
        const char *body = good_requests[i] + 1;
        if (!kq_api_parse((kq_api)(good_requests[i][0] - '0'), body, strlen(body), &limits, &r, &e))
            fail_msg("%s: %s", body, e.message);
        kq_api_request_clear(&r);
    }
}

static kq_api_request parse(kq_api api, const char *body)
{
    kq_api_request r;
    kq_api_error e;
    if (!kq_api_parse(api, body, strlen(body), &limits, &r, &e))
        fail_msg("%s: %s", body, e.message);
    return r;
}

static void values(void **state)
{
    (void)state;
    kq_api_request r = parse(KQ_API_COMPLETIONS, "{\"prompt\":[[7,8],[9]],\"n\":3,\"max_tokens\":0,\"echo\":true,\"logprobs\":5,\"seed\":-2,\"temperature\":0.25,\"top_p\":0.5,"
                                                 "\"top_k\":11,\"stop\":[\"ab\",\"c\"],\"stop_token_ids\":[4],\"logit_bias\":{\"9\":-3},\"stream\":true,\"presence_penalty\":1}");
    assert_int_equal(r.n_prompt, 2);
    assert_int_equal(r.prompt[0].n, 2);
    assert_int_equal(r.prompt[0].ids[1], 8);
    assert_int_equal(r.prompt[1].ids[0], 9);
    assert_null(r.prompt[0].text);
    assert_int_equal(r.n, 3);
    assert_int_equal(r.max_tokens, 0);
    assert_true(r.echo && r.logprobs && r.n_top == 5 && r.has_seed && r.stream && !r.include_usage && r.add_special_tokens);
    assert_true(r.sampling.seed == (uint64_t)-2 && r.sampling.temperature == 0.25 && r.sampling.top_p == 0.5 && r.sampling.top_k == 11);
    assert_true(r.n_stop == 2 && !strcmp(r.stop[0], "ab") && r.n_stop_id == 1 && r.stop_id[0] == 4);
    assert_true(r.n_bias == 1 && r.bias[0].id == 9 && r.bias[0].value == -3 && r.presence_penalty == 1 && r.frequency_penalty == 0);
    kq_api_request_clear(&r);

    r = parse(KQ_API_COMPLETIONS, "{\"prompt\":\"x\"}");
    assert_true(r.max_tokens == 16 && r.n == 1 && !r.logprobs && !r.echo && !r.stream && !r.has_seed && r.sampling.temperature == 1 && r.sampling.top_p == 1 && r.sampling.top_k == 0);
    kq_api_request_clear(&r);

    r = parse(KQ_API_CHAT, "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");
    assert_true(r.n_message == 2 && !strcmp(r.message[0].role, "system") && !strcmp(r.message[1].content, "ab") && r.max_tokens == SIZE_MAX);
    kq_api_request_clear(&r);
}

static void refused(void **state)
{
    (void)state;
    static const struct { kq_api api; const char *body; int http; const char *param, *code; } bad[] = {
        {KQ_API_COMPLETIONS, "", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "[]", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{} x", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"prompt\":\"b\"}", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\\u0000b\"}", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"\xff\"}", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{}", 400, "prompt", "missing_required_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":null}", 400, "prompt", "missing_required_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":5}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[[]]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[1,\"a\"]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[\"a\",1]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[-1]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[384]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[1.0]}", 400, "prompt", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[99999999999999999999]}", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"model\":\"gpt-4\"}", 404, "model", "model_not_found"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"model\":3}", 400, "model", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":-1}", 400, "max_tokens", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":1.5}", 400, "max_tokens", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":\"5\"}", 400, "max_tokens", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":0}", 400, "n", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"n\":17}", 400, "n", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":6}", 400, "n", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":2}", 400, "best_of", "unsupported_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":21}", 400, "logprobs", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":true}", 400, "logprobs", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"echo\":1}", 400, "echo", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":-0.1}", 400, "temperature", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":2.1}", 400, "temperature", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"temperature\":1e999}", 400, "", "invalid_json"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"top_p\":1.01}", 400, "top_p", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"top_k\":-2}", 400, "top_k", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"seed\":1.5}", 400, "seed", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stop\":[\"\"]}", 400, "stop", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stop\":5}", 400, "stop", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stop_token_ids\":[500]}", 400, "stop_token_ids", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, "logit_bias", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"384\":1}}", 400, "logit_bias", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", 400, "logit_bias", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix", "unsupported_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}", 400, "stream_options", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"messages\":[]}", 400, "messages", "unknown_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"n_discard\":-5}", 400, "n_discard", "unknown_parameter"},
        {KQ_API_CHAT, "{\"messages\":[]}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":\"hi\"}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", 400, "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}", 400, "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[1]}]}", 400, "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}", 400, "tools", "unsupported_parameter"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}", 400, "top_logprobs", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":\"json_object\"}}", 400, "response_format", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"echo\":true}", 400, "echo", "unknown_parameter"},
        {KQ_API_TOKENIZE, "{\"prompt\":[\"a\"]}", 400, "prompt", "invalid_value"},
        {KQ_API_TOKENIZE, "{\"prompt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400, "prompt", "missing_required_parameter"},
        {KQ_API_DETOKENIZE, "{\"tokens\":\"a\"}", 400, "tokens", "invalid_value"},
        {KQ_API_DETOKENIZE, "{\"tokens\":[400]}", 400, "tokens", "invalid_value"},
        {KQ_API_DETOKENIZE, "{}", 400, "tokens", "missing_required_parameter"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kq_api_request r;
        kq_api_error e;
        if (kq_api_parse(bad[i].api, bad[i].body, strlen(bad[i].body), &limits, &r, &e))
            fail_msg("accepted: %s", bad[i].body);
        if (e.http != bad[i].http || strcmp(e.param, bad[i].param) || strcmp(e.code, bad[i].code) || strcmp(e.type, "invalid_request_error"))
            fail_msg("%s: %d %s '%s' \"%s\", expected %d %s '%s'", bad[i].body, e.http, e.code, e.param, e.message, bad[i].http, bad[i].code, bad[i].param);
        assert_null(r.prompt);
    }
}

static void too_many(void **state)
{
    (void)state;
    char body[4096] = "{\"prompt\":[";
    for (int i = 0; i < 513; i++)
        strcat(body, i ? ",1" : "1");
    strcat(body, "]}");
    kq_api_request r;
    kq_api_error e;
    assert_false(kq_api_parse(KQ_API_COMPLETIONS, body, strlen(body), &limits, &r, &e));
    assert_string_equal(e.code, "context_length_exceeded");
    strcpy(body, "{\"prompt\":\"a\",\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9x\xc3\xa9\":1}");
    assert_false(kq_api_parse(KQ_API_COMPLETIONS, body, strlen(body), &limits, &r, &e));
    assert_true(strlen(e.param) <= 51); /* cut, but not inside a character: test_fuzz_request.c checks all of them */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accepted), cmocka_unit_test(values), cmocka_unit_test(refused), cmocka_unit_test(too_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
