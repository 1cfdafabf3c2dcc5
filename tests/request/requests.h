/* Bodies that are accepted: the corpus of the mutation test (first byte: which API). */
static const char *const good_requests[] = {
    "0{\"prompt\":\"Hello\",\"model\":\"tiny\",\"max_tokens\":5,\"temperature\":0.5,\"top_p\":0.9,\"n\":2,\"stop\":[\"a\",\"\\n\\n\"],\"seed\":7,\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
    "0{\"model\":\"models/tiny\",\"prompt\":[[1,2,3],[4,5]],\"temperature\":0,\"max_tokens\":1,\"logprobs\":1,\"seed\":1234,\"echo\":true}",
    "0{\"prompt\":[1,2,3],\"logit_bias\":{\"5\":-100,\"6\":1.5},\"frequency_penalty\":0.5,\"presence_penalty\":-1,\"best_of\":1,\"user\":\"me\",\"suffix\":null,\"ignore_eos\":true,\"stop_token_ids\":[3,4]}",
    "0{\"prompt\":[\"a\",\"b\",\"\\u00e9\\ud83d\\ude00\"],\"top_k\":-1,\"logprobs\":null,\"stop\":\"x\",\"add_special_tokens\":false,\"max_tokens\":0}",
    "1{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},{\"type\":\"text\",\"text\":\"two\"}]}],\"max_completion_tokens\":9,\"logprobs\":true,\"top_logprobs\":3}",
    "1{\"messages\":[{\"role\":\"developer\",\"content\":\"s\",\"name\":null,\"type\":\"text\"}],\"tools\":[],\"response_format\":{\"type\":\"text\"},\"store\":false,\"service_tier\":\"auto\"}",
    "2{\"prompt\":\"text\",\"add_special_tokens\":false,\"return_token_strs\":true}",
    "2{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
    "3{\"tokens\":[1,2,383]}",
    "3{\"tokens\":[]}",
    "0{\"prompt\":\"a\",\"max_tokens\":-1,\"min_p\":0.1,\"repetition_penalty\":1.1,\"repeat_penalty\":1.1,\"top_k\":5}",
    "1{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"me\"},{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"annotations\":[],\"audio\":null,\"function_call\":null,"
    "\"reasoning_content\":\"hm\",\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":[1]}\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c\","
    "\"content\":[{\"type\":\"text\",\"text\":\"4\"}]}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}],\"tool_choice\":\"auto\",\"chat_template_kwargs\":{\"enable_thinking\":false}}",
    "1{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}],\"continue_final_message\":true,\"add_generation_prompt\":false}",
    "2{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"add_generation_prompt\":false,\"tools\":[]}",
};
