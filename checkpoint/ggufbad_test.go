package checkpoint

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint/gguf"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// pairsOf is the metadata of a small model with a tokenizer, to be edited.
func pairsOf(t testing.TB) []gguf.Pair {
	c := tiny()
	s, err := tokenizer.NewSentencePiece(tokenizer.SentencePieceOptions{
		Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a"}, Scores: []float32{0, 0, 0, -1, -2}, Prefix: []int32{1},
	})
	require.NoError(t, err)
	b := &Bundle{Model: newModel(t, c, 1), Tokenizer: s}
	pairs := []gguf.Pair{{Key: "general.architecture", Value: "llama"}}
	pairs = append(pairs, configPairs(c, ggufLlama)...)
	vocabulary, err := b.vocabularyPairs(c.VocabSize)
	require.NoError(t, err)
	return append(pairs, vocabulary...)
}

// tensorsOf are the tensors of tiny as a file of llama has them.
func tensorsOf(t testing.TB) []gguf.Entry {
	m := finite(t, tiny())
	var entries []gguf.Entry
	for x, data := range both(tiny(), m.Params) {
		entries = append(entries, gguf.Float32(x.gguf(), gguf.F32, x.shape, data))
	}
	return entries
}

func withPair(pairs []gguf.Pair, key string, value any) []gguf.Pair {
	pairs = slices.DeleteFunc(slices.Clone(pairs), func(p gguf.Pair) bool { return p.Key == key })
	if value == nil {
		return pairs
	}
	return append(pairs, gguf.Pair{Key: key, Value: value})
}

func writeGGUF(t testing.TB, pairs []gguf.Pair, entries []gguf.Entry) string {
	path := filepath.Join(t.TempDir(), "x.gguf")
	var b bytes.Buffer
	require.NoError(t, gguf.Write(&b, pairs, entries))
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	return path
}

