package train_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/data"
	"github.com/chainrule-go/chainrule/tokenizer"
	"github.com/chainrule-go/chainrule/train"
)

// A byte-level model learns a line by heart.
func Example() {
	tok := tokenizer.Byte{}
	tokens := tok.Encode(strings.Repeat("All is one, one is all. ", 20))
	text, val := data.Split(tokens, 0.1)

	m, err := chainrule.NewModel(chainrule.Config{
		Dim: 16, HiddenDim: 32, NLayers: 1, NHeads: 2, NKVHeads: 2, HeadDim: 8,
		VocabSize: tok.VocabSize(), SeqLen: 24, RopeTheta: 10000, NormEps: 1e-5,
	})
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()

	t, err := train.New(train.Config{
		Model: m, Backend: be, Train: text, Val: val,
		Batch: 4, SeqLen: 24, Steps: 60, Seed: 1,
		Schedule: train.WarmupCosine{LR: 2e-2, MinLR: 2e-3, Warmup: 5, Steps: 60},
		ClipNorm: 1, EvalEvery: 60,
	})
	if err != nil {
		log.Fatal(err)
	}
	for step, err := range t.Run(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if step.Evaluated {
			fmt.Printf("step %d: validation loss below 0.5: %v\n", step.Step, step.ValLoss < 0.5)
		}
	}
	// Output:
	// step 60: validation loss below 0.5: true
}
