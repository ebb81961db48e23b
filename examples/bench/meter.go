package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/chainrule-go/chainrule/internal/peak"
)

// meter takes times on a number of threads, and knows what these threads can
// do at most.
type meter struct {
	ctx     context.Context
	threads int
	until   time.Time // no new figure is begun behind it
	peaks   peaks
	least   float64       // of peaks.FMA, for a probe to be good
	wait    time.Duration // how long it may still wait for the cores, in all
	good    bool          // what the last probe found
}

// peaks are what was measured of the machine in this process.
type peaks struct {
	Threads int     `json:"threads"`
	FMA     float64 `json:"fma_flops"`              // FLOP/s
	Kernel  float64 `json:"kernel_flops,omitempty"` // FLOP/s of operands in the first-level cache
	Read    float64 `json:"read_bandwidth"`         // bytes/s
	Update  float64 `json:"update_bandwidth"`       // bytes/s in AdamW's pattern
}

func (p peaks) max(q peaks) peaks {
	return peaks{p.Threads, max(p.FMA, q.FMA), max(p.Kernel, q.Kernel), max(p.Read, q.Read), max(p.Update, q.Update)}
}

var errLimit = errors.New("the time of -limit is over")

// Tests have less of both.
var (
	streamBytes = peak.StreamBytes()
	patience    = 20 * time.Second // how long a meter waits for the cores, in all
)

// newMeter measures the peaks. They are the best of several measurements: of
// the FMA peak, all that follow until the end, too. one is the FMA peak of one
// thread, or 0.
func newMeter(ctx context.Context, threads int, one float64, s *peak.Streams, until time.Time) *meter {
	m := &meter{ctx: ctx, threads: threads, until: until, wait: patience}
	m.peaks.Threads = threads
	// Two cores that share one have half of two peaks; two that only slow each
	// other down, by heat, have more.
	m.least = 0.7 * one * float64(min(threads, physicalCores()))
	for range 8 {
		m.probe()
	}
	for i := 0; i < 100 && !m.good; i++ {
		time.Sleep(10 * time.Millisecond)
		m.probe()
	}
	if s != nil {
		m.peaks.Kernel, m.peaks.Read, m.peaks.Update = peak.Kernel(threads), s.Read(threads), s.Update(threads)
	}
	return m
}

// probe says whether the threads have the processor to themselves now: the
// cores of a virtual machine sometimes share one, or are somebody else's.
func (m *meter) probe() bool {
	now := peak.FMA(m.threads)
	m.peaks.FMA = max(m.peaks.FMA, now)
	m.good = now >= max(0.93*m.peaks.FMA, m.least)
	return m.good
}

// physicalCores counts cores whose threads the system tells apart, as Linux
// does; elsewhere every thread is one.
func physicalCores() int {
	cores := map[string]bool{}
	for i := range runtime.NumCPU() {
		b, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i))
		if err != nil {
			return runtime.NumCPU()
		}
		cores[string(b)] = true
	}
	return len(cores)
}

// figure is some times of one thing, in seconds.
type figure struct {
	Median float64 `json:"median"`
	Best   float64 `json:"best"`
	Times  int     `json:"times"`
	// Noisy: no time was taken between two good probes, so these are all.
	Noisy bool `json:"noisy,omitempty"`
}

func figureOf(times []float64, noisy bool) figure {
	s := slices.Sorted(slices.Values(times))
	n := len(s)
	return figure{(s[(n-1)/2] + s[n/2]) / 2, s[0], n, noisy}
}

// round is what is run between two probes. It calls f again and again until
// some time has passed.
func (m *meter) round(f func() error) (times []float64, err error) {
	for begin := time.Now(); len(times) == 0 || time.Since(begin) < 25*time.Millisecond; {
		if m.ctx.Err() != nil {
			return nil, context.Cause(m.ctx)
		}
		start := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	return times, nil
}

// between runs body on the meter's threads with a probe before and after it,
// and says whether both were good. The probe after one is the probe before the
// next. It waits for a good probe, but not for ever.
func (m *meter) between(body func() error) (good bool, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(m.threads))
	for begin := time.Now(); !m.good && !m.probe() && m.wait > 0 && m.ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
		m.wait -= time.Since(begin)
		begin = time.Now()
	}
	before := m.good
	if err := body(); err != nil {
		return false, err
	}
	return m.probe() && before, nil
}

// time takes the time of f until good rounds have taken so many seconds, or
// all rounds three times as many. A f that is slow is run twice at least, or
// once if the time of -limit is over by then. Before all that f runs once
// unless it is warm.
func (m *meter) time(seconds float64, warm bool, f func() error) (figure, error) {
	if time.Now().After(m.until) {
		return figure{}, errLimit
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if !warm {
		if _, err := m.between(f); err != nil {
			return figure{}, err
		}
	}
	var good, bad []float64
	var spentGood, spent float64
	for spent < 3*seconds || spent == 0 {
		var times []float64
		ok, err := m.between(func() (err error) {
			times, err = m.round(f)
			return err
		})
		if err != nil {
			return figure{}, err
		}
		took := 0.0
		for _, t := range times {
			took += t
		}
		spent += took
		if ok {
			good, spentGood = append(good, times...), spentGood+took
		} else {
			bad = append(bad, times...)
		}
		if spentGood >= seconds && len(good) >= 2 || time.Now().After(m.until) {
			break
		}
	}
	if len(good) == 0 {
		return figureOf(bad, true), nil
	}
	return figureOf(good, false), nil
}

// left is the time until the limit.
func (m *meter) left() time.Duration { return time.Until(m.until) }

// of returns part as a share of whole in percent, or 0 where there is none.
func of(part, whole float64) float64 {
	if p := 100 * part / whole; !math.IsNaN(p) && !math.IsInf(p, 0) {
		return p
	}
	return 0
}
