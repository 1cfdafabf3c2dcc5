/* libFuzzer's entry: the first byte chooses the API (or H: the head of a request), the rest is a body.
 * Any answer is right; memory errors, and errors that could not be told as JSON, are not. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "request/head.h"
#include "request/messages.h"
#include "request/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const kq_api_limits limits = {.model = "tiny",
                                         .other_name = {"models/tiny"},
                                         .vocab_size = 384,
                                         .context = 512,
                                         .max_choices = 16,
                                         .sampling = {.temperature = 1, .top_p = 1}};
    kq_api_request r;
    kq_api_error e;
    volatile unsigned sink = 0;
    if (!size)
        return 0;
    char *body = malloc(size); /* exactly sized */
    memcpy(body, data + 1, size - 1);
    if (data[0] == 'H') { /* the head of an HTTP request */
        const kq_head_state s = kq_head_read(body, size - 1, &e);
        if (s == KQ_HEAD_BAD && (e.http < 400 || e.http > 599 || !*e.message))
            abort();
        if (s == KQ_HEAD_MORE && size > KQ_HEAD_BYTES)
            abort();
        free(body);
        return 0;
    }
    if (!kq_api_parse((kq_api)(data[0] & 3), body, size - 1, &limits, &r, &e)) {
        if (e.http < 400 || e.http > 599 || !e.type || !*e.message)
            abort();
        for (size_t at = 0, n = strlen(e.message); at < n;) {
            kq_utf8 c = kq_utf8_next(e.message + at, n - at);
            if (c.kind != KQ_UTF8_CHAR)
                abort();
            at += c.size;
        }
        free(body);
        return 0;
    }
    /* what was accepted holds what the header promises */
    if (r.n < 1 || r.n > limits.max_choices || r.n_prompt > limits.max_choices ||
        r.n_prompt * r.n > limits.max_choices)
        abort();
    for (size_t i = 0; i < r.n_prompt; i++) {
        for (size_t k = 0; k < r.prompt[i].n; k++)
            if (r.prompt[i].ids[k] < 0 || r.prompt[i].ids[k] >= 384)
                abort();
        for (size_t k = 0; k < r.prompt[i].size; k++)
            sink += (unsigned char)r.prompt[i].text[k];
    }
    size_t k;
    const json_t *message;
    json_array_foreach(r.messages, k, message) {
        const json_t *content = json_object_get(message, "content");
        if (!json_is_string(json_object_get(message, "role")) ||
            (content && !json_is_string(content) && !json_is_array(content)))
            abort();
    }
    json_t *written = kq_api_template_messages(r.messages, &(kq_message_form){.empty = true});
    if (json_array_size(written) != json_array_size(r.messages))
        abort();
    json_array_foreach(written, k, message)
        sink += (unsigned)json_string_length(json_object_get(message, "content"));
    json_decref(written);
    if ((r.tools && !json_array_size(r.tools)) ||
        (r.template_arguments && !json_is_object(r.template_arguments)) ||
        (r.add_generation_prompt && r.continue_final_message))
        abort();
    if (!(r.sampling.min_p >= 0 && r.sampling.min_p <= 1) ||
        !(r.sampling.repetition_penalty >= 0 && r.sampling.repetition_penalty <= 100) ||
        !(r.sampling.top_p >= 0 && r.sampling.top_p <= 1))
        abort();
    for (size_t i = 0; i < r.n_stop; i++)
        if (!*r.stop[i])
            abort();
    for (size_t i = 0; i < r.n_bias; i++)
        if (r.bias[i].id < 0 || r.bias[i].id >= 384)
            abort();
    if (!(r.sampling.temperature >= 0 && r.sampling.temperature <= 2) || r.n_top > KQ_API_MAX_TOP ||
        r.n_stop_id > KQ_API_MAX_STOP)
        abort();
    kq_api_request_clear(&r);
    free(body);
    return 0;
}
