/* Requests: what is understood, and that everything else is refused with the right status, parameter and
 * code. */
#include "check.h"

#include "requests.h"
#include "request/head.h"
#include "request/messages.h"
#include "request/request.h"

static const kq_api_limits limits = {.model = "tiny",
                                     .other_name = {"models/tiny"},
                                     .vocab_size = 384,
                                     .context = 512,
                                     .max_choices = 16,
                                     .sampling = {.temperature = 1, .top_p = 1}};

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

static void json_is(const json_t *j, const char *want)
{
    json_t *w = json_loads(want, 0, NULL);
    char *got = json_dumps(j, JSON_COMPACT);
    if (!w || !json_equal(w, j))
        fail_msg("%s, expected %s", got ? got : "NULL", want);
    free(got);
    json_decref(w);
}

static void values(void **state)
{
    (void)state;
    kq_api_request r =
        parse(KQ_API_COMPLETIONS, "{\"prompt\":[[7,8],[9]],\"n\":3,\"max_tokens\":0,\"echo\":true,"
                                  "\"logprobs\":5,\"seed\":-2,\"temperature\":0.25,\"top_p\":0.5,"
                                  "\"top_k\":11,\"stop\":[\"ab\",\"c\"],\"stop_token_ids\":[4],\"logit_"
                                  "bias\":{\"9\":-3},\"stream\":true,\"presence_penalty\":1}");
    assert_int_equal(r.n_prompt, 2);
    assert_int_equal(r.prompt[0].n, 2);
    assert_int_equal(r.prompt[0].ids[1], 8);
    assert_int_equal(r.prompt[1].ids[0], 9);
    assert_null(r.prompt[0].text);
    assert_int_equal(r.n, 3);
    assert_int_equal(r.max_tokens, 0);
    assert_true(r.echo && r.logprobs && r.n_top == 5 && r.has_seed && r.stream && !r.include_usage &&
                r.add_special_tokens);
    assert_true(r.sampling.seed == (uint64_t)-2 && r.sampling.temperature == 0.25 &&
                r.sampling.top_p == 0.5 && r.sampling.top_k == 11);
    assert_true(r.n_stop == 2 && !strcmp(r.stop[0], "ab") && r.n_stop_id == 1 && r.stop_id[0] == 4);
    assert_true(r.n_bias == 1 && r.bias[0].id == 9 && r.bias[0].value == -3 && r.presence_penalty == 1 &&
                r.frequency_penalty == 0);
    kq_api_request_clear(&r);

    r = parse(KQ_API_CHAT,
              "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true,\"stream_options\":{"
              "\"include_usage\":null,\"include_obfuscation\":false},"
              "\"modalities\":[\"text\"],\"prompt_cache_retention\":\"24h\"}"); /* the official client's, none
                                                                                   of them asks for more than
                                                                                   there is */
    assert_true(r.stream && !r.include_usage);
    kq_api_request_clear(&r);

    r = parse(KQ_API_COMPLETIONS, "{\"prompt\":\"x\"}");
    assert_true(r.max_tokens == 16 && r.n == 1 && !r.logprobs && !r.echo && !r.stream && !r.has_seed &&
                r.sampling.temperature == 1 && r.sampling.top_p == 1 && r.sampling.top_k == 0);
    kq_api_request_clear(&r);

    r = parse(KQ_API_CHAT,
              "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{"
              "\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");
    json_is(r.messages, "[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{"
                        "\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]");
    assert_true(r.max_tokens == SIZE_MAX && r.add_generation_prompt && !r.continue_final_message &&
                !r.tools && !r.template_arguments);
    kq_api_request_clear(&r);

    /* lengths: the newer name counts; -1 and what is beyond the context are "what is left" */
    r = parse(KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_completion_tokens\":"
                           "7,\"max_tokens\":9}");
    assert_int_equal(r.max_tokens, 7);
    kq_api_request_clear(&r);
    r = parse(KQ_API_COMPLETIONS, "{\"prompt\":\"x\",\"max_tokens\":-1}");
    assert_true(r.max_tokens == SIZE_MAX);
    kq_api_request_clear(&r);
    r = parse(KQ_API_COMPLETIONS, "{\"prompt\":\"x\",\"max_tokens\":9223372036854775807}");
    assert_true(r.max_tokens == (size_t)INT64_MAX);
    kq_api_request_clear(&r);
}

