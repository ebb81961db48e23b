package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/chainrule-go/chainrule/checkpoint"
	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// export writes DIR/model and, with -gguf, DIR/model.gguf and DIR/Modelfile.
func export(p *pupil, s *settings, progress io.Writer) error {
	writing := func(path string) func(done, total int64) {
		var bar *cli.Progress
		return func(done, total int64) {
			if bar == nil {
				bar = cli.NewProgress(progress, "writing "+path, 0, int(total>>20)+1)
			}
			bar.Set(int(done>>20), cli.Bytes(done))
			if done == total {
				bar.Clear()
			}
		}
	}
	path := filepath.Join(s.out, modelDir)
	err := checkpoint.SaveDir(path, p.Bundle, checkpoint.SaveOptions{DType: strings.ToUpper(s.DType), Progress: writing(path)})
	if err != nil || s.GGUF == "" {
		return err
	}
	path = filepath.Join(s.out, ggufFile)
	err = checkpoint.SaveGGUF(path, p.Bundle, checkpoint.SaveOptions{DType: strings.ToUpper(string(s.GGUF)), Progress: writing(path)})
	if err != nil {
		return err
	}
	return replace(filepath.Join(s.out, ollamaFile), []byte(modelfile(p)))
}

// modelfile is what ollama create makes a model of.
func modelfile(p *pupil) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# ollama create my-model -f %s\nFROM ./%s\n", ollamaFile, ggufFile)
	if t := p.ollamaTemplate(); t != "" {
		fmt.Fprintf(&b, "TEMPLATE \"\"\"%s\"\"\"\n", t)
	} else if p.template != nil {
		b.WriteString("# The chat template is more than a TEMPLATE here can be: Ollama takes that of the\n# file, if it knows it.\n")
	}
	var stop []string
	for _, id := range p.StopTokens() {
		if text := p.Tokenizer.Token(id); text != "" && !strings.ContainsAny(text, "\"\n") && !slices.Contains(stop, text) {
			stop = append(stop, text)
			fmt.Fprintf(&b, "PARAMETER stop \"%s\"\n", text)
		}
	}
	for _, x := range []struct {
		name string
		v    float64
	}{
		{"temperature", p.Generation.Temperature}, {"top_k", float64(max(0, p.Generation.TopK))}, {"top_p", p.Generation.TopP},
		{"min_p", p.Generation.MinP}, {"repeat_penalty", p.Generation.RepetitionPenalty},
	} {
		if x.v != 0 {
			fmt.Fprintf(&b, "PARAMETER %s %s\n", x.name, strconv.FormatFloat(x.v, 'g', -1, 64))
		}
	}
	return b.String()
}

// removeStates removes the checkpoints of a run that is done.
func removeStates(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), "checkpoint-"); ok {
			if _, err := strconv.Atoi(digits); err == nil {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
