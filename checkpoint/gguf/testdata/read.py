"""Asserts that the package gguf reads the file of TestPythonReads as written."""

import sys

import numpy as np
from gguf import GGUFReader

r = GGUFReader(sys.argv[1])
want = {
    "general.architecture": "llama", "u8": 200, "i8": -100, "u16": 60000, "i16": -30000, "u32": 4000000000,
    "i32": -2000000000, "f32": float(np.float32(0.1)), "yes": True, "no": False, "text": "é\n", "u64": 2**64 - 1,
    "i64": -(2**63), "f64": 0.1, "empty": "", "u8s": [1, 255], "i8s": [-1, 5], "u16s": [1, 60000], "i16s": [-7],
    "u32s": [7, 8, 9], "i32s": [-7, 8], "f32s": [1.5, -2.0], "bools": [True, False], "u64s": [2**63], "i64s": [-(2**63)],
    "f64s": [float(np.pi), 1.0], "none": [],
}
have = {k: f for k, f in r.fields.items() if not k.startswith("GGUF.")}
assert set(have) == set(want) | {"texts"}, set(have) ^ set(want)
for k, v in want.items():
    if v != []:  # of which the package knows no contents
        assert have[k].contents() == v, (k, have[k].contents(), v)
assert [bytes(have["texts"].parts[i]) for i in have["texts"].data] == [b"", b"a", b"\xff", b"abc"]
x, y, z = r.tensors
assert x.name == "x" and x.tensor_type.name == "F32" and x.data.tolist() == [[1, 2, 3], [4, 5, 6]]
assert y.name == "y" and y.tensor_type.name == "BF16" and y.data.tobytes() == bytes([0x80, 0x3F, 0, 0x40, 0x40, 0x40])
assert z.name == "z" and z.tensor_type.name == "Q8_0" and list(z.shape) == [32, 1, 2] and not z.data.any()
print("as written")
