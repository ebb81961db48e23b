package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// ProgressEvery is the time from one line of progress to the next, where there
// is no terminal.
var ProgressEvery = 10 * time.Second

// Progress shows how far a program is: on a terminal a bar, otherwise a line
// now and then.
type Progress struct {
	out   io.Writer
	what  string
	bar   *progressbar.ProgressBar
	last  time.Time
	began time.Time
	from  int
	total int
}

// NewProgress begins to show what is being done, of which so much is done
// already.
func NewProgress(out io.Writer, what string, done, total int) *Progress {
	now := time.Now()
	p := &Progress{out: out, what: what, last: now, began: now, from: done, total: total}
	if Width(out) >= 80 {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(24),
			progressbar.OptionSetDescription(what), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetTheme(progressbar.Theme{Saucer: "█", SaucerPadding: "░", BarStart: " ", BarEnd: " "}))
		_ = p.bar.Set(done)
	}
	return p
}

// Set says how much is done, with a remark.
func (p *Progress) Set(done int, remark string) {
	switch {
	case p.bar != nil:
		p.bar.Describe(p.what + ": " + remark)
		_ = p.bar.Set(done)
	case time.Since(p.last) >= ProgressEvery:
		p.last = time.Now()
		left := "?"
		if done > p.from {
			left = time.Duration(float64(time.Since(p.began)) * float64(p.total-done) / float64(done-p.from)).Round(time.Second).String()
		}
		fmt.Fprintf(p.out, "%s: %s, %.0f%%, %s left\n", p.what, remark, 100*float64(done)/float64(p.total), left)
	}
}

// Clear takes the bar away, for a line to be printed; the next Set draws it again.
func (p *Progress) Clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
