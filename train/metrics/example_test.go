package metrics_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
)

func ExampleLog() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "metrics.jsonl")
	l, err := metrics.Open(path, metrics.Options{Steps: 1, BytesPerToken: 1})
	if err != nil {
		log.Fatal(err)
	}
	var c train.Config
	c.OnEvent = l.OnEvent // a Trainer calls it
	at := time.Unix(1700000000, 0)
	c.OnEvent(train.Event{Kind: train.Started, Time: at})
	c.OnEvent(train.Event{Kind: train.Stepped, Time: at, Step: train.Step{Step: 1, Loss: 5.5, Tokens: 512, Duration: time.Second}})
	if err := l.Close(); err != nil {
		log.Fatal(err)
	}
	records, err := metrics.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(records[1].Type, records[1].Step, *records[1].Loss, *records[1].TokPerSec)
	// Output: step 1 5.5 512
}
