// Package train is the loop of a training run: batches, learning-rate
// schedule, accumulation, clipping, AdamW, evaluation, and checkpoints that a
// run goes on from to the same bits.
//
// A Trainer is made by New or, from a checkpoint, by Resume. Its Run yields
// one Step after the other:
//
//	t, err := train.New(train.Config{
//		Model: m, Backend: be, Train: tokens, Val: heldOut,
//		Batch: 16, SeqLen: 128, Steps: 300, Seed: 1,
//		Schedule: train.WarmupCosine{LR: 2e-3, MinLR: 2e-4, Warmup: 30, Steps: 300},
//		ClipNorm: 1, EvalEvery: 50, SaveEvery: 100, Dir: "out",
//	})
//	…
//	defer t.Close()
//	for step, err := range t.Run(ctx) {
//		if err != nil {
//			return err // step.Saved says where the run can go on from, if at all
//		}
//		log.Printf("step %d: loss %.3f", step.Step, step.Loss)
//	}
//
// It is a Trainer with an iterator, not one function, so that the program's own
// loop decides what happens between steps: it may look at the model, evaluate
// on other tokens, save, or leave and come back. What only watches, a progress
// bar, a file of metrics, a dashboard, gets every Event from Config.OnEvent,
// also those that come between two steps. Both run on the goroutine of the loop:
// a run starts no other, and prints nothing.
//
// # The same bits
//
// A step depends on nothing but the Config, the weights, their average and
// moments, and the number of batches consumed; what Spike takes for a spike, on
// the last steps as well. All of these are in a checkpoint, or compared with it
// on Resume, so a run that was interrupted and resumed ends with the bits of one
// that was not, at any GOMAXPROCS. Where the machine or the program is another,
// so that bits may differ, Resume warns, or refuses (Config.Exact).
//
// # Nothing lost
//
// A checkpoint is written aside, synced, read again and compared, and renamed;
// only then an old one goes. A save that fails is tried again while the run goes
// on. A directory belongs to one Trainer at a time. Numbers that have gone bad
// are found before the update (Config.OnBad, BadNumberError) and never saved: the
// last checkpoint is a good one. After any error, the Trainer is in the state
// after the last step that was yielded, and Save and Run may be called again.
package train
