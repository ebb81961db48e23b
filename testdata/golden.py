#!/usr/bin/env python3
"""Writes the PyTorch goldens golden_*.json: python3 testdata/golden.py

Plain PyTorch in float64: logits, loss and every gradient of small Llama
models, and ten AdamW steps with clipping and weight decay. Weights and tokens
come from a linear congruential generator that the Go tests repeat, so they are
not stored; all are exact in float32. Arrays are little-endian float64 in
base64. Each file records the versions that made it. The same versions on the
same machine give the same bytes; others may differ in the last bits.
"""

import base64
import json
import math
import pathlib
import platform

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

MODELS = {
    "mha_untied": dict(dim=16, hidden_dim=24, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=4,
                       vocab_size=19, rope_theta=10000.0, norm_eps=1e-5, b=2, t=6, seed=1),
    "gqa_tied": dict(dim=12, hidden_dim=20, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=6,
                     vocab_size=17, rope_theta=500.0, norm_eps=1e-6, b=3, t=5, seed=2, tied=True),
    "qk_norm": dict(dim=12, hidden_dim=28, n_layers=2, n_heads=4, n_kv_heads=1, head_dim=8,
                    vocab_size=23, rope_theta=10000.0, norm_eps=1e-6, b=2, t=7, seed=3, qk_norm=True),
    "qkv_bias_ignored_llama3": dict(
        dim=16, hidden_dim=20, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8,
        vocab_size=21, rope_theta=100.0, norm_eps=1e-5, b=2, t=9, seed=4, tied=True, qkv_bias=True,
        rope_scaling=dict(factor=4.0, low=1.0, high=3.0, original=32), ignore=True),
}

ADAMW = dict(lr=2e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, max_norm=0.5, steps=10)


class LCG:
    """x <- 1664525 x + 1013904223 mod 2^32; the high 16 bits are used."""

    def __init__(self, seed):
        self.x = seed

    def next(self):
        self.x = (1664525 * self.x + 1013904223) % 2**32
        return self.x >> 16

    def uniform(self):  # in [-1, 1), a multiple of 2^-15
        return (self.next() - 32768) / 32768


