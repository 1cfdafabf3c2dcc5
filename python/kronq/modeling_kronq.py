"""Packed kronq checkpoints in transformers: the format, the modules that hold it, and the quantizer that puts them into a model.

One self-contained file (torch, transformers, safetensors and the standard library): the package `kronq` is made of it, and
`kronq quantize` writes a copy into every checkpoint, which transformers runs when a model is loaded with trust_remote_code=True and the
package is not installed.

Weights stay packed as docs/format.md specifies: a linear y = W x, W [m, n] holds trellis, su, sv and scale. Instead of undoing the
rotation of the weights, the input is rotated forwards and the output backwards,

    y = diag(sv) U_m (scale W') U_n^T diag(su) x,

and the tiles of W' are looked up, a band of rows at a time, while they are needed ("tiles"), or W is computed once and kept ("cached").
There is no code for any particular device.
"""

import functools
import json
import math
import os
import struct

import torch
from safetensors import safe_open
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.qwen3 import modeling_qwen3
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

FORMAT_VERSION = 2  # versions 1 to this one are read; version 1 has su and sv as signs in I8
TILE = 16
ROW_MODULES = ("lm_head", "model.embed_tokens")
FINE_BITS = 4  # of frequent tokens' rows
STATES = 1 << 16
CODES = {"hyb": 2, "1mad": 1, "3inst": 1, "mul1": 1, "mcg": 1}  # and V, the weights of one step
DECODE = ("tiles", "cached")
TILE_WEIGHTS = 1 << 20  # weights decoded at a time


class KronqError(ValueError):
    """A checkpoint that breaks its own format, in one line: file, tensor, found, expected."""


# ---- the orthogonal transforms: docs/format.md, "How packed linears are rotated" ----

WILLIAMSON_43 = ("+--++----+-+---+--++++", "+--+++--+-+--+-+++++-+", "++-+--++-+++----+++-++", "+-+-+----++++-++++-++-")
BASE_MAX = 1024
PIECE_MAX = 64  # largest Sylvester matrix that is multiplied as it stands


def _is_prime(p):
    return p > 1 and all(p % d for d in range(2, math.isqrt(p) + 1))


def _legendre(p):
    chi = [-1] * p
    for i in range(1, p):
        chi[i * i % p] = 1
    chi[0] = 0
    return chi


def _paley_1(b):
    chi = _legendre(b - 1)
    return [[1] * b] + [[-1] + [chi[(i - j) % (b - 1)] + (i == j) for j in range(b - 1)] for i in range(b - 1)]


def _paley_2(b):
    h = b // 2
    chi = _legendre(h - 1)

    def entry(i, j):
        (r, x), (c, y) = divmod(i, 2), divmod(j, 2)
        if r == c:
            return ((1, -1), (-1, -1))[x][y]
        return ((1, 1), (1, -1))[x][y] * (1 if r == 0 or c == 0 else chi[(r - c) % (h - 1)])

    return [[entry(i, j) for j in range(b)] for i in range(b)]


def _williamson_172():
    p = 43
    first = [[1 if s[min(i, p - i)] == "+" else -1 for i in range(p)] for s in WILLIAMSON_43]
    blocks = (
        ((1, 0), (1, 1), (1, 2), (1, 3)),
        ((-1, 1), (1, 0), (-1, 3), (1, 2)),
        ((-1, 2), (1, 3), (1, 0), (-1, 1)),
        ((-1, 3), (-1, 2), (1, 1), (1, 0)),
    )
    return [[sign * first[which][(j - i) % p] for sign, which in blocks[r] for j in range(p)] for r in range(4) for i in range(p)]


