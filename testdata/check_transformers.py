#!/usr/bin/env python3
"""Compares the library with Hugging Face transformers, for TestTransformersAgrees.

    check_transformers.py check DIR...   DIR is a model directory with a
        reference (below): transformers must compute the same.
    check_transformers.py make ROOT [NAME...]   writes random models of
        transformers' own, of every architecture and of odd shapes, ROOT/NAME,
        each with its reference; with names only those.
    check_transformers.py same A B ...   transformers loads the same tensors
        from A and B, bit for bit once they are float32.

    check_transformers.py tokens DIR < QUESTION > ANSWER   what the tokenizer of
        DIR says. {"texts": ["..."], "conversations": [[{"role": "user", "content":
        "..."}...]]}: {"tokens": [[...]] of the texts, "decoded": ["..."] of these,
        "rendered": [["...", "..."]] by the chat template, without and with what
        the answer follows, "rendered_tokens": the same as tokens}.

A reference is beside a model what it computes for a batch: reference.json,
{"tokens": [[...]], "targets": [[...]], "loss": x}, where a target of -100 is
ignored; logits.f32, little-endian, [B,T,V]; and gradient, a model directory
whose weights are the gradient of the loss. Here it is computed in float64 but
where transformers insists on float32: in its norms and rotary angles.

A transformers without Qwen3 (before 4.51, and later ones need a newer PyTorch
than Debian's) is given one: its Llama, with an RMSNorm on every head of q and
k, which is all that Qwen3 changes. The models of checkpoint/testdata, which
newer ones made, hold that against the real one: see there.
"""

import copy
import functools
import json
import os
import pathlib
import random
import sys
import zlib

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

# How far a float32 computation may be away: the largest difference of a logit
# relative to their root mean square, that of the loss relative to the loss,
# and the norm of each gradient's difference relative to the gradient's.
LOGITS, LOSS, GRADIENT = 5e-5, 1e-6, 5e-5

T = 70  # the length of a sequence
WEIGHTS = "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


REAL_QWEN3 = hasattr(transformers, "Qwen3ForCausalLM")


class Qwen3(LlamaForCausalLM):
    """Qwen3 made of a Llama, from Qwen3's config. Its parameters have Qwen3's names."""

    def __init__(self, config):
        super().__init__(LlamaConfig(**{k: v for k, v in config.items() if k not in ("model_type", "architectures")}))
        self.qwen3_config = config
        for layer in self.model.layers:
            a = layer.self_attn
            for name, proj in (("q_norm", a.q_proj), ("k_norm", a.k_proj)):
                norm = LlamaRMSNorm(a.head_dim, config["rms_norm_eps"])
                setattr(a, name, norm)
                proj.register_forward_hook(lambda _module, _inputs, out, norm=norm: norm(
                    out.unflatten(-1, (-1, norm.weight.numel()))).flatten(-2))

    def save_pretrained(self, directory, **options):
        super().save_pretrained(directory, **options)
        (directory / "config.json").write_text(json.dumps(self.qwen3_config))


def tensors_of(directory):
    tensors = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors.update(load_file(path))
    return tensors


def load(directory):
    config = json.loads((directory / "config.json").read_text())
    if config["model_type"] == "qwen3" and not REAL_QWEN3:
        model = Qwen3(config)
        tensors = tensors_of(directory)
        if config["tie_word_embeddings"]:
            tensors[HEAD] = tensors[EMBEDDING]
        model.load_state_dict(tensors)  # strict; copies into float32
        return model.eval()
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, torch_dtype=torch.float32, output_loading_info=True)
    # transformers only warns when it makes up a weight or leaves one out
    bad = {k: v for k, v in info.items() if v}
    assert not bad, f"{directory}: {bad}"
    return model.eval()


def compute(model, tokens, targets):
    """Logits, loss and gradient, by the parameters' names."""
    model = model.double()
    logits = model(torch.tensor(tokens), use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), torch.tensor(targets).flatten(), ignore_index=-100)
    loss.backward()
    return logits.detach(), loss.item(), {name: p.grad for name, p in model.named_parameters()}


