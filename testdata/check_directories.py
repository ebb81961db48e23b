#!/usr/bin/env python3
"""Compares what model directories have beside weights with transformers, for
TestTransformersAgreesOnDirectories.

    check_directories.py make ROOT     writes directories of small models with
        tokenizers of every kind, ROOT/NAME, and beside each ROOT/NAME.json:
        what transformers makes of it.
    check_directories.py check DIR...  transformers must make of DIR what
        DIR.json says.
    check_directories.py same A B ...  transformers must make the same of A and
        B, and their models compute the same.

NAME.json has the ids of texts, with the tokens that the model expects around
one; what they are decoded to; the chat template, and a conversation rendered;
the tokens with a name; and the tokens of generation_config.json.
"""

import io
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"

import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig,
                          LlamaForCausalLM, LlamaTokenizer, LlamaTokenizerFast, MistralConfig, MistralForCausalLM,
                          PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TEXTS = ["", "a", "Once upon a time", " two  spaces ", "\n\n\tfunc main() {\r\n}", "don't WE'LL 1234567 ½",
         "über naïve 你好世界 😀👍🏽 e\u0301", "<|im_start|>user\nhi<|im_end|>\n", "a<s>b</s> c <unk>d", "x <a>y<c> z<e>q",
         "<|endoftext|><|endoftext|> <pad>"]
CHAT = [dict(role="system", content="Be brief."), dict(role="user", content=" Hi there! <s>"),
        dict(role="assistant", content="Hello."), dict(role="user", content="2+2?\n")]
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
INST = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + eos_token }}"
        "{% else %}{{ '[INST] ' + m['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}")
CORPUS = [pathlib.Path(__file__).read_text(), "Once upon a time there was a naïve 你好世界 😀 ", "don't we'll they've 123 4567"]


def byte_level(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), size=400):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return t


def sentencepiece_model(path):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS[0].splitlines() + CORPUS[1:]), model_writer=out, vocab_size=420, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.99, hard_vocab_limit=False, minloglevel=2)
    path.write_bytes(out.getvalue())
    return str(path)


SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             max_position_embeddings=128)


