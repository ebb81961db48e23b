package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/chainrule-go/chainrule/train"
)

// screen is a terminal that knows what display sends it.
type screen struct {
	t     testing.TB
	lines []string
	at    int // column
}

func (s *screen) Write(b []byte) (int, error) {
	text := string(b)
	for text != "" {
		last := &s.lines[len(s.lines)-1]
		switch {
		case text[0] == '\n':
			s.lines, s.at, text = append(s.lines, ""), 0, text[1:]
		case text[0] == '\r':
			s.at, text = 0, text[1:]
		default:
			r := []rune(text)[0]
			require.GreaterOrEqual(s.t, r, ' ')
			line := append([]rune(*last)[:s.at:s.at], r)
			if rest := []rune(*last); len(rest) > s.at {
				line = append(line, rest[s.at+1:]...)
			}
			*last, text = string(line), text[len(string(r)):]
			s.at++
		}
	}
	return len(b), nil
}

func TestTheBarStaysBelowTheLines(t *testing.T) {
	for _, width := range []int{0, 30, 79, 80, 200} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			s := &screen{t: t, lines: []string{""}}
			d := newDisplay(s, false, &material{text: make([]byte, 10), val: make([]int32, 10)})
			d.width = width
			d.start(0, 100)
			drawn := false
			for step := 1; step <= 99; step++ {
				if step%20 == 0 {
					time.Sleep(110 * time.Millisecond) // as often as it is drawn
				}
				d.step(train.Step{Step: step, Loss: 1, Tokens: 10, Evaluated: step%10 == 0, ValLoss: 2})
				last := s.lines[len(s.lines)-1]
				require.LessOrEqual(t, len([]rune(strings.TrimRight(last, " "))), barWidth)
				drawn = drawn || strings.Contains(last, "█") && strings.Contains(last, "1.44 bits/byte")
				if step == 50 {
					d.sample("two\nlines")
				}
			}
			require.Equal(t, width > barWidth, drawn)
			d.stop()
			for i := range s.lines {
				s.lines[i] = strings.TrimRight(s.lines[i], " ")
			}
			text := strings.Join(s.lines, "\n")
			require.NotContains(t, text, "█")
			require.Contains(t, text, "\n     50     1.443     2.885")
			require.Contains(t, text, "\n  │ two\n  │ lines\n\n     60 ")
			require.Empty(t, s.lines[len(s.lines)-1])
		})
	}
}

func TestCompressorsCountWhatTheHeldOutTextAdds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("the rays of light which differ in colour and in degrees of refrangibility are bent by glass")
	var b strings.Builder
	for b.Len() < 30000 {
		b.WriteString(words[rng.IntN(len(words))] + " ")
	}
	text := []byte(b.String())
	split := len(text) * 9 / 10

	size := func(text []byte) int {
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, 9)
		require.NoError(t, err)
		_, err = w.Write(text)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return z.Len()
	}
	marks := compressors(t.Context(), text, split)
	require.Equal(t, "gzip -9", marks[0].name)
	require.InDelta(t, float64(size(text)-size(text[:split]))*8/float64(len(text)-split), marks[0].bits, 1e-12)

	xz, err := exec.LookPath("xz")
	if err != nil {
		require.Len(t, marks, 1)
	} else {
		size := func(text []byte) int {
			cmd := exec.Command(xz, "-9e", "-c")
			cmd.Stdin = bytes.NewReader(text)
			z, err := cmd.Output()
			require.NoError(t, err)
			return len(z)
		}
		require.Equal(t, "xz -9e", marks[1].name)
		require.InDelta(t, float64(size(text)-size(text[:split]))*8/float64(len(text)-split), marks[1].bits, 1e-12)
	}

	require.Empty(t, compressors(t.Context(), text, len(text)), "nothing is held out")
	stopped, stop := context.WithCancel(t.Context())
	stop()
	require.Len(t, compressors(stopped, text, split), 1, "no process is started any more")
	t.Setenv("PATH", t.TempDir())
	require.Len(t, compressors(t.Context(), text, split), 1)
}
