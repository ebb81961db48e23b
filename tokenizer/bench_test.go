package tokenizer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/tokenizer"
)

// BenchmarkEncode is of English, source code, what is hard, and a megabyte of
// one word, with each tokenizer below CHAINRULE_TOKENIZERS.
func BenchmarkEncode(b *testing.B) {
	english, err := os.ReadFile(filepath.Join(goTree(b), "testdata/Isaac.Newton-Opticks.txt"))
	require.NoError(b, err)
	code, err := os.ReadFile(filepath.Join(goTree(b), "net/http/server.go"))
	require.NoError(b, err)
	var letters strings.Builder
	for i := 0; letters.Len() < 1<<20; i++ {
		letters.WriteByte('a' + byte(i*i*7+i>>3)%26)
	}
	texts := []struct{ name, text string }{
		{"english", string(english)},
		{"code", string(code)},
		{"hard", strings.Join(corpus(b, 1<<20, true), "\n")},
		{"a", strings.Repeat("a", 1<<20)},
		{"letters", letters.String()},
		{"spaces", strings.Repeat(" ", 1<<20)},
		{"newlines", strings.Repeat(" \n", 1<<19)},
		{"han", strings.Repeat("漢字仮名交文", 1<<16)},
	}
	paths, err := filepath.Glob(filepath.Join(tokenizers(b), "*", "tokenizer.*"))
	require.NoError(b, err)
	for _, path := range paths {
		var tok tokenizer.Tokenizer
		if filepath.Ext(path) == ".model" {
			tok = readSentencePiece(b, path)
		} else {
			tok = readJSON(b, path)
		}
		for _, c := range texts {
			b.Run(filepath.Base(filepath.Dir(path))+"/"+c.name, func(b *testing.B) {
				b.SetBytes(int64(len(c.text)))
				for b.Loop() {
					tok.Encode(c.text)
				}
			})
		}
	}
}

// BenchmarkRead is of loading.
func BenchmarkRead(b *testing.B) {
	paths, err := filepath.Glob(filepath.Join(tokenizers(b), "*", "tokenizer.json"))
	require.NoError(b, err)
	for _, path := range paths {
		b.Run(filepath.Base(filepath.Dir(path)), func(b *testing.B) {
			info, err := os.Stat(path)
			require.NoError(b, err)
			b.SetBytes(info.Size())
			b.ReportAllocs()
			for b.Loop() {
				readJSON(b, path)
			}
		})
	}
}