def base_matrix(n):
    """B [b, b] of the transform of order n as nested lists; b is its length."""
    q = n
    while q % 2 == 0:
        q //= 2
    if q == 1:
        return [[1]]
    b = 4 * q
    while b <= BASE_MAX and n % b == 0:
        if _is_prime(b - 1):  # b - 1 is 3 mod 4
            return _paley_1(b)
        if (b // 2 - 1) % 4 == 1 and _is_prime(b // 2 - 1):
            return _paley_2(b)
        if b == 172:
            return _williamson_172()
        b *= 2
    angle = [2 * math.pi * t / q for t in range(q)]  # Hartley: the fall-back
    return [[math.cos(angle[i * j % q]) + math.sin(angle[i * j % q]) for j in range(q)] for i in range(q)]


@functools.lru_cache(maxsize=None)
def _factors(n, device):
    """F_1, .., F_r, f32, with U_n = F_1 (x) .. (x) F_r: Sylvester matrices of at most PIECE_MAX rows, then the base over sqrt n."""
    with torch.inference_mode(False):
        base = torch.tensor(base_matrix(n), dtype=torch.float64, device="cpu")
        log = (n // len(base)).bit_length() - 1
        parts = -(-log // (PIECE_MAX.bit_length() - 1))
        factors = []
        for i in range(parts):
            s = torch.ones(1, 1, dtype=torch.float64, device="cpu")
            for _ in range(log * (i + 1) // parts - log * i // parts):
                s = torch.cat((torch.cat((s, s), 1), torch.cat((s, -s), 1)))
            factors.append(s)
        factors.append(base)
        if len(base) == 1 and len(factors) > 1:
            factors.pop()
        factors[-1] = factors[-1] / math.sqrt(n)
        return tuple(f.to(torch.float32).to(device) for f in factors)


def rotate(x, transpose=False):
    """U_n x, or U_n^T x, along the last axis of x [.., n], f32."""
    shape, n = x.shape, x.shape[-1]
    right = n
    for f in _factors(n, x.device):
        f = f.t() if transpose else f
        right //= len(f)
        x = x.reshape(-1, len(f)) @ f.t() if right == 1 else f @ x.reshape(-1, len(f), right)
    return x.reshape(shape)


# ---- the trellis code: docs/format.md, "A tile" ----


class Code:
    """What the states of a trellis code stand for. `table`, for hyb, is the module that holds kronq.hyb_table."""

    def __init__(self, name, table=None):
        self.name, self.V, self.table = name, CODES[name], table
        self._lookup = {}

    def values(self):
        """[65536, V] f32, on the table's device (the CPU where there is none)."""
        x = torch.arange(STATES, device=self.table.hyb_table.device if self.table else "cpu")
        if self.name == "hyb":
            h = (x * (x + 1)) & 0xFFFFFFFF
            v = self.table.hyb_table.float().index_select(0, (h >> 6) & 511)
            return torch.stack((torch.where((h >> 15) & 1 == 1, -v.select(1, 0), v.select(1, 0)), v.select(1, 1)), 1)
        if self.name == "1mad":
            y = (34038481 * x + 76625530) & 0xFFFFFFFF
            return ((sum((y >> s) & 255 for s in (0, 8, 16, 24)) - 510).double() / 147.800537).float().unsqueeze(1)
        if self.name == "mul1":
            y = (0x83DCD12D * x) & 0xFFFFFFFF
            exact = (1024 + sum((y >> s) & 255 for s in (0, 8, 16, 24))).float() * (1774 / 2**18) - 1329 / 2**7  # 22 bits
            return exact.to(torch.float16).float().unsqueeze(1)
        y = (0xCBAC1FED * x if self.name == "mcg" else 89226354 * x + 64248484) & 0xFFFFFFFF
        z = (y & 0x8FFF8FFF) ^ 0x3B603B60
        halves = torch.stack((z & 0xFFFF, z >> 16))
        halves = torch.where(halves >= 1 << 15, halves - (1 << 16), halves).to(torch.int16).view(torch.float16)
        v = halves.float().sum(0).unsqueeze(1)
        return v.to(torch.float16).float() if self.name == "mcg" else v

    def lookup(self, dtype, device):
        """The same as one word a state: [65536] of an integer type V weights wide. Kept for each dtype and device."""
        key = dtype, str(device)
        if key not in self._lookup:
            with torch.inference_mode(False):
                words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.V * dtype.itemsize]
                self._lookup[key] = self.values().to(dtype).to(device).contiguous().view(words).flatten()
        return self._lookup[key]

    def decode(self, trellis, dtype):
        """trellis [r, c, 16 k] int16 -> the tiles' values [16 r, 16 c] in units of the scale."""
        r, c, words = trellis.shape
        k = words // TILE
        step = k * self.V
        t = trellis.to(torch.int32)
        pair = (t << 16) | (t.roll(-1, -1) & 0xFFFF)  # 32 bits that begin at each word
        pair = pair.view(r, c, TILE, k).transpose(1, 2)  # a row of a tile is k words: [r, 16, c, k]
        if 16 % step == 0:
            shift = torch.arange(16, 0, -step, dtype=torch.int32, device=t.device)
            state = pair.unsqueeze(-1) >> shift
        else:
            position = torch.arange(0, TILE * k, step, device=t.device)
            state = pair.index_select(-1, position // 16) >> (16 - position % 16).to(torch.int32)
        state = (state & 0xFFFF).reshape(-1)
        return self.lookup(dtype, t.device).index_select(0, state).view(dtype).view(TILE * r, TILE * c)


# ---- modules ----


class KronqTable(nn.Module):
    """The table of the code hyb, once a model: `kronq.hyb_table`."""

    def __init__(self):
        super().__init__()
        self.register_buffer("hyb_table", torch.empty(512, 2, dtype=torch.float32))

    def _apply(self, fn, recurse=True):
        return _keep_types(self, super()._apply, fn, recurse)


def _keep_types(module, apply, fn, recurse):
    """module.to(dtype) moves packed tensors but leaves their types alone: they are a format, not numbers to be rounded."""
    before = dict(module._buffers)
    apply(fn, recurse)
    for name, old in before.items():
        if module._buffers[name].dtype != old.dtype:
            module._buffers[name] = old.to(module._buffers[name].device)
    return module


class Packed(nn.Module):
    """What packed linears and rows share: `decode` ("tiles" or "cached"), and tensors that keep their types."""

    def __init__(self):
        super().__init__()
        self.decode, self.tile_weights, self._dense = "tiles", TILE_WEIGHTS, None

    def set_decode(self, decode, tile_weights=TILE_WEIGHTS):
        if decode not in DECODE:
            raise ValueError(f'decode is {decode!r}, expected "tiles" or "cached"')
        self.decode, self.tile_weights, self._dense = decode, tile_weights, None

    def _apply(self, fn, recurse=True):
        self._dense = None
        return _keep_types(self, super()._apply, fn, recurse)

    def cached(self, dtype, device):
        """The dense weight, computed when first asked for."""
        if self._dense is None or self._dense.dtype != dtype or self._dense.device != device:
            with torch.inference_mode(False), torch.no_grad():
                self._dense = self.dense(dtype).to(device)
        return self._dense


class KronqLinear(Packed):
    """y = W x with W [out_features, in_features] packed at `bits` a weight."""

    def __init__(self, in_features, out_features, bits, code, scale_type=torch.float16):
        super().__init__()
        self.in_features, self.out_features, self.bits, self.code = in_features, out_features, bits, code
        rows, columns = -(-out_features // TILE), -(-in_features // TILE)
        self.register_buffer("trellis", torch.empty(rows, columns, TILE * bits, dtype=torch.int16))
        self.register_buffer("su", torch.empty(in_features, dtype=scale_type))
        self.register_buffer("sv", torch.empty(out_features, dtype=scale_type))
        self.register_buffer("scale", torch.empty((), dtype=torch.float32))

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, code={self.code.name}, decode={self.decode}"

    def forward(self, x):
        if self.decode == "cached":
            return nn.functional.linear(x, self.cached(x.dtype, x.device))
        # f32 until the output: one large activation (LLaMA's first tokens have some of thousands) is spread by the rotation over all of h and y, and bf16
        # would round every other channel by its size
        columns = self.trellis.shape[1]
        h = x.reshape(-1, self.in_features).float() * (self.su.float() * self.scale)
        h = rotate(nn.functional.pad(h, (0, TILE * columns - self.in_features)), transpose=True)
        band = max(1, self.tile_weights // (TILE * TILE * columns))
        y = [nn.functional.linear(h, self.code.decode(trellis, torch.float32)) for trellis in self.trellis.split(band)]
        y = rotate(torch.cat(y, -1)).narrow(1, 0, self.out_features) * self.sv
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def dense(self, dtype=torch.float32):
        """W [out_features, in_features]."""
        w = rotate(self.code.decode(self.trellis, torch.float32)).narrow(1, 0, self.in_features) * (self.su.float() * self.scale)
        return (rotate(w.t().contiguous()).narrow(1, 0, self.out_features) * self.sv).t().to(dtype).contiguous()


class Rows(Packed):
    """A matrix whose rows are read one by one, by a token's id, and all at once as a head. What it gives has the type `dtype`, which follows model.to()."""

    def __init__(self, rows, columns, bits, dtype):
        super().__init__()
        self.shape, self.bits, self.dtype = (rows, columns), bits, dtype

    def extra_repr(self):
        return f"{self.shape[0]}, {self.shape[1]}, bits={self.bits}, decode={self.decode}"

    def _apply(self, fn, recurse=True):
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def gather(self, ids):
        """The rows of ids [..] -> [.., columns]."""
        if self.decode == "cached":
            return nn.functional.embedding(ids, self.cached(self.dtype, next(self.buffers()).device))
        return self.pick(ids.reshape(-1)).to(self.dtype).reshape(*ids.shape, self.shape[1])

    def project(self, x):
        """x [.., columns] -> x . every row, [.., rows]."""
        if self.decode == "cached":
            return nn.functional.linear(x, self.cached(x.dtype, x.device))
        if next(self.buffers()).is_meta and not x.is_meta:
            raise RuntimeError("the embedding, which is also the head, was offloaded; give it a device in device_map")
        return self.products(x.float(), x.dtype)


class KronqTrellisRows(Rows):
    """A matrix [rows, columns] as a trellis whose inputs alone are rotated: W = diag(sv) (scale W') U_n^T diag(su). With `frequent` rows, rows of tiles at
    the beginning and the end have FINE_BITS bits, and the trellis is one string of words."""

    def __init__(self, rows, columns, bits, dtype, code, frequent=0):
        super().__init__(rows, columns, bits, dtype)
        self.code, tiles, self.tile_columns = code, -(-rows // TILE), -(-columns // TILE)
        first = last = 0
        if frequent and bits != FINE_BITS:
            first = min(-(-frequent // TILE), tiles)
            last = min(-(-(rows // 256) // TILE), tiles - first)
        # rows of tiles, and their bits
        self.parts = [(n, k) for n, k in ((first, FINE_BITS), (tiles - first - last, bits), (last, FINE_BITS)) if n]
        words = sum(n * k for n, k in self.parts) * TILE * self.tile_columns
        shape = (words,) if first or last else (tiles, self.tile_columns, TILE * bits)
        self.register_buffer("trellis", torch.empty(shape, dtype=torch.int16))
        self.register_buffer("su", torch.empty(columns, dtype=torch.float16))
        self.register_buffer("sv", torch.empty(rows, dtype=torch.float16))
        self.register_buffer("scale", torch.empty((), dtype=torch.float32))

    def tiles(self):
        """The trellis as pieces [rows of tiles, columns of tiles, 16 k], from the first row on."""
        if self.trellis.dim() == 3:
            return [self.trellis]
        sizes = [n * k * TILE * self.tile_columns for n, k in self.parts]
        return [t.view(n, self.tile_columns, TILE * k) for t, (n, k) in zip(self.trellis.split(sizes), self.parts)]

    def unrotate(self, w, sv):
        """Rows of W' [.., padded columns] and their scales -> rows of W."""
        return rotate(w).narrow(-1, 0, self.shape[1]) * (self.su.float() * self.scale) * sv.float().unsqueeze(-1)

    def dense(self, dtype=torch.float32):
        w = torch.cat([self.code.decode(t, torch.float32) for t in self.tiles()])
        return self.unrotate(w.narrow(0, 0, self.shape[0]), self.sv).to(dtype)

    def pick(self, ids):
        w = torch.empty(len(ids), TILE * self.tile_columns, device=self.trellis.device)
        at = 0
        for t in self.tiles():
            mine = ((ids // TILE >= at) & (ids // TILE < at + len(t))).nonzero().flatten()
            own = ids.index_select(0, mine)
            rows = self.code.decode(t.index_select(0, own // TILE - at), torch.float32)  # the 16 rows around each
            w[mine] = rows.index_select(0, torch.arange(len(own), device=ids.device) * TILE + own % TILE)
            at += len(t)
        return self.unrotate(w, self.sv.index_select(0, ids))

    def products(self, x, dtype):
        columns = self.tile_columns
        h = x * (self.su.to(x.device).float() * self.scale.to(x.device))
        h = rotate(nn.functional.pad(h, (0, TILE * columns - self.shape[1])), transpose=True)
        band = max(1, self.tile_weights // (TILE * TILE * columns))
        bands = [b for t in self.tiles() for b in t.split(band)]
        y = [nn.functional.linear(h, self.code.decode(t.to(x.device), torch.float32)) for t in bands]
        return (torch.cat(y, -1).narrow(-1, 0, self.shape[0]) * self.sv.to(x.device)).to(dtype)


class KronqRows(Rows):
    """A matrix [rows, columns] of 8 or 4 bits, one scale a group of columns."""

    def __init__(self, rows, columns, bits, dtype):
        super().__init__(rows, columns, bits, dtype)
        self.group = next((g for g in (64, 32, 16) if columns % g == 0), columns)
        q = torch.empty(rows, columns, dtype=torch.int8) if bits == 8 else torch.empty(rows, (columns + 1) // 2, dtype=torch.uint8)
        self.register_buffer("qweight", q)
        self.register_buffer("scales", torch.empty(rows, columns // self.group, dtype=torch.float16))

    def values(self, q, scales, dtype):
        """q [.., packed columns], scales [.., groups] -> [.., columns]."""
        if self.bits == 4:
            q = torch.stack((q & 15, q >> 4), -1).flatten(-2).narrow(-1, 0, self.shape[1]).to(torch.int8) - 8
        v = q.unflatten(-1, (-1, self.group)).float() * scales.float().unsqueeze(-1)
        return v.flatten(-2).to(dtype)

    def dense(self, dtype=torch.float32):
        return self.values(self.qweight, self.scales, dtype)

    def pick(self, ids):
        q, s = (t.index_select(0, ids) for t in (self.qweight, self.scales))
        return self.values(q, s, self.dtype)

    def products(self, x, dtype):
        band = max(1, self.tile_weights // self.shape[1])
        return torch.cat(
            [
                nn.functional.linear(x, self.values(q.to(x.device), s.to(x.device), torch.float32)).to(dtype)
                for q, s in zip(self.qweight.split(band), self.scales.split(band))
            ],
            -1,
        )


class KronqEmbedding(KronqRows):
    """The token embedding."""

    def forward(self, ids):
        return self.gather(ids)


class KronqTrellisEmbedding(KronqTrellisRows):
    """The token embedding."""

    def forward(self, ids):
        return self.gather(ids)


class KronqHead(KronqRows):
    """A head with rows of its own."""

    def forward(self, x):
        return self.project(x)


class KronqTrellisHead(KronqTrellisRows):
    """A head with rows of its own."""

    def forward(self, x):
        return self.project(x)


class KronqTiedHead(nn.Module):
    """The head that is the embedding's transpose; it holds nothing itself."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = (embedding,)  # a tuple, so that it is not registered a second time

    def forward(self, x):
        return self.embedding[0].project(x)


# ---- files ----

HEADER_MAX = 100 << 20
TYPES = {"I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_header(path):
    """{tensor: (type, shape)} of a safetensors file. One that ends too early is refused, naming the first tensor that is not whole."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else None
        if length is None or length > min(HEADER_MAX, size - 8):
            raise KronqError(f"{path}: {size} bytes, shorter than its own header: no tensor of it can be read")
        try:
            header = json.loads(f.read(length))
            header.pop("__metadata__", None)
            tensors = sorted(((t["data_offsets"][1], name, t["dtype"], tuple(t["shape"])) for name, t in header.items()))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
            raise KronqError(f"{path}: the header is not that of a safetensors file ({e})") from None
    for end, name, _, _ in tensors:
        if 8 + length + end > size:
            raise KronqError(f"{path}: tensor {name} ends at byte {8 + length + end}, the file has {size} (truncated?)")
    return {name: (dtype, shape) for _, name, dtype, shape in tensors}


def find_files(config):
    """The safetensors files of the folder (or downloaded repository) that a config was read from; [] when they cannot be told."""
    from transformers.utils import cached_file

    def local(name):
        return cached_file(
            config._name_or_path,
            name,
            local_files_only=True,
            revision=getattr(config, "_commit_hash", None),
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )

    if not getattr(config, "_name_or_path", ""):
        return []
    single = local("model.safetensors")
    if single:
        return [single]
    index = local("model.safetensors.index.json")
    if not index:
        return []
    with open(index) as f:
        shards = sorted(set(json.load(f)["weight_map"].values()))
    missing = [s for s in shards if not local(s)]
    if missing:
        raise KronqError(f"{index}: lists {missing[0]}, which is not there")
    return [local(s) for s in shards]


def check_files(files, packed, plain):
    """Every tensor of packed {name: buffer} is in the files with its type and shape, every one of plain {name: shape} with its shape."""
    found = {}
    for path in files:
        for name, entry in read_header(path).items():
            found[name] = path, *entry
    where = files[0] if len(files) == 1 else os.path.dirname(files[0])
    wanted = {name: (next(t for t, d in TYPES.items() if d == b.dtype), tuple(b.shape)) for name, b in packed.items()}
    for name, (dtype, shape) in (wanted | {name: (None, tuple(shape)) for name, shape in plain.items()}).items():
        if name not in found:
            raise KronqError(f"{where}: tensor {name} is missing")
        path, has, size = found[name]
        if dtype not in (None, has) or shape != size:
            raise KronqError(f"{path}: tensor {name} is {has} {list(size)}, expected {dtype or has} {list(shape)}")


# ---- the plug-in ----


class KronqConfig(QuantizationConfigMixin):
    """quantization_config of a checkpoint: every key as docs/format.md has it, and `decode`, "tiles" or "cached", which is not saved."""

    def __init__(self, decode=None, **settings):
        self.decode = decode or os.environ.get("KRONQ_DECODE", "tiles")
        self.settings = dict(settings, quant_method="kronq")
        self.quant_method = "kronq"
        self.post_init()

    def post_init(self):
        def need(key, good, expected):
            if not good(self.settings.get(key)):
                raise KronqError(f"config.json: quantization_config.{key} is {self.settings.get(key)!r}, expected {expected}")

        need("format_version", lambda v: v in range(1, FORMAT_VERSION + 1), f"1 to {FORMAT_VERSION}: a newer kronq is needed")
        need("code", lambda v: v in CODES, " or ".join(CODES))
        need("L", lambda v: v in (None, 16), 16)
        need("tile", lambda v: v in (None, [TILE, TILE]), [TILE, TILE])
        need(
            "module_bits",
            lambda v: isinstance(v, dict) and all(b in (2, 3, 4) for b in v.values()),
            "an object of modules and their bits, 2, 3 or 4",
        )
        for key in ("embed_bits", "head_bits"):
            need(key, lambda v: v in (None, 2, 3, 4, 8, 16), "2, 3, 4, 8 or 16")
        need("frequent_rows", lambda v: v is None or type(v) is int and v >= 0, "an integer of at least 0")
        need(
            "one_sided_modules",
            lambda v: v is None or isinstance(v, dict) and all(k in ROW_MODULES and b in (2, 3, 4) for k, b in v.items()),
            "an object of lm_head, model.embed_tokens and their bits, 2, 3 or 4",
        )
        if self.decode not in DECODE:
            raise KronqError(f'decode is {self.decode!r}, expected "tiles" or "cached"')

    def to_dict(self):
        return json.loads(json.dumps(self.settings))

    def to_diff_dict(self):
        return self.to_dict()


def _nothing_to_tie(self, *args, **kwargs):
    """Stands in for tie_weights: a packed head that is tied refers to the embedding module itself."""


class KronqQuantizer(HfQuantizer):
    """Puts packed modules in the place of a model's linears and embedding, and checks what is loaded into them."""

    requires_calibration = True  # quantizing is the program's work; here is only inference

    def _look_ahead(self, config):
        """Find a truncated file before transformers does, whose message names no tensor."""
        for path in find_files(config):
            read_header(path)
        return config

    update_tp_plan = _look_ahead  # transformers 4 calls this with the config, 5 the other, before any file is opened
    update_attn_implementation = _look_ahead

    def _wanted(self, model):
        """{name in the file: (module, buffer's name)} of everything packed."""
        return {
            key if module is self.table else self._prefix(model) + key: (module, name)
            for path, module in model.named_modules()
            if isinstance(module, (Packed, KronqTable))
            for name in module._buffers
            for key in [f"{path}.{name}"]
        }

    def _plain(self, model):
        """{name in the file: shape} of the rest, without what transformers ties or a user may want to train (heads of other tasks)."""
        base, head = f"{model.base_model_prefix}.", model.get_output_embeddings()
        heads = [
            n
            for n, m in model.named_modules()
            if m is head and isinstance(m, nn.Linear) and not model.config.get_text_config().tie_word_embeddings
        ]
        return {
            self._prefix(model) + key: t.shape
            for key, t in model.state_dict().items()
            if self._prefix(model) or key.startswith((base, *(f"{n}." for n in heads)))
        }

    @staticmethod
    def _prefix(model):
        """What names in the file begin with that are shorter in a model without a head."""
        base = model.base_model_prefix
        return f"{base}." if base and not hasattr(model, base) else ""

    def _process_model_before_weight_loading(self, model, checkpoint_files=None, dtype=None, **kwargs):
        settings = self.quantization_config.settings
        dtype = dtype if isinstance(dtype, torch.dtype) else getattr(model.config, "dtype", None) or model.config.torch_dtype
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.get_default_dtype()
        modules = dict(model.named_modules())
        base = f"{model.base_model_prefix}."

        def replace(name, packed):
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, packed)

        with torch.device("meta"):
            self.table = None
            trellises = settings.get("one_sided_modules") or {}  # of the rows: bits of "lm_head", "model.embed_tokens"
            frequent = settings.get("frequent_rows", 0)
            if settings["code"] == "hyb" and (settings["module_bits"] or trellises):
                model.kronq = self.table = KronqTable()
            code = Code(settings["code"], self.table)
            scale_type = torch.int8 if settings["format_version"] == 1 else torch.float16
            for name, bits in settings["module_bits"].items():
                place = name if name in modules else name.removeprefix(base)
                linear = modules.get(place)
                if not isinstance(linear, nn.Linear) or linear.bias is not None:
                    raise KronqError(
                        f"config.json: quantization_config.module_bits names {name}, expected a linear without bias, the model has "
                        + ("none of that name" if linear is None else repr(linear))
                    )
                replace(place, KronqLinear(linear.in_features, linear.out_features, bits, code, scale_type))

            names = {id(module): name for name, module in modules.items()}
            embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
            tied = model.config.get_text_config().tie_word_embeddings
            packed = None
            if settings.get("embed_bits", 16) < 16:
                shape = embedding.num_embeddings, embedding.embedding_dim
                if "model.embed_tokens" in trellises:
                    packed = KronqTrellisEmbedding(*shape, trellises["model.embed_tokens"], dtype, code, frequent)
                else:
                    packed = KronqEmbedding(*shape, settings["embed_bits"], dtype)
                replace(names[id(embedding)], packed)
            if head is not None and tied and packed is not None:
                replace(names[id(head)], KronqTiedHead(packed))
                model._tied_weights_keys, model.all_tied_weights_keys = type(model._tied_weights_keys)(), {}
                model.tie_weights = _nothing_to_tie.__get__(model)
            elif head is not None and not tied and settings.get("head_bits", 16) < 16:
                shape = head.out_features, head.in_features
                if "lm_head" in trellises:
                    replace(names[id(head)], KronqTrellisHead(*shape, trellises["lm_head"], dtype, code, frequent))
                else:
                    replace(names[id(head)], KronqHead(*shape, settings["head_bits"], dtype))

        self.files = checkpoint_files or find_files(model.config)
        if self.files:
            wanted = {name: getattr(*place) for name, place in self._wanted(model).items()}
            check_files(
                self.files,
                wanted,
                {name: shape for name, shape in self._plain(model).items() if name not in wanted and name != "model.kronq.hyb_table"},
            )
        self.types = {name: getattr(*place).dtype for name, place in self._wanted(model).items()}

    def _process_model_after_weight_loading(self, model, **kwargs):
        for name, (module, key) in self._wanted(model).items():
            value = getattr(module, key)
            # transformers 4 casts every float of a quantized model to the model's dtype, and loads no table into a model without a head
            if value.dtype != self.types[name] or module is self.table and self._prefix(model):
                value = self._read(name).to(value.device)
                setattr(module, key, value)
            self._check_values(name, key, value)
        if getattr(model, "_auto_class", None) is None and hasattr(model.config, "auto_map"):
            del model.config.auto_map  # save_pretrained would not copy the file that it names
        set_decode(model, self.quantization_config.decode)
        return model

    def _read(self, name):
        for path in self.files:
            with safe_open(path, framework="pt") as f:
                if name in f.keys():
                    return f.get_tensor(name)
        raise KronqError(f"tensor {name} could not be loaded by this transformers, and its file is not at hand; load from a folder")

    def _check_values(self, name, key, value):
        if value.is_meta:
            return
        if key in ("su", "sv") and not value.is_floating_point() and not bool((value.abs() == 1).all()):
            i = int((value.abs() != 1).nonzero()[0])
            raise KronqError(f"tensor {name}[{i}] is {int(value[i])}, expected +1 or -1")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise KronqError(f"tensor {name} holds NaN or Inf, expected finite numbers")
        if key == "scale" and not 0 <= float(value) <= 1e30:
            raise KronqError(f"tensor {name} is {float(value)}, expected a finite scale, not negative")

    def _convert_model_for_quantization(self, model):
        """Nothing: it is for experts, which kronq does not quantize (and in transformers 4 asks for accelerate)."""

    def is_serializable(self, *args, **kwargs):
        return True

    @property
    def is_trainable(self):
        return False

    def _dequantize(self, model, dtype=None):
        """Ordinary modules with the dense weights, in the place of the packed ones."""
        embedding = None
        for name, module in list(model.named_modules()):
            if isinstance(module, KronqLinear):
                plain, weight = nn.Linear, module.dense(dtype or model.dtype)
            elif isinstance(module, Rows):
                is_embedding = isinstance(module, (KronqEmbedding, KronqTrellisEmbedding))
                plain, weight = nn.Embedding if is_embedding else nn.Linear, module.dense(dtype or model.dtype)
            elif isinstance(module, KronqTiedHead):
                plain, weight = nn.Linear, embedding.weight
            else:
                continue
            parent, _, child = name.rpartition(".")
            with torch.device("meta"):
                new = nn.Embedding(*weight.shape) if plain is nn.Embedding else nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            new.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
            setattr(model.get_submodule(parent), child, new)
            embedding = new if plain is nn.Embedding else embedding
        if hasattr(model, "kronq"):
            del model.kronq
        for name in ("tie_weights", "_tied_weights_keys", "all_tied_weights_keys"):
            model.__dict__.pop(name, None)
        if hasattr(model, "get_expanded_tied_weights_keys"):
            model.all_tied_weights_keys = model.get_expanded_tied_weights_keys()
        return model


def set_decode(model, decode, tile_weights=TILE_WEIGHTS):
    """How packed weights are used: "tiles", decoded a band of rows (about tile_weights weights) at a time, in every call; or "cached", the
    dense weight computed in the first call and kept, in the type of the input."""
    for module in model.modules():
        if isinstance(module, Packed):
            module.set_decode(decode, tile_weights)
    return model


if "kronq" not in AUTO_QUANTIZER_MAPPING:  # the package may be there besides a checkpoint's own copy of this file
    if "kronq" not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config("kronq")(KronqConfig)
    register_quantizer("kronq")(KronqQuantizer)


class LlamaForCausalLM(modeling_llama.LlamaForCausalLM):
    """The class that auto_map names: transformers runs this file, and so registers the quantizer, on its way to it."""

    _auto_class = "AutoModelForCausalLM"  # so that save_pretrained copies this file


class Qwen3ForCausalLM(modeling_qwen3.Qwen3ForCausalLM):
    """Likewise."""

    _auto_class = "AutoModelForCausalLM"
