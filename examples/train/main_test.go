package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/examples/internal/cli/clitest"
	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
)

// tiny is a model that takes a step in well below a millisecond.
var tiny = []string{
	"-dim", "4", "-hidden", "8", "-layers", "1", "-heads", "1", "-batch", "2", "-seq", "8", "-steps", "6",
	"-lr", "0.01", "-eval-every", "1", "-save-every", "2", "-sample-every", "3",
}

// corpus is a text to learn from.
func corpus(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "fox.txt")
	write(t, path, strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 40))
	return path
}

func write(t testing.TB, path, text string) {
	require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
}

func with(args []string, more ...string) []string {
	return append(append([]string{}, args...), more...)
}

// begin runs the program to its end, in a directory of its own.
func begin(t testing.TB, args ...string) (dir, out string) {
	dir = filepath.Join(t.TempDir(), "run")
	var b bytes.Buffer
	require.NoError(t, run(t.Context(), append(args, "-out", dir), &b))
	return dir, b.String()
}

// tree is every file below a directory, but for the plot.
func tree(t testing.TB, dir string) map[string]string {
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "loss.") || d.Name() == metricsFile { // it has times
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = string(b)
		return err
	}))
	return files
}

func TestHelpListsTheFlags(t *testing.T) {
	for _, arg := range []string{"-h", "-help", "--help"} {
		var out bytes.Buffer
		require.ErrorIs(t, run(t.Context(), []string{arg}, &out), cli.ErrHelp)
		require.Equal(t, help, out.String())
	}
	clitest.RequireHelp(t, help, new(settings).flags())
}

func TestACommandLineThatCannotBeIsAUsageError(t *testing.T) {
	t.Chdir(t.TempDir())
	text := corpus(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-stepz", "3"}, "flag provided but not defined: -stepz"},
		{[]string{"-steps"}, "flag needs an argument: -steps"},
		{[]string{"-steps", "many"}, `invalid value "many" for flag -steps`},
		{[]string{"-steps", "0"}, "-steps is 0, want 1 to 2147483647"},
		{[]string{"-steps", "-5"}, "-steps is -5"},
		{[]string{"-steps", "99999999999999999999"}, "value out of range"},
		{[]string{"-dim", "0"}, "-dim is 0"},
		{[]string{"-dim", "30"}, "-dim is 30, want an even multiple of -heads 4"},
		{[]string{"-dim", "12", "-heads", "4"}, "-dim is 12, want an even multiple of -heads 4"},
		{[]string{"-heads", "0"}, "-heads is 0"},
		{[]string{"-kv-heads", "3"}, "not a multiple of NKVHeads 3"},
		{[]string{"-layers", "-1"}, "-layers is -1"},
		{[]string{"-hidden", "-1"}, "-hidden is -1"},
		{[]string{"-batch", "0"}, "-batch is 0"},
		{[]string{"-seq", "0"}, "-seq is 0"},
		{[]string{"-accum", "0"}, "-accum is 0"},
		{[]string{"-accum", "2147483647"}, "make too many tokens in a step"},
		{[]string{"-eval-every", "0"}, "-eval-every is 0"},
		{[]string{"-save-every", "-1"}, "-save-every is -1"},
		{[]string{"-lr", "NaN"}, "-lr is NaN"},
		{[]string{"-lr", "-1"}, "-lr is -1"},
		{[]string{"-lr", "+Inf"}, "-lr is +Inf"},
		{[]string{"-clip", "-1"}, "-clip is -1"},
		{[]string{"-weight-decay", "Inf"}, "-weight-decay is +Inf"},
		{[]string{"-dim", "2147483640", "-hidden", "8", "-layers", "2147483647"}, "too many parameters"},
		{[]string{"-dim", "2147483640"}, "HiddenDim is 5726623040"},
		{[]string{"-vocab", "256"}, "-vocab is 256, want 257 to"},
		{[]string{"-ema", "1"}, "-ema is 1, want 0 or more and less than 1"},
		{[]string{"-minutes", "-1"}, "-minutes is -1"},
		{[]string{"-minutes", "1e9"}, "-minutes is 1e+09, want at most"},
		{[]string{"-minutes", "1", "-steps", "5"}, "-steps: -minutes chooses that; give one of the two"},
		{[]string{"book.txt"}, `unexpected argument "book.txt"`},
		{[]string{"-resume", ""}, "-resume is empty"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), append([]string{"-data", text}, c.args...), &out)
			var usage cli.UsageError
			require.ErrorAs(t, err, &usage)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "(-h lists the flags)")
			require.NoDirExists(t, "runs")
		})
	}
}

