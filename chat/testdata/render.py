#!/usr/bin/env python3
"""Renders the conversations of cases.json with chat templates as transformers'
apply_chat_template does, and prints golden.json.

    render.py NAME=FILE...   templates; NAME is what golden.json calls one

The clock stands at 2 January 2026. Needs what .ci/requirements.txt lists.
"""

import datetime
import json
import os
import sys

import transformers.utils.chat_template_utils as utils


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)


utils.datetime = Clock

# What is special_tokens_map in transformers, by the beginning of a template's name.
TOKENS = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "qwen": {"eos_token": "<|im_end|>"},
}


def render(template, tokens, case, prompt):
    try:
        text = template.render(
            messages=case["messages"], tools=None, documents=None, add_generation_prompt=prompt,
            **tokens, **case.get("variables", {}),
        )
    except Exception as e:  # TemplateError, UndefinedError and what Python itself raises
        return {"error": type(e).__name__}
    return {"text": text}


def main():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases.json"), encoding="utf-8") as f:
        cases = json.load(f)
    golden = {}
    for argument in sys.argv[1:]:
        name, path = argument.split("=", 1)
        with open(path, encoding="utf-8", newline="") as f:
            template = utils._compile_jinja_template(f.read())
        tokens = next(t for prefix, t in TOKENS.items() if name.startswith(prefix))
        golden[name] = {
            "tokens": tokens,
            "cases": {c["name"]: [render(template, tokens, c, p) for p in (False, True)] for c in cases},
        }
    json.dump(golden, sys.stdout, indent=1, ensure_ascii=True, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
