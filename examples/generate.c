/* Hold a conversation with a model, or let it continue a text:
 *
 *     generate MODEL [MESSAGE...]
 *
 * Each MESSAGE is a turn of the user. The model handle keeps what it has computed of a conversation, so that
 * every further turn costs only its own tokens. A model without a chat template continues the messages as
 * texts. */
#include <kronq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TURNS = 32 };

static int print(void *ctx, const char *text, size_t size)
{
    fwrite(text, 1, size, ctx);
    return fflush(ctx) != 0; /* nonzero ends the answer, because nobody reads it any more */
}

int main(int argc, char **argv)
{
    kq_error err;
    kq_model *model = NULL;
    kq_message conversation[2 * MOST_TURNS];
    kq_generation *answer[MOST_TURNS] = {0}; /* kept, because their texts are part of the conversation */
    size_t n = 0, turns = 0;
    kq_model_options open = kq_model_defaults();
    kq_generation_options opt = kq_generation_defaults();
    open.context = 512;
    opt.n_max = 64;
    opt.seed = 1;
    opt.emit = print;
    opt.ctx = stdout;

    kq_status status = argc < 2 ? KQ_E_ARG : kq_model_open(argv[1], &open, &model, &err);
    if (argc < 2)
        strcpy(err.message, "usage: generate MODEL [MESSAGE...]");
    const bool chat = !status && !kq_model_check_chat(model, NULL, NULL);
    for (int i = 2; i < argc && turns < MOST_TURNS && !status; i++) {
        kq_generation **out = &answer[turns++];
        conversation[n++] = (kq_message){"user", argv[i]};
        status = chat ? kq_model_chat(model, conversation, n, NULL, &opt, out, &err)
                      : kq_model_complete(model, argv[i], &opt, out, &err);
        if (status)
            break;
        conversation[n++] = (kq_message){"assistant", (*out)->text};
        printf("\n[%zu of %zu tokens of the prompt computed; %zu new tokens, %.1f a second]\n",
               (*out)->n_prompt_run, (*out)->n_prompt, (*out)->n_ids, (*out)->answer_rate);
    }
    if (status)
        fprintf(stderr, "generate: %s\n", err.message);
    for (size_t i = 0; i < turns; i++)
        kq_generation_free(answer[i]);
    kq_model_close(model);
    return status != KQ_OK;
}