func TestATooLargeModelIsRefused(t *testing.T) {
	if cli.CheckMemory(math.MaxInt64) == nil {
		t.Skip("this system does not say what memory it has")
	}
	t.Chdir(t.TempDir())
	for _, args := range [][]string{
		{"-dim", "131072", "-layers", "4"},
		{"-batch", "1000000", "-seq", "1000"},
	} {
		ctx, out := clitest.StopAt(t, "bits/byte", cli.Stopped{})
		err := run(ctx, with(args, "-data", corpusOf(t, 2000)), out)
		require.ErrorContains(t, err, "of memory, and", "%v", args)
		require.NoDirExists(t, "runs")
	}
}

func corpusOf(t testing.TB, n int) string {
	path := filepath.Join(t.TempDir(), "text")
	write(t, path, strings.Repeat("a", n))
	return path
}

func TestACorpusThatCannotBeLearnedFromIsRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"empty": "", "nine": "123456789", "ten": "1234567890", "binary": "a\x00b"} {
		write(t, name, text)
	}
	require.NoError(t, os.Mkdir("dir", 0o777))
	require.NoError(t, os.Symlink("loop", "loop"))
	write(t, "secret", "text")
	require.NoError(t, os.Chmod("secret", 0))
	for _, c := range []struct{ path, want string }{
		{"missing.txt", "missing.txt: no such file or directory"},
		{"empty", "empty is empty"},
		{"nine", "nine has 9 bytes to learn from and 0 held out, want at least 9 (-seq and one more) and 2"},
		{"ten", "ten has 9 bytes to learn from and 1 held out"},
		{"binary", "binary is not text: it has a NUL byte at offset 1"},
		{"dir", "dir holds no text file"},
		{"loop", "too many levels of symbolic links"},
		{"secret", "permission denied"},
	} {
		t.Run(c.path, func(t *testing.T) {
			if c.path == "secret" && os.Geteuid() == 0 {
				t.Skip("root may read everything")
			}
			err := run(t.Context(), with(tiny, "-data", c.path), io.Discard)
			require.ErrorContains(t, err, c.want)
			require.NoDirExists(t, "runs")
		})
	}
}

func TestAnOutputThatCannotBeIsRefusedBeforeTheFirstStep(t *testing.T) {
	text, dir := corpus(t), t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "precious")
	old, _ := begin(t, with(tiny, "-data", text)...)
	foreign := map[string]string{}
	for _, name := range []string{metricsFile, plotFile, settingsFile, "checkpoint-7"} {
		foreign[name] = filepath.Join(dir, "with-"+name)
		require.NoError(t, os.Mkdir(foreign[name], 0o777))
		write(t, filepath.Join(foreign[name], name), "precious")
	}
	locked := filepath.Join(dir, "locked")
	require.NoError(t, os.Mkdir(locked, 0o500))
	for _, c := range []struct{ out, want string }{
		{file, "not a directory"},
		{filepath.Join(file, "below"), "not a directory"},

		{old, "run.json is there already: go on with that run by -resume " + old + ", or choose another -out"},
		{foreign[settingsFile], "run.json is there already"},
		{foreign[metricsFile], "metrics.jsonl is there already"},
		{foreign[plotFile], "loss.png is there already"},
		{foreign["checkpoint-7"], "checkpoint-7 is there already"},
		{locked, "permission denied"},
	} {
		t.Run(c.out, func(t *testing.T) {
			if c.out == locked && os.Geteuid() == 0 {
				t.Skip("root may write everywhere")
			}
			before := tree(t, dir)
			oldBefore := tree(t, old)
			var out bytes.Buffer
			require.ErrorContains(t, run(t.Context(), with(tiny, "-data", text, "-out", c.out), &out), c.want)
			require.NotContains(t, out.String(), "bits/byte") // the head of the table
			require.Equal(t, before, tree(t, dir))
			require.Equal(t, oldBefore, tree(t, old))
		})
	}
}

