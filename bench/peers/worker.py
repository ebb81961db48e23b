"""What the workers share: one JSON object a line in, one a line out.

A worker answers {"do": "hello"} with what it is, and others with the seconds of
each run. It keeps what the last request used, because the next one mostly asks
for the same again.
"""

import array
import json
import os
import struct
import sys
import time


def resident():
    """The most memory that the process had, in bytes."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def libraries(*names):
    """The paths of loaded libraries with one of the names in theirs."""
    with open("/proc/self/maps") as f:
        paths = {line.split()[-1] for line in f if ".so" in line}
    return sorted(os.path.realpath(p) for p in paths if any(n in os.path.basename(p) for n in names))


def weights(path):
    """The weights in a file of llama2.c, by the names that the workers give them:
    (shape, numbers), those of all layers together."""
    with open(path, "rb") as f:
        data = f.read()
    C, H, L, NH, NKV, V, T = struct.unpack_from("7i", data)
    tied, V, HD, at = V > 0, abs(V), C // NH, 28
    tensors = {}

    def take(name, *shape):
        nonlocal at
        size = 4
        for n in shape:
            size *= n
        tensors[name] = shape, array.array("f", data[at:at + size])
        at += size

    take("embedding", V, C)
    take("att_norm", L, C)
    for name, rows, cols in (("wq", C, C), ("wk", NKV * HD, C), ("wv", NKV * HD, C), ("wo", C, C)):
        take(name, L, rows, cols)
    take("ffn_norm", L, C)
    for name, rows, cols in (("w1", H, C), ("w2", C, H), ("w3", H, C)):
        take(name, L, rows, cols)
    take("norm", C)
    take("rope", T, HD)
    if not tied:
        take("classifier", V, C)
    if at != len(data):
        raise ValueError(f"{path} has {len(data)} bytes, want {at}")
    return tensors


def serve(hello, prepare):
    """prepare(request) returns a function that takes the request and runs once; a
    training step returns its loss and the norm of the gradient."""
    key, run = None, None
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        r = json.loads(line)
        try:
            if r["do"] == "hello":
                answer = hello()
            elif r["do"] == "check":
                key, run = None, prepare(r)
                answer = {"steps": [run(r) for _ in range(r["steps"])]}
                run = None
            else:
                k = json.dumps({n: v for n, v in r.items() if n != "seconds"}, sort_keys=True)
                if k != key:
                    key, run = None, None
                    run = prepare(r)
                    run(r)
                    key = k
                seconds, begin = [], time.perf_counter()
                while not seconds or time.perf_counter() - begin < r["seconds"]:
                    start = time.perf_counter()
                    run(r)
                    seconds.append(time.perf_counter() - start)
                answer = {"seconds": seconds, "resident": resident()}
        except Exception as e:  # the runner shows it and goes on
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=out, flush=True)
