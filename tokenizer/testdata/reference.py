#!/usr/bin/env python3
"""What Python's tokenizers and sentencepiece make of texts; for tests only.

reference.py encode MODEL TEXTS IDS [plain]
    Encodes each of TEXTS with MODEL, a tokenizer.json or a sentencepiece
    model, and writes the ids, and of a tokenizer.json also what they decode
    to. plain: special tokens in the text are text. Both files are sequences of
    records, a little-endian 32-bit length and that many bytes; a record of
    ids has 4 bytes an id.
reference.py offsets MODEL TEXTS ENDS
    Writes where each token ends, in bytes of the text.
reference.py train CORPUS VOCAB MINFREQ OUT [SPECIAL...]
    Trains byte-level BPE on the records of CORPUS.
reference.py small DIR CORPUS
    Makes small models of every kind, DIR/NAME/tokenizer.json or .model,
    trained on the records of CORPUS.
reference.py golden DIR
    Makes the small models and golden.json that are committed.
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


def offsets(model, texts, out):
    if model.endswith(".json"):
        from tokenizers import Tokenizer, processors

        t = Tokenizer.from_file(model)
        t.post_processor = processors.Sequence([])  # ByteLevel trims spaces off
        chars = lambda x: [end for _, end in t.encode(x, add_special_tokens=False).offsets]
    else:
        from sentencepiece import SentencePieceProcessor

        t = SentencePieceProcessor(model_file=model)
        chars = lambda x: [p.end for p in t.encode(x, out_type="immutable_proto").pieces]
    with open(out, "wb") as f:
        for b in records(texts):
            x = b.decode("utf-8")
            at = [0]
            for c in x:
                at.append(at[-1] + len(c.encode()))
            ends = [at[c] for c in chars(x)]
            put(f, struct.pack(f"<{len(ends)}i", *ends))


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


TEXTS = [
    "", " ", "  ", "\n", "a", " a", "Hello, world!", " Hello  world ", "don't I'M we'Ll it's '\u017f x''s 'D 're'RE",
    "tabs\t\tand\r\nlines\r\r\n\n  \n x", "trailing   ", "   leading", "a   b    c", "\u00a0a\u00a0\u00a0b\u3000\u2003c\u0085d",
    "0 12 345 6789 12345678 x1y22 3.14 \u0663\u096a \u2167\u00bd\u00b2 \U0001d7d8", "if (x != y) { return f(a[i], \"b\"); } // done",
    "foo_bar-baz/qux\\quux@example.com <b>#&*</b> ===---===", "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f", "e\u0301 o\u0323\u0308 a\u0308\u0323 \u1100\u1161\u11a8 \u212b\u2126 \u0344",
    "e" + "".join(chr(0x300 + i % 0x45) for i in range(80)) + "x", "caf\u00e9 na\u00efve \u0441\u043b\u043e\u0432\u0430 \u03bb\u03cc\u03b3\u03bf\u03c2 \u0628\u064e",
    "<|endoftext|>a<|endoftext|> <|endoftext|>", "<s>x</s> <unk> <0x0A> <sep>a <sep> <mask>", "\u2581 \u2581\u2581a \u2581b", "\ufffd\ufffd \x00\x01\x7f \u0378\U000e0001\U0010ffff",
    "\u1c89\ua7cb\U00010d40\U00010d4a\U000105c0 letters and digits of Unicode 16", "\U00011935\U00011930 composes since Unicode 13",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 3, "the of the and of the in that of",
    " " * 300 + "x" + "\n" * 300, "abcdefghijklmnopqrstuvwxyz" * 20,
]


def golden(dir):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    import sentencepiece

    corpus = open(__file__, encoding="utf-8").read().split("\n") + TEXTS[:28] * 4
    out = []

    def add(name, encode, decode, plain=None):
        cases = []
        for text in TEXTS:
            ids = encode(text)
            cases.append({"text": text, "ids": ids, "decoded": decode(ids)} | ({"plain": plain(text)} if plain else {}))
        out.append({"file": name, "cases": cases})

    def add_json(name, t):
        t.save(f"{dir}/{name}.json", pretty=False)

        def plain(text):
            t.encode_special_tokens = True
            ids = t.encode(text, add_special_tokens=False).ids
            t.encode_special_tokens = False
            return ids

        add(f"{name}.json", lambda x: t.encode(x, add_special_tokens=False).ids,
            lambda i: t.decode(i, skip_special_tokens=False), plain)

    bytes_only = lambda: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda p: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated"), bytes_only()])
    for name, pre in (
        ("gpt-2", pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ("llama-bpe", split(LLAMA3)),
        ("qwen2", split(LLAMA3.replace("{1,3}", ""))),
        ("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
    ):
        t = train_bpe(corpus, 420, 0, ["<|endoftext|>"])
        t.pre_tokenizer = pre
        if name == "llama-bpe":
            t.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
            j = json.loads(t.to_str())
            j["model"]["ignore_merges"] = True
            t = Tokenizer.from_str(json.dumps(j))
        if name == "qwen2":
            t.normalizer = normalizers.NFC()
        add_json(name, t)
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=600, limit_alphabet=80, show_progress=False, special_tokens=[
        "<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    add_json("llama2", t)

    ascii = [l for l in corpus if sum(c > "\x7f" for c in l) <= len(l) / 20]
    with open(f"{dir}/rules.tsv", "w") as f:  # a small charsmap
        f.write("41\t61\n42\t62\nFF0C\t2C\n212B\tC5\n65 301\tE9\n9\t20\nA0\t20\n3000\t20\n2764 FE0F\t3C 33\n")
    for name, options in {
        "unigram": dict(model_type="unigram", vocab_size=300, normalization_rule_tsv=f"{dir}/rules.tsv",
                        user_defined_symbols=["<sep>", "don"]),
        "spbpe": dict(model_type="bpe", vocab_size=560, byte_fallback=True, normalization_rule_name="identity",
                      remove_extra_whitespaces=False),
    }.items():
        with open(f"{dir}/{name}.model", "wb") as f:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(ascii), model_writer=f, minloglevel=2, character_coverage=0.98, num_threads=1,
                hard_vocab_limit=False, **options)
        sp = sentencepiece.SentencePieceProcessor(model_file=f"{dir}/{name}.model")
        add(f"{name}.model", sp.encode, sp.decode)
        if name == "spbpe":  # as llama2.c's tokenizer.py exports it
            pieces = [sp.id_to_piece(i) for i in range(sp.vocab_size())]
            pieces[1], pieces[2] = "\n<s>\n", "\n</s>\n"
            pieces = [p.replace("\u2581", " ").encode() for p in pieces]
            with open(f"{dir}/llama2c.bin", "wb") as f:
                f.write(struct.pack("<I", max(map(len, pieces))))
                for i, p in enumerate(pieces):
                    f.write(struct.pack("<fI", sp.get_score(i), len(p)) + p)
    os.remove(f"{dir}/rules.tsv")
    with open(f"{dir}/golden.json", "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


def tables():
    """The classes as the patterns see them; of the normalizer, what its version of Unicode changes."""
    import unicodedata
    from tokenizers import Regex, __version__, normalizers, pre_tokenizers

    all = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]

    def matched(pattern, between):
        split = pre_tokenizers.Split(Regex(pattern), "removed")
        found = []
        for i in range(0, len(all), 4096):
            block = all[i:i + 4096]
            kept = {c for w, _ in split.pre_tokenize_str(between.join(map(chr, block))) for c in w}
            found += [c for c in block if chr(c) not in kept]
        return found

    nfd = normalizers.NFD().normalize_str
    normal = []
    for c in all:
        k, s = unicodedata.combining(chr(c)), chr(c)
        if 0xAC00 <= c < 0xAC00 + 11172:
            continue
        if nfd(s) != s or k == 1 and nfd("a\u0300" + s)[1] == s or k > 1 and nfd("a" + s + "\u0334")[-1] == s:
            normal.append(c)
    print(f"// Code generated by testdata/reference.py tables; DO NOT EDIT.\n\npackage tokenizer\n\n"
          f"// First and last code points of ranges, as tokenizers {__version__} has them: the\n// classes are of Unicode 16.0.0.")
    for name, doc, points in (
        ("letterRanges", "\\p{L}", matched(r"\p{L}", ".")),
        ("numberRanges", "\\p{N}", matched(r"\p{N}", "a")),
        ("spaceRanges", "\\s", matched(r"\s", "a")),
        ("normalRanges", "Code points that Unicode 9.0.0 gives a combining class or a canonical\n"
         "// decomposition, Hangul syllables apart: the normalizer knows no newer ones.", normal),
    ):
        ranges = []
        for c in points:
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
        print(f"\n// {doc}\nvar {name} = [...]rune{{")
        line = "\t"
        for value in (f"{c:#x}," for r in ranges for c in r):
            if len(line) + len(value) > 98:
                print(line.rstrip())
                line = "\t"
            line += value + " "
        print(line.rstrip() + "\n}")


COMMANDS = {"encode": encode, "offsets": offsets, "train": train, "small": small, "golden": golden, "tables": tables}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