func TestRunsAreNumbered(t *testing.T) {
	t.Chdir(t.TempDir())
	text := corpus(t)
	for i := 1; i <= 2; i++ {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), with(tiny, "-data", text), &out))
		require.Contains(t, out.String(), fmt.Sprintf("into runs/fox-%d\n", i))
		require.FileExists(t, fmt.Sprintf("runs/fox-%d/checkpoint-6/model.safetensors", i))
	}
	require.Equal(t, tree(t, "runs/fox-1"), tree(t, "runs/fox-2"))
}

func TestNoTwoRunsTakeOneDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	const n = 64
	runs, start := make([]settings, n), make(chan struct{})
	var all sync.WaitGroup
	for i := range runs {
		all.Go(func() {
			runs[i].Data = "/fox.txt"
			<-start
			assert.NoError(t, runs[i].enter())
		})
	}
	close(start)
	all.Wait()
	taken := map[string]bool{}
	for _, s := range runs {
		taken[s.out] = true
	}
	require.Len(t, taken, n)
}

func TestARunLeavesWhatItSays(t *testing.T) {
	dir, out := begin(t, with(tiny, "-data", corpus(t))...)
	for _, want := range []string{
		"1620 bytes to learn from, 180 held out\n", "6 steps of 16 bytes on ", "into " + dir, "\n      6 ",
		"bits for a byte of the held-out text", "this model ", "gzip -9 ", "The model writes:\n\n  │ The ",
		"loss curve  " + filepath.Join(dir, "loss.png"), "model       " + filepath.Join(dir, "checkpoint-6"),
	} {
		require.Contains(t, out, want)
	}
	for _, r := range out { // the output is no terminal
		require.True(t, r == '\n' || r == '\t' || r >= ' ' && r != 0x7f, "%q", r)
	}
	requirePlot(t, dir)
	requireMetrics(t, dir, 6)
	state, path, err := checkpoint.LoadState(dir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "checkpoint-6"), path)
	require.Equal(t, 6, state.Step)
	model, err := checkpoint.LoadDir(path)
	require.NoError(t, err)
	require.Equal(t, state.Model.Data, model.Data)

	_, quiet := begin(t, with(tiny, "-data", corpus(t), "-quiet")...)
	require.True(t, strings.HasPrefix(quiet, "\nbits for a byte"), quiet)
}

func requirePlot(t testing.TB, dir string) {
	f, err := os.Open(filepath.Join(dir, plotFile))
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	size := img.Bounds().Size()
	require.Equal(t, [2]int{768, 432}, [2]int{size.X, size.Y})
	colors := map[any]bool{} // it is not blank
	for i := 0; i < size.X*size.Y && len(colors) <= 20; i++ {
		colors[img.At(i%size.X, i/size.X)] = true
	}
	require.Greater(t, len(colors), 20)
}

// requireMetrics checks metrics.jsonl: a step after the other.
func requireMetrics(t testing.TB, dir string, steps int) {
	require.Len(t, stepsOf(t, dir), steps)
	for i, r := range stepsOf(t, dir) {
		require.Equal(t, i+1, r.Step)
		require.Greater(t, float64(*r.Loss), 0.0)
		require.Greater(t, float64(*r.GradNorm), 0.0)
	}
}

// stepsOf returns the records of the steps that count.
func stepsOf(t testing.TB, dir string) []metrics.Record {
	all, err := metrics.ReadFile(filepath.Join(dir, metricsFile))
	require.NoError(t, err)
	return slices.DeleteFunc(metrics.Current(all), func(r metrics.Record) bool { return r.Type != train.Stepped })
}

func TestAModelLearns(t *testing.T) {
	dir, _ := begin(t, with(tiny, "-data", corpus(t), "-steps", "200", "-dim", "16", "-eval-every", "100")...)
	require.InDelta(t, 8, float64(*stepsOf(t, dir)[0].Loss)/math.Ln2, 0.2)
	all, err := metrics.ReadFile(filepath.Join(dir, metricsFile))
	require.NoError(t, err)
	last := slices.IndexFunc(all, func(r metrics.Record) bool { return r.Type == train.Evaluated && r.Step == 200 })
	require.Less(t, float64(*all[last].ValBPB), 3.5)
}

