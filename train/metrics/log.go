package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/chainrule-go/chainrule/train"
)

// Options is what a Log cannot know from the events.
type Options struct {
	Steps         int     // the run ends after so many
	BytesPerToken float64 // of the held-out text, on average; 0: val/bpb is left out
	Config        any     // for a reader of the file: anything that encoding/json writes
}

// Log appends the events of a run to a file. It is for one goroutine.
type Log struct {
	o    Options
	file *os.File
	size int64 // of whole lines
	err  error // the first
	lost int
}

// Open opens the file of a run, which may be there from before an interruption.
// A last line without an end is removed: the process was killed while it wrote.
func Open(path string, o Options) (*Log, error) {
	config, err := json.Marshal(o.Config)
	if err != nil {
		return nil, fmt.Errorf("metrics: Options.Config: %w", err)
	}
	if o.Config != nil {
		o.Config = json.RawMessage(config) // as it is now
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, err
	}
	l := &Log{o: o, file: f}
	if l.size, err = wholeLines(f); err == nil {
		err = f.Truncate(l.size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// wholeLines returns the size of f up to its last newline.
func wholeLines(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for end > 0 {
		b := buf[:min(int64(len(buf)), end)]
		if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return end - int64(len(b)) + int64(i) + 1, nil
		}
		end -= int64(len(b))
	}
	return 0, nil
}

// OnEvent appends a line; it is what train.Config.OnEvent wants. If that fails,
// the run is not stopped for it: the line is lost, the file keeps whole ones,
// and Err and Close tell. Behind a checkpoint, the file is synced: it is as
// lasting as that.
func (l *Log) OnEvent(e train.Event) {
	b, err := json.Marshal(l.o.Record(e))
	if err == nil {
		b = append(b, '\n')
		if _, err = l.file.Write(b); err == nil {
			l.size += int64(len(b))
		} else if e := l.file.Truncate(l.size); e != nil {
			err = errors.Join(err, e)
		}
	}
	if err == nil && (e.Kind == train.Saved || e.Kind == train.Ended) {
		err = l.file.Sync()
	}
	if err != nil {
		l.lost++
		if l.err == nil {
			l.err = err
		}
	}
}

// Err returns the first error of OnEvent.
func (l *Log) Err() error {
	if l.err == nil {
		return nil
	}
	return fmt.Errorf("%d events are not in %s: %w", l.lost, l.file.Name(), l.err)
}

// Close closes the file, and returns Err.
func (l *Log) Close() error { return errors.Join(l.Err(), l.file.Close()) }

// Record returns the record of an event. What of Config encoding/json does not
// write is left out.
func (o Options) Record(e train.Event) Record {
	s := e.Step
	r := Record{Type: e.Kind, Step: s.Step, Tokens: s.Seen, Time: float64(e.Time.UnixMilli()) / 1e3}
	if e.Err != nil {
		r.Error = e.Err.Error()
	}
	switch e.Kind {
	case train.Started:
		r.Steps, r.BytesPerToken = o.Steps, o.BytesPerToken
		if o.Config != nil {
			r.Config, _ = json.Marshal(o.Config)
		}
	case train.Stepped, train.Skipped:
		r.Loss, r.LR, r.GradNorm = float(s.Loss), float(s.LR), float(s.GradNorm)
		if s.Duration > 0 {
			r.TokPerSec, r.Millis = float(s.TokensPerSecond()), float(s.Duration.Seconds()*1e3)
		}
		if s.MFU > 0 {
			r.MFU = float(s.MFU)
		}
		r.PeakMem = s.PeakMemory
		for _, n := range s.Norms {
			r.Norms = append(r.Norms, NormRecord{n.Name, Float(n.Grad), Float(n.Weight)})
		}
	case train.Evaluated:
		r.ValLoss = float(s.ValLoss)
		if o.BytesPerToken > 0 {
			r.ValBPB = float(BitsPerByte(s.ValLoss, o.BytesPerToken))
		}
	case train.Sampled:
		r.Text = strings.ToValidUTF8(s.Sample, "\ufffd")
	case train.Saved:
		r.Path = s.Saved
	}
	return r
}

func float(x float64) *Float { return (*Float)(&x) }
