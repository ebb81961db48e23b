#!/usr/bin/env python3
"""What Python's tokenizers and sentencepiece make of texts; for tests only.

reference.py encode MODEL TEXTS IDS [plain]
    Encodes each of TEXTS with MODEL, a tokenizer.json or a sentencepiece
    model, and writes the ids, and of a tokenizer.json also what they decode
    to. plain: special tokens in the text are text. Both files are sequences of
    records, a little-endian 32-bit length and that many bytes; a record of
    ids has 4 bytes an id.
reference.py train CORPUS VOCAB MINFREQ OUT [SPECIAL...]
    Trains byte-level BPE on the records of CORPUS.
reference.py small DIR
    Makes small models of every kind in DIR.
reference.py tables
    Prints unicode_table.go: the classes of code points that tokenizers knows.
"""
import json
import os
import struct
import sys


def records(path):
    with open(path, "rb") as f:
        while head := f.read(4):
            yield f.read(struct.unpack("<I", head)[0])


def put(f, b):
    f.write(struct.pack("<I", len(b)))
    f.write(b)


def encode(model, texts, out, plain=""):
    if model.endswith(".json"):
        from tokenizers import Tokenizer

        t = Tokenizer.from_file(model)
        t.no_truncation()
        t.no_padding()
        t.encode_special_tokens = plain == "plain"
        ids = lambda b: t.encode(b.decode("utf-8"), add_special_tokens=False).ids
        text = lambda i: t.decode(i, skip_special_tokens=False).encode()
    else:
        from sentencepiece import SentencePieceProcessor

        t = SentencePieceProcessor(model_file=model)
        ids = t.encode
        text = lambda i: t.decode(i).encode()
    with open(out, "wb") as f:
        for b in records(texts):
            i = ids(b)
            put(f, struct.pack(f"<{len(i)}i", *i))
            put(f, text(i))


COMMANDS = {"encode": encode}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