/* What a request says counts, then what the model's authors recommend. */
static void defaults(void **state)
{
    (void)state;
    kq_api_limits l = limits;
    kq_api_request r;
    kq_api_error e;
    l.sampling = (kq_sampling){
        .temperature = 0.6, .top_p = 0.9, .top_k = 20, .min_p = 0.05, .repetition_penalty = 1.1};
    static const struct {
        const char *body;
        kq_sampling want;
    } cases[] = {
        {"{\"prompt\":\"x\"}",
         {.temperature = 0.6, .top_p = 0.9, .top_k = 20, .min_p = 0.05, .repetition_penalty = 1.1}},
        {"{\"prompt\":\"x\",\"temperature\":null,\"top_p\":null}",
         {.temperature = 0.6, .top_p = 0.9, .top_k = 20, .min_p = 0.05, .repetition_penalty = 1.1}},
        {"{\"prompt\":\"x\",\"temperature\":1.5,\"top_p\":1,\"top_k\":-1,\"min_p\":0,\"repetition_penalty\":"
         "1}",
         {.temperature = 1.5, .top_p = 1, .repetition_penalty = 1}},
        {"{\"prompt\":\"x\",\"temperature\":0}",
         {.temperature = 0,
          .top_p = 0.9,
          .top_k = 20,
          .min_p = 0.05}}, /* the most likely token, and nothing else */
        {"{\"prompt\":\"x\",\"temperature\":0,\"repeat_penalty\":1.3}",
         {.temperature = 0, .top_p = 0.9, .top_k = 20, .min_p = 0.05, .repetition_penalty = 1.3}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const kq_sampling *w = &cases[i].want;
        if (!kq_api_parse(KQ_API_COMPLETIONS, cases[i].body, strlen(cases[i].body), &l, &r, &e))
            fail_msg("%s: %s", cases[i].body, e.message);
        if (r.sampling.temperature != w->temperature || r.sampling.top_p != w->top_p ||
            r.sampling.top_k != w->top_k || r.sampling.min_p != w->min_p ||
            r.sampling.repetition_penalty != w->repetition_penalty)
            fail_msg("%s: %g %g %d %g %g", cases[i].body, r.sampling.temperature, r.sampling.top_p,
                     r.sampling.top_k, r.sampling.min_p, r.sampling.repetition_penalty);
        kq_api_request_clear(&r);
    }
    l.any_model = true;
    assert_true(kq_api_parse(KQ_API_COMPLETIONS, "{\"prompt\":\"x\",\"model\":\"gpt-4\"}", 30, &l, &r, &e));
    kq_api_request_clear(&r);
}

/* Messages as clients send them (the second conversation is what openai 3.54's model_dump gives of an
 * answer) and as templates get them. */
static void conversations(void **state)
{
    (void)state;
    static const struct {
        const char *given, *want;
    } cases[] = {
        {"{\"role\":\"assistant\",\"content\":\"hi\",\"refusal\":null,\"annotations\":null,\"audio\":null,"
         "\"function_call\":null,\"tool_calls\":null}",
         "{\"role\":\"assistant\",\"content\":\"hi\"}"},
        {"{\"role\":\"assistant\",\"content\":\"hi\",\"annotations\":[],\"tool_calls\":[],\"reasoning_"
         "content\":\"hm\",\"name\":\"a\",\"refusal\":\"\"}",
         "{\"role\":\"assistant\",\"content\":\"hi\",\"reasoning_content\":\"hm\",\"name\":\"a\"}"},
        {"{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
         "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": 1}\"}}]}",
         "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\","
         "\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}"},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}",
         "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
         "\"arguments\":{}}}]}"},
        {"{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":[{\"type\":\"text\",\"text\":\"4\"}]}",
         "{\"role\":\"tool\",\"content\":\"4\",\"tool_call_id\":\"c1\"}"},
        {"{\"role\":\"user\",\"content\":[],\"name\":\"bob\"}",
         "{\"role\":\"user\",\"content\":\"\",\"name\":\"bob\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[1024], want[1024];
        snprintf(body, sizeof body, "{\"messages\":[%s]}", cases[i].given);
        snprintf(want, sizeof want, "[%s]", cases[i].want);
        kq_api_request r = parse(KQ_API_CHAT, body);
        json_t *written = kq_api_template_messages(r.messages, &(kq_message_form){.empty = true});
        json_is(written, want);
        json_decref(written);
        kq_api_request_clear(&r);
    }
    { /* for a template that knows parts and strings of arguments, and has nothing against a content that is
         not there */
        static const char given[] =
            "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":"
            "\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},"
            "{\"function\":{\"name\":\"g\"}}]},{\"role\":\"tool\",\"content\":[{\"type\":\"input_text\","
            "\"text\":\"4\",\"cache\":1},{\"type\":\"text\",\"text\":\"5\"}]}]}";
        kq_api_request r = parse(KQ_API_CHAT, given);
        json_t *written =
            kq_api_template_messages(r.messages, &(kq_message_form){.parts = true, .strings = true});
        json_is(written,
                "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{"
                "\\\"x\\\":1}\"}},{\"function\":{\"name\":\"g\",\"arguments\":{}}}]},"
                "{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"4\"},{\"type\":\"text\","
                "\"text\":\"5\"}]}]");
        json_decref(written);
        kq_api_request_clear(&r);
    }
    kq_api_request r =
        parse(KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":"
                           "\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"auto\","
                           "\"parallel_tool_calls\":true,\"chat_template_kwargs\":{\"enable_thinking\":false}"
                           ",\"add_generation_prompt\":false}");
    json_is(r.tools, "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
    json_is(r.template_arguments, "{\"enable_thinking\":false}");
    assert_false(r.add_generation_prompt);
    kq_api_request_clear(&r);
    r = parse(KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":"
                           "\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"none\"}");
    assert_null(r.tools);
    kq_api_request_clear(&r);
    r = parse(KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
                           "\"content\":\"y\"}],\"continue_final_message\":true}");
    assert_true(r.continue_final_message && !r.add_generation_prompt);
    kq_api_request_clear(&r);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        kq_api api;
        const char *body;
        int http;
        const char *param, *code;
    } bad[] = {
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
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"max_tokens\":-2}", 400, "max_tokens", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"max_completion_tokens\":2}", 400, "max_completion_tokens",
         "unknown_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"n_predict\":2}", 400, "n_predict", "unknown_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"min_p\":1.5}", 400, "min_p", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"repetition_penalty\":0}", 400, "repetition_penalty",
         "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"repetition_penalty\":1.1,\"repeat_penalty\":1.2}", 400,
         "repeat_penalty", "invalid_value"},
        {KQ_API_TOKENIZE, "{\"prompt\":\"a\",\"chat_template_kwargs\":{}}", 400, "messages",
         "missing_required_parameter"},
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
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stop_token_ids\":[500]}", 400, "stop_token_ids",
         "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"x\":1}}", 400, "logit_bias",
         "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"384\":1}}", 400, "logit_bias",
         "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"1\":101}}", 400, "logit_bias",
         "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"b\"}", 400, "suffix", "unsupported_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}", 400,
         "stream_options", "invalid_value"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"messages\":[]}", 400, "messages", "unknown_parameter"},
        {KQ_API_COMPLETIONS, "{\"prompt\":\"a\",\"n_discard\":-5}", 400, "n_discard", "unknown_parameter"},
        {KQ_API_CHAT, "{\"messages\":[]}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":\"hi\"}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", 400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":null}]}", 400, "messages",
         "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"function\",\"content\":\"x\"}]}", 400, "messages",
         "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"frob\":1}]}", 400, "messages",
         "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":1}]}", 400, "messages",
         "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"reasoning_content\":\"y\"}]}",
         400, "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"audio\":{\"id\":\"a\"}}]}",
         400, "messages", "unsupported_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
         "\"[1]\"}}]}]}",
         400, "messages", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[7]}]}", 400, "messages",
         "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tool_choice\":\"required\"}",
         400, "tool_choice", "unsupported_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tool_choice\":{\"type\":\"function\"}}",
         400, "tool_choice", "unsupported_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"chat_template_kwargs\":{\"messages\":[]}}",
         400, "chat_template_kwargs", "invalid_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"chat_template_kwargs\":[]}",
         400, "chat_template_kwargs", "invalid_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"continue_final_message\":true}", 400,
         "continue_final_message", "invalid_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}],\"continue_final_message\":true,\"add_"
         "generation_prompt\":true}",
         400, "continue_final_message", "invalid_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}", 400,
         "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[1]}]}", 400,
         "messages", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{}]}", 400, "tools",
         "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"top_logprobs\":2}", 400,
         "top_logprobs", "invalid_value"},
        {KQ_API_CHAT,
         "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":\"json_"
         "object\"}}",
         400, "response_format", "unsupported_value"},
        {KQ_API_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"echo\":true}", 400, "echo",
         "unknown_parameter"},
        {KQ_API_TOKENIZE, "{\"prompt\":[\"a\"]}", 400, "prompt", "invalid_value"},
        {KQ_API_TOKENIZE, "{\"prompt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400,
         "prompt", "missing_required_parameter"},
        {KQ_API_DETOKENIZE, "{\"tokens\":\"a\"}", 400, "tokens", "invalid_value"},
        {KQ_API_DETOKENIZE, "{\"tokens\":[400]}", 400, "tokens", "invalid_value"},
        {KQ_API_DETOKENIZE, "{}", 400, "tokens", "missing_required_parameter"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kq_api_request r;
        kq_api_error e;
        if (kq_api_parse(bad[i].api, bad[i].body, strlen(bad[i].body), &limits, &r, &e))
            fail_msg("accepted: %s", bad[i].body);
        if (e.http != bad[i].http || strcmp(e.param, bad[i].param) || strcmp(e.code, bad[i].code) ||
            strcmp(e.type, "invalid_request_error"))
            fail_msg("%s: %d %s '%s' \"%s\", expected %d %s '%s'", bad[i].body, e.http, e.code, e.param,
                     e.message, bad[i].http, bad[i].code, bad[i].param);
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
    strcpy(body, "{\"prompt\":\"a\","
                 "\"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                 "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
                 "\xc3\xa9\xc3\xa9\xc3\xa9x\xc3\xa9\":1}");
    assert_false(kq_api_parse(KQ_API_COMPLETIONS, body, strlen(body), &limits, &r, &e));
    /* cut, but not inside a character: test_fuzz_request.c checks all of them */
    assert_true(strlen(e.param) <= 51);
}

