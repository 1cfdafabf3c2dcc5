/* Chat formats against the models' own templates run by jinja2 (golden file: scripts/make_golden_tokenizers.py). */
#include "chat/chat.h"
#include "io/tokenizer_check.h"

static const char *const bos_eos[][3] = {
    { "smollm", "<|im_start|>", "<|im_end|>" }, { "qwen25", "", "<|im_end|>" }, { "qwen3", "", "<|im_end|>" },
    { "llama2", "<s>", "</s>" }, { "llama3", "<|begin_of_text|>", "<|eot_id|>" }, { "llama31", "<|begin_of_text|>", "<|eot_id|>" },
};

/* A tokenizer whose vocabulary is two special tokens, with the given template. */
static kq_tokenizer *make(const char *bos, const char *eos, const char *chat_template)
{
    kq_error err;
    kq_tokenizer *tok;
    json_t *root = json_pack("{s:{s:s,s:{s:i,s:i},s:[]}}", "model", "type", "BPE", "vocab", *bos ? bos : "x", 0, eos, 1, "merges");
    json_t *config = json_pack("{s:s*,s:s,s:s*}", "bos_token", *bos ? bos : NULL, "eos_token", eos, "chat_template", chat_template);
    check_ok(kq_tokenizer_from_json(root, "test", &tok, &err));
    check_ok(kq_tokenizer_apply_config(tok, config, "test", &err));
    json_decref(root);
    json_decref(config);
    return tok;
}

static void against_jinja(void **state)
{
    (void)state;
    kq_error err;
    json_t *all = golden_json("chat_cases.json"), *c;
    size_t i, refused = 0;
    assert_true(json_array_size(all) > 60);
    json_array_foreach(all, i, c) {
        const char *family = json_string_value(json_object_get(c, "family")), *want = json_string_value(json_object_get(c, "text"));
        size_t f = 0;
        while (f < 6 && strcmp(bos_eos[f][0], family))
            f++;
        assert_true(f < 6);
        kq_tokenizer *tok = make(bos_eos[f][1], bos_eos[f][2], json_string_value(json_object_get(c, "template")));
        const kq_chat talk = { .messages = json_object_get(c, "messages"), .add_generation_prompt = true };
        char *text = NULL;
        if (!want) { /* the template raised an error */
            refused++;
            check_fails(kq_chat_render(tok, &talk, &text, &err), KQ_E_ARG, "by turns");
        } else {
            check_ok(kq_chat_render(tok, &talk, &text, &err));
            if (strcmp(text, want))
                fail_msg("%s, talk %zu:\n%s\nwant\n%s", family, i, text, want);
        }
        kq_free(text);
        kq_tokenizer_close(tok);
    }
    assert_true(refused >= 2);
    json_decref(all);
}

static void refusals(void **state)
{
    (void)state;
    kq_error err;
    char *text;
    json_t *of_tool = json_pack("[{s:s,s:s}]", "role", "tool", "content", "42"), *of_user = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi");
    const kq_chat tool = { .messages = of_tool, .add_generation_prompt = true }, user = { .messages = of_user, .add_generation_prompt = true };
    kq_tokenizer *tok = make("<s>", "</s>", NULL);
    check_fails(kq_chat_render(tok, &user, &text, &err), KQ_E_UNSUPPORTED, "no chat template");
    kq_tokenizer_close(tok);
    tok = make("<s>", "</s>", "{% for m in messages %}### {{ m.content }}{% endfor %}");
    check_fails(kq_chat_render(tok, &user, &text, &err), KQ_E_UNSUPPORTED, "none of");
    kq_tokenizer_close(tok);
    tok = make("", "<|im_end|>", "<|im_start|>");
    check_fails(kq_chat_render(tok, &tool, &text, &err), KQ_E_UNSUPPORTED, "tool");
    check_ok(kq_chat_render(tok, &user, &text, &err));
    assert_string_equal(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    kq_free(text);
    kq_tokenizer_close(tok);
    json_decref(of_tool);
    json_decref(of_user);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(against_jinja), cmocka_unit_test(refusals) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