def check(directory):
    want = json.loads((directory / "reference.json").read_text())
    model = load(directory)
    logits, loss, gradient = compute(model, want["tokens"], want["targets"])
    theirs = torch.from_numpy(numpy.fromfile(directory / "logits.f32", "<f4")).double()
    assert theirs.numel() == logits.numel(), f"{directory}: {theirs.numel()} logits, want {list(logits.shape)}"
    scale = logits.pow(2).mean().sqrt().item()
    worst = (logits.flatten() - theirs).abs().max().item() / scale
    of_loss = abs(want["loss"] / loss - 1)
    g = tensors_of(directory / "gradient")
    assert g.keys() == gradient.keys(), f"{directory}: gradients of {sorted(g.keys() ^ gradient.keys())} are only in one"
    of_gradient, name = max(((g[k].double() - v).norm().item() / v.norm().item(), k) for k, v in gradient.items())
    print(f"{directory.name}: {type(model).__name__}, {logits.numel()} logits of RMS {scale:.2f} within {worst:.2g} of it, "
          f"loss {loss:.4f} within {of_loss:.2g}, {len(g)} gradients within {of_gradient:.2g} ({name})")
    return worst <= LOGITS and of_loss <= LOSS and of_gradient <= GRADIENT  # false for NaN too


def models():
    """Name, model, the type its weights are saved as and the size of a file."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    shape = dict(vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=3,
                 num_attention_heads=4, max_position_embeddings=96, bos_token_id=None, eos_token_id=None)
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=16)
    linear = dict(rope_type="linear", factor=2.5)

    def config(defaults, more):
        return copy.deepcopy({**shape, **defaults, **more})  # transformers writes into rope_scaling

    def llama(**more):
        return LlamaForCausalLM(LlamaConfig(**config({}, more)))

    def mistral(**more):
        return MistralForCausalLM(MistralConfig(**config({"sliding_window": None}, more)))

    def qwen2(**more):
        return Qwen2ForCausalLM(Qwen2Config(**config({}, more)))

    def qwen3(**more):
        c = config({"num_key_value_heads": 2, "head_dim": 12, "rope_theta": 1000000.0}, more)
        if REAL_QWEN3:
            return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**c))
        return Qwen3({"rms_norm_eps": 1e-6, "rope_scaling": None, "tie_word_embeddings": False, "hidden_act": "silu",
                      "attention_bias": False, "use_sliding_window": False, "torch_dtype": "float32",
                      "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **c})

    yield "mha_untied", llama(), f32, None
    yield "gqa_tied", llama(num_key_value_heads=2, tie_word_embeddings=True, rope_theta=500.0), f32, None
    yield "mqa_head_dim", llama(num_key_value_heads=1, head_dim=12, rms_norm_eps=1e-5), f32, None
    yield "small_heads", llama(hidden_size=48, num_key_value_heads=2, head_dim=6), f32, None
    yield "odd_sizes", llama(vocab_size=67, hidden_size=33, intermediate_size=41, num_hidden_layers=1,
                             num_attention_heads=3, num_key_value_heads=1, head_dim=10), f32, None
    if int(transformers.__version__.split(".")[0]) < 5:  # which wants a multiple of the heads, whatever head_dim is
        yield "hidden_size_of_no_heads", llama(hidden_size=39, head_dim=8), f32, None
    yield "wider_than_tiles", llama(vocab_size=517, hidden_size=136, intermediate_size=200, num_hidden_layers=2,
                                    num_attention_heads=8, num_key_value_heads=2, head_dim=34), f32, None
    yield "llama3_rope", llama(num_key_value_heads=2, head_dim=16, rope_scaling=llama3), f32, None
    yield "linear_rope", llama(rope_scaling=linear), f32, None
    yield "bf16", llama(), bf16, None
    yield "f16", llama(), f16, None
    yield "sharded", llama(num_key_value_heads=2), f32, "20KB"
    yield "sharded_bf16_tied", llama(tie_word_embeddings=True, rope_scaling=llama3), bf16, "9KB"
    yield "mistral", mistral(num_key_value_heads=2, head_dim=12), f32, None
    yield "mistral_in_its_window", mistral(num_key_value_heads=2, sliding_window=T), f32, None
    yield "mistral_sharded_f16", mistral(num_key_value_heads=1), f16, "10KB"
    yield "qwen2", qwen2(num_key_value_heads=2), f32, None
    yield "qwen2_tied", qwen2(num_key_value_heads=2, tie_word_embeddings=True), f32, None
    yield "qwen2_sharded_bf16", qwen2(num_key_value_heads=4), bf16, "10KB"
    yield "qwen3", qwen3(tie_word_embeddings=True), f32, None
    yield "qwen3_untied_mha_bf16", qwen3(num_key_value_heads=4, head_dim=6), bf16, None

    small = dict(vocab_size=31, hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_key_value_heads=2)
    yield "small_qwen3", qwen3(**small, head_dim=8, tie_word_embeddings=True), f32, None
    yield "small_llama3_sharded", llama(**small, rope_scaling=llama3, rope_theta=300.0), f32, "20KB"

    if hasattr(transformers, "SmolLM3ForCausalLM"):
        yield "small_smollm3", transformers.SmolLM3ForCausalLM(transformers.SmolLM3Config(
            **config(small, dict(no_rope_layers=[1, 1], tie_word_embeddings=True, pad_token_id=None)))), f32, None

    r = random.Random(6)
    for n, make in enumerate([llama, mistral, qwen2, qwen3] * 3):
        heads = r.choice([1, 2, 3, 4, 6])
        kind = r.choice([(f32, None), (f16, None), (bf16, None), (f32, "15KB")])
        yield f"drawn_{n}_{make.__name__}", make(
            vocab_size=r.randint(7, 150), hidden_size=heads * r.randint(2, 24), intermediate_size=r.randint(1, 90),
            num_hidden_layers=r.randint(1, 4), num_attention_heads=heads,
            num_key_value_heads=r.choice([k for k in range(1, heads + 1) if heads % k == 0]),
            head_dim=2 * r.randint(1, 14), rope_theta=r.choice([100.0, 10000.0, 5e5]),
            rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]), tie_word_embeddings=r.random() < 0.5,
            rope_scaling=r.choice([None, linear, llama3])), *kind


def randomize(model):
    """As transformers starts a model, norms are 1, biases 0 and logits tiny."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.normal_(std=1.2 / max(model.config.hidden_size, 16) ** 0.5)
            if "norm" in key:
                p.add_(1)