func TestOddSizes(t *testing.T) {
	text := corpus(t)
	for _, args := range [][]string{
		{"-steps", "1"}, {"-seq", "1"}, {"-seq", "2", "-batch", "1"}, {"-accum", "3"}, {"-warmup", "0"},
		{"-warmup", "100"}, {"-lr", "0"}, {"-clip", "0"}, {"-kv-heads", "1", "-heads", "2"}, {"-save-every", "0"},
		{"-sample-every", "0"}, {"-batch", "500"}, {"-seq", "1000"}, {"-seed", "18446744073709551615"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			dir, _ := begin(t, append(with(tiny, "-data", text), args...)...)
			requirePlot(t, dir)
		})
	}
}

// A run that is stopped at any time, and resumed, is the run that was not.
func TestAStoppedRunGoesOnToTheSameBits(t *testing.T) {
	text := corpus(t)
	whole, _ := begin(t, with(tiny, "-data", text)...)
	for _, c := range []struct{ name, at, saved string }{
		{"before the first step", "bits/byte", ""},
		{"behind a step that is saved anyway", "\n      2 ", "checkpoint-2"},
		{"behind one that is not, before a sample", "\n      3 ", "checkpoint-3"},
		{"behind the last step", "\n      6 ", "checkpoint-6"},
		{"while it is measured", "measuring on all", "checkpoint-6"},
		{"before the last sample", "this model", "checkpoint-6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a run")
			ctx, out := clitest.StopAt(t, c.at, cli.Stopped{Signal: syscall.SIGTERM})
			err := run(ctx, with(tiny, "-data", text, "-out", dir), out)
			require.Equal(t, cli.Stopped{Signal: syscall.SIGTERM}, err)
			require.Contains(t, out.String(), "-resume '"+dir+"'\n")
			require.NotContains(t, out.String(), "The model writes")
			if c.saved == "" {
				require.Contains(t, out.String(), "Stopped before the first step. To begin:")
			} else {
				require.Contains(t, out.String(), "saved in "+filepath.Join(dir, c.saved)+". To go on:")
				require.DirExists(t, filepath.Join(dir, c.saved))
			}

			var again bytes.Buffer
			require.NoError(t, run(t.Context(), []string{"-resume", dir}, &again))
			require.Contains(t, again.String(), "The model writes")
			require.Equal(t, tree(t, whole), tree(t, dir))
			requireMetrics(t, dir, 6)
			requirePlot(t, dir)
		})
	}
}

func TestARunKilledBeforeItsFirstCheckpointBeginsAnew(t *testing.T) {
	whole, _ := begin(t, with(tiny, "-data", corpus(t))...)
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(whole, settingsFile))
	require.NoError(t, err)
	write(t, filepath.Join(dir, settingsFile), string(b))
	require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
	require.Equal(t, tree(t, whole), tree(t, dir))
}

func TestACompleteRunIsMeasuredAgain(t *testing.T) {
	dir, out := begin(t, with(tiny, "-data", corpus(t))...)
	before := tree(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, plotFile)))
	for _, at := range []string{dir, filepath.Join(dir, "checkpoint-6"), dir + "/", dir + "/."} {
		var again bytes.Buffer
		require.NoError(t, run(t.Context(), []string{"-resume", at}, &again))
		_, end, _ := strings.Cut(out, "\nbits for")
		end, _, _ = strings.Cut(end, "of memory were taken") // which differs
		end = end[:strings.LastIndex(strings.TrimRight(end, "\n"), "\n")]
		require.Contains(t, again.String(), end)
		require.Equal(t, before, tree(t, dir))
		requirePlot(t, dir)
	}
}