// Metadata that is refused, each with its key; nil removes it.
func TestGGUFMetadataThatIsRefused(t *testing.T) {
	pairs, entries := pairsOf(t), tensorsOf(t)
	_, err := Open(writeGGUF(t, pairs, entries), OpenOptions{})
	require.NoError(t, err)
	for _, c := range []struct {
		key   string
		value any
		is    error
		says  string
	}{
		{"general.architecture", nil, ErrConfig, `is "", supported are llama, qwen2, qwen3`},
		{"general.architecture", "gemma3", ErrConfig, `is "gemma3", supported`},
		{"general.architecture", uint32(1), ErrConfig, "want string"},
		{"general.type", "adapter", ErrConfig, "want model"},
		{"split.count", uint16(2), ErrConfig, "merge them"},
		{"llama.block_count", nil, ErrConfig, "is missing"},
		{"llama.block_count", uint32(math.MaxUint32), ErrConfig, "is 4294967295, want 1 to 2147483647"},
		{"llama.block_count", int32(-1), ErrConfig, "is -1"},
		{"llama.block_count", uint32(1 << 30), ErrTensors, "1073741824 layers"},
		{"llama.block_count", uint32(100_000), ErrTensors, "only 21 tensors"},
		{"llama.block_count", uint32(3), ErrTensors, "9 missing: blk.2.attn_norm.weight"},
		{"llama.block_count", uint32(1), ErrTensors, "9 not expected"},
		{"llama.block_count", "2", ErrConfig, "want an integer"},
		{"llama.attention.head_count", uint32(0), ErrConfig, "is 0"},
		{"llama.attention.head_count", []uint32{2, 2}, ErrConfig, "array of uint32"},
		{"llama.attention.head_count_kv", uint32(3), ErrConfig, "not a multiple of NKVHeads 3"},
		{"llama.attention.head_count_kv", uint32(2), ErrTensors, "attn_k.weight at byte"},
		{"llama.attention.key_length", uint32(7), ErrConfig, "length of a key"},
		{"llama.attention.value_length", uint32(8), ErrConfig, "length of a key"},
		{"llama.rope.dimension_count", uint32(4), ErrConfig, "RoPE of a part"},
		{"llama.rope.dimension_count", uint32(5), ErrConfig, "RoPE of a part"},
		{"llama.embedding_length", uint32(13), ErrTensors, "want [11 13]"},
		{"llama.embedding_length", uint32(1 << 31), ErrConfig, "is 2147483648"},
		{"llama.context_length", uint64(1 << 31), ErrConfig, "is 2147483648"},
		{"llama.context_length", uint64(1 << 63), ErrConfig, "too large"},
		{"llama.feed_forward_length", uint32(11), ErrTensors, "ffn_gate.weight"},
		{"llama.vocab_size", uint32(12), ErrConfig, "is not 11"},
		{"llama.attention.layer_norm_rms_epsilon", nil, ErrConfig, "is missing"},
		{"llama.attention.layer_norm_rms_epsilon", float32(math.NaN()), ErrConfig, "NormEps"},
		{"llama.attention.layer_norm_rms_epsilon", float32(-1e-5), ErrConfig, "NormEps"},
		{"llama.rope.freq_base", float32(0), ErrConfig, "RopeTheta"},
		{"llama.rope.freq_base", float32(math.Inf(1)), ErrConfig, "RopeTheta"},
		{"llama.rope.scaling.type", "yarn", ErrConfig, `is "yarn", supported are none and linear`},
		{"llama.rope.scaling.factor", float32(0.5), ErrConfig, "Factor is 0.5"},
		{"llama.rope.scaling.attn_factor", float32(1.2), ErrConfig, "only 1 is supported"},
		{"llama.rope.scaling.yarn_log_multiplier", float32(0.1), ErrConfig, "is not known"},
		{"llama.expert_count", uint32(8), ErrConfig, "only 0 is supported"},
		{"llama.attn_logit_softcapping", float32(50), ErrConfig, "only 0 is supported"},
		{"llama.attention.scale", float32(0.1), ErrConfig, "only 0 is supported"},
		{"llama.attention.causal", false, ErrConfig, "only 1 is supported"},
		{"llama.no_such_thing", "x", ErrConfig, "is not known"},

		{"tokenizer.ggml.model", "bert", ErrConfig, `is "bert", supported are gpt2, llama and t5`},
		{"tokenizer.ggml.tokens", []string{"a"}, ErrConfig, "1 tokens, but the model has 11"},
		{"tokenizer.ggml.tokens", []string{"a"}, tokenizer.ErrVocab, "1 tokens"},
		{"tokenizer.ggml.tokens", "a", ErrConfig, "want an array of strings"},
		{"tokenizer.ggml.tokens", nil, ErrConfig, "0 tokens"},
		{"tokenizer.ggml.token_type", []int32{1}, tokenizer.ErrVocab, "11 tokens, 1 types, 11 scores"},
		{"tokenizer.ggml.scores", []float32{1}, tokenizer.ErrVocab, "11 tokens, 11 types, 1 scores"},
		{"tokenizer.ggml.scores", nil, tokenizer.ErrVocab, "0 scores"},
		{"tokenizer.ggml.bos_token_id", uint32(11), ErrConfig, "is 11, of a vocabulary of 11"},
		{"tokenizer.ggml.eos_token_id", int32(-7), ErrConfig, "is -7"},
		{"tokenizer.ggml.add_bos_token", "yes", ErrConfig, "want bool"},
		{"tokenizer.ggml.remove_extra_whitespaces", true, ErrConfig, "remove_extra_whitespaces"},
		{"tokenizer.chat_template", []string{"a"}, ErrConfig, "want string"},
		{"tokenizer.chat_template", "\xff", ErrConfig, "not UTF-8"},
		{"general.sampling.temp", float32(-1), ErrConfig, "is -1"},
	} {
		t.Run(fmt.Sprintf("%s %v", c.key, c.value), func(t *testing.T) {
			edited := withPair(pairs, c.key, c.value)
			path := writeGGUF(t, edited, entries)
			b, err := Open(path, OpenOptions{})
			require.Nil(t, b)
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, path)
			if c.is == ErrConfig && !strings.Contains(err.Error(), "chainrule: Config") && !strings.Contains(c.says, "tokens") {
				require.ErrorContains(t, err, c.key)
				require.True(t, c.value == nil || strings.Contains(err.Error(), "at byte"), err)
			}
		})
	}
}

