package main

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"path/filepath"
	"runtime"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/dashboard"
	"github.com/chainrule-go/chainrule/train/metrics"
)

// watchers get every event of a run: the screen, metrics.jsonl, and what else
// was asked for.
type watchers struct {
	each    []func(train.Event)
	closers []io.Closer
}

func (w *watchers) event(e train.Event) {
	for _, f := range w.each {
		f(e)
	}
}

// normsEvery is how often the norms of the layers are taken: each time costs 1% of
// a step.
const normsEvery = 10

// open begins to write the run's files. The directory is this process's.
func (w *watchers) open(s *settings, c *material, shape chainrule.Config, out io.Writer) error {
	o := metrics.Options{Steps: s.Steps, BytesPerToken: 1 / c.bits(math.Ln2), Config: struct {
		*settings
		Parameters int
		Go, Arch   string
		Threads    int
	}{s, shape.NumParams(), runtime.Version(), runtime.GOARCH, runtime.GOMAXPROCS(0)}}
	log, err := metrics.Open(filepath.Join(s.out, metricsFile), o)
	if err != nil {
		return err
	}
	w.each, w.closers = append(w.each, log.OnEvent), append(w.closers, log)
	if s.tensorboard {
		file, err := metrics.NewEventFile(s.out, o)
		if err != nil {
			return err
		}
		w.each, w.closers = append(w.each, file.OnEvent), append(w.closers, file)
	}
	if s.json {
		lines := json.NewEncoder(out)
		w.each = append(w.each, func(e train.Event) { _ = lines.Encode(o.Record(e)) }) // a reader that is gone stops the program
	}
	return nil
}

// serve shows the runs beside this one in a browser.
func (w *watchers) serve(s *settings, show *display) error {
	if s.http == "" {
		return nil
	}
	dir, err := filepath.Abs(s.out)
	if err != nil {
		return err
	}
	d, err := dashboard.Start(s.http, filepath.Dir(dir), dashboard.Options{Run: filepath.Base(dir)})
	if err != nil {
		return err
	}
	w.closers = append(w.closers, d)
	show.resultf("watch it at %s\n", d.URL())
	return nil
}

// Close returns what could not be written, too.
func (w *watchers) Close() error {
	var all []error
	for _, c := range w.closers {
		all = append(all, c.Close())
	}
	w.closers = nil
	return errors.Join(all...)
}
