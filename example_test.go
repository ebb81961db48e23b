package chainrule_test

import (
	"context"
	"fmt"
	"log"

	"github.com/chainrule-go/chainrule"
	"github.com/chainrule-go/chainrule/backend"
	"github.com/chainrule-go/chainrule/backend/cpu"
	"github.com/chainrule-go/chainrule/tokenizer"
)

// counter trains a tiny model to count: 0 1 2 … 9 0 1 2 …
func counter(be backend.Backend) (m *chainrule.Model, first, last float64) {
	const B, T = 4, 16
	c := chainrule.Config{
		Dim: 32, HiddenDim: 64, NLayers: 2, NHeads: 4, NKVHeads: 2, HeadDim: 8, VocabSize: 10, SeqLen: 32,
		RopeTheta: 10000, NormEps: 1e-5, Tied: true,
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	ws, err := chainrule.NewWorkspace(c, B, T, be)
	if err != nil {
		log.Fatal(err)
	}
	g, err := chainrule.NewParams(c)
	if err != nil {
		log.Fatal(err)
	}
	state, err := chainrule.NewAdamState(c)
	if err != nil {
		log.Fatal(err)
	}
	adam := chainrule.Adam{LR: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1}

	// Targets are the tokens shifted by one.
	tokens, targets := make([]int32, B*T), make([]int32, B*T)
	for b := range B {
		for t := range T {
			tokens[b*T+t] = int32((3*b + t) % 10)
			targets[b*T+t] = int32((3*b + t + 1) % 10)
		}
	}
	for step := range 60 {
		loss, err := chainrule.Forward(m, ws, tokens, targets)
		if err != nil {
			log.Fatal(err)
		}
		chainrule.ZeroGrad(g)
		if err := chainrule.Backward(m, ws, g); err != nil {
			log.Fatal(err)
		}
		chainrule.ClipGradients(g, 1)
		chainrule.AdamStep(m, g, state, adam)
		if step == 0 {
			first = loss
		}
		last = loss
	}
	return m, first, last
}

// A training step is five lines.
func Example() {
	c := chainrule.Config{
		Dim: 32, HiddenDim: 64, NLayers: 2, NHeads: 4, NKVHeads: 2, HeadDim: 8, VocabSize: 10, SeqLen: 16,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	m, err := chainrule.NewModel(c)
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	ws, err := chainrule.NewWorkspace(c, 1, 8, be) // one sequence of eight tokens
	if err != nil {
		log.Fatal(err)
	}
	g, err := chainrule.NewParams(c)
	if err != nil {
		log.Fatal(err)
	}
	state, err := chainrule.NewAdamState(c)
	if err != nil {
		log.Fatal(err)
	}
	adam := chainrule.Adam{LR: 5e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	tokens := []int32{3, 1, 4, 1, 5, 9, 2, 6}
	targets := []int32{1, 4, 1, 5, 9, 2, 6, 5}

	for step := range 101 {
		loss, err := chainrule.Forward(m, ws, tokens, targets)
		if err != nil {
			log.Fatal(err)
		}
		chainrule.ZeroGrad(g)
		if err := chainrule.Backward(m, ws, g); err != nil {
			log.Fatal(err)
		}
		chainrule.ClipGradients(g, 1)
		chainrule.AdamStep(m, g, state, adam)
		if step%100 == 0 {
			fmt.Printf("step %3d: loss %.1f\n", step, loss)
		}
	}
	// Output:
	// step   0: loss 2.3
	// step 100: loss 0.0
}

// A prompt goes in whole; what follows comes token by token. The zero
// SamplerOptions take the most likely one.
func ExampleSession_Generate() {
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	m, _, _ := counter(be) // trained to count
	s, err := chainrule.NewSession(m, be, chainrule.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	sampler, err := chainrule.NewSampler(chainrule.SamplerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	prompt := []int32{3, 4, 5}
	fmt.Print("3 4 5 →")
	for token, err := range s.Generate(context.Background(), prompt, sampler) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(" ", token)
		if token == 1 {
			break
		}
	}
	fmt.Println()
	// Output: 3 4 5 → 6 7 8 9 0 1
}

// Three prompts at once, each with its own end: a stop string, a stop token, or
// a number of tokens. The text of a stop string never comes out, even where it
// begins in one token and ends in another.
func ExampleSession_GenerateBatch() {
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	m, _, _ := counter(be) // trained to count
	tok := digits{}
	s, err := chainrule.NewSession(m, be, chainrule.SessionOptions{Batch: 3})
	if err != nil {
		log.Fatal(err)
	}
	prompts := [][]int32{tok.Encode("345"), tok.Encode("7"), tok.Encode("12")}
	texts, streams := make([]string, 3), make([]*tokenizer.Stream, 3)
	for i := range streams {
		streams[i] = tokenizer.NewStream(tok, "90")
	}
	const endOfText, most = 0, 8
	n := make([]int, 3)
	err = s.GenerateBatch(context.Background(), prompts, chainrule.SamplerOptions{}, func(d chainrule.Drawn) (more bool) {
		if d.Seq == 1 && d.Token == endOfText {
			return false
		}
		texts[d.Seq] += streams[d.Seq].Put(d.Token)
		n[d.Seq]++
		return !streams[d.Seq].Stopped() && n[d.Seq] < most
	})
	if err != nil {
		log.Fatal(err)
	}
	for i := range texts {
		fmt.Printf("%q\n", texts[i]+streams[i].Flush())
	}
	// Output:
	// "678"
	// "89"
	// "345678"
}

// digits is the tokenizer of the model that counts.
type digits struct{}

func (digits) VocabSize() int { return 10 }

func (digits) Encode(text string) (tokens []int32) {
	for _, c := range text {
		tokens = append(tokens, c-'0')
	}
	return tokens
}

func (digits) Decode(tokens []int32) string {
	var text []byte
	for _, id := range tokens {
		text = append(text, '0'+byte(id))
	}
	return string(text)
}

// Micro-batches that divide by the number of targets of all of them together
// weigh every token equally.
func ExampleWorkspace_accumulate() {
	c := chainrule.Config{
		Dim: 16, HiddenDim: 32, NLayers: 1, NHeads: 2, NKVHeads: 2, HeadDim: 8, VocabSize: 10, SeqLen: 8,
		RopeTheta: 10000, NormEps: 1e-5,
	}
	be, err := cpu.New(cpu.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer be.Close()
	m, err := chainrule.NewModel(c)
	if err != nil {
		log.Fatal(err)
	}
	m.Init(1)
	ws, err := chainrule.NewWorkspace(c, 1, 4, be)
	if err != nil {
		log.Fatal(err)
	}
	g, err := chainrule.NewParams(c)
	if err != nil {
		log.Fatal(err)
	}
	const ignore = -1
	tokens := [][]int32{{1, 2, 3, 4}, {5, 6, 7, 8}}
	targets := [][]int32{{2, 3, 4, 5}, {6, 7, ignore, ignore}}
	ws.LossDenom = 6 // targets in all
	chainrule.ZeroGrad(g)
	var loss float64
	for i := range tokens {
		part, err := chainrule.Forward(m, ws, tokens[i], targets[i])
		if err != nil {
			log.Fatal(err)
		}
		loss += part
		if err := chainrule.Backward(m, ws, g); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("mean loss of six targets: %.2f\n", loss)
	// Output: mean loss of six targets: 2.35
}