// Tensors that are not what the metadata asks for are one error.
func TestGGUFTensorsThatAreRefused(t *testing.T) {
	pairs, entries := pairsOf(t), tensorsOf(t)
	extra := func(name string, n int) []gguf.Entry {
		return append(slices.Clone(entries), gguf.Float32(name, gguf.F32, []int{n}, make([]float32, n)))
	}
	ones := func(v ...float32) []gguf.Entry {
		return append(slices.Clone(entries), gguf.Float32(ropeFreqs, gguf.F32, []int{len(v)}, v))
	}
	for says, e := range map[string][]gguf.Entry{
		`1 not expected: "blk.0.attn_output.bias"`:      extra("blk.0.attn_output.bias", 12),
		`1 not expected: "blk.0.ffn_gate_inp.weight"`:   extra("blk.0.ffn_gate_inp.weight", 12),
		"5 missing: blk.0.attn_k.bias":                  extra("blk.0.attn_q.bias", 12),
		"rope_freqs.weight at byte":                     extra(ropeFreqs, 4),
		"rope_freqs.weight at byte 1":                   ones(1, 2, 1.5),
		"2 missing: blk.0.attn_norm.weight, blk.0.attn": append(slices.Clone(entries[:1]), entries[3:]...),
		"there is no matrix token_embd.weight":          entries[1:],
	} {
		t.Run(says, func(t *testing.T) {
			_, err := Open(writeGGUF(t, pairs, e), OpenOptions{})
			require.ErrorContains(t, err, says)
			if says != "rope_freqs.weight at byte 1" {
				require.ErrorIs(t, err, ErrTensors)
			}
		})
	}

	// What changes nothing is accepted.
	for _, e := range [][]gguf.Entry{extra("blk.0.attn_rot_embd", 3), ones(1, 1, 1)} {
		b, err := Open(writeGGUF(t, pairs, e), OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, tiny(), b.Model.Config)
	}
	bad := slices.Clone(entries)
	bad[2] = gguf.Entry{Name: bad[2].Name, Type: 26, Shape: bad[2].Shape, Data: bad[2].Data} // I32
	_, err := Open(writeGGUF(t, pairs, bad), OpenOptions{})
	require.ErrorIs(t, err, ErrTensors)
	require.ErrorContains(t, err, "is I32, want one of [F32")
}

func TestGGUFSlidingWindow(t *testing.T) {
	pairs, entries := pairsOf(t), tensorsOf(t)
	for window, seqLen := range map[uint32]int{0: 9, 9: 9, 100: 9, 5: 5} {
		b, err := Open(writeGGUF(t, withPair(pairs, "llama.attention.sliding_window", window), entries), OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, seqLen, b.Model.SeqLen)
		require.Equal(t, seqLen != 9, len(b.Notes) == 1)
	}
}

