package main

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/internal/isa"
)

func init() { streamBytes, patience = 8<<20, time.Second }

func TestMain(m *testing.M) { clitest.Main(m, main) }

func bench(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), args, strings.NewReader(""), &out))
	return out.String()
}

// The breakdown is of what the library does only if the replayed calls give
// the library's gradients, to the bit.
func TestReplayIsTheLibrarysStep(t *testing.T) {
	const B, T = 2, 24
	plain, err := shape("tiny", false, T)
	require.NoError(t, err)
	untied, qk := plain, plain
	untied.Tied = false
	qk.QKNorm = true
	for name, c := range map[string]chainrule.Config{"tied": plain, "untied": untied, "qk-norm": qk} {
		t.Run(name, func(t *testing.T) {
			library, err := newTraining(t.Context(), c, B, T)
			require.NoError(t, err)
			replayed, err := newTraining(t.Context(), c, B, T)
			require.NoError(t, err)
			library.adam.ZeroGrad, replayed.adam.ZeroGrad = false, false // gradients to compare
			losses := make([]float32, B*T)
			ops := replayed.replay(B, T, losses)
			for range 2 {
				require.NoError(t, library.step())
				for _, op := range ops {
					require.NoError(t, op.run())
				}
				require.Equal(t, library.ws.Losses(), losses)
				require.Equal(t, library.g.Data, replayed.g.Data)
				require.Equal(t, library.m.Data, replayed.m.Data)
			}
		})
	}
}

// The FLOP that the ops count are those of the formula of the roofline.
func TestOpsAddUpToTheWork(t *testing.T) {
	for _, s := range shapes {
		if s.name == "Qwen3-0.6B" { // gigabytes
			continue
		}
		c := s.Config
		c.NLayers, c.VocabSize = 2, 500
		tr, err := newTraining(t.Context(), c, 2, 16)
		require.NoError(t, err)
		var flop, update float64
		for _, op := range tr.replay(2, 16, make([]float32, 32)) {
			flop += op.flop
			if op.name == "AdamStep" {
				update += op.bytes
			}
		}
		w := stepWork(c, 2, 16)
		require.InEpsilon(t, w.flop(), flop, 1e-12, s.name)
		require.Equal(t, w.Update/28*32, update) // the ops clear the gradient, which the roofline leaves out
	}
	// The figures that PyTorch users know: 6 FLOP a weight and token.
	c, err := shape("stories110M", true, 256)
	require.NoError(t, err)
	require.Equal(t, 134105856, c.NumParams())
	w := stepWork(c, 1, 256)
	require.InDelta(t, 168e9, w.Products, 1e9)
	require.InDelta(t, 4.2e9, w.Attention, 0.1e9)
}

func TestStepReportAddsUp(t *testing.T) {
	var got struct {
		Machine machine
		Step    stepReport
	}
	text := bench(t, "-model", "tiny", "-B", "2", "-T", "16", "-seconds", "0.05", "-limit", "20s", "-json")
	require.NoError(t, json.Unmarshal([]byte(text), &got), text)
	require.NotEmpty(t, got.Machine.CPU)
	require.Equal(t, runtime.Version(), got.Machine.Go)
	for _, p := range got.Machine.Peaks {
		require.Equal(t, isa.Best == isa.Generic, p.Kernel == 0, "no kernel")
	}
	s := got.Step
	require.Equal(t, [2]int{2, 16}, [2]int{s.B, s.T})
	require.Positive(t, s.Step.Best)
	require.LessOrEqual(t, s.Step.Best, s.Step.Median)
	require.InEpsilon(t, 32/s.Step.Median, s.Tokens, 1e-9)
	require.Greater(t, s.OfRoofline, 0.0)
	require.Less(t, s.OfRoofline, 100.0, "nothing is faster than the machine")
	seconds, share := s.Else, of(s.Else, s.Step.Median)
	for _, row := range s.Ops {
		require.Positive(t, row.Seconds, row.Op)
		require.Positive(t, row.OfPeak, row.Op)
		require.Positive(t, row.Calls, row.Op)
		if row.FLOPs > 0 {
			require.Less(t, row.OfPeak, 110.0, row.Op)
		}
		seconds, share = seconds+row.Seconds, share+row.Share
	}
	require.InEpsilon(t, s.Step.Median, seconds, 1e-9)
	require.InDelta(t, 100, share, 1e-6)
}

