package train

import (
	"fmt"
	"runtime"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/internal/sysmem"
)

// Estimate is what a run needs, in bytes.
type Estimate struct {
	Memory      int64 // resident at most, of the whole process
	Checkpoint  int64 // a checkpoint on the disk
	Checkpoints int64 // all that are there at once: those to keep, the best, the one that is written
}

// NewEstimate returns what a run of c needs. Of c it looks at the model's
// Config, the batch, the data and what is kept; the model may be nil if it is
// given as shape.
//
// Memory counts 16 bytes a parameter (weights, gradient, two moments), 4 more
// for an average, the Workspace, the tokens, the scratch memory of backend/cpu,
// and what a Go process has anyway.
func NewEstimate(c Config, shape chainrule.Config) (Estimate, error) {
	c = c.withDefaults()
	activations, err := chainrule.WorkspaceBytes(shape, c.Batch, c.SeqLen)
	if err != nil {
		return Estimate{}, fmt.Errorf("train: %w", err)
	}
	const (
		process = 14 << 20   // the program, the Go runtime, buffers of a save
		scratch = 1500 << 10 // of backend/cpu, a core
	)
	n := int64(shape.NumParams())
	e := Estimate{Checkpoint: 12 * n}
	e.Memory = 16*n + activations + 4*int64(len(c.Train)+len(c.Val)) + 8*int64(c.Accumulate*c.Batch*c.SeqLen) +
		process + scratch*int64(runtime.GOMAXPROCS(0))
	if c.EMA > 0 {
		e.Checkpoint += 4 * n
		e.Memory += 4 * n
	}
	kept := int64(c.Keep)
	if c.KeepBest {
		kept++
	}
	e.Checkpoints = (kept + 1) * e.Checkpoint
	return e, nil
}

// What the system has left, but in tests.
var (
	freeDisk   = sysmem.Disk
	freeMemory = sysmem.Free
)

// checkRoom returns an error if a run that has some of it already, the weights
// and so many checkpoints, cannot get what it needs.
func checkRoom(c Config, checkpoints int) error {
	e, err := NewEstimate(c, c.Model.Config)
	if err != nil {
		return err
	}
	there := 4 * int64(c.Model.NumParams()+len(c.Train)+len(c.Val))
	if free, ok := freeMemory(); ok && e.Memory-there > free {
		return fmt.Errorf("train: %d bytes of memory are free, want %d for gradients, moments and activations", free, e.Memory-there)
	}
	if c.Dir == "" {
		return nil
	}
	want := max(e.Checkpoints-int64(checkpoints)*e.Checkpoint, e.Checkpoint)
	if free, ok := freeDisk(c.Dir); ok && free < want {
		return fmt.Errorf("train: output directory: %s has room for %d bytes, want %d: a checkpoint has %d, and the old ones stay until the new one is whole",
			c.Dir, free, want, e.Checkpoint)
	}
	return nil
}
