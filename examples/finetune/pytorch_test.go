package main

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/checkpoint"
)

// TestPyTorchAgrees tunes a model here and in a plain PyTorch loop, on the same
// batches, and compares the loss of every step. It needs a Python with
// transformers, named by CHAINRULE_PYTHON; without one it skips, or fails if
// CHAINRULE_REQUIRE_PYTHON is 1. CHAINRULE_FINETUNE may name a model to take
// in place of a tiny one, for a hundred steps on the documentation of Go.
func TestPyTorchAgrees(t *testing.T) {
	python := os.Getenv("CHAINRULE_PYTHON")
	if python == "" {
		require.NotEqual(t, "1", os.Getenv("CHAINRULE_REQUIRE_PYTHON"), "CHAINRULE_REQUIRE_PYTHON is 1, but CHAINRULE_PYTHON names no Python")
		t.Skip("CHAINRULE_PYTHON names no Python with transformers; .ci/run transformers makes one")
	}
	t.Run("a tiny model", func(t *testing.T) {
		compare(t, python, newModel(t), newData(t, 60), 1e-3, "-lr", "0.01", "-steps", "15", "-accumulate", "2")
	})
	t.Run("CHAINRULE_FINETUNE", func(t *testing.T) {
		model := os.Getenv("CHAINRULE_FINETUNE")
		if model == "" {
			t.Skip("CHAINRULE_FINETUNE names no model")
		}
		path := filepath.Join(t.TempDir(), "go.jsonl")
		require.NoError(t, writeDemo(t.Context(), path, io.Discard))
		compare(t, python, model, path, 5e-3, "-steps", "100", "-batch", "1", "-max-len", "128", "-held-out", "0.02", "-eval-every", "0")
	})
}

// compare requires that the losses of all steps, and the norms of their gradients,
// differ by at most this part.
func compare(t *testing.T, python, model, path string, most float64, args ...string) {
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	dir, out := begin(t, append(args, "-trace", trace, model, path)...)
	t.Log(out)
	base := filepath.Join(t.TempDir(), "base") // whatever the model is, Python reads a directory
	b, err := checkpoint.Open(model, checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.NoError(t, checkpoint.SaveDir(base, b, checkpoint.SaveOptions{}))
	cmd := exec.Command(python, filepath.Join("..", "..", "testdata", "finetune.py"), base, trace, "1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	printed, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var theirs struct{ Losses, Norms []float64 }
	require.NoError(t, json.Unmarshal(printed, &theirs))
	ours := metrics(t, dir)[1:]
	require.Len(t, theirs.Losses, len(ours))
	loss, norm := 0.0, 0.0
	for i, r := range ours {
		part := math.Abs(r.Loss-theirs.Losses[i]) / theirs.Losses[i]
		require.LessOrEqual(t, part, most, "step %d: loss %v, PyTorch %v", r.Step, r.Loss, theirs.Losses[i])
		loss, norm = max(loss, part), max(norm, math.Abs(r.GradNorm-theirs.Norms[i])/theirs.Norms[i])
		if n := r.Step; n <= 3 || n%10 == 0 {
			t.Logf("step %3s: loss %.6f, PyTorch %.6f; norm %.4f, %.4f", strconv.Itoa(n), r.Loss, theirs.Losses[i], r.GradNorm, theirs.Norms[i])
		}
	}
	require.LessOrEqual(t, norm, most)
	require.Less(t, ours[len(ours)-1].Loss, ours[0].Loss)
	t.Logf("%d steps: losses differ by at most %.2g of themselves, norms by %.2g", len(ours), loss, norm)
}