def make(root, names):
    for name, model, dtype, shard in models():
        if names and name not in names:
            continue
        torch.manual_seed(zlib.crc32(name.encode()))
        randomize(model)
        model.to(dtype).save_pretrained(root / name, **({} if shard is None else dict(max_shard_size=shard)))
        assert (shard is None) == (root / name / WEIGHTS).exists(), f"{name}: not in files of {shard}"
        write(root / name, batch(model.config.vocab_size))


def batch(vocabulary):
    """Random tokens and targets, of which every third of the second row is ignored."""
    tokens, targets = torch.randint(0, vocabulary, (2, 2, T))
    targets[1, ::3] = -100
    return tokens.tolist(), targets.tolist()


def write(directory, batch):
    """The reference of a model directory."""
    logits, loss, gradient = compute(load(directory), *batch)
    (directory / "reference.json").write_text(json.dumps(dict(tokens=batch[0], targets=batch[1], loss=loss)))
    logits.numpy().astype("<f4").tofile(directory / "logits.f32")
    (directory / "gradient").mkdir()
    config = json.loads((directory / "config.json").read_text())
    (directory / "gradient" / "config.json").write_text(json.dumps(config))
    save_file({k: v.float() for k, v in gradient.items()}, directory / "gradient" / WEIGHTS)


@functools.lru_cache(1)
def loaded(directory):
    return load(directory).state_dict()


def same(a, b):
    x, y = loaded(a), load(b).state_dict()
    missing = sorted(x.keys() ^ y.keys())
    other = sorted(k for k in x.keys() & y.keys()
                   if x[k].shape != y[k].shape or x[k].numpy().tobytes() != y[k].numpy().tobytes())
    if missing or other:
        print(f"{a.name}: only in one: {missing}; not the same: {other}")
    return not missing and not other


def tokens(directory):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    question = json.load(sys.stdin)
    ids = [tokenizer(t).input_ids for t in question["texts"]]
    answer = dict(tokens=ids, decoded=[tokenizer.decode(t) for t in ids], rendered=[], rendered_tokens=[])
    for c in question["conversations"]:
        for tokenize, key in (False, "rendered"), (True, "rendered_tokens"):
            answer[key].append([tokenizer.apply_chat_template(
                c, tokenize=tokenize, add_generation_prompt=prompt) for prompt in (False, True)])
    json.dump(answer, sys.stdout)
    return True


def main(command, *args):
    paths = [pathlib.Path(a) for a in args]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}", file=sys.stderr)
    if command == "tokens" and len(paths) == 1:
        return tokens(paths[0])
    if command == "check" and paths:
        return all([check(p) for p in paths])
    if command == "make" and paths:
        make(paths[0], args[1:])
        return True
    if command == "same" and paths and len(paths) % 2 == 0:
        return all([same(a, b) for a, b in zip(paths[::2], paths[1::2])])
    sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
