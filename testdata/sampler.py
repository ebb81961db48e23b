#!/usr/bin/env python3
"""Prints sampler.json: the probabilities that transformers' generate
draws by, for options and logits, by the logits processors and in the order that
it puts them together itself. Needs what .ci/requirements.txt lists.
"""

import itertools
import json
import sys

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

V = 24
rng = np.random.default_rng(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=V, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1))

cases = []
for penalty, temperature, k, p, m in itertools.product((1.0, 1.3, 0.7), (0.4, 1.0, 1.7), (0, 7), (1.0, 0.8, 0.3), (0.0, 0.05, 0.4)):
    logits = np.round(rng.normal(size=V) * 3, 3).astype(np.float32)
    before = rng.integers(0, V, size=9).tolist()
    config = GenerationConfig(do_sample=True, repetition_penalty=penalty, temperature=temperature, top_k=k, top_p=p, min_p=m or None)
    model._prepare_special_tokens(config, True, device="cpu")
    ids = torch.tensor([before])
    processors = model._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(before), encoder_input_ids=ids, prefix_allowed_tokens_fn=None, logits_processor=[])
    scores = processors(ids, torch.tensor(logits[None]))
    cases.append({
        "options": {"RepetitionPenalty": penalty, "Temperature": temperature, "TopK": k, "TopP": p, "MinP": m},
        "logits": [round(float(x), 3) for x in logits],
        "before": before,
        "p": [round(float(x), 6) for x in torch.softmax(scores[0].double(), -1)],
    })

print("[" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "]")
