package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/chainrule-go/chainrule/checkpoint"
)

// OpenModel is checkpoint.Open that tells, on log, what there is to note, and
// on a terminal how far it is, should that take time.
func OpenModel(path string, o checkpoint.OpenOptions, log io.Writer) (*checkpoint.Bundle, error) {
	var bar *progressbar.ProgressBar
	begin := time.Now()
	o.Progress = func(done, total int64) {
		switch {
		case bar != nil:
			bar.Set64(done)
		case Width(log) > 0 && done < total && time.Since(begin) > 300*time.Millisecond:
			bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(log), progressbar.OptionSetWidth(24),
				progressbar.OptionClearOnFinish(), progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond),
				progressbar.OptionSetDescription("reading "+Printable(filepath.Base(path))))
		}
	}
	b, err := checkpoint.Open(path, o)
	if bar != nil {
		bar.Clear()
	}
	if err != nil {
		return nil, err
	}
	for _, note := range b.Notes {
		fmt.Fprintln(log, Printable(note))
	}
	return b, nil
}
