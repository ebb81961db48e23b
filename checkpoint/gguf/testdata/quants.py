"""Writes quants.gguf: for every type a tensor TYPE of blocks, random and
extreme, and TYPE.want, what the reference makes of it; for the types that can
be written TYPE.from, numbers, and TYPE.to, their blocks.

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0
    venv/bin/python quants.py [libggml-base.so]

The reference is the package gguf (numpy); with the shared library of ggml
(node-llama-cpp ships one) it is asserted that C agrees.
"""

import ctypes
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES

rng = np.random.default_rng(1)
here = os.path.dirname(os.path.abspath(__file__))
ggml = ctypes.CDLL(sys.argv[1]) if len(sys.argv) > 1 else None

# Zeros, denormals, the least and greatest normal numbers, Inf, NaN.
EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16)

# Where the scales of a block are, in bytes.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}


def same(a, b):
    return np.array_equal(np.where(np.isnan(a), np.float32(0), a).view(np.uint32),
                          np.where(np.isnan(b), np.float32(0), b).view(np.uint32)) and \
        np.array_equal(np.isnan(a), np.isnan(b))


def blocks(t):
    block, size = GGML_QUANT_SIZES[t]
    if t in (T.F16, T.BF16):
        n = 4096
        raw = rng.integers(0, 1 << 16, n, dtype=np.uint16)
        raw[: len(EXTREME)] = EXTREME
        return raw.view(np.uint8)
    n = 33 if block == 32 else 16
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for s in SCALES[t]:
        raw[:, s : s + 2] = rng.normal(0, 0.02, n).astype(np.float16).view(np.uint8).reshape(n, 2)
        order = rng.permutation(EXTREME) if s else EXTREME
        for i, e in enumerate(order):
            raw[i, s : s + 2] = np.array([e]).view(np.uint8)
    return raw.reshape(-1)


def numbers(t):
    x = rng.normal(0, 0.02, (64, 32)).astype(np.float32)
    x[0] = 0
    x[1] = -0.0
    x[2, 3] = 65504 * (127 if t == T.Q8_0 else 1)
    x[3] = 1e-38  # 1/d is finite, d is 0 as F16
    x[4] = 127 * np.array([k + 0.5 for k in range(-16, 16)], np.float32) / 127  # halves
    x[4, 0] = 127
    x[5] = np.float32(2) ** np.arange(-32, 0)
    x[6, 5] = 6e-6
    x[6] *= np.float32(1e-4)
    x[7] = np.arange(32) - 16
    return x


def c_dequantize(t, raw, n):
    out = np.empty(n, np.float32)
    getattr(ggml, "dequantize_row_" + t.name.lower().replace("_k", "_K"))(
        raw.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
    return out


w = GGUFWriter(os.path.join(here, "quants.gguf"), "none")
np.seterr(all="ignore")
for t in (T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K):
    block, size = GGML_QUANT_SIZES[t]
    raw = blocks(t)
    n = len(raw) // size * block
    want = np.ascontiguousarray(quants.dequantize(raw.reshape(1, -1), t)).reshape(-1)
    if ggml and block > 1:
        assert same(c_dequantize(t, raw, n), want), t
        print(t.name, "as in C,", n, "elements")
    w.add_tensor(t.name, raw.reshape(1, -1), raw_dtype=t)
    w.add_tensor(t.name + ".want", want)
for t in (T.F16, T.BF16, T.Q8_0):
    x = numbers(t)
    to = np.ascontiguousarray(quants.quantize(x, t)).view(np.uint8).reshape(64, -1)
    if ggml and t == T.Q8_0:
        c = np.empty_like(to)
        ggml.quantize_row_q8_0_ref(x.ctypes.data_as(ctypes.c_void_p), c.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
        assert np.array_equal(c, to), t
        print(t.name, "quantized as in C")
    w.add_tensor(t.name + ".from", x)
    w.add_tensor(t.name + ".to", to.reshape(1, -1).view(np.int8))
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