def edit(path, **members):
    """Sets members of a JSON file."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **members}, ensure_ascii=False))


def added(content, **flags):
    return dict(content=content, lstrip=False, rstrip=False, normalized=False, single_word=False, special=False) | flags


def make(root):
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    pieces = sentencepiece_model(root / "pieces.model")

    def save(name, tokenizer, model, config, generation=None, shard="10GB"):
        vocab = len(tokenizer) + 3
        m = model(config(vocab_size=vocab, **SHAPE))
        m.generation_config = GenerationConfig(**(generation or {}))
        m.save_pretrained(root / name, max_shard_size=shard)
        tokenizer.save_pretrained(root / name)
        return root / name

    qwen = Qwen2TokenizerFast(tokenizer_object=byte_level(), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    qwen.chat_template = CHATML
    save("qwen2_sharded", qwen, Qwen2ForCausalLM, Qwen2Config, dict(
        eos_token_id=[2, 0], pad_token_id=0, do_sample=True, temperature=0.7, top_k=20, top_p=0.8,
        repetition_penalty=1.05), shard="10KB")

    tok = byte_level(("<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"))
    tok.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    llama3 = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<|begin|>", eos_token="<|end|>")
    llama3.chat_template = CHATML
    save("llama3", llama3, LlamaForCausalLM, LlamaConfig, dict(bos_token_id=0, eos_token_id=1))

    fast = LlamaTokenizerFast(vocab_file=pieces, legacy=False)
    fast.chat_template = INST
    save("llama2", fast, LlamaForCausalLM, LlamaConfig, dict(bos_token_id=1, eos_token_id=2))
    edit(save("llama2_eos", fast, LlamaForCausalLM, LlamaConfig) / "tokenizer_config.json",
         add_bos_token=False, add_eos_token=True)

    slow = LlamaTokenizer(vocab_file=pieces, legacy=True)
    slow.chat_template = INST
    d = save("llama2_pieces", slow, LlamaForCausalLM, LlamaConfig, dict(bos_token_id=1, eos_token_id=2))
    assert not (d / "tokenizer.json").exists()
    save("mistral", fast, MistralForCausalLM, MistralConfig, dict(bos_token_id=1, eos_token_id=2))

    # What tokenizer_config.json adds to, and changes of, tokenizer.json.
    t = byte_level(("<b>",), 300)
    t.add_tokens([AddedToken("<a>", special=False, normalized=False)])
    d = save("late", PreTrainedTokenizerFast(tokenizer_object=t), LlamaForCausalLM, LlamaConfig)
    n = t.get_vocab_size()
    (d / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<b>", eos_token="<e>", pad_token="q",
        additional_special_tokens=["<c>"],
        added_tokens_decoder={"0": added("<b>", special=True), str(n - 1): added("<a>", lstrip=True, rstrip=True, special=True),
                              str(n): added("<c>")})))
    # Its older form.
    d = save("late_old", PreTrainedTokenizerFast(tokenizer_object=byte_level(("<b>",), 300)), LlamaForCausalLM, LlamaConfig)
    (d / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<b>", eos_token="a")))
    (d / "special_tokens_map.json").write_text(json.dumps(dict(bos_token="<b>", eos_token=added("<e>"), pad_token="<e>")))

    d = save("template_file", qwen, Qwen2ForCausalLM, Qwen2Config)
    (d / "chat_template.jinja").write_text(INST.replace("bos_token", "eos_token"))
    d = save("template_list", qwen, Qwen2ForCausalLM, Qwen2Config)
    edit(d / "tokenizer_config.json", chat_template=[
        dict(name="tool_use", template="no"), dict(name="default", template=CHATML)])

    for d in sorted(p for p in root.iterdir() if p.is_dir()):
        path_of(d).write_text(json.dumps(described(d)))


def path_of(directory):
    return directory.parent / (directory.name + ".json")


def described(directory, texts=TEXTS):
    # Made of a tokenizer.model, transformers' fast one does not give sentencepiece's
    # ids of a text that begins with a space.
    t = AutoTokenizer.from_pretrained(directory, use_fast=(directory / "tokenizer.json").exists())
    template = t.chat_template["default"] if isinstance(t.chat_template, dict) else t.chat_template
    ids = [t(text)["input_ids"] for text in texts]
    named = {k: [str(v), t.convert_tokens_to_ids(str(v))] for k, v in t.special_tokens_map.items()
             if k != "additional_special_tokens"}
    chat = None if template is None else t.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    generation = {}
    if (directory / "generation_config.json").exists():
        generation = json.loads(GenerationConfig.from_pretrained(directory).to_json_string(ignore_metadata=True))
    return dict(texts=texts, ids=ids, decoded=[t.decode(i, skip_special_tokens=True, clean_up_tokenization_spaces=False) for i in ids],
                template=template, chat=chat, named=named, generation=generation)


def differences(name, want, got):
    for key in want:
        if key == "ids" or key == "decoded":
            for text, a, b in zip(want["texts"], want[key], got[key]):
                if a != b:
                    yield f"{name}: {key} of {text!r}: {b}, want {a}"
        elif want[key] != got[key]:
            yield f"{name}: {key}: {got[key]}, want {want[key]}"


@torch.no_grad()
def logits(directory):
    # generate itself needs a newer torch than Debian's; what steers it is in described
    model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32).eval()
    return model(torch.arange(40).reshape(2, 20)).logits.tolist()


def config(directory):
    c = AutoConfig.from_pretrained(directory).to_dict()
    return {k: v for k, v in c.items() if k not in ("_name_or_path", "torch_dtype")}


def same(a, b):
    bad = list(differences(b.name, described(a), described(b)))
    for what, of in (("config", config), ("logits", logits)):
        if of(a) != of(b):
            bad.append(f"{b.name}: {what}: {of(b)}, want {of(a)}"[:1000])
    print(*bad, sep="\n", end="\n" if bad else "")
    return not bad


def check(directory):
    want = json.loads(path_of(directory).read_text())
    got = described(directory, want["texts"])
    bad = list(differences(directory.name, want, got))
    AutoModelForCausalLM.from_pretrained(directory)
    print(*bad, sep="\n", end="\n" if bad else "")
    return not bad


def main(command, *paths):
    paths = [pathlib.Path(p) for p in paths]
    if command == "make" and len(paths) == 1:
        make(paths[0])
        return True
    if command == "check" and paths:
        return all([check(p) for p in paths])
    if command == "same" and paths and len(paths) % 2 == 0:
        return all([same(a, b) for a, b in zip(paths[::2], paths[1::2])])
    sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
