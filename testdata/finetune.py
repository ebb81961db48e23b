#!/usr/bin/env python3
"""Fine-tunes a model on batches that examples/finetune wrote, in plain PyTorch.

    finetune.py DIR TRACE CLIP

DIR is the model directory that the run began with, TRACE the file of -trace:
a line of JSON for each step, with its batches and its learning rate. Prints
{"losses": [...], "norms": [...]}, before each update and before clipping.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()


def main(directory, trace, clip):
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).train()
    # transformers withholds the gradient of the pad token's embedding, which in
    # SmolLM2 is the token that ends a turn: here it is that of the loss.
    model.get_input_embeddings().padding_idx = None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms = [], []
    for line in open(trace):
        step = json.loads(line)
        batches = [(torch.tensor(b["tokens"]).view(b["B"], b["T"]), torch.tensor(b["targets"])) for b in step["batches"]]
        learned = sum((targets >= 0).sum().item() for _, targets in batches)
        optimizer.zero_grad()
        total = 0.0
        for tokens, targets in batches:
            logits = model(tokens).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / learned
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), float(clip)).item())
        losses.append(total)
        for group in optimizer.param_groups:
            group["lr"] = step["lr"]
        optimizer.step()
    print(json.dumps(dict(losses=losses, norms=norms)))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
