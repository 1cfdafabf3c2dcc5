"""kronq checkpoints in transformers: `import kronq`, then AutoModelForCausalLM.from_pretrained(folder) as ever. See README.md."""

from .modeling_kronq import (
    DECODE,
    KronqConfig,
    KronqEmbedding,
    KronqError,
    KronqHead,
    KronqLinear,
    KronqQuantizer,
    KronqTiedHead,
    set_decode,
)

__version__ = "0.1.0"
__all__ = [
    "DECODE",
    "KronqConfig",
    "KronqEmbedding",
    "KronqError",
    "KronqHead",
    "KronqLinear",
    "KronqQuantizer",
    "KronqTiedHead",
    "set_decode",
]