func TestTextReports(t *testing.T) {
	quick := []string{"-model", "tiny", "-T", "16", "-seconds", "0.01", "-limit", "2m"}
	text := bench(t, quick...)
	for _, want := range []string{"A training step of tiny", "roofline", "forward\n", "backward\n", "update\n", "step less its ops", "all other ops", "W13 dW", "GF/s"} {
		require.Contains(t, text, want)
	}
	text = bench(t, append(quick, "-generate", "-threads", "1")...)
	require.Contains(t, text, "tokens/s")
	require.Contains(t, text, "of peak\n")
	text = bench(t, "-products", "-threads", "1", "-model", "tiny", "-seconds", "0.01", "-limit", "2m")
	require.Contains(t, text, "1024 rows")
	require.Contains(t, text, "16 rows: weights from memory")
	require.NotContains(t, text, "left out")
}

func TestScalingDrawsAPicture(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "scaling.png")
	text := bench(t, "-scaling", "-model", "tiny", "-T", "16", "-seconds", "0.001", "-limit", "1s", "-png", path)
	require.Contains(t, text, "layers")
	require.Contains(t, text, "no time", "the limit is short")
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	picture, err := png.DecodeConfig(f)
	require.NoError(t, err)
	require.Greater(t, picture.Width, 700)
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0.0000123: "0.012", 0.00123: "1.23", 0.0123: "12.3", 0.123: "123", 12.3: "12300", -0.05469: "-54.7", -1e-5: "-0.010"} {
		require.Equal(t, want, millis(v))
	}
}

func TestWidthsAreModels(t *testing.T) {
	for _, s := range shapes {
		names, cases := sweeps(s.Config, 1, 64)
		require.Equal(t, []string{"T", "layers", "width", "B"}, names)
		for i := range cases {
			require.GreaterOrEqual(t, len(cases[i]), 3, "%s of %s", names[i], s.name)
			before := 0.0
			for _, c := range cases[i] {
				require.NoError(t, c.Validate())
				require.Greater(t, stepWork(c.Config, c.B, c.T).flop(), before)
				before = stepWork(c.Config, c.B, c.T).flop()
			}
		}
	}
}

func TestMistakesAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-model", "gpt2"}, {"-B", "0"}, {"-T", "-1"}, {"-T", "x"}, {"-threads", "-1"}, {"-threads", "100000"},
		{"-isa", "sse9"}, {"-seconds", "-1"}, {"-seconds", "NaN"}, {"-limit", "0s"}, {"-limit", "-1s"}, {"-what"}, {"more"},
		{"-products", "-scaling"}, {"-generate", "-T", "1"}, {"-products", "-B", "2"}, {"-products", "-T", "64"}, {"-products", "-untied"}, {"-png", "x.png"}, {"-scaling", "-png", ""},
	} {
		var out bytes.Buffer
		err := run(t.Context(), args, strings.NewReader(""), &out)
		var usage cli.UsageError
		require.ErrorAs(t, err, &usage, "%q", args)
		require.Empty(t, out.String(), "%q", args)
	}
	var out bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"-h"}, nil, &out), cli.ErrHelp)
	require.Contains(t, out.String(), "stories110M")
}

// Whatever the environment says, -isa is what runs.
func TestTheInstructionSetIsTheOneGiven(t *testing.T) {
	for _, set := range isa.Available {
		cmd := clitest.Command("-isa", set.String(), "-model", "tiny", "-T", "16", "-seconds", "0.01", "-limit", "10s", "-json")
		cmd.Env = append(cmd.Env, "CHAINRULE_ISA="+isa.Best.String())
		late := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
		text, err := cmd.Output()
		late.Stop()
		require.NoError(t, err, set)
		var got struct{ Machine machine }
		require.NoError(t, json.Unmarshal(text, &got), set)
		require.Equal(t, set.String(), got.Machine.ISA)
	}
}

func TestTooLargeIsSaidBeforeItIsTried(t *testing.T) {
	for _, mode := range []string{"-json", "-generate"} {
		var out bytes.Buffer
		err := run(t.Context(), []string{mode, "-model", "Qwen3-0.6B", "-B", "20000", "-T", "2048"}, nil, &out)
		require.Error(t, err, mode)
		require.Empty(t, out.String(), mode)
	}
}

// Nobody wants to hear of it when all is measured.
func TestAPictureThatCannotBeWrittenIsSaidFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, canDraw(file))
	require.NoFileExists(t, file)
	require.NoError(t, os.WriteFile(file, []byte("old"), 0o666))
	require.NoError(t, canDraw(file))
	old, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "old", string(old))
	var out bytes.Buffer
	err = run(t.Context(), []string{"-scaling", "-model", "tiny", "-png", filepath.Join(file, "scaling.png")}, nil, &out)
	require.ErrorContains(t, err, "-png: ")
	require.Empty(t, out.String())
}

