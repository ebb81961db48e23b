package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/train"
)

// display shows a run: a line a measurement and, on a terminal, a bar below
// the last line.
type display struct {
	out    io.Writer
	quiet  bool
	width  func() int // of the terminal; 0: there is none
	barred bool       // the cursor is behind a bar
	drawn  time.Time  // when that was

	steps int
	began time.Time
	bytes int
	val   float64 // the last measurement
}

func newDisplay(out io.Writer, quiet bool) *display {
	return &display{out: out, quiet: quiet, width: func() int { return cli.Width(out) }, val: math.NaN()}
}

// printf tells about the run, resultf what came of it.
func (d *display) printf(format string, args ...any) {
	if !d.quiet {
		fmt.Fprintf(d.out, format, args...)
	}
}

func (d *display) resultf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *display) start(steps int) {
	d.steps, d.began = steps, time.Now()
	d.printf("\n%7s %9s %9s %10s %7s %9s %9s\n%7s %9s %9s %10s %7s %9s %9s\n",
		"step", "train", "held out", "learning", "norm", "bytes/s", "time left",
		"", "bits/byte", "bits/byte", "rate", "", "", "")
}

// step shows a step: each one in the bar; a line for the first ones and for
// those that were measured.
func (d *display) step(s train.Step) {
	if d.quiet {
		return
	}
	d.bytes += s.Tokens
	if s.Evaluated {
		d.val = s.ValLoss / math.Ln2
	}
	elapsed := time.Since(d.began)
	rate := float64(d.bytes) / elapsed.Seconds()
	left := time.Duration(float64(d.steps-s.Step) * float64(s.Tokens) / rate * float64(time.Second)).Round(time.Second)
	if s.Evaluated || s.Step == 1 || s.Step == 10 {
		held := "-"
		if s.Evaluated {
			held = fmt.Sprintf("%.3f", d.val)
		}
		d.line("%7d %9.3f %9s %10.2e %7.2f %9.0f %9s\n", s.Step, s.Loss/math.Ln2, held, s.LR, s.GradNorm, rate, left)
	}
	if time.Since(d.drawn) > 100*time.Millisecond || s.Evaluated {
		d.bar(s, rate, left)
	}
}

// bar draws as much of the bar as the terminal has room for in one line.
func (d *display) bar(s train.Step, rate float64, left time.Duration) {
	width := d.width()
	if width == 0 {
		return
	}
	const cells = 24
	full := s.Step * cells / d.steps
	bar := fmt.Sprintf("%3d%% %s%s %s left, step %d, %.0f bytes/s, %.2f bits/byte",
		s.Step*100/d.steps, strings.Repeat("█", full), strings.Repeat("░", cells-full), left, s.Step, rate, s.Loss/math.Ln2)
	if !math.IsNaN(d.val) {
		bar += fmt.Sprintf(", %.2f held out", d.val)
	}
	runes := []rune(bar)
	fmt.Fprintf(d.out, "\r\x1b[K%s", string(runes[:min(len(runes), width-1)]))
	d.barred, d.drawn = true, time.Now()
}

func (d *display) sample(text string) {
	d.line("\n%s\n\n", indent(text))
}

// line prints in place of the bar, which the next step draws again below.
func (d *display) line(format string, args ...any) {
	d.stop()
	fmt.Fprintf(d.out, format, args...)
}

// stop takes the bar away.
func (d *display) stop() {
	if d.barred {
		fmt.Fprint(d.out, "\r\x1b[K")
		d.barred = false
	}
}

func indent(text string) string {
	return "  │ " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  │ ")
}
