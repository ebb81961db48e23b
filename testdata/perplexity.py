#!/usr/bin/env python3
"""The loss of a text under a model, computed with transformers alone.

    perplexity.py DIR TEXT CONTEXT STRIDE

Windows of CONTEXT tokens begin STRIDE tokens apart; each counts the predictions
that the one before did not make. Prints {"tokens": n, "bytes": n, "loss": x,
"perplexity": x, "bits_per_byte": x}, as examples/eval -json does.
"""

import json
import math
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()


@torch.no_grad()
def main(directory, text, context, stride):
    context, stride = int(context), int(stride)
    text = pathlib.Path(text).read_bytes().decode()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    nats, done = 0.0, 0  # predictions made
    for begin in range(0, len(ids), stride):
        window = ids[begin : begin + context + 1]
        new = begin + len(window) - 1 - done
        if new <= 0:
            break
        logits = model(window[None, :-1]).logits[0, -new:]
        losses = torch.nn.functional.cross_entropy(logits, window[-new:], reduction="none")
        nats += losses.double().sum().item()
        done += new
    unpredicted = tokenizer.decode(ids[:1], skip_special_tokens=True)
    size = len(text.encode()) - len(unpredicted.encode())
    loss = nats / done
    print(json.dumps(dict(tokens=done, bytes=size, loss=loss, perplexity=math.exp(loss),
                          bits_per_byte=nats / math.log(2) / size)))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
