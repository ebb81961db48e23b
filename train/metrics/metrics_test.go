package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/train"
)

func event(kind train.Kind, s train.Step) train.Event {
	return train.Event{Kind: kind, Time: time.Unix(1700000000, 250e6).Add(time.Duration(s.Step) * time.Second), Step: s}
}

// aRun is every kind of event, in an order that a run may have.
func aRun() []train.Event {
	one := train.Step{
		Step: 1, Loss: 5.5, GradNorm: 2.25, LR: 1e-3, Tokens: 512, Seen: 512, Duration: 250 * time.Millisecond,
		MFU: 0.5, PeakMemory: 1 << 30, Norms: []train.Norm{{Name: "layers.0", Grad: 0.5, Weight: 12}},
	}
	evaluated := one
	evaluated.Evaluated, evaluated.ValLoss = true, 2*math.Ln2
	sampled := evaluated
	sampled.Sampled, sampled.Sample = true, "The <b>light</b>\n\x00\xff"
	saved := sampled
	saved.Saved = "out/checkpoint-1"
	failed := event(train.SaveFailed, one)
	failed.Err = errors.New("the disk is full")
	bad := event(train.Skipped, train.Step{Step: 2, Loss: math.NaN(), GradNorm: math.Inf(1)})
	bad.Err = errors.New("loss is NaN")
	return []train.Event{
		event(train.Started, train.Step{}), event(train.Stepped, one), event(train.Evaluated, evaluated),
		event(train.Sampled, sampled), failed, event(train.Saved, saved), bad, event(train.Ended, train.Step{Step: 2}),
	}
}

func TestLinesAreWhatHappened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	l, err := Open(path, Options{Steps: 9, BytesPerToken: 4, Config: map[string]int{"batch": 8}})
	require.NoError(t, err)
	for _, e := range aRun() {
		l.OnEvent(e)
	}
	require.NoError(t, l.Close())
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, strings.Join([]string{
		`{"type":"start","step":0,"tokens":0,"time":1700000000.25,"steps":9,"bytes_per_token":4,"config":{"batch":8}}`,
		`{"type":"step","step":1,"tokens":512,"time":1700000001.25,"train/loss":5.5,"lr":0.001,"grad_norm":2.25,` +
			`"tok_per_sec":2048,"mfu":0.5,"dt_ms":250,"peak_mem":1073741824,"norms":[{"name":"layers.0","grad":0.5,"weight":12}]}`,
		`{"type":"eval","step":1,"tokens":512,"time":1700000001.25,"val/loss":1.3862943611198906,"val/bpb":0.5}`,
		`{"type":"sample","step":1,"tokens":512,"time":1700000001.25,"text":"The \u003cb\u003elight\u003c/b\u003e\n\u0000` + "\ufffd" + `"}`,
		`{"type":"save_failed","step":1,"tokens":512,"time":1700000001.25,"error":"the disk is full"}`,
		`{"type":"save","step":1,"tokens":512,"time":1700000001.25,"path":"out/checkpoint-1"}`,
		`{"type":"skip","step":2,"tokens":0,"time":1700000002.25,"train/loss":"NaN","lr":0,"grad_norm":"Infinity","error":"loss is NaN"}`,
		`{"type":"end","step":2,"tokens":0,"time":1700000002.25}`,
		"",
	}, "\n"), string(b))

	all, err := ReadFile(path)
	require.NoError(t, err)
	require.Len(t, all, len(aRun()))
	require.Equal(t, Float(5.5), *all[1].Loss)
	require.True(t, math.IsNaN(float64(*all[6].Loss)))
	var again bytes.Buffer
	enc := json.NewEncoder(&again)
	for _, r := range all {
		require.NoError(t, enc.Encode(r))
	}
	require.Equal(t, string(b), again.String())
}

// A process that is killed leaves any prefix of what it wrote.
func TestAFileCutAnywhereGoesOn(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	l, err := Open(whole, Options{})
	require.NoError(t, err)
	for _, e := range aRun() {
		l.OnEvent(e)
	}
	require.NoError(t, l.Close())
	b, err := os.ReadFile(whole)
	require.NoError(t, err)
	for cut := range len(b) + 1 {
		path := filepath.Join(dir, "cut")
		require.NoError(t, os.WriteFile(path, b[:cut], 0o666))
		before, err := ReadFile(path)
		require.NoError(t, err)
		require.Len(t, before, bytes.Count(b[:cut], []byte("\n")))

		l, err := Open(path, Options{})
		require.NoError(t, err)
		l.OnEvent(event(train.Stepped, train.Step{Step: 1}))
		require.NoError(t, l.Close())
		after, err := ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, len(before)+1, len(after))
	}
}

