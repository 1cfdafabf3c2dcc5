/* The tokens of a GGUF that mean something: by their keys, and by name where llama.cpp goes by names.
 * */
#ifndef KQ_SOURCE_GGUF_SPECIAL_H
#define KQ_SOURCE_GGUF_SPECIAL_H

#include "source/config.h"
#include "format/gguf.h"

typedef struct kq_gguf_special {
    int32_t bos, eos, unknown, padding; /* -1: none */
    /* all that end an answer: eos, eot, eom, then the others by their ids; each once */
    int32_t end[KQ_MAX_EOS];
    size_t n_end;
    /* tokens whose type in tokenizer.ggml.token_type is another than llama.cpp takes */
    struct {
        int32_t id, type;
    } retyped[128];
    size_t n_retyped;
} kq_gguf_special;

/* As llama.cpp's llama_vocab::impl::load does it (llama-vocab.cpp of the version that
 * scripts/build_llama.sh builds): the ids of
 * tokenizer.ggml.{bos,eos,eot,eom,unknown,padding,fim_pad,fim_rep,fim_sep}_token_id; where eot, eom or a
 * fim key is missing, a token of a known name; and every token of a list of names ends an answer, with
 * its exceptions. An id outside the vocabulary is warned of and passed over. A sentencepiece vocabulary
 * without keys has bos 1, eos 2 and unknown 0. (llama.cpp gives a byte-level one Falcon's 11 for bos and
 * eos; here it has none.) Of several tokens with names of one role, of which llama.cpp takes any, the
 * lowest id is taken. Without tokenizer.ggml.tokens only the keys count. KQ_E_FORMAT: a key is not a
 * whole number. */
kq_status kq_gguf_special_read(const kq_gguf *g, kq_gguf_special *out, kq_error *err);
/* Does a token of this name end an answer wherever it is? */
bool kq_gguf_ends_by_name(const char *name);

/* GGUF's token types. */
enum {
    KQ_TOKEN_NORMAL = 1,
    KQ_TOKEN_UNKNOWN,
    KQ_TOKEN_CONTROL,
    KQ_TOKEN_USER,
    KQ_TOKEN_UNUSED,
    KQ_TOKEN_BYTE
};

#endif
