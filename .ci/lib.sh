# Shared by .ci/run and .ci/full: stages, packages of the machine, Python.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export LC_ALL=C.UTF-8
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/chainrule-ci

fail() {
	echo "FAIL: $*"
	return 1
}

# clock prints seconds as m:ss.
clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# run_stages NAME… runs the functions stage_NAME, each in a shell of its own
# that ends at the first command that fails. A failed stage does not stop the
# next. It ends with a table of all, and returns 1 if any failed.
run_stages() {
	local name rc start begin=$SECONDS failed=0 table=''
	for name; do
		declare -F "stage_$name" >/dev/null || { fail "there is no stage named $name"; return 2; }
	done
	for name; do
		printf '\n=== %s\n' "$name"
		start=$SECONDS
		(
			trap - EXIT
			set -euo pipefail
			"stage_$name"
		) </dev/null 2>&1
		rc=$?
		if ((rc == 0)); then rc=ok; else rc="FAILED ($rc)" failed=$((failed + 1)); fi
		printf -- '--- %s: %s, %s\n' "$name" "$rc" "$(clock $((SECONDS - start)))"
		table+=$(printf '%-14s %6s  %s' "$name" "$(clock $((SECONDS - start)))" "$rc")$'\n'
	done
	printf '\n=== summary\n%s' "$table"
	printf '%-14s %6s  %s of %s stages failed\n' total "$(clock $((SECONDS - begin)))" "$failed" $#
	((failed == 0))
}

# need_apt PACKAGE… installs what is missing of Debian's packages.
need_apt() {
	local missing=() p try sudo=''
	for p; do
		[[ $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) == 'install ok installed' ]] || missing+=("$p")
	done
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null || { fail "no apt-get; install by hand: ${missing[*]}"; return 1; }
	((EUID == 0)) || sudo='sudo -n'
	local log=$TMP/apt.log start=$SECONDS
	for try in 1 2 3; do
		if $sudo apt-get -q -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 &&
			$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
				install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
			echo "installed ${missing[*]} in $((SECONDS - start)) s"
			return 0
		fi
		echo "apt-get, try $try:"
		tail -n 5 "$log"
		$sudo dpkg --configure -a >/dev/null 2>&1 || true
	done
	fail "cannot install ${missing[*]}"
}

# python_with_transformers prints the path of a Python that has Debian's
# PyTorch and what .ci/requirements.txt asks for. It is kept outside of the
# clone, so that only the first run on a machine pays for it.
python_with_transformers() {
	local key venv start=$SECONDS
	need_apt python3 python3-venv python3-torch python3-numpy >&2 || return 1
	key=$({ cat .ci/requirements.txt && /usr/bin/python3 -VV; } | sha256sum | cut -c1-12)
	venv=$CACHE/venv-$key
	if [[ ! -e $venv/ready ]]; then
		rm -rf "$venv"
		mkdir -p "$CACHE"
		/usr/bin/python3 -m venv --system-site-packages "$venv" >&2 || return 1
		"$venv/bin/pip" install -q --disable-pip-version-check -r .ci/requirements.txt >&2 || return 1
		"$venv/bin/python" -c 'from transformers import LlamaForCausalLM, Qwen2ForCausalLM' >&2 || return 1
		touch "$venv/ready"
		echo "made $venv in $((SECONDS - start)) s" >&2
	fi
	echo "$venv/bin/python"
}

# python_with_tensorboard prints the path of a Python that has TensorBoard.
python_with_tensorboard() {
	local venv=$CACHE/tensorboard-2.20.0 start=$SECONDS
	if [[ ! -e $venv/ready ]]; then
		need_apt python3 python3-venv >&2 || return 1
		rm -rf "$venv"
		mkdir -p "$CACHE"
		/usr/bin/python3 -m venv "$venv" >&2 || return 1
		"$venv/bin/pip" install -q --disable-pip-version-check tensorboard==2.20.0 'setuptools<81' >&2 || return 1
		touch "$venv/ready"
		echo "made $venv in $((SECONDS - start)) s" >&2
	fi
	echo "$venv/bin/python"
}