/* Heads of requests: whole, not yet, or refused with a status. Each is tried at every length too:
 * nothing that begins a good head is refused. */
static void heads(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        int http;
    } cases[] = {
        {"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 0},
        {"GET /health HTTP/1.0\r\n\r\n", 0},
        {"\r\nPOST /v1/completions?x=1 HTTP/1.1\r\nhost:\tlocalhost:8080 \r\nContent-Length: 12\r\n"
         "Content-Length: 12\r\nExpect: 100-continue\r\nX-Empty:\r\n\r\n",
         0},
        {"POST /tokenize HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n", 0},
        {"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 0},
        {"GET /health HTTP/1.1\r\n\r\n", 400},
        {"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
        {"GET /health HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
        {"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
        {"GET /health HTTP/1.1\r\nHost: x:123456\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 4\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x10\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
         501},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nX: a\001\r\n\r\n", 400},
        {"POST / HTTP/1.1\nHost: x\n\n", 400},
        {"POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\n\r\n", 417},
        {"GET /\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET / a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
        {"\026\003\001\002", 400},
        {"{\"prompt\"", 400},
    };
    kq_api_error e;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t n = strlen(cases[i].head);
        const kq_head_state s = kq_head_read(cases[i].head, n, &e);
        if (cases[i].http ? s != KQ_HEAD_BAD || e.http != cases[i].http : s != KQ_HEAD_WHOLE)
            fail_msg("%s: %d (%d)", cases[i].head, (int)s, s == KQ_HEAD_BAD ? e.http : 0);
        for (size_t k = 0; k < n && !cases[i].http; k++)
            if (kq_head_read(cases[i].head, k, &e) != KQ_HEAD_MORE)
                fail_msg("the first %zu bytes of %s", k, cases[i].head);
    }
    static char big[KQ_HEAD_BYTES];
    memset(big, 'a', sizeof big);
    memcpy(big, "GET /", 5);
    assert_int_equal(kq_head_read(big, sizeof big, &e), KQ_HEAD_BAD);
    assert_int_equal(e.http, 414);
    memcpy(big, "GET / HTTP/1.1\r\nHost: x\r\nX: ", 28);
    assert_int_equal(kq_head_read(big, sizeof big, &e), KQ_HEAD_BAD);
    assert_int_equal(e.http, 431);
    assert_int_equal(kq_head_read(big, sizeof big - 1, &e), KQ_HEAD_MORE);
}

static void hosts(void **state)
{
    (void)state;
    static const char *const names[] = {"Box.example", "fd00::1"};
    static const struct {
        const char *host;
        bool ours;
    } cases[] = {
        {"localhost", true},
        {"LOCALHOST:8080", true},
        {"localhost.", true},
        {"127.0.0.1", true},
        {"127.9.9.9:1", true},
        {"[::1]", true},
        {"[::1]:8080", true},
        {"[0:0:0:0:0:0:0:1]", true},
        {"box.example:80", true},
        {"[fd00::1]:80", true},
        {"evil.example", false},
        {"localhost.evil.example", false},
        {"127.0.0.1.evil.example", false},
        {"128.0.0.1", false},
        {"[::2]", false},
        {"", false},
        {"xlocalhost", false},
        {"box.example.evil", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (kq_head_host_is(cases[i].host, names, 2) != cases[i].ours)
            fail_msg("host %s", cases[i].host);
    assert_true(kq_head_origin_valid("https://a.example") && kq_head_origin_valid("http://localhost:3000") &&
                kq_head_origin_valid("http://[::1]:3000"));
    assert_false(kq_head_origin_valid("https://a.example/") || kq_head_origin_valid("a.example") ||
                 kq_head_origin_valid("null") || kq_head_origin_valid("https://") ||
                 kq_head_origin_valid("https://a b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accepted), cmocka_unit_test(values),
                                       cmocka_unit_test(defaults), cmocka_unit_test(conversations),
                                       cmocka_unit_test(heads),    cmocka_unit_test(hosts),
                                       cmocka_unit_test(refused),  cmocka_unit_test(too_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
