#!/usr/bin/env python3
"""JAX on the CPU on the same training step: a Llama as functions, AdamW by hand,
the whole step compiled with its buffers donated."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy

import worker


def rms_norm(x, w, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * w


def rope(x, cos, sin):
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack((a * cos - b * sin, a * sin + b * cos), -1).reshape(x.shape)


def load(params, tensors):
    """Fills params with the weights of worker.weights."""
    arrays = {name: numpy.frombuffer(numbers, numpy.float32).reshape(shape) for name, (shape, numbers) in tensors.items()}
    arrays["wqkv"] = numpy.concatenate([arrays["wq"], arrays["wk"], arrays["wv"]], 1)
    arrays["w13"] = numpy.concatenate([arrays["w1"], arrays["w3"]], 1)
    for some in (params, params["layers"]):
        some.update({name: jnp.array(arrays[name]) for name in some if name != "layers"})


def prepare(r):
    if r["do"] not in ("step", "check"):
        raise ValueError("only training steps")
    if r["threads"] != THREADS:
        raise ValueError(f"this process has {THREADS} threads: XLA takes them at its start")
    c, B, T = r["config"], r["B"], r["T"]
    C, H, V, HD, NH, NKV = c["Dim"], c["HiddenDim"], c["VocabSize"], c["HeadDim"], c["NHeads"], c["NKVHeads"]
    Q, KV, eps, L = NH * HD, NKV * HD, c["NormEps"], c["NLayers"]
    keys = iter(jax.random.split(jax.random.PRNGKey(1), 8))

    def weight(*shape):
        return 0.02 * jax.random.normal(next(keys), shape, jnp.float32)

    # The layers are stacked, and scanned over.
    layers = {"att_norm": jnp.ones((L, C)), "ffn_norm": jnp.ones((L, C)), "wqkv": weight(L, Q + 2 * KV, C),
              "wo": weight(L, C, Q), "w13": weight(L, 2 * H, C), "w2": weight(L, C, H)}
    if c["QKNorm"]:
        layers |= {"q_norm": jnp.ones((L, HD)), "k_norm": jnp.ones((L, HD))}
    params = {"embedding": weight(V, C), "layers": layers, "norm": jnp.ones(C)}
    if not c["Tied"]:
        params["classifier"] = weight(V, C)
    if "path" in r:
        load(params, worker.weights(r["path"]))
    angle = jnp.arange(T)[:, None] * c["RopeTheta"] ** (-jnp.arange(0, HD, 2) / HD)
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]

    def layer(x, l):
        q, k, v = jnp.split(rms_norm(x, l["att_norm"], eps) @ l["wqkv"].T, (Q, Q + KV), -1)
        q, k, v = (t.reshape(B, T, -1, HD) for t in (q, k, v))
        if c["QKNorm"]:
            q, k = rms_norm(q, l["q_norm"], eps), rms_norm(k, l["k_norm"], eps)
        a = jax.nn.dot_product_attention(rope(q, cos, sin), rope(k, cos, sin), v, is_causal=True)
        x = x + a.reshape(B, T, Q) @ l["wo"].T
        gate, up = jnp.split(rms_norm(x, l["ffn_norm"], eps) @ l["w13"].T, 2, -1)
        return x + (jax.nn.silu(gate) * up) @ l["w2"].T, None

    def loss(p, tokens, targets):
        x, _ = jax.lax.scan(layer, p["embedding"][tokens], p["layers"])
        logits = rms_norm(x, p["norm"], eps) @ p.get("classifier", p["embedding"]).T
        lse = jax.nn.logsumexp(logits, -1)
        return jnp.mean(lse - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0])

    matrices = {"embedding": 0.1, "layers": {n: 0.1 if n.startswith("w") else 0.0 for n in layers}, "norm": 0.0, "classifier": 0.1}
    decay = {n: matrices[n] for n in params}

    rate = r.get("rate", 1e-6)

    def step(clip, p, m, v, t, tokens, targets):
        l, g = jax.value_and_grad(loss)(p, tokens, targets)
        norm = 0
        if clip:
            norm = jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree_util.tree_leaves(g)))
            g = jax.tree_util.tree_map(lambda x: x * jnp.minimum(1, 1 / norm), g)
        tree = jax.tree_util.tree_map
        m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = tree(lambda v, g: 0.95 * v + 0.05 * g * g, v, g)
        t = t + 1
        p = tree(lambda p, m, v, d: p - rate * (d * p + m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.95**t)) + 1e-8)), p, m, v, decay)
        return (p, m, v, t), l, norm

    compiled = jax.jit(step, static_argnums=0, donate_argnums=(1, 2, 3))
    zeros = lambda: jax.tree_util.tree_map(jnp.zeros_like, params)
    state = [params, zeros(), zeros(), jnp.float32(0)]
    tokens = jax.random.randint(next(keys), (B, T), 0, V)
    if "tokens" in r:
        tokens = jnp.array(r["tokens"], jnp.int32).reshape(B, T)
    targets = jnp.roll(tokens, -1, 1)

    def run(r):
        state[:], l, norm = compiled(r["clip"], *state, tokens, targets)
        jax.block_until_ready(state)
        return float(l), float(norm)

    return run


# XLA has as many threads as the process may use cores.
THREADS = len(os.sched_getaffinity(0))
worker.serve(lambda: {"version": jax.__version__}, prepare)
