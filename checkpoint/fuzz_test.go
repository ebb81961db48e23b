package checkpoint

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// A config.json that is accepted describes a valid shape, and one that it
// survives being written as. encoding/json, which is laxer, accepts it too.
func FuzzConfig(f *testing.F) {
	for _, c := range []string{configLlama32, configQwen25, configQwen3, "", "{}", `{"a":1,"a":1}`, "[[[["} {
		f.Add([]byte(c))
	}
	for _, c := range shapes {
		f.Add(marshalConfig(c, Generation{}, "float32"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		require.True(t, json.Valid(b))
		require.NoError(t, c.Validate())
		again, err := parseConfig(marshalConfig(c, Generation{}, "float32"))
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

// The fields of a trainer.json whose checksum is right: what is accepted is
// written and read back as the same.
func FuzzTrainer(f *testing.F) {
	t := trainer{step: 1, seed: 2, hyper: []byte(`{"a": 1}`), files: map[string]digest{}}
	f.Add(t.marshal())
	f.Add(bytes.Replace(t.marshal(), []byte(`{"a": 1}`), []byte("null"), 1))
	f.Add(bytes.Replace(t.marshal(), []byte(`"step": 1`), []byte(`"step": -1`), 1))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseTrainer(b); err == nil { // as good as impossible for what we have not written
			require.Equal(t, b, resum(bytes.Clone(b)))
		}
		parsed, err := parseTrainerFields(b)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		again, err := parseTrainer(parsed.marshal())
		require.NoError(t, err)
		require.Equal(t, parsed, again)
	})
}
