// Package device is what package ane needs of a Neural Engine: to compile a
// program, to give it memory, and to run it. The bridge to Apple's framework
// and the simulator implement it.
package device

// Device compiles programs and converts numbers for them.
type Device interface {
	// Name says what the device is, for a person.
	Name() string

	// Limits are what programs must keep to.
	Limits() Limits

	// Compile compiles and loads a MIL program of one input and one output,
	// tensors of so many bytes. The output surface belongs to the Program.
	Compile(text string, inBytes, outBytes int) (Program, error)

	// Put writes float32 to locked memory as binary16: d[r,c] = s[r,c]·scale.
	// Calls on disjoint blocks may be concurrent.
	Put(dst []uint16, src []float32, b Block)

	// Get reads locked memory, d[r,c] = s[r,c]·scale, added to d if b.Add. It
	// returns the largest |s[r,c]|, +Inf if one is infinite or NaN. Calls on
	// disjoint blocks may be concurrent.
	Get(dst []float32, src []uint16, b Block) (peak float32)

	// Close releases the device. Its programs are closed before.
	Close() error
}

// Program is a compiled, loaded program. At most one of its Requests is
// touched at a time.
type Program interface {
	// Bind makes a new input surface, zeroed, and the request that runs the
	// program on it.
	Bind() (Request, error)

	// Close unloads the program. Its requests are closed before.
	Close() error
}

// Request is a program with an input of its own.
type Request interface {
	// LockInput gives access to the input, until UnlockInput.
	LockInput() ([]uint16, error)
	UnlockInput() error

	// Eval runs the program. Nothing is locked then.
	Eval() error

	// LockOutput gives access to the output, to read, until UnlockOutput.
	LockOutput() ([]uint16, error)
	UnlockOutput() error

	// Close releases the input.
	Close() error
}

// Limits of a device's programs.
type Limits struct {
	MaxAxis    int // longest axis of a tensor
	Multiple   int // of the last axis and of the contraction
	MinSurface int // bytes of a surface
}

// Block is a matrix [Rows, Cols] on both sides of a conversion: row-major
// with the given Stride as float32; as binary16, element (r,c) lies at
// Offset + r·LD + c, or at Offset + c·LD + r if Transposed.
type Block struct {
	Rows, Cols, Stride int
	Offset, LD         int
	Transposed         bool
	Add                bool      // Get only
	RowScale           []float32 // [Rows]; nil: all 1
	Scale              float32   // of all elements, times RowScale
}

// Sub is the rows lo ≤ r < hi of b, and where they start in the float32.
func (b Block) Sub(lo, hi int) (Block, int) {
	at := lo * b.Stride
	if b.Transposed {
		b.Offset += lo
	} else {
		b.Offset += lo * b.LD
	}
	if b.RowScale != nil {
		b.RowScale = b.RowScale[lo:hi]
	}
	b.Rows = hi - lo
	return b, at
}

// ScaleOf is the factor of row r.
func (b *Block) ScaleOf(r int) float32 {
	if b.RowScale == nil {
		return b.Scale
	}
	return b.Scale * b.RowScale[r]
}
