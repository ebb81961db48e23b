#!/usr/bin/env python3
"""PyTorch on the same work: a plain Llama with AdamW, written as one writes it.

Of several ways that a version of PyTorch offers, the fastest one is taken:
scaled_dot_product_attention, rms_norm, and an AdamW that is fused or over all
tensors at once, where they exist. With --compile the loss is compiled.
"""

import ctypes
import inspect
import sys

import torch
import torch.nn.functional as F

import worker

COMPILE = "--compile" in sys.argv
FUSED = "fused" in inspect.signature(torch.optim.AdamW).parameters


class Llama(torch.nn.Module):
    def __init__(self, c, T):
        super().__init__()
        C, H, V, HD = c["Dim"], c["HiddenDim"], c["VocabSize"], c["HeadDim"]
        Q, KV = c["NHeads"] * HD, c["NKVHeads"] * HD
        self.c, self.split = c, (Q, KV, KV)

        def weight(*shape):
            return torch.nn.Parameter(torch.randn(*shape) * 0.02)

        def ones(n):
            return torch.nn.Parameter(torch.ones(n))

        self.embedding = weight(V, C)
        self.layers = torch.nn.ModuleList()
        for _ in range(c["NLayers"]):
            l = torch.nn.Module()
            l.att_norm, l.ffn_norm = ones(C), ones(C)
            l.wqkv, l.wo, l.w13, l.w2 = weight(Q + 2 * KV, C), weight(C, Q), weight(2 * H, C), weight(C, H)
            if c["QKNorm"]:
                l.q_norm, l.k_norm = ones(HD), ones(HD)
            self.layers.append(l)
        self.norm = ones(C)
        if not c["Tied"]:
            self.classifier = weight(V, C)
        freqs = c["RopeTheta"] ** (-torch.arange(0, HD, 2).double() / HD)
        angle = torch.outer(torch.arange(T).double(), freqs)
        self.cos, self.sin = angle.cos().float()[None, :, None, :], angle.sin().float()[None, :, None, :]
        self.mask = torch.full((T, T), float("-inf")).triu(1)

    def rms_norm(self, x, w):
        if hasattr(F, "rms_norm"):
            return F.rms_norm(x, (x.shape[-1],), w, self.c["NormEps"])
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["NormEps"]) * w

    def rope(self, x):
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * self.cos - b * self.sin, a * self.sin + b * self.cos), -1).flatten(-2)

    def attention(self, q, k, v):  # [B,heads,T,HD]
        group = self.c["NHeads"] // self.c["NKVHeads"]
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + self.mask
        return scores.softmax(-1) @ v

    def loss(self, tokens, targets):
        c, (B, T) = self.c, tokens.shape
        x = F.embedding(tokens, self.embedding)
        for l in self.layers:
            q, k, v = F.linear(self.rms_norm(x, l.att_norm), l.wqkv).split(self.split, -1)
            q, k, v = (t.view(B, T, -1, c["HeadDim"]) for t in (q, k, v))
            if c["QKNorm"]:
                q, k = self.rms_norm(q, l.q_norm), self.rms_norm(k, l.k_norm)
            q, k = self.rope(q), self.rope(k)
            a = self.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            x = x + F.linear(a.transpose(1, 2).reshape(B, T, -1), l.wo)
            gate, up = F.linear(self.rms_norm(x, l.ffn_norm), l.w13).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, l.w2)
        classifier = self.embedding if c["Tied"] else self.classifier
        logits = F.linear(self.rms_norm(x, self.norm), classifier)
        return F.cross_entropy(logits.view(B * T, -1), targets.view(-1))


OPENBLAS = []


def set_threads(n):
    """OpenBLAS with threads of its own does not listen to PyTorch."""
    torch.set_num_threads(n)
    for lib in OPENBLAS:
        lib.openblas_set_num_threads(n)


def load(model, tensors):
    """Fills the model with the weights of worker.weights."""
    layered = {"wqkv": ("wq", "wk", "wv"), "w13": ("w1", "w3")}
    for name, p in model.named_parameters():
        *layer, name = name.split(".")
        parts = [torch.frombuffer(numbers, dtype=torch.float32).view(shape)
                 for shape, numbers in (tensors[n] for n in layered.get(name, (name,)))]
        p.data.copy_(torch.cat([t[int(layer[1])] for t in parts] if layer else parts))


def prepare(r):
    if r["do"] == "product":
        return product(r)
    set_threads(r["threads"])  # what is compiled is for so many
    torch.manual_seed(1)
    c = r["config"]
    model = Llama(c, r["T"])
    if "path" in r:
        load(model, worker.weights(r["path"]))
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    how = {"fused": True} if FUSED else {"foreach": True}
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                              lr=r.get("rate", 1e-6), betas=(0.9, 0.95), eps=1e-8, **how)
    compute = model.loss
    if COMPILE:
        torch._dynamo.reset()  # it gives up behind some models
        compute = torch.compile(model.loss, fullgraph=True, dynamic=False)
    tokens = torch.randint(c["VocabSize"], (r["B"], r["T"]))
    if "tokens" in r:
        tokens = torch.tensor(r["tokens"]).view(r["B"], r["T"])
    targets = tokens.roll(-1, 1)

    def step(r):
        adamw.zero_grad(set_to_none=True)
        loss, norm = compute(tokens, targets), 0
        loss.backward()
        if r["clip"]:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        return float(loss.detach()), float(norm)

    return step


def product(r):
    rows, n_in, n_out = r["rows"], r["in"], r["out"]
    x, dy, w = torch.rand(rows, n_in) - 0.5, torch.rand(rows, n_out) - 0.5, torch.rand(n_out, n_in) - 0.5
    y, dx, dw = torch.empty(rows, n_out), torch.empty(rows, n_in), torch.zeros(n_out, n_in)

    def run(r):
        set_threads(r["threads"])
        if r["product"] == "linear":
            torch.mm(x, w.t(), out=y)
        elif r["product"] == "dx":
            torch.mm(dy, w, out=dx)
        else:
            torch.addmm(dw, dy.t(), x, out=dw)

    return run


def hello():
    version = torch.__version__
    for lib in OPENBLAS:
        lib.openblas_get_config.restype = lib.openblas_get_corename.restype = ctypes.c_char_p
        name, kernels = " ".join(lib.openblas_get_config().decode().split()[:2]), lib.openblas_get_corename().decode()
        version += f" with {name} ({['no threads', 'its own threads', 'OpenMP'][lib.openblas_get_parallel()]}, kernels {kernels})"
    if torch.backends.mkl.is_available():
        version += " with MKL"
    return {"version": version + (", compiled" if COMPILE else "") + (", fused AdamW" if FUSED else ", foreach AdamW")}


torch.rand(64, 64) @ torch.rand(64, 64)  # loads what it multiplies with
OPENBLAS += [lib for lib in map(ctypes.CDLL, worker.libraries("openblas")) if hasattr(lib, "openblas_set_num_threads")]  # not NumPy's own
worker.serve(hello, prepare)
