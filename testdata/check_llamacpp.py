#!/usr/bin/env python3
"""Runs llama.cpp on a GGUF file, for TestLlamaCppAgrees.

    check_llamacpp.py LIBRARIES MODEL < QUESTION > ANSWER

LIBRARIES is a directory with the shared libraries of llama.cpp, as the npm
package @node-llama-cpp/linux-x64 has them in bins/linux-x64: .ci/lib.sh fetches
it. They are called from here by ctypes. All is computed in float32, and so is
the KV cache; flash attention, which computes in float16, is off.

QUESTION and ANSWER are JSON. From

    {"plain": ["..."], "texts": ["..."], "generate": n, "windows": [[...]]}

llama.cpp answers

    {"library": "...", "system": "...",
     "plain": [[...]],      the tokens of each, of special tokens as of any text,
     "tokens": [[...]],     of each text, special tokens parsed, none added,
     "greedy": [[...]],     the n tokens that follow each of them,
     "losses": [[...]],     of each token of a window but the first, in nats,
     "chat_template": "...", "bos": id, "eos": id}
"""

import ctypes
import json
import pathlib
import sys

import numpy


def fields(*lists):
    return [(name, kind) for names, kind in lists for name in names.split()]


class ModelParams(ctypes.Structure):
    """llama_model_params, as far as it is used; padded beyond its end."""
    _fields_ = fields(
        ("devices tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers split_mode load_mode lazy_mode main_gpu", ctypes.c_int32),
        ("tensor_split progress_callback progress_callback_user_data kv_overrides", ctypes.c_void_p),
        ("vocab_only check_tensors use_extra_bufts no_host", ctypes.c_bool),
        ("rest", ctypes.c_uint64 * 32))


class ContextParams(ctypes.Structure):
    """llama_context_params, likewise."""
    _fields_ = fields(
        ("n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type",
         ctypes.c_int32),
        ("rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow",
         ctypes.c_float),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval cb_eval_user_data", ctypes.c_void_p),
        ("type_k type_v", ctypes.c_int32),
        ("rest", ctypes.c_uint64 * 32))


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.c_void_p), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
                ("logits", ctypes.POINTER(ctypes.c_int8))]


FUNCTIONS = dict(
    llama_backend_init=(None,),
    llama_print_system_info=(ctypes.c_char_p,),
    llama_model_default_params=(ModelParams,),
    llama_context_default_params=(ContextParams,),
    llama_model_load_from_file=(ctypes.c_void_p, ctypes.c_char_p, ModelParams),
    llama_model_get_vocab=(ctypes.c_void_p, ctypes.c_void_p),
    llama_model_chat_template=(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_char_p),
    llama_init_from_model=(ctypes.c_void_p, ctypes.c_void_p, ContextParams),
    llama_get_memory=(ctypes.c_void_p, ctypes.c_void_p),
    llama_memory_clear=(None, ctypes.c_void_p, ctypes.c_bool),
    llama_vocab_n_tokens=(ctypes.c_int32, ctypes.c_void_p),
    llama_vocab_bos=(ctypes.c_int32, ctypes.c_void_p),
    llama_vocab_eos=(ctypes.c_int32, ctypes.c_void_p),
    llama_tokenize=(ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32,
                    ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
    llama_batch_init=(Batch, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
    llama_decode=(ctypes.c_int32, ctypes.c_void_p, Batch),
    llama_get_logits_ith=(ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_int32),
)

LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@LOG
def log(level, text, _):
    if level >= 3:  # warnings and errors
        sys.stderr.write(text.decode(errors="replace"))


class Llama:
    def __init__(self, libraries, path, context):
        [ggml] = pathlib.Path(libraries).glob("libggml.v*.so")
        [llama] = pathlib.Path(libraries).glob("libllama.v*.so")
        self.name = llama.name
        ctypes.CDLL(str(ggml), mode=ctypes.RTLD_GLOBAL).ggml_backend_load_all_from_path(str(libraries).encode())
        lib = self.lib = ctypes.CDLL(str(llama))
        for name, (result, *arguments) in FUNCTIONS.items():
            f = getattr(lib, name)
            f.restype, f.argtypes = result, arguments
        lib.llama_log_set(log, None)
        lib.llama_backend_init()
        self.system = lib.llama_print_system_info().decode()

        p = lib.llama_model_default_params()
        layout = [p.n_gpu_layers, p.split_mode, p.main_gpu, p.vocab_only, p.check_tensors, p.use_extra_bufts, p.no_host]
        assert layout == [-1, 1, 0, False, False, True, False], f"llama_model_params has another layout: {layout}"
        p.use_extra_bufts = False  # its AMX kernels compute something else with matrices of 32 rows
        p.check_tensors = True
        self.model = lib.llama_model_load_from_file(str(path).encode(), p)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.vocab)

        p = lib.llama_context_default_params()
        layout = [p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.rope_scaling_type, p.flash_attn_type,
                  p.yarn_ext_factor, p.defrag_thold, p.type_k, p.type_v]
        assert layout == [512, 2048, 512, 1, -1, -1, -1, -1, 1, 1], f"llama_context_params has another layout: {layout}"
        p.n_ctx = p.n_batch = p.n_ubatch = context
        p.n_threads = p.n_threads_batch = 1
        p.flash_attn_type = 0
        p.type_k = p.type_v = 0  # GGML_TYPE_F32
        self.context = lib.llama_init_from_model(self.model, p)
        assert self.context, "llama.cpp makes no context"
        self.batch = lib.llama_batch_init(context, 0, 1)

    def tokenize(self, text, special):
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, special)
        assert n >= 0, f"llama.cpp does not tokenize {text!r}"
        return room[:n]

    def decode(self, tokens, position, every):
        """Logits of the last token, or of each: [1,V] or [len(tokens),V]."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position + i, 1, every or i == len(tokens) - 1
            b.seq_id[i][0] = 0
        status = self.lib.llama_decode(self.context, b)
        assert status == 0, f"llama_decode returned {status}"
        rows = range(len(tokens)) if every else [len(tokens) - 1]
        return numpy.stack([numpy.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.size,))
                            for i in rows])

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def greedy(self, tokens, n):
        self.clear()
        out, position = [], 0
        while len(out) < n:
            logits = self.decode(tokens, position, False)
            position += len(tokens)
            tokens = [int(logits[0].argmax())]
            out += tokens
        return out

    def losses(self, tokens):
        self.clear()
        x = self.decode(tokens, 0, True)[:-1].astype(numpy.float64)
        x -= x.max(1, keepdims=True)
        return (numpy.log(numpy.exp(x).sum(1)) - x[numpy.arange(len(x)), tokens[1:]]).tolist()


def main(libraries, path):
    question = json.load(sys.stdin)
    llama = Llama(libraries, path, 1024)
    lib = llama.lib
    tokens = [llama.tokenize(t, True) for t in question["texts"]]
    template = lib.llama_model_chat_template(llama.model, None)
    json.dump(dict(
        library=llama.name, system=llama.system,
        plain=[llama.tokenize(t, False) for t in question["plain"]], tokens=tokens,
        greedy=[llama.greedy(t, question["generate"]) for t in tokens],
        losses=[llama.losses(w) for w in question["windows"]],
        chat_template=template.decode() if template else "",
        bos=lib.llama_vocab_bos(llama.vocab), eos=lib.llama_vocab_eos(llama.vocab)), sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