func TestMetricsBehindACheckpointAreTakenAgain(t *testing.T) {
	text := corpus(t)
	whole, _ := begin(t, with(tiny, "-data", text)...)
	dir := filepath.Join(t.TempDir(), "run")
	ctx, out := clitest.StopAt(t, "\n      3 ", cli.Stopped{Signal: syscall.SIGINT})
	require.Error(t, run(ctx, with(tiny, "-data", text, "-out", dir), out))
	// A process that was killed took more steps than it saved, and half a line.
	f, err := os.OpenFile(filepath.Join(dir, metricsFile), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(`{"type":"step","step":4,"train/loss":7}` + "\n" + `{"type":"step","step":5,"tra`)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
	require.Equal(t, tree(t, whole), tree(t, dir))
}

func TestResumeOfWhatIsNoRun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "text")
	bad := func(json string) string {
		at := t.TempDir()
		write(t, filepath.Join(at, settingsFile), json)
		return at
	}
	for _, c := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "missing"), "missing is not a run of this program: "},
		{"empty", dir, "is not a run of this program: "},
		{"file", filepath.Join(dir, "file"), "file is not a run of this program: "},
		{"no JSON", bad("{"), "run.json: unexpected end of JSON input"},
		{"foreign JSON", bad("{}"), "run.json has no Data"},
		{"bad value", bad(`{"Data":"x","Heads":0}`), "run.json: -heads is 0"},
		{"bad type", bad(`{"Data":"x","Steps":"many"}`), "run.json: json: cannot unmarshal string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := run(t.Context(), []string{"-resume", c.path}, io.Discard)
			require.ErrorContains(t, err, c.want)
			require.NotErrorAs(t, err, new(cli.UsageError))
		})
	}
}

func TestResumeTakesNoOtherFlags(t *testing.T) {
	dir, _ := begin(t, with(tiny, "-data", corpus(t))...)
	for _, flag := range []string{"-steps", "-seed", "-out", "-lr", "-eval-every"} {
		err := run(t.Context(), []string{"-resume", dir, flag, "7"}, io.Discard)
		require.ErrorAs(t, err, new(cli.UsageError))
		require.ErrorContains(t, err, flag+": a run goes on with its own settings")
	}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-resume", dir, "-quiet"}, &out))
	require.True(t, strings.HasPrefix(out.String(), "\nbits for"), out.String())
}

func TestResumeOfAnotherConfigurationSaysWhatDiffers(t *testing.T) {
	dir, _ := begin(t, with(tiny, "-data", corpus(t))...)
	path := filepath.Join(dir, settingsFile)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	write(t, path, strings.NewReplacer(`"Dim": 4`, `"Dim": 8`, `"Seed": 1`, `"Seed": 2`).Replace(string(b)))
	before := tree(t, dir)
	err = run(t.Context(), []string{"-resume", dir}, io.Discard)
	require.ErrorContains(t, err, "checkpoint-6 is of another run:")
	require.ErrorContains(t, err, "Model.Dim was 4, is 8")
	require.ErrorContains(t, err, "Seed was 1, is 2")
	require.NotContains(t, err.Error(), "Layers")
	require.Equal(t, before, tree(t, dir))
}

func TestATextThatMovedIsNamedWithData(t *testing.T) {
	text := corpus(t)
	dir, _ := begin(t, with(tiny, "-data", text)...)
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(text, moved))
	err := run(t.Context(), []string{"-resume", dir}, io.Discard)
	require.ErrorContains(t, err, "if the text of this run has moved, say where with -data")
	require.NoError(t, run(t.Context(), []string{"-resume", dir, "-data", moved}, io.Discard))
	write(t, moved, strings.Repeat("Another text. ", 200))
	err = run(t.Context(), []string{"-resume", dir, "-data", moved}, io.Discard)
	require.ErrorContains(t, err, "TrainTokens was 1620, is 2520")
}

func TestANonFiniteLossStopsTheRun(t *testing.T) {
	text := corpus(t)
	dir := filepath.Join(t.TempDir(), "run")
	err := run(t.Context(), with(tiny, "-data", text, "-out", dir, "-lr", "1e25", "-warmup", "0", "-save-every", "1", "-clip", "0"), io.Discard)
	require.ErrorContains(t, err, "not saved: step 1: the weight token_embedding[0] is ")
	require.ErrorContains(t, err, "the last good checkpoint, of step 0, is "+filepath.Join(dir, "checkpoint-0"))
	_, _, err = checkpoint.LoadState(dir)
	require.NoError(t, err)
	requireMetrics(t, dir, 1)

	dir = filepath.Join(t.TempDir(), "run")
	err = run(t.Context(), with(tiny, "-data", text, "-out", dir, "-lr", "1e19", "-steps", "1"), io.Discard)
	require.ErrorContains(t, err, "after step 1, the loss on the held-out text is ")
}

