"""Dense weights of a checkpoint by docs/format.md alone, in NumPy: the referee of the plug-in's decoder. Slow and plain on purpose."""

import json
import math
import struct
from pathlib import Path

import numpy as np

TYPES = {"I16": np.int16, "I8": np.int8, "U8": np.uint8, "F32": np.float32, "F16": np.float16, "I32": np.int32}


def tensors(path):
    """{name: array} of a safetensors file; BF16 as f32."""
    data = Path(path).read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    out = {}
    for name, t in json.loads(data[8 : 8 + n]).items():
        if name != "__metadata__":
            raw = data[8 + n + t["data_offsets"][0] : 8 + n + t["data_offsets"][1]]
            if t["dtype"] == "BF16":
                a = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                a = np.frombuffer(raw, TYPES[t["dtype"]])
            out[name] = a.reshape(t["shape"])
    return out


def legendre(a, p):
    a %= p
    return 0 if a == 0 else 1 if pow(a, (p - 1) // 2, p) == 1 else -1


def is_prime(p):
    return p > 1 and all(p % d for d in range(2, p) if d * d <= p)


def base(n):
    """The matrix B of the transform of order n."""
    q = n
    while q % 2 == 0:
        q //= 2
    if q == 1:
        return np.ones((1, 1))
    for e in range(2, 11):
        b = q << e
        if b > 1024 or n % b:
            break
        if is_prime(b - 1):
            B = np.ones((b, b))
            B[1:, 0] = -1
            for i in range(1, b):
                for j in range(1, b):
                    B[i, j] = legendre(i - j, b - 1) + (i == j)
            return B
        if (b // 2 - 1) % 4 == 1 and is_prime(b // 2 - 1):
            h = b // 2
            C = np.array([[0 if i == j else 1 if i * j == 0 else legendre(i - j, h - 1) for j in range(h)] for i in range(h)])
            return np.kron(C, [[1, 1], [1, -1]]) + np.kron(np.eye(h), [[1, -1], [-1, -1]])
        if b == 172:
            rows = ["+--++----+-+---+--++++", "+--+++--+-+--+-+++++-+", "++-+--++-+++----+++-++", "+-+-+----++++-++++-++-"]
            A, B, C, D = (
                [[1 if r[min((j - i) % 43, 43 - (j - i) % 43)] == "+" else -1 for j in range(43)] for i in range(43)] for r in rows
            )
            A, B, C, D = map(np.array, (A, B, C, D))
            return np.block([[A, B, C, D], [-B, A, -D, C], [-C, D, A, -B], [-D, -C, B, A]])
    t = 2 * math.pi * np.outer(np.arange(q), np.arange(q)) / q
    return np.cos(t) + np.sin(t)


def transform(n):
    """U_n [n, n]."""
    B = base(n)
    S = np.ones((1, 1))
    while len(S) * len(B) < n:
        S = np.kron([[1, 1], [1, -1]], S)
    return np.kron(S, B) / math.sqrt(n)


def tile(words, code, table):
    """16 k words -> 256 values."""
    bits = "".join(f"{int(w) & 0xFFFF:016b}" for w in words)
    k, V = len(words) // 16, 2 if code == "hyb" else 1
    out = []
    for t in range(256 // V):
        at = t * k * V
        x = int((bits + bits)[at : at + 16], 2)
        if code == "hyb":
            h = x * (x + 1) % 2**32
            a, b = table[(h >> 6) & 511]
            out += [-a if h >> 15 & 1 else a, b]
        elif code == "1mad":
            y = (34038481 * x + 76625530) % 2**32
            out.append((sum(y.to_bytes(4, "little")) - 510) / 147.800537)
        elif code == "mul1":
            total = sum((0x83DCD12D * x % 2**32).to_bytes(4, "little"))
            half = np.array([0x1EEE, 0xC931], np.uint16).view(np.float16).astype(np.float64)
            out.append(float(np.float16((1024 + total) * half[0] + half[1])))
        elif code == "mcg":
            y = 0xCBAC1FED * x % 2**32
            a, b = np.frombuffer(((y & 0x8FFF8FFF) ^ 0x3B603B60).to_bytes(4, "little"), np.float16)
            out.append(float(a + b))  # in half
        else:
            y = (89226354 * x + 64248484) % 2**32
            out.append(float(sum(np.frombuffer(((y & 0x8FFF8FFF) ^ 0x3B603B60).to_bytes(4, "little"), np.float16).astype(np.float64))))
    return np.array(out, dtype=np.float64).reshape(16, 16)


def linear(t, module, code, one_sided=False):
    """W [m, n] of a packed linear of the tensors t; one_sided: of an embedding or a head, whose outputs are not rotated."""
    su, sv, trellis = t[module + ".su"].astype(float), t[module + ".sv"].astype(float), t[module + ".trellis"]
    W = np.block([[tile(trellis[r, c], code, t.get("kronq.hyb_table")) for c in range(trellis.shape[1])] for r in range(trellis.shape[0])])
    W = W * float(t[module + ".scale"]) @ transform(W.shape[1]).T
    W = W if one_sided else transform(W.shape[0]) @ W
    return sv[:, None] * W[: len(sv), : len(su)] * su


def rows(t, module, columns):
    """The dense matrix of a packed embedding or head."""
    q, s = t[module + ".qweight"], t[module + ".scales"].astype(float)
    if q.dtype == np.uint8:
        q = np.stack([q & 15, q >> 4], -1).reshape(len(q), -1)[:, :columns].astype(int) - 8
    return q * np.repeat(s, columns // s.shape[1], 1)