# llamacpp_libraries prints the directory of the shared libraries of llama.cpp,
# which the package of node-llama-cpp has prebuilt; of that nothing else is used.
llamacpp_libraries() {
	local arch version=3.22.1 dir
	case $(uname -sm) in
	'Linux x86_64') arch=linux-x64 ;;
	'Linux aarch64') arch=linux-arm64 ;;
	*) fail "no libraries of llama.cpp for $(uname -sm)" >&2; return 1 ;;
	esac
	dir=$CACHE/llamacpp-$version
	if [[ ! -d $dir ]]; then
		command -v npm >/dev/null || need_apt npm >&2 || return 1
		rm -rf "$dir.new"
		mkdir -p "$dir.new"
		(
			cd "$dir.new"
			npm pack --silent "@node-llama-cpp/$arch@$version" >npm.out && tar xzf "$(tail -n 1 npm.out)"
		) >&2 || return 1
		mv "$dir.new/package/bins/$arch" "$dir"
		rm -rf "$dir.new"
	fi
	echo "$dir"
}

# llamacpp compares with llama.cpp.
llamacpp() {
	local python libraries model
	python=$(python_with_transformers)
	libraries=$(llamacpp_libraries)
	model=$(testdata/fetch-smollm2)
	CHAINRULE_PYTHON=$python CHAINRULE_REQUIRE_PYTHON=1 CHAINRULE_LLAMACPP=$libraries CHAINRULE_SMOLLM2=$(dirname "$model") \
		test_some -v -timeout 60m -run '^TestLlamaCppAgrees' ./checkpoint/
}

# test_some ARG… is go test, but a -run that matches nothing fails.
test_some() {
	go test -count=1 "$@" 2>&1 | tee "$TMP/test_some.log"
	! grep -F 'no tests to run' "$TMP/test_some.log" >/dev/null || fail "go test $* ran no test"
}

# examples builds the example programs into $TMP/bin, once.
examples() {
	[[ -d $TMP/bin ]] && return
	mkdir "$TMP/bin.new"
	CGO_ENABLED=0 go build -o "$TMP/bin.new/" ./examples/...
	mv "$TMP/bin.new" "$TMP/bin"
}

# fuzz_all SECONDS CAP runs every fuzz target for so long, or less so that all
# together take about CAP seconds.
fuzz_all() {
	local each=$1 cap=$2 line names=() targets=() t
	go test -list '^Fuzz' ./... >"$TMP/fuzz.list" || { cat "$TMP/fuzz.list"; return 1; }
	while read -r line; do
		case $line in
		Fuzz*) names+=("$line") ;;
		ok*)
			line=${line#ok}
			read -r line _ <<<"$line"
			for t in "${names[@]}"; do targets+=("$line $t"); done
			names=()
			;;
		esac
	done <"$TMP/fuzz.list"
	((${#targets[@]})) || { fail 'found no fuzz target'; return 1; }
	((each * ${#targets[@]} <= cap)) || each=$((cap / ${#targets[@]}))
	((each > 0)) || each=1
	echo "${#targets[@]} targets, $each s each"
	local failed=0
	for t in "${targets[@]}"; do
		fuzz_one "$each" $t || failed=1
	done
	((failed == 0))
}

# fuzz_one SECONDS PACKAGE TARGET. Go's fuzzer sometimes reports that its own
# time ran out as a failure, without an input: that is tried once more.
fuzz_one() {
	local try out=$TMP/fuzz.out
	for try in 1 2; do
		if go test -run '^$' -fuzz "^$3\$" -fuzztime "${1}s" -timeout $(($1 + 300))s "$2" >"$out" 2>&1; then
			echo "$2 $3: $(grep -o 'execs: [0-9]*' "$out" | tail -n 1)"
			return 0
		fi
		grep -q 'context deadline exceeded' "$out" && ! grep -q 'Failing input written' "$out" || break
	done
	tail -n 60 "$out"
	fail "$2 $3"
}

# newest_model DIR prints the directory below DIR that holds the newest model.
newest_model() {
	local config
	config=$(find "$1" -name config.json -printf '%T@ %h\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
	[[ -n $config ]] || { fail "no config.json below $1:" >&2; find "$1" >&2; return 1; }
	echo "$config"
}