def make_params(c, rng):
    """Every tensor, in the order in which the generator fills them."""
    C, H, V, HD = c["dim"], c["hidden_dim"], c["vocab_size"], c["head_dim"]
    Q, KV = c["n_heads"] * HD, c["n_kv_heads"] * HD
    shapes = [("token_embedding", (V, C))]
    for i in range(c["n_layers"]):
        at = f"layers.{i}."
        shapes += [(at + "rms_att", (C,)), (at + "wq", (Q, C)), (at + "wk", (KV, C)), (at + "wv", (KV, C))]
        if c.get("qkv_bias"):
            shapes += [(at + "bq", (Q,)), (at + "bk", (KV,)), (at + "bv", (KV,))]
        if c.get("qk_norm"):
            shapes += [(at + "q_norm", (HD,)), (at + "k_norm", (HD,))]
        shapes += [(at + "wo", (C, Q)), (at + "rms_ffn", (C,)), (at + "w1", (H, C)), (at + "w3", (H, C)),
                   (at + "w2", (C, H))]
    shapes += [("rms_final", (C,))]
    if not c.get("tied"):
        shapes += [("wcls", (V, C))]
    params = {}
    for name, shape in shapes:
        offset, scale = 0.0, 0.5
        if "rms" in name or "_norm" in name:
            offset = 1.0
        w = [offset + scale * rng.uniform() for _ in range(math.prod(shape))]
        params[name] = torch.tensor(w).reshape(shape).requires_grad_()
    return params


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def frequencies(c):
    HD = c["head_dim"]
    freqs = []
    for i in range(HD // 2):
        f = c["rope_theta"] ** (-2 * i / HD)
        s = c.get("rope_scaling")
        if s:  # as in Llama 3.1
            wavelength = 2 * math.pi / f
            if wavelength > s["original"] / s["low"]:
                f /= s["factor"]
            elif wavelength >= s["original"] / s["high"]:
                smooth = (s["original"] / wavelength - s["low"]) / (s["high"] - s["low"])
                f = (1 - smooth) * f / s["factor"] + smooth * f
        freqs.append(f)
    return torch.tensor(freqs)


def rope(x, freqs):
    """x [B,T,heads,HD]; the pairs (2i, 2i+1) as complex numbers, turned."""
    B, T, N, HD = x.shape
    angle = torch.outer(torch.arange(T, dtype=torch.float64), freqs)
    turn = torch.polar(torch.ones_like(angle), angle)[None, :, None, :]
    z = torch.view_as_complex(x.reshape(B, T, N, HD // 2, 2)) * turn
    return torch.view_as_real(z).reshape(B, T, N, HD)


def forward(c, p, tokens):
    B, T = tokens.shape
    NH, NKV, HD, eps = c["n_heads"], c["n_kv_heads"], c["head_dim"], c["norm_eps"]
    freqs = frequencies(c)
    mask = torch.full((T, T), float("-inf")).triu(1)
    x = p["token_embedding"][tokens]
    for i in range(c["n_layers"]):
        def w(name, at=f"layers.{i}."):
            return p.get(at + name)
        h = rms_norm(x, w("rms_att"), eps)
        q = F.linear(h, w("wq"), w("bq")).view(B, T, NH, HD)
        k = F.linear(h, w("wk"), w("bk")).view(B, T, NKV, HD)
        v = F.linear(h, w("wv"), w("bv")).view(B, T, NKV, HD)
        if c.get("qk_norm"):
            q, k = rms_norm(q, w("q_norm"), eps), rms_norm(k, w("k_norm"), eps)
        q, k = rope(q, freqs), rope(k, freqs)
        k, v = (z.repeat_interleave(NH // NKV, dim=2) for z in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(HD) + mask
        att = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)
        x = x + F.linear(att.reshape(B, T, NH * HD), w("wo"))
        h = rms_norm(x, w("rms_ffn"), eps)
        x = x + F.linear(F.silu(F.linear(h, w("w1"))) * F.linear(h, w("w3")), w("w2"))
    x = rms_norm(x, p["rms_final"], eps)
    return F.linear(x, p["token_embedding"] if c.get("tied") else p["wcls"])


def f64(t):
    return base64.b64encode(t.detach().numpy().astype("<f8").tobytes()).decode()


def golden(c):
    rng = LCG(c["seed"])
    p = make_params(c, rng)
    n, V = c["b"] * c["t"], c["vocab_size"]
    tokens = torch.tensor([rng.next() % V for _ in range(n)]).view(c["b"], c["t"])
    targets = torch.tensor([rng.next() % V for _ in range(n)]).view(c["b"], c["t"])
    if c.get("ignore"):
        targets.view(-1)[::3] = -1

    def loss_of(logits):
        return F.cross_entropy(logits.reshape(n, V), targets.reshape(n), ignore_index=-1)

    logits = forward(c, p, tokens)
    loss = loss_of(logits)
    loss.backward()
    out = dict(
        made_with=f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}",
        config=c, adamw=ADAMW,
        tokens=tokens.view(-1).tolist(), targets=targets.view(-1).tolist(),
        loss=loss.item(), logits=f64(logits),
        gradients={name: f64(t.grad) for name, t in p.items()},
    )

    a = ADAMW
    matrices = [t for t in p.values() if t.dim() == 2]
    vectors = [t for t in p.values() if t.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=a["weight_decay"]), dict(params=vectors, weight_decay=0.0)],
        lr=a["lr"], betas=(a["beta1"], a["beta2"]), eps=a["eps"])
    losses, norms = [], []
    for _ in range(a["steps"]):
        optimizer.zero_grad()
        loss = loss_of(forward(c, p, tokens))
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(p.values()), a["max_norm"]).item())
        losses.append(loss.item())
        optimizer.step()
    out.update(step_losses=losses, step_norms=norms, final_loss=loss_of(forward(c, p, tokens)).item())
    return out


for name, c in MODELS.items():
    path = pathlib.Path(__file__).parent / f"golden_{name}.json"
    path.write_text(json.dumps(golden(c), indent=1) + "\n")
