/* Inside the room: the members of kronq.h's kq_model, which its files share. */
#ifndef KQ_HOST_MODEL_H
#define KQ_HOST_MODEL_H

#include "decode/engine.h"
#include "generate/sample.h"
#include "tokenizer/tokenizer.h"

struct kq_model {
    /* as they were chosen when the model was opened */
    kq_common common; /* its strings are not kept; isa and compute below are what they said */
    kq_isa isa;
    kq_compute compute; /* the compute type of the engine */
    const char *asked;  /* the compute type of kq_model_perplexity: "bf16", "f32", or NULL for its default */
    int threads;        /* at most so many are used */
    kq_kv_type kv;
    kq_engine_weights weights;
    size_t context, sequences; /* context 0: not chosen */
    /* the files */
    kq_model_file *file;
    const kq_config *cfg; /* borrowed from file */
    kq_model_info info;
    kq_tensor_info *tensors;                    /* owned [info.n_tensors] */
    char *rope_json, *quantization_json, *name; /* owned (free); name: the last part of the path */
    /* made when they are first wanted */
    kq_tokenizer *tok;
    bool sampling_known;
    kq_sampling sampling; /* what the authors recommend, or kronq's own */
    kq_engine *engine;
    kq_engine_info engine_info;
    bool served; /* the caches hold the tokens of a server's requests */
    /* a server answers with the model, or emit was called within an answer of it: nothing else may touch
     * the engine */
    bool busy;
    int32_t *held; /* owned [sequences, context]: the tokens in the caches */
};

/* Open the tokenizer, unless it is open already. */
kq_status kq_model_open_tokenizer(kq_model *m, kq_error *err);

/* The tokens that are in a sequence's cache [kq_engine_length]. */
int32_t *kq_model_held(const kq_model *m, size_t sequence);

#endif