// Names of how words are cut: those of llama.cpp that we have, and others.
func TestGGUFPre(t *testing.T) {
	c := with(tiny(), func(c *chainrule.Config) { c.VocabSize = 256 })
	m := finite(t, c)
	path := filepath.Join(t.TempDir(), "x.gguf")
	require.NoError(t, SaveGGUF(path, &Bundle{Model: m, Tokenizer: tokenizer.Byte{}}, SaveOptions{}))
	f, s := openFile2(t, path)
	defer s.Close()
	for pre, ok := range map[string]bool{"gpt-2": true, "llama-v3": true, "smollm": true, "qwen2": true, "tekken": false, "default": false} {
		v := &values{f: f}
		v.config()
		require.NoError(t, v.err)
		var pairs []gguf.Pair
		for _, k := range f.Keys() {
			x, _ := f.Value(k)
			pairs = append(pairs, gguf.Pair{Key: k, Value: x.Any()})
		}
		pairs = withPair(withPair(pairs, preKey, pre), "tokenizer.ggml.add_bos_token", false)
		var entries []gguf.Entry
		for x, data := range both(c, m.Params) {
			entries = append(entries, gguf.Float32(x.gguf(), gguf.F32, x.shape, data))
		}
		_, err := Open(writeGGUF(t, pairs, entries), OpenOptions{})
		if ok {
			require.NoError(t, err, pre)
			continue
		}
		require.ErrorIs(t, err, ErrConfig)
		require.ErrorContains(t, err, pre)
		_, err = Open(writeGGUF(t, pairs, entries), OpenOptions{NoTokenizer: true})
		require.NoError(t, err, "the model needs no tokenizer")
	}
}

// Metadata of a good file with values and types changed, and tensors left out:
// an error that is one of ours, or a model that computes; never a panic.
func FuzzGGUFMetadata(f *testing.F) {
	f.Add(uint8(0), uint8(0), uint64(0), "")
	f.Add(uint8(3), uint8(1), uint64(1<<31), "llama.expert_count")
	f.Add(uint8(14), uint8(7), uint64(3), "")
	pairs, entries := pairsOf(f), tensorsOf(f)
	f.Fuzz(func(t *testing.T, at, typ uint8, n uint64, text string) {
		edited := slices.Clone(pairs)
		p := &edited[int(at)%len(edited)]
		if strings.HasPrefix(text, "llama.") || strings.HasPrefix(text, "tokenizer.") {
			edited = append(edited, gguf.Pair{Key: text})
			p = &edited[len(edited)-1]
		}
		p.Value = []any{
			uint8(n), int32(n), uint32(n), uint64(n), int64(n), math.Float32frombits(uint32(n)), math.Float64frombits(n),
			text, n%2 == 0, []string{text, text + "a"}, []int32{int32(n)}, []uint8(text), []float32{float32(n)},
			slices.Repeat([]string{text}, int(n%12)), slices.Repeat([]int32{int32(n)}, 11), slices.Repeat([]float32{float32(n)}, 11),
		}[typ%16]
		some := slices.Clone(entries)
		if n%5 == 4 {
			some = slices.Delete(some, int(n%uint64(len(some))), int(n%uint64(len(some)))+1)
		}
		var file bytes.Buffer
		if gguf.Write(&file, edited, some) != nil {
			return // two of a key
		}
		path := filepath.Join(t.TempDir(), "x.gguf")
		require.NoError(t, os.WriteFile(path, file.Bytes(), 0o666))
		b, err := Open(path, OpenOptions{})
		if err != nil {
			require.Nil(t, b)
			require.ErrorContains(t, err, path)
			return
		}
		require.NoError(t, b.Model.Config.Validate())
		if b.Tokenizer != nil {
			require.LessOrEqual(t, b.Tokenizer.VocabSize(), b.Model.VocabSize)
			for _, id := range slices.Concat(b.Generation.EOS, b.Generation.BOS, b.Tokenizer.EncodeMarkup(text)) {
				require.Less(t, int(id), b.Model.VocabSize)
			}
		}
		again := filepath.Join(t.TempDir(), "y.gguf")
		if SaveGGUF(again, b, SaveOptions{}) == nil {
			c, err := Open(again, OpenOptions{})
			require.NoError(t, err)
			require.Equal(t, bitsOf(b.Model.Data), bitsOf(c.Model.Data))
			require.Equal(t, b.Special, c.Special)
		}
	})
}
