// Package metrics writes what happens in a training run to files, and reads it
// again: metrics.jsonl, an object a line, and the event files of TensorBoard.
//
//	log, err := metrics.Open("out/metrics.jsonl", metrics.Options{Steps: 300})
//	…
//	defer log.Close()
//	config.OnEvent = log.OnEvent
//
// A line of metrics.jsonl is a Record. The file only grows. After a kill every
// line is whole but perhaps the last, which Open removes. A run that goes on
// from a checkpoint begins with a record of type "start": what the file has of
// later steps was lost with the process, and is taken again behind it.
// Current leaves it out.
package metrics
