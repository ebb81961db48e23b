package cli_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args      string
		arguments bool
		want      string // "": none
	}{
		{"", false, ""},
		{"-n 3", false, ""},
		{"-h", false, "help requested"},
		{"-n x", false, `invalid value "x" for flag -n`},
		{"-m", false, "not defined: -m"},
		{"-n 3 file", false, `unexpected argument "file"`},
		{"-n 3 file", true, ""},
	} {
		f := flag.NewFlagSet("", flag.ContinueOnError)
		f.Int("n", 1, "")
		var out bytes.Buffer
		err := cli.Parse(f, strings.Fields(c.args), c.arguments, "the help\n", &out)
		switch {
		case c.want == "":
			require.NoError(t, err)
			require.Equal(t, c.args != "", cli.Given(f)["n"])
		case c.args == "-h":
			require.ErrorIs(t, err, cli.ErrHelp)
			require.Equal(t, "the help\n", out.String())
		default:
			require.ErrorAs(t, err, new(cli.UsageError))
			require.ErrorContains(t, err, c.want)
			require.Empty(t, out.String())
		}
	}
}

func TestParseArguments(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
		err  string // "": none
	}{
		{"a b", []string{"a", "b"}, ""},
		{"-n 3 a b", []string{"a", "b"}, ""},
		{"a -n 3 b", []string{"a", "b"}, ""},
		{"a b -n 3", []string{"a", "b"}, ""},
		{"a -- -n", []string{"a", "-n"}, ""},
		{"-n 3 -- -x -n", []string{"-x", "-n"}, ""},
		{"a -n x b", nil, `invalid value "x" for flag -n`},
		{"a b c", nil, `unexpected argument "c"`},
		{"a b -h", nil, "help requested"},
		{"", nil, "want MODEL TEXT, and there is no MODEL"},
		{"a -n 3", []string{"a"}, "want MODEL TEXT, and there is no TEXT"},
	} {
		f := flag.NewFlagSet("", flag.ContinueOnError)
		n := f.Int("n", 3, "")
		got, err := cli.ParseArguments(f, strings.Fields(c.args), "help", io.Discard, "MODEL", "TEXT")
		require.Equal(t, c.want, got, c.args)
		if c.err == "" {
			require.NoError(t, err, c.args)
			require.Equal(t, 3, *n)
			continue
		}
		require.ErrorContains(t, err, c.err)
		require.Equal(t, strings.HasPrefix(c.err, "want"), errors.Is(err, cli.ErrTooFew))
		require.Equal(t, c.err != "help requested", cli.ExitCode(err) == 2)
	}
}

func TestQuoteIsWhatAShellReadsBack(t *testing.T) {
	for _, s := range []string{
		"runs/opticks-1", "", "a b", "it's", "$HOME", "a\\b", "~", "*", "ä", "-n", "a\nb", `"`, "a;b", "a&b", "#", "!x", "=x", "{a,b}",
	} {
		out, err := exec.Command("sh", "-c", "printf %s "+cli.Quote(s)).Output()
		require.NoError(t, err)
		require.Equal(t, s, string(out))
	}
	require.Equal(t, "runs/opticks-1", cli.Quote("runs/opticks-1"))
}

func TestNumbersAsPeopleSayThem(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 10 << 20: "10 MiB", 3<<30 + 200<<20: "3.2 GiB", math.MaxInt64: "8192 PiB",
	} {
		require.Equal(t, want, cli.Bytes(n))
	}
	for n, want := range map[int]string{
		0: "0", 999: "999", 1000: "1.0k", 832000: "832k", 15191712: "15M", 1234567: "1.2M", 7e9: "7.0G", 70e9: "70G",
	} {
		require.Equal(t, want, cli.Count(n))
	}
}

func TestCheckMemory(t *testing.T) {
	require.NoError(t, cli.CheckMemory(1))
	if err := cli.CheckMemory(math.MaxInt64); err != nil { // where the system says
		require.ErrorContains(t, err, "this takes 8192 PiB of memory, and ")
	}
}

func TestPrintable(t *testing.T) {
	require.Equal(t, "a\n\tä·[31m···", cli.Printable("a\n\tä\x1b[31m\r\x00\xff"))
}

func TestWidthOfWhatIsNoTerminal(t *testing.T) {
	require.Zero(t, cli.Width(io.Discard))
}

func TestTextGoesOnBeyondTheContext(t *testing.T) {
	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 8, HiddenDim: 8, NLayers: 1, NHeads: 2, NKVHeads: 2, HeadDim: 4, VocabSize: 16, SeqLen: 8,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	})
	require.NoError(t, err)
	m.Init(1)
	be, err := cpu.New(cpu.Options{})
	require.NoError(t, err)
	defer be.Close()
	for _, length := range []int{1, 7, 8, 9, 50} {
		prompt := make([]int32, length)
		for i := range prompt {
			prompt[i] = int32(i % 16)
		}
		write := func(n int) (tokens []int32) {
			for token, err := range cli.Text(t.Context(), m, be, prompt, n, chainrule.SamplerOptions{Temperature: 1, Seed: 3}) {
				require.NoError(t, err)
				tokens = append(tokens, token)
			}
			return tokens
		}
		tokens := write(40)
		require.Len(t, tokens, 40)
		require.Equal(t, tokens[:11], write(11))
	}
	for _, prompt := range [][]int32{nil, {16}, {-1}} {
		n := 0
		for _, err := range cli.Text(t.Context(), m, be, prompt, 5, chainrule.SamplerOptions{}) {
			require.Error(t, err)
			n++
		}
		require.Equal(t, 1, n)
	}
}

func TestASignalWithAnotherErrorIsAnError(t *testing.T) {
	stopped := cli.Stopped{Signal: syscall.SIGTERM}
	for err, want := range map[error]int{
		nil: 0, cli.ErrHelp: 0, cli.UsageError("x"): 2, errors.New("x"): 1, stopped: 143, cli.Stopped{Signal: syscall.SIGINT}: 130,
		fmt.Errorf("%w\nnot saved", stopped): 1,
	} {
		require.Equal(t, want, cli.ExitCode(err), "%v", err)
	}
}