func TestASignalStopsIt(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(os.ErrClosed)
	for _, mode := range []string{"-json", "-products", "-generate", "-scaling"} {
		var out bytes.Buffer
		err := run(ctx, []string{mode, "-model", "tiny"}, nil, &out)
		require.ErrorIs(t, err, os.ErrClosed, mode)
	}
}

// A step of a large model takes seconds, and so does making one.
func TestASignalStopsAStepBetweenItsParts(t *testing.T) {
	c, err := shape("tiny", false, 16)
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	tr, err := newTraining(ctx, c, 1, 16)
	require.NoError(t, err)
	cancel(os.ErrClosed)
	require.ErrorIs(t, tr.step(), os.ErrClosed)
	require.Zero(t, tr.state.Step, "no update")
	require.Equal(t, make([]float32, len(tr.g.Data)), tr.g.Data, "no backward")
	_, err = newTraining(ctx, c, 1, 16)
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestASignalStopsServing(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	in, requests := io.Pipe()
	defer requests.Close()
	out, answers := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-serve"}, in, answers) }()
	_, err := io.WriteString(requests, `{"do":"hello"}`+"\n")
	require.NoError(t, err)
	_, err = out.Read(make([]byte, 1000))
	require.NoError(t, err)
	cancel(os.ErrClosed) // and there is no further request
	require.ErrorIs(t, <-done, os.ErrClosed)
}

func TestCtrlCEndsTheProcess(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("signals are for Unix")
	}
	cmd := clitest.Command("-products")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1)) // it is under way
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_, err = io.Copy(io.Discard, out)
	require.NoError(t, err)
	require.Equal(t, 130, clitest.ExitCode(t, cmd.Wait()))
	require.Empty(t, stderr.String())
}

// closed is a pipe that nobody reads any more.
type closed struct{ writes int }

func (c *closed) Write([]byte) (int, error) { c.writes++; return 0, os.ErrClosed }

func TestAClosedPipeStopsIt(t *testing.T) {
	var out closed
	err := run(t.Context(), []string{"-products", "-model", "tiny", "-threads", "1", "-limit", "10s"}, nil, &out)
	require.ErrorIs(t, err, os.ErrClosed)
	require.Equal(t, 1, out.writes)
}

// Training takes what it says, and 10% at most for all else.
func TestResidentMemoryIsWhatWasStated(t *testing.T) {
	if info, _ := debug.ReadBuildInfo(); slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector takes more")
	}
	c, err := shape("stories15M", false, 256)
	require.NoError(t, err)
	cmd := clitest.Command("-serve")
	cmd.Stdin = strings.NewReader(`{"do":"step","model":"stories15M","B":1,"T":256,"threads":1,"clip":true}`)
	text, err := cmd.Output()
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(text, &a), string(text))
	require.Empty(t, a.Error)
	if a.Resident == 0 {
		t.Skip("only Linux tells")
	}
	stated, err := trainingBytes(c, 1, 256)
	require.NoError(t, err)
	require.InEpsilon(t, stated, a.Resident, 0.1)
}

func TestServeAnswersEachLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tiny.bin")
	requests := []string{
		`{"do":"hello","model":"tiny","B":1,"T":16}`, `{"do":"probe","threads":1}`, `{"do":"nonsense"}`, `no JSON`,
		`{"do":"step","model":"tiny","B":1,"T":16,"threads":1,"clip":true}`, `{"do":"step","model":"none","B":1,"T":16}`,
		`{"do":"product","product":"dW","rows":8,"in":16,"out":24,"threads":1}`, `{"do":"product","product":"dW"}`,
		`{"do":"generate","model":"tiny","T":8,"threads":1}`, `{"do":"save","model":"tiny","path":"` + path + `"}`,
		`{"do":"check","model":"tiny","B":2,"T":3,"tokens":[1,2,3,4,5,6],"steps":3,"rate":0.01,"clip":true}`,
		`{"do":"check","model":"tiny","B":2,"T":3,"tokens":[1,2,3],"steps":3}`,
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-serve"}, strings.NewReader(strings.Join(requests, "\n")), &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, len(requests))
	for i, line := range lines {
		var a answer
		require.NoError(t, json.Unmarshal([]byte(line), &a), line)
		wrong := i == 2 || i == 3 || i == 5 || i == 7 || i == 11
		require.Equal(t, wrong, a.Error != "", "%s: %s", requests[i], line)
		if i == 4 || i == 6 || i == 8 {
			require.NotEmpty(t, a.Seconds)
		}
		if i == 10 {
			require.Len(t, a.Steps, 3)
			require.InDelta(t, math.Log(512), a.Steps[0][0], 0.2)
			require.Less(t, a.Steps[2][0], a.Steps[0][0])
			require.Positive(t, a.Steps[0][1])
		}
	}
	require.FileExists(t, path)
}
