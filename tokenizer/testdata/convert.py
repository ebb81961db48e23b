#!/usr/bin/env python3
"""Makes tokenizer.json of what fetch.sh found in other formats: GPT-2's ranks,
and SmolLM2's in its GGUF, with the components that those models' files on
the hub have. convert.py DIR"""
import base64
import json
import os
import struct
import sys

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def alphabet():
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in kept]
    return {b: chr(b) for b in kept} | {b: chr(256 + n) for n, b in enumerate(rest)}


def write(path, vocab, merges, added, pre_tokenizer, special=True):
    token = lambda id, content: {"id": id, "content": content, "single_word": False, "lstrip": False,
                                 "rstrip": False, "normalized": False, "special": special}
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"version": "1.0", "truncation": None, "padding": None,
                   "added_tokens": [token(i, c) for i, c in added],
                   "normalizer": None, "pre_tokenizer": pre_tokenizer,
                   "post_processor": BYTE_LEVEL, "decoder": BYTE_LEVEL,
                   "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                             "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                             "vocab": vocab, "merges": merges}}, f, ensure_ascii=False)


def gpt2(dir):
    ranks = {}
    for line in open(f"{dir}/r50k_base.tiktoken"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letters = alphabet()
    spell = lambda b: "".join(letters[c] for c in b)
    merges = []
    for token in sorted(ranks, key=ranks.get):
        if len(token) == 1:
            continue
        parts = [bytes([c]) for c in token]  # merged by the tokens of lower rank
        while len(parts) > 2:
            pairs = [(ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b != token]
            _, i = min(pairs)
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        merges.append(f"{spell(parts[0])} {spell(parts[1])}")
    vocab = {spell(t): r for t, r in ranks.items()}
    end = len(vocab)
    write(f"{dir}/tokenizer.json", vocab | {"<|endoftext|>": end}, merges, [(end, "<|endoftext|>")], BYTE_LEVEL)


def gguf_metadata(path):
    f = open(path, "rb")
    read = lambda fmt: struct.unpack("<" + fmt, f.read(struct.calcsize("<" + fmt)))[0]
    string = lambda: f.read(read("Q")).decode("utf-8")

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            kind, n = read("I"), read("Q")
            return [value(kind) for _ in range(n)]
        return read("BbHhIif?xxQqd"[kind])

    assert f.read(4) == b"GGUF" and read("I") == 3
    read("Q")
    return {string(): value(read("I")) for _ in range(read("Q"))}


def smollm2(dir):
    m = gguf_metadata(f"{dir}/model.gguf")
    tokens, types = m["tokenizer.ggml.tokens"], m["tokenizer.ggml.token_type"]
    assert m["tokenizer.ggml.pre"] == "smollm"
    write(f"{dir}/tokenizer.json", {t: i for i, t in enumerate(tokens)}, m["tokenizer.ggml.merges"],
          [(i, t) for i, t in enumerate(tokens) if types[i] == 3],
          {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]})
    with open(f"{dir}/gguf.json", "w", encoding="utf-8") as f:
        json.dump({k: v for k, v in m.items() if k.startswith("tokenizer.")}, f)


if __name__ == "__main__":
    for make in gpt2, smollm2:
        dir = os.path.join(sys.argv[1], make.__name__)
        if not os.path.exists(os.path.join(dir, "tokenizer.json")):
            make(dir)
