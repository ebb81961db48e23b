package cli

import (
	"fmt"
	"io"

	"github.com/chainrule-go/chainrule/ane"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/blas"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

// BackendHelp is what a help text says of -backend.
const BackendHelp = `  -backend NAME     cpu, the library's own; gonum; ane, Apple's Neural Engine;
                    or ane-sim, a simulation of it, on any machine (cpu)
`

// Backend returns the backend that -backend names. Where there is no Neural
// Engine, it says so to warn, in one line, and returns the CPU.
func Backend(name string, warn io.Writer) (backend.Backend, error) {
	switch name {
	case "cpu":
		return cpu.New(cpu.Options{})
	case "gonum":
		return blas.New(blas.Options{})
	case "ane":
		be, err := ane.New(ane.Options{})
		if err == nil {
			return be, nil
		}
		fmt.Fprintf(warn, "%v; running on the CPU\n", err)
		return cpu.New(cpu.Options{})
	case "ane-sim":
		return ane.NewSimulator(ane.M1)
	}
	return nil, Usagef("-backend is %q, want cpu, gonum, ane or ane-sim", name)
}