func TestWholeLinesAreFoundFarFromTheEnd(t *testing.T) {
	for _, torn := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300 << 10} {
		for _, first := range []string{"", "{}\n"} {
			path := filepath.Join(t.TempDir(), "f")
			require.NoError(t, os.WriteFile(path, []byte(first+strings.Repeat("x", torn)), 0o666))
			l, err := Open(path, Options{})
			require.NoError(t, err)
			require.NoError(t, l.Close())
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, first, string(b))
		}
	}
}

func TestStepsThatWereLostAreNotCurrent(t *testing.T) {
	var all []Record
	for _, r := range []struct {
		kind train.Kind
		step int
	}{
		{train.Started, 0}, {train.Stepped, 1}, {train.Stepped, 2}, {train.Evaluated, 2}, {train.Stepped, 3},
		{train.Started, 1}, {train.Stepped, 2}, {train.Stepped, 3}, {train.Stepped, 4}, {train.RolledBack, 3}, {train.Stepped, 4},
	} {
		all = append(all, Record{Type: r.kind, Step: r.step, Time: float64(len(all))})
	}
	var at []float64
	for _, r := range Current(all) {
		at = append(at, r.Time)
	}
	require.Equal(t, []float64{0, 1, 5, 6, 7, 9, 10}, at)
}

func TestBadLinesAreNamed(t *testing.T) {
	for in, want := range map[string]string{
		"{\"type\":\"step\",\"step\":1}\nnonsense\n": "line 2: invalid character",
		"{\"step\":1}\n":                                "line 1: type is \"\"",
		"{\"type\":\"step\",\"step\":-1}\n":             "step -1",
		"{\"type\":\"step\",\"train/loss\":\"four\"}\n": "line 1: \"four\" is not a number",
		strings.Repeat("x", maxLine+1<<17) + "\n":       "line 1: it does not end",
	} {
		_, err := Read(strings.NewReader(in))
		require.ErrorContains(t, err, want)
	}
	_, err := ReadFile(t.TempDir())
	require.ErrorContains(t, err, "is not a regular file")
	_, err = Open(t.TempDir(), Options{})
	require.ErrorContains(t, err, "is not a regular file")
	_, err = Open(filepath.Join(t.TempDir(), "m"), Options{Config: func() {}})
	require.ErrorContains(t, err, "Options.Config")
}

// full is a file that takes no more: what it writes, the kernel refuses.
func full(t *testing.T) *os.File {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("no /dev/full: ", err)
	}
	return f
}

func TestAFullDiskLosesLinesAndNotTheRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.jsonl")
	l, err := Open(path, Options{})
	require.NoError(t, err)
	l.OnEvent(event(train.Stepped, train.Step{Step: 1}))
	disk := l.file
	l.file = full(t)
	l.OnEvent(event(train.Stepped, train.Step{Step: 2}))
	l.file.Close()
	l.file = disk
	l.OnEvent(event(train.Stepped, train.Step{Step: 3}))
	require.ErrorContains(t, l.Close(), "1 events are not in "+path)
	all, err := ReadFile(path)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, 3, all[1].Step)
}

// TensorBoard's own reader finds what was written. python is set by the gate.
func TestTensorBoardReadsTheEvents(t *testing.T) {
	python := os.Getenv("CHAINRULE_TENSORBOARD_PYTHON")
	if python == "" {
		t.Skip("CHAINRULE_TENSORBOARD_PYTHON does not name a Python with tensorboard")
	}
	dir := t.TempDir()
	for run := range 2 { // interrupted behind step 3, and resumed from step 1
		w, err := NewEventFile(dir, Options{BytesPerToken: 4})
		require.NoError(t, err)
		if run == 0 {
			for _, e := range aRun() {
				w.OnEvent(e)
			}
			w.OnEvent(event(train.Stepped, train.Step{Step: 3, Loss: 99, Duration: 1}))
		} else {
			w.OnEvent(event(train.Started, train.Step{Step: 1}))
			w.OnEvent(event(train.Stepped, train.Step{Step: 2, Loss: 4.5, Duration: time.Second, Tokens: 8}))
		}
		require.NoError(t, w.Close())
	}
	c := exec.Command(python, "testdata/read_events.py", dir)
	c.Stderr = os.Stderr // it says there what it leaves out
	out, err := c.Output()
	require.NoError(t, err, string(out))
	require.JSONEq(t, `{
		"scalars": {
			"train/loss": [[1, 5.5], [2, 4.5]], "lr": [[1, 0.001], [2, 0]], "grad_norm": [[1, 2.25], [2, 0]],
			"tok_per_sec": [[1, 2048], [2, 8]], "mfu": [[1, 0.5]],
			"grad_norm/layers.0": [[1, 0.5]], "weight_norm/layers.0": [[1, 12]],
			"val/loss": [[1, 1.386294]], "val/bpb": [[1, 0.5]]
		},
		"texts": {"sample": [[1, "The <b>light</b>\n\u0000\ufffd"]]},
		"first": 1700000001.25
	}`, string(out))
}
