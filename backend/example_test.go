package backend_test

import (
	"fmt"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

// counting is a backend that counts the products of another.
type counting struct {
	backend.Backend
	products int
}

func (c *counting) Linear(y, x []float32, w *backend.Matrix, rows int) error {
	c.products++
	return c.Backend.Linear(y, x, w, rows)
}

// A model works on any Backend.
func Example() {
	inner, err := cpu.New(cpu.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	be := &counting{Backend: inner}
	defer be.Close()
	c := chainrule.Config{
		Dim: 8, HiddenDim: 16, NLayers: 3, NHeads: 2, NKVHeads: 1, HeadDim: 4, VocabSize: 10, SeqLen: 4,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		fmt.Println(err)
		return
	}
	ws, err := chainrule.NewWorkspace(c, 1, 4, be)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := chainrule.Forward(m, ws, []int32{1, 2, 3, 4}, nil); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(be.products, "products: four a layer, and the classifier")
	// Output: 13 products: four a layer, and the classifier
}
