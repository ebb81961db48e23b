package ane_test

import (
	"fmt"
	"log"

	"github.com/chainrule-go/chainrule/ane"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
)

// A product through binary16 on a simulated Neural Engine.
func ExampleNewSimulator() {
	be, err := ane.NewSimulator(ane.M1)
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	w := &backend.Matrix{Data: make([]float32, 64*160), Out: 64, In: 160, Gen: 1}
	x, y := make([]float32, 128*160), make([]float32, 128*64)
	for i := range w.Data {
		w.Data[i] = 1.0 / 3
	}
	for i := range x {
		x[i] = 1
	}
	if err := be.Linear(y, x, w, 128); err != nil {
		log.Fatal(err)
	}
	s := be.Stats().Shapes[0]
	fmt.Printf("%v: %d of %d calls on the device\n", s.Product, s.OnDevice, s.Calls)
	fmt.Println(y[0], "for 53.33")
	// Output:
	// y = x Wᵀ: 1 of 1 calls on the device
	// 53.3125 for 53.33
}

// On a Mac the Neural Engine, elsewhere the CPU.
func ExampleNew() {
	var be backend.Backend
	be, err := ane.New(ane.Options{})
	if err != nil {
		fmt.Println(err)
		if be, err = cpu.New(cpu.Options{}); err != nil {
			log.Fatal(err)
		}
	}
	defer be.Close()
}
