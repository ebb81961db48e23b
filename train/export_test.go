package train

import "github.com/chainrule-go/chainrule"

// SetFreeDisk replaces what the file systems say of their free space.
func SetFreeDisk(f func(dir string) (int64, bool)) (restore func()) {
	old := freeDisk
	freeDisk = f
	return func() { freeDisk = old }
}

// SetFreeMemory replaces what the system says of its free memory.
func SetFreeMemory(f func() (int64, bool)) (restore func()) {
	old := freeMemory
	freeMemory = f
	return func() { freeMemory = old }
}

// AdamState is the moments of a run.
func (t *Trainer) AdamState() *chainrule.AdamState { return t.adam }

// Gradient is that of the last step.
func (t *Trainer) Gradient() *chainrule.Params { return t.grad }

// Check is what every step's numbers go through.
func (t *Trainer) Check() error {
	mean, _, _ := t.recent.loss.stats()
	norm, _, _ := t.recent.norm.stats()
	return t.check(Step{Loss: mean, GradNorm: norm}, t.ws.ResidualRMS())
}
