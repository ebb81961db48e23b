#!/usr/bin/env python3
"""sgemm of OpenBLAS or oneDNN on the products of a linear layer:
blas_worker.py openblas|onednn [LIBRARY]

Each is called through its C interface with row-major operands, as C code would.
"""

import ctypes
import mmap
import sys

import worker

NAME = sys.argv[1]
LIBRARY = sys.argv[2] if len(sys.argv) > 2 else {"openblas": "libopenblas.so.0", "onednn": "libdnnl.so.2"}[NAME]
lib = ctypes.CDLL(LIBRARY, mode=ctypes.RTLD_GLOBAL)
f32, size = ctypes.c_float, ctypes.c_int64
floats = ctypes.POINTER(f32)


def sgemm_openblas(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc):
    transposed = {False: 111, True: 112}
    lib.cblas_sgemm(101, transposed[ta], transposed[tb], m, n, k, f32(1), a, lda, b, ldb, f32(beta), c, ldc)


def sgemm_onednn(ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc):
    letter = {False: ctypes.c_char(b"N"), True: ctypes.c_char(b"T")}
    status = lib.dnnl_sgemm(letter[ta], letter[tb], size(m), size(n), size(k), f32(1), a, size(lda), b, size(ldb),
                            f32(beta), c, size(ldc))
    if status:
        raise RuntimeError(f"dnnl_sgemm returned {status}")


if NAME == "openblas":
    sgemm, set_threads = sgemm_openblas, lib.openblas_set_num_threads
else:
    # oneDNN takes its threads from the OpenMP that it is linked with.
    sgemm, set_threads = sgemm_onednn, ctypes.CDLL("libgomp.so.1").omp_set_num_threads


def buffer(n):
    """n numbers between -0.5 and 0.5, in huge pages where they are many, as ours are."""
    memory = mmap.mmap(-1, 4 * n + (2 << 20))
    memory.madvise(mmap.MADV_HUGEPAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    at = -start % (2 << 20)
    block = (f32 * 4096)(*((i * 2654435761 % 4096) / 4096 - 0.5 for i in range(4096)))
    view = memoryview(memory)[at:at + 4 * n]
    raw = bytes(block)
    for i in range(0, 4 * n, len(raw)):
        end = min(4 * n, i + len(raw))
        view[i:end] = raw[:end - i]
    return memory, start + at


def prepare(r):
    rows, n_in, n_out = r["rows"], r["in"], r["out"]
    sets = 1
    if r["rotate"]:
        sets = max(1, r["rotate_bytes"] // (4 * n_in * n_out))
    kept = [buffer(n) for n in (rows * n_in, rows * n_out, rows * n_in, sets * n_in * n_out, n_in * n_out)]
    x, y, dx, w, dw = (ctypes.cast(address, floats) for _, address in kept)
    first, calls = kept[3][1], [0]

    def run(r):
        set_threads(r["threads"])
        kept  # holds the memory
        weights = w
        if sets > 1:
            weights = ctypes.cast(first + calls[0] % sets * 4 * n_in * n_out, floats)
            calls[0] += 1
        if r["product"] == "linear":
            sgemm(False, True, rows, n_out, n_in, x, n_in, weights, n_in, 0, y, n_out)
        elif r["product"] == "dx":
            sgemm(False, False, rows, n_in, n_out, y, n_out, weights, n_in, 0, dx, n_in)
        else:
            sgemm(True, False, n_out, n_in, rows, y, n_out, x, n_in, 1, dw, n_in)

    return run


def check():
    """A small product of each kind against a plain loop."""
    rows, n_in, n_out = 3, 5, 4
    for kind in ("linear", "dx", "dW"):
        a = [[(7 * i + 3 * j) % 5 - 2 for j in range(9)] for i in range(9)]

        def flat(n, m):
            return (f32 * (n * m))(*(a[i][j] for i in range(n) for j in range(m)))

        x, y, w, dx, dw = flat(rows, n_in), flat(rows, n_out), flat(n_out, n_in), flat(rows, n_in), flat(n_out, n_in)
        if kind == "linear":
            sgemm(False, True, rows, n_out, n_in, x, n_in, w, n_in, 0, y, n_out)
            want = [sum(a[i][k] * a[j][k] for k in range(n_in)) for i in range(rows) for j in range(n_out)]
            got = list(y)
        elif kind == "dx":
            sgemm(False, False, rows, n_in, n_out, y, n_out, w, n_in, 0, dx, n_in)
            want = [sum(a[i][k] * a[k][j] for k in range(n_out)) for i in range(rows) for j in range(n_in)]
            got = list(dx)
        else:
            sgemm(True, False, n_out, n_in, rows, y, n_out, x, n_in, 1, dw, n_in)
            want = [a[i][j] + sum(a[k][i] * a[k][j] for k in range(rows)) for i in range(n_out) for j in range(n_in)]
            got = list(dw)
        if got != want:
            raise RuntimeError(f"{NAME}: wrong {kind}: {got}, want {want}")


def hello():
    check()
    if NAME == "openblas":
        lib.openblas_get_config.restype = lib.openblas_get_corename.restype = ctypes.c_char_p
        number = lib.openblas_get_config().decode().split()[1]
        return {"version": f"{number}, kernels {lib.openblas_get_corename().decode()}"}

    class Version(ctypes.Structure):
        _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int), ("patch", ctypes.c_int)]

    lib.dnnl_version.restype = ctypes.POINTER(Version)
    v = lib.dnnl_version().contents
    isa = {0: "all", 1: "SSE4.1", 3: "AVX", 7: "AVX2", 15: "AVX2-VNNI", 39: "AVX-512 core", 103: "AVX-512 VNNI",
           231: "AVX-512 BF16", 999: "AVX-512 AMX"}
    n = lib.dnnl_get_effective_cpu_isa()
    return {"version": f"{v.major}.{v.minor}.{v.patch}, kernels {isa.get(n, hex(n))}"}


worker.serve(hello, prepare)
