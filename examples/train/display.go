package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/train"
)

// display shows a run: a line a measurement and, on a terminal, a bar below
// the last line.
type display struct {
	out   io.Writer
	quiet bool
	c     *material
	width int // of the terminal; 0: there is none
	bar   *progressbar.ProgressBar

	steps  int
	began  time.Time
	tokens int
	val    float64 // the last measurement
}

func newDisplay(out io.Writer, quiet bool, c *material) *display {
	return &display{out: out, quiet: quiet, c: c, width: cli.Width(out), val: math.NaN()}
}

// event shows what goes wrong, and is no reason to stop, when it happens.
func (d *display) event(e train.Event) {
	switch e.Kind {
	case train.SaveFailed:
		d.line("after step %d: %v\n", e.Step.Step, e.Err)
	case train.Skipped, train.Warned:
		d.line("%v\n", e.Err)
	case train.RolledBack:
		d.line("going on from the checkpoint of step %d\n", e.Step.Step)
	}
}

// printf tells about the run, resultf what came of it.
func (d *display) printf(format string, args ...any) {
	if !d.quiet {
		fmt.Fprintf(d.out, format, args...)
	}
}

func (d *display) resultf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

// barWidth is what the bar may take: a narrower terminal has the lines alone.
const barWidth = 79

func (d *display) start(done, steps int) {
	d.steps, d.began = steps, time.Now()
	d.printf("\n%7s %9s %9s %10s %7s %9s %9s\n%7s %9s %9s %10s %7s %9s %9s\n",
		"step", "train", "held out", "learning", "norm", "bytes/s", "time left",
		"", "bits/byte", "bits/byte", "rate", "", "", "")
	if d.width > barWidth && !d.quiet {
		d.bar = progressbar.NewOptions(steps, progressbar.OptionSetWriter(d.out), progressbar.OptionSetWidth(24),
			progressbar.OptionClearOnFinish(), progressbar.OptionShowDescriptionAtLineEnd(),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░", BarStart: " ", BarEnd: " "}))
		_ = d.bar.Set(done)
	}
}

// step shows a step: each one in the bar; a line for the first ones and for
// those that were measured.
func (d *display) step(s train.Step) {
	if d.quiet {
		return
	}
	if s.Bad != nil {
		return // an event has told
	}
	d.tokens += s.Tokens
	if s.Evaluated {
		d.val = d.c.bits(s.ValLoss)
	}
	elapsed := time.Since(d.began)
	rate := float64(d.tokens) / elapsed.Seconds()
	left := time.Duration(float64(d.steps-s.Step) * float64(s.Tokens) / rate * float64(time.Second)).Round(time.Second)
	rate *= d.c.bytesPerToken()
	if s.Evaluated || s.Step == 1 || s.Step == 10 {
		held := "-"
		if s.Evaluated {
			held = fmt.Sprintf("%.3f", d.val)
		}
		d.line("%7d %9.3f %9s %10.2e %7.2f %9.0f %9s\n", s.Step, d.c.bits(s.Loss), held, s.LR, s.GradNorm, rate, left)
	}
	if d.bar != nil {
		d.bar.Describe(fmt.Sprintf("%.2f bits/byte, %.0f bytes/s", d.c.bits(s.Loss), rate))
		_ = d.bar.Set(s.Step)
	}
	if s.Sampled && s.Step < d.steps {
		d.sample(s.Sample)
	}
}

func (d *display) sample(text string) {
	d.line("\n%s\n\n", indent(text))
}

// line prints in place of the bar, which the next step draws again below.
func (d *display) line(format string, args ...any) {
	d.clear()
	fmt.Fprintf(d.out, format, args...)
}

func (d *display) clear() {
	if d.bar != nil {
		_ = d.bar.Clear()
	}
}

// stop takes the bar away.
func (d *display) stop() {
	d.clear()
	d.bar = nil
}

func indent(text string) string {
	return "  │ " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  │ ")
}
