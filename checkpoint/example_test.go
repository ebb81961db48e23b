package checkpoint_test

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/checkpoint"
)

var config = chainrule.Config{
	Dim: 16, HiddenDim: 32, NLayers: 2, NHeads: 2, NKVHeads: 1, HeadDim: 8, VocabSize: 256, SeqLen: 64,
	RopeTheta: 10000, NormEps: 1e-5, Tied: true,
}

func ExampleSaveState() {
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	m, err := chainrule.NewModel(config)
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	adam, err := chainrule.NewAdamState(config)
	if err != nil {
		log.Fatal(err)
	}
	path, err := checkpoint.SaveState(dir, &checkpoint.State{
		Model: m, Optimizer: adam, Step: 100, Seed: 1, Position: 100, Hyper: json.RawMessage(`{"lr": 0.001}`),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("saved", filepath.Base(path))

	s, _, err := checkpoint.LoadState(dir) // to train on
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("at step %d with %s\n", s.Step, s.Hyper)
	m, err = checkpoint.LoadDir(path) // the model alone
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.NumParams(), "weights")
	// Output:
	// saved checkpoint-100
	// at step 100 with {"lr": 0.001}
	// 8784 weights
}

func ExampleSaveDir() {
	dir, err := os.MkdirTemp("", "model")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	m, err := chainrule.NewModel(config)
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	if err := checkpoint.SaveDir(dir, &checkpoint.Bundle{Model: m}, checkpoint.SaveOptions{}); err != nil {
		log.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files {
		fmt.Println(f.Name())
	}
	// Output:
	// config.json
	// model.safetensors
}
