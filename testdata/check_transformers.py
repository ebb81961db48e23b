#!/usr/bin/env python3
"""Compares the library with Hugging Face transformers, for TestTransformersAgrees.

    check_transformers.py check DIR...   DIR is a model directory with a
        logits.json of the same tokens' logits: transformers, in float32, must
        compute logits that differ by at most 1e-4.
    check_transformers.py make ROOT      writes random models of transformers'
        own, ROOT/NAME, each with its logits.json.
    check_transformers.py same A B ...   the model files of A and B have the
        same tensors, bit for bit once they are float32.

logits.json is {"tokens": [[...]], "logits": [...]}: tokens [B,T], logits
[B,T,V] flattened.

A transformers without Qwen3 (before 4.51, and later ones need a newer PyTorch
than Debian's) is given one: its Llama, with an RMSNorm on every head of q and
k, which is all that Qwen3 changes.
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

TOLERANCE = 1e-4
WEIGHTS = "model.safetensors"
NORMS = (".q_norm.weight", ".k_norm.weight")

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def llama_with_head_norms(config, norms):
    """Qwen3 made of a Llama, its weights unset but the norms'."""
    llama = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    model = LlamaForCausalLM(LlamaConfig(**llama))
    for i, layer in enumerate(model.model.layers):
        a = layer.self_attn
        for name, proj in (("q_norm", a.q_proj), ("k_norm", a.k_proj)):
            weight = norms.pop(f"model.layers.{i}.self_attn.{name}.weight")
            assert weight.shape == (a.head_dim,), f"layer {i}, {name}: {list(weight.shape)}, want [{a.head_dim}]"

            def norm(_module, _inputs, out, weight=weight):
                heads = out.unflatten(-1, (-1, weight.numel()))
                variance = heads.pow(2).mean(-1, keepdim=True)
                return (weight * heads * torch.rsqrt(variance + config["rms_norm_eps"])).flatten(-2)

            proj.register_forward_hook(norm)
    assert not norms, f"norms of no layer: {list(norms)}"
    return model


def load(directory):
    config = json.loads((directory / "config.json").read_text())
    if config["model_type"] == "qwen3" and not hasattr(transformers, "Qwen3ForCausalLM"):
        tensors = {k: v.float() for k, v in load_file(directory / WEIGHTS).items()}
        norms = {k: tensors.pop(k) for k in list(tensors) if k.endswith(NORMS)}
        model = llama_with_head_norms(config, norms)
        if config["tie_word_embeddings"]:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        model.load_state_dict(tensors)
        return model.eval()
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, output_loading_info=True)
    # transformers only warns when it makes up a weight or leaves one out
    bad = {k: v for k, v in info.items() if v}
    assert not bad, f"{directory}: {bad}"
    return model.eval()


@torch.no_grad()
def logits_of(model, tokens):
    return model(torch.tensor(tokens)).logits


def check(directory):
    want = json.loads((directory / "logits.json").read_text())
    model = load(directory)
    ours = logits_of(model, want["tokens"])
    theirs = torch.tensor(want["logits"], dtype=torch.float32)
    assert theirs.numel() == ours.numel(), f"{directory}: {theirs.numel()} logits, want {list(ours.shape)}"
    worst = (ours.flatten() - theirs).abs().max().item()
    print(f"{directory.name}: {type(model).__name__}, {ours.numel()} logits of standard deviation "
          f"{ours.std().item():.2f}, max |difference| {worst:.2g}")
    return worst <= TOLERANCE  # false for NaN too


def models():
    """Name, model and the type its weights are saved as."""
    shape = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=3,
                 num_attention_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=None)
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=16)
    yield "mha_untied", LlamaForCausalLM(LlamaConfig(**shape)), torch.float32
    yield "gqa_tied", LlamaForCausalLM(LlamaConfig(
        **shape, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=500.0)), torch.float32
    yield "mqa_head_dim", LlamaForCausalLM(LlamaConfig(
        **shape, num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-5)), torch.float32
    yield "llama3_rope", LlamaForCausalLM(LlamaConfig(
        **shape, num_key_value_heads=2, rope_scaling=llama3)), torch.float32
    yield "linear_rope", LlamaForCausalLM(LlamaConfig(
        **shape, rope_scaling=dict(rope_type="linear", factor=2.0))), torch.float32
    yield "bf16", LlamaForCausalLM(LlamaConfig(**shape)), torch.bfloat16
    yield "f16", LlamaForCausalLM(LlamaConfig(**shape)), torch.float16
    yield "qwen2", Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=2)), torch.float32
    yield "qwen2_tied", Qwen2ForCausalLM(Qwen2Config(
        **shape, num_key_value_heads=2, tie_word_embeddings=True)), torch.float32


@torch.no_grad()
def make(root):
    torch.manual_seed(1)
    tokens = torch.randint(0, 61, (2, 33)).tolist()
    for name, model, dtype in models():
        # as transformers starts a model, norms are 1, biases 0 and logits tiny
        for key, p in model.named_parameters():
            p.normal_(std=0.2)
            if "norm" in key:
                p.add_(1)
        model.to(dtype).save_pretrained(root / name)
        write(root / name, tokens, logits_of(load(root / name), tokens))
    make_qwen3(root / "qwen3", tokens)


def make_qwen3(directory, tokens):
    """What Qwen3ForCausalLM.save_pretrained writes, from its documented names."""
    config = dict(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False, hidden_act="silu",
        vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=64, rms_norm_eps=1e-6,
        rope_theta=1000000.0, rope_scaling=None, tie_word_embeddings=True, use_sliding_window=False,
        torch_dtype="float32")
    norms = {f"model.layers.{i}.self_attn.{n}_norm.weight": 1 + 0.2 * torch.randn(12)
             for i in range(2) for n in "qk"}
    model = llama_with_head_norms(config, dict(norms))
    for key, p in model.named_parameters():
        p.normal_(std=0.2)
        if "norm" in key:
            p.add_(1)
    tensors = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({**tensors, **norms}, directory / WEIGHTS, metadata={"format": "pt"})
    write(directory, tokens, logits_of(load(directory), tokens))


def write(directory, tokens, logits):
    (directory / "logits.json").write_text(json.dumps(dict(tokens=tokens, logits=logits.flatten().tolist())))


def same(a, b):
    x, y = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    missing = sorted(x.keys() ^ y.keys())
    other = sorted(k for k in x.keys() & y.keys()
                   if x[k].shape != y[k].shape or not torch.equal(x[k].float(), y[k].float()))
    if missing or other:
        print(f"{a.name}: only in one: {missing}; not the same: {other}")
    return not missing and not other


def main(command, *paths):
    paths = [pathlib.Path(p) for p in paths]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    if command == "check" and paths:
        return all([check(p) for p in paths])
    if command == "make" and len(paths) == 1:
        make(paths[0])
        return True
    if command == "same" and paths and len(paths) % 2 == 0:
        return all([same(a, b) for a, b in zip(paths[::2], paths[1::2])])
    sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
