package train

import (
	"fmt"
	"math"

	"github.com/chainrule-go/chainrule"
)

// Policy says what is done about a step whose numbers are bad. Nothing is ever
// updated by it.
type Policy int

const (
	// Stop ends the run with the error.
	Stop Policy = iota
	// Skip goes on with the next batches. It helps against bad data, not
	// against weights that are bad themselves.
	Skip
	// RollBack goes on from the last checkpoint, and passes over the batches of
	// the bad step when it comes to them again.
	RollBack
)

// maxBad is how many bad steps without a checkpoint between them are skipped or
// rolled back; one more ends the run.
const maxBad = 3

// BadNumberError says that a run came upon a number that cannot be right.
//
// Every step, before the update, the loss, the norm of the gradient and the
// residual stream behind the last layer are looked at: none may be NaN or beyond
// 2⁶⁴, which is what a flip of the highest bit of its exponent makes of nearly
// every number below 2. Every save looks at all weights, averages and moments in
// the same way, and a second moment must not be negative; otherwise the last
// checkpoint stays as it is. So whatever makes a weight, a moment, a gradient or
// the stream huge or not a number is found before the update or, where only the
// optimizer met it, at the latest before it is saved.
//
// A flip that makes a number smaller, or moves it within the range of its like,
// is not told from learning. Nor is one that the model bounds: a huge query or
// key turns one head's attention to one token, a gate or a logit far below zero
// is closed or has the probability 0.
type BadNumberError struct {
	Step  int
	What  string // "loss", "gradient of layers.3.wq[17]", "weight rms_final[2]", …
	Value float64

	Mean, Sigma float64 // of the recent steps, if Value is finite and too far from them
}

// Error says which number of which step it is.
func (e *BadNumberError) Error() string {
	switch {
	case e.Sigma > 0:
		return fmt.Sprintf("step %d: the %s is %.6g, %.0f standard deviations above the recent mean %.6g",
			e.Step, e.What, e.Value, (e.Value-e.Mean)/e.Sigma, e.Mean)
	case isFinite(e.Value):
		return fmt.Sprintf("step %d: the %s is %v, which no training leads to", e.Step, e.What, e.Value)
	}
	return fmt.Sprintf("step %d: the %s is %v", e.Step, e.What, e.Value)
}

// check returns a *BadNumberError if the loss, the gradient or the residual
// stream of a step that is not updated yet are bad.
func (t *Trainer) check(s Step, rms float64) error {
	if !(math.Abs(s.Loss) <= implausible) {
		return &BadNumberError{Step: s.Step, What: "loss", Value: s.Loss}
	}
	if !(s.GradNorm <= implausible) {
		if err := badValue(s.Step, "gradient of ", t.grad, implausible, false); err != nil {
			return err
		}
		return &BadNumberError{Step: s.Step, What: "gradient norm", Value: s.GradNorm}
	}
	if !(rms <= implausible) {
		return &BadNumberError{Step: s.Step, What: "root mean square of the residual stream", Value: rms}
	}
	if t.c.Spike == 0 {
		return nil
	}
	for _, n := range []struct {
		what  string
		w     *window
		value float64
	}{{"loss", &t.recent.loss, s.Loss}, {"gradient norm", &t.recent.norm, s.GradNorm}} {
		if mean, sigma, ok := n.w.stats(); ok && n.value > mean+t.c.Spike*sigma {
			return &BadNumberError{s.Step, n.what, n.value, mean, sigma}
		}
	}
	return nil
}

// implausible is the least magnitude that no weight or moment comes to: a step
// moves a weight by about its learning rate. The highest bit of the exponent of
// a number below 2, flipped, makes it 2 (of zero) or more than this (of any
// normal number from 2⁻⁶⁴ on).
const implausible = 1 << 64

// checkState returns a *BadNumberError if a weight, its average or a moment is
// bad.
func (t *Trainer) checkState() error {
	m := t.c.Model
	if err := badValue(t.step, "weight ", m.Params, implausible, false); err != nil {
		return err
	}
	for _, of := range []struct {
		what     string
		data     []float32
		positive bool
	}{{"first moment of ", t.adam.M, false}, {"second moment of ", t.adam.V, true}} {
		p, err := chainrule.ParamsOf(m.Config, of.data)
		if err != nil {
			return err
		}
		if err := badValue(t.step, of.what, p, implausible, of.positive); err != nil {
			return err
		}
	}
	if t.average == nil {
		return nil
	}
	return badValue(t.step, "average of ", t.average.model.Params, implausible, false)
}

// badValue returns a *BadNumberError about the first element whose magnitude is
// not at most limit, or that is negative where it must not be.
func badValue(step int, of string, p *chainrule.Params, limit float32, positive bool) error {
	for tensor := range p.Tensors() {
		for i, v := range tensor.Data {
			if !(v <= limit && v >= -limit) || positive && v < 0 {
				return &BadNumberError{Step: step, What: fmt.Sprintf("%s%s[%d]", of, tensor.Name, i), Value: float64(v)}
			}
		}
	}
	return nil
}

func isFinite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// recent is what spikes are told by.
type recent struct{ loss, norm window }

// add takes a step that was good.
func (r *recent) add(s Step) {
	r.loss.add(s.Loss)
	r.norm.add(s.GradNorm)
}

func (r *recent) save() map[string]window {
	if len(r.loss) == 0 {
		return nil
	}
	return map[string]window{"loss": append(window(nil), r.loss...), "grad_norm": append(window(nil), r.norm...)}
}

func (r *recent) load(m map[string]window) {
	r.loss, r.norm = append(window(nil), m["loss"]...), append(window(nil), m["grad_norm"]...)
}

// window is the last values, the oldest first.
type window []float64

const (
	windowSize = 64
	windowLow  = 16 // values that say something of the next
)

func (w *window) add(x float64) {
	if len(*w) == windowSize {
		copy(*w, (*w)[1:])
		*w = (*w)[:windowSize-1]
	}
	*w = append(*w, x)
}

// stats returns the mean and the standard deviation, which is taken to be a
// twentieth of the mean at least: values that hardly differ say nothing of the
// next. ok is false if there are too few.
func (w window) stats() (mean, sigma float64, ok bool) {
	if len(w) < windowLow {
		return 0, 0, false
	}
	for _, x := range w {
		mean += x
	}
	mean /= float64(len(w))
	for _, x := range w {
		sigma += (x - mean) * (x - mean)
	}
	sigma = math.Sqrt(sigma / float64(len(w)-1))
	return mean, max(sigma, mean/20, math.SmallestNonzeroFloat64), true
}