func TestACheckpointWithNaNStaysAsItIs(t *testing.T) {
	text, dir := corpus(t), filepath.Join(t.TempDir(), "run")
	ctx, out := clitest.StopAt(t, "\n      3 ", cli.Stopped{Signal: syscall.SIGINT})
	require.Error(t, run(ctx, with(tiny, "-data", text, "-out", dir), out))
	state, _, err := checkpoint.LoadState(dir)
	require.NoError(t, err)
	state.Model.Layers[0].W1[3] = float32(math.NaN())
	_, err = checkpoint.SaveState(dir, state)
	require.NoError(t, err)
	before := tree(t, dir)
	err = run(t.Context(), []string{"-resume", dir}, io.Discard)
	require.ErrorContains(t, err, "step 4: the loss is NaN")
	require.Equal(t, before, tree(t, dir))
}

// What stops a run and keeps it from being saved is not just a signal.
func TestASaveThatFailsOnTheWayOutIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	ctx, stop := context.WithCancelCause(t.Context())
	out := &clitest.Watch{At: "\n      3 ", Do: func() {
		require.NoError(t, os.Rename(dir, dir+"-gone"))
		write(t, dir, "a file")
		stop(cli.Stopped{Signal: syscall.SIGINT})
	}}
	err := run(ctx, with(tiny, "-data", corpus(t), "-out", dir), out)
	require.NotEqual(t, cli.Stopped{Signal: syscall.SIGINT}, err)
	require.ErrorContains(t, err, "saving after step 3")
	require.NotContains(t, out.String(), "saved in")
}

// A tokenizer that is made of the text stays with the run, and bits are those of
// a byte all the same.
func TestARunWithATokenizerOfItsOwn(t *testing.T) {
	text := corpus(t)
	args := with(tiny, "-data", text, "-vocab", "280", "-ema", "0.9", "-steps", "40")
	whole, out := begin(t, args...)
	require.Contains(t, out, "a BPE of 280 tokens, ")
	require.Contains(t, out, "export      ")
	var bits float64
	_, rest, _ := strings.Cut(out, "this model")
	_, err := fmt.Sscan(rest, &bits)
	require.NoError(t, err)
	require.Greater(t, bits, 0.1)
	require.Less(t, bits, 8.2, "of a byte, not of a token")
	b, err := checkpoint.Open(whole, checkpoint.OpenOptions{})
	require.NoError(t, err)
	require.Equal(t, 280, b.Tokenizer.VocabSize())
	require.Less(t, len(b.Tokenizer.Encode("The quick brown fox")), 12)

	dir := filepath.Join(t.TempDir(), "run")
	ctx, watch := clitest.StopAt(t, "\n     13 ", cli.Stopped{Signal: syscall.SIGTERM})
	require.Error(t, run(ctx, with(args, "-out", dir), watch))
	require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
	require.Equal(t, tree(t, whole), tree(t, dir))
}

// A run of so many minutes takes about that, and is one like any other.
func TestMinutesChooseTheRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "long.txt")
	write(t, path, strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 2000))
	start := time.Now()
	dir, out := begin(t, "-data", path, "-minutes", "0.05", "-seq", "32", "-batch", "2")
	require.Less(t, time.Since(start), 30*time.Second) // of a machine that is busy
	b, err := os.ReadFile(filepath.Join(dir, settingsFile))
	require.NoError(t, err)
	var s settings
	require.NoError(t, json.Unmarshal(b, &s))
	require.NoError(t, s.complete())
	require.Equal(t, 64*s.Layers, s.Dim)
	require.Equal(t, s.Layers, s.Heads)
	require.Greater(t, s.Steps, 1)
	require.InEpsilon(t, 2e-3*math.Sqrt(4/float64(s.Layers)), s.LR, 1e-9)
	require.Contains(t, out, fmt.Sprintf("%d steps of 64 bytes", s.Steps))
	require.NoError(t, run(t.Context(), []string{"-resume", dir}, io.Discard))
}
