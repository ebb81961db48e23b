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
reference.py small DIR CORPUS
    Makes small models of every kind, DIR/NAME/tokenizer.json or .model,
    trained on the records of CORPUS.
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


def train_bpe(texts, vocab, min_frequency, special):
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=min_frequency, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def train(corpus, vocab, min_frequency, out, *special):
    train_bpe((b.decode() for b in records(corpus)), int(vocab), int(min_frequency), list(special)).save(out)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def small(dir, corpus):
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    texts = [b.decode("utf-8", "replace") for b in records(corpus)]

    def save(name, t):
        os.makedirs(f"{dir}/{name}")
        t.save(f"{dir}/{name}/tokenizer.json")

    # Byte-level, with every component that may be there.
    t = train_bpe(texts, 1000, 0, ["<|endoftext|>"])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken(" r", rstrip=True, normalized=False), "don", "donkey"])
    save("prefix_space", t)
    t = train_bpe(texts, 1000, 0, ["<|endoftext|>"])
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "removed", invert=True),
        pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.add_tokens([AddedToken("e\u0301", normalized=True), AddedToken("o\u0308", normalized=False), AddedToken(" \n", lstrip=True, rstrip=True)])
    t.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    save("nfc", t)
    t = train_bpe([x[:2000] for x in texts], 600, 0, ["<|endoftext|>"])
    j = json.loads(t.to_str())
    j["model"]["ignore_merges"] = True
    for c in "\u0120a", "zqzqz", "0000":  # whole words that merging does not make
        j["model"]["vocab"].setdefault(c, len(j["model"]["vocab"]))
    save("ignore_merges", Tokenizer.from_str(json.dumps(j)))

    # Characters, with and without bytes, as sentencepiece's were converted.
    for name, fallback, fuse in ("chars", False, False), ("chars_fused", False, True), ("chars_bytes", True, True):
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        t.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=1500, limit_alphabet=300, show_progress=False,
            special_tokens=["<unk>", "<s>"] + [f"<0x{i:02X}>" for i in range(256)] * fallback))
        j = json.loads(t.to_str())
        j["added_tokens"] = j["added_tokens"][:2]
        t = Tokenizer.from_str(json.dumps(j))
        metaspace = {"chars": ("first", False), "chars_fused": ("never", True), "chars_bytes": ("first", True)}[name]
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace[0], split=metaspace[1])
        t.decoder = decoders.Metaspace(prepend_scheme=metaspace[0])
        if fallback:
            t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        save(name, t)

    import sentencepiece

    # The library wants room for most characters: few that are not ASCII.
    lines = [l for x in texts for l in x.split("\n") if sum(c > "\x7f" for c in l) < len(l) / 10][:20000]

    def piece(name, **options):
        os.makedirs(f"{dir}/{name}")
        with open(f"{dir}/{name}/tokenizer.model", "wb") as f:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=f,
                minloglevel=2, **{"character_coverage": 0.995} | options, max_sentence_length=1 << 20, num_threads=1, hard_vocab_limit=False)

    piece("unigram", model_type="unigram", vocab_size=1000)
    piece("unigram_bytes", model_type="unigram", vocab_size=1200, byte_fallback=True, normalization_rule_name="identity",
          remove_extra_whitespaces=False, character_coverage=0.98, user_defined_symbols=["<sep>", "don", "\u2581I", "\u30fc\u30fc"])
    piece("unigram_nfkc", model_type="unigram", vocab_size=1000, normalization_rule_name="nfkc_cf", add_dummy_prefix=False,
          split_by_whitespace=False, control_symbols=["<pad>"], unk_surface="?")
    piece("bpe", model_type="bpe", vocab_size=2000)
    piece("bpe_bytes", model_type="bpe", vocab_size=2000, byte_fallback=True, normalization_rule_name="identity",
          remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True, character_coverage=0.98,
          user_defined_symbols=["<sep>", "don", "\u2581I", "\n\n"])
    piece("bpe_spaces", model_type="bpe", vocab_size=2000, split_by_whitespace=False, normalization_rule_name="nfkc",
          add_dummy_prefix=False)
    # One in eight of the tokens unused.
    for name in "bpe", "unigram":
        out, n = b"", 0
        data = open(f"{dir}/{name}/tokenizer.model", "rb").read()
        while data:
            if data[0] != 0x0A:  # after the pieces
                out += data
                break
            size, head = data[1], 2
            assert size < 128
            body, data = data[head:head + size], data[head + size:]
            n += 1
            if n > 10 and n % 8 == 0:
                body += b"\x18\x05"
            out += bytes([0x0A, len(body)]) + body
        os.makedirs(f"{dir}/{name}_unused")
        open(f"{dir}/{name}_unused/tokenizer.model", "wb").write(out)


COMMANDS = {"encode": encode, "train": train, "small": small}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
