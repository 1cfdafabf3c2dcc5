/* What a GGUF file says about its model, in Hugging Face's words. */
#ifndef KQ_SOURCE_GGUF_MODEL_H
#define KQ_SOURCE_GGUF_MODEL_H

#include "source/config.h"
#include "format/gguf.h"
#include "source/source.h"

/* Architecture and sizes from the metadata (general.architecture llama or qwen3) and the tensor table
 * (tied when there is no output.weight; the rotary embedding's scaling from the keys and from
 * rope_freqs.weight, as llama.cpp reads them). Checked with kq_config_check. KQ_E_UNSUPPORTED names the
 * key that asks for what kronq does not do. */
kq_status kq_gguf_config(const kq_gguf *g, kq_config *cfg, kq_error *err);

/* ggml type number -> kq_dtype (KQ_T_OTHER for those not read here). */
kq_dtype kq_gguf_dtype(uint32_t type);
/* The reverse; UINT32_MAX: GGUF has no such type. */
uint32_t kq_gguf_type_of(kq_dtype dtype);

#endif
