package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"image/color"
	"math"
	"os/exec"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/chainrule-go/chainrule/train"
	"github.com/chainrule-go/chainrule/train/metrics"
)

// mark is what another program needs for a byte of the held-out text.
type mark struct {
	name string
	bits float64
}

// compressors measures gzip, and xz where it is installed: the compressed size
// of the whole text minus that of the text before the split, so that they too
// know all the training text.
func compressors(ctx context.Context, text []byte, split int) []mark {
	if split == len(text) {
		return nil
	}
	bits := func(size func([]byte) (int, error)) (float64, bool) {
		all, err1 := size(text)
		before, err2 := size(text[:split])
		return 8 * float64(all-before) / float64(len(text)-split), err1 == nil && err2 == nil
	}
	var marks []mark
	if b, ok := bits(func(b []byte) (int, error) {
		var n counter
		w, err := gzip.NewWriterLevel(&n, gzip.BestCompression)
		if err == nil {
			_, err = w.Write(b)
		}
		if err == nil {
			err = w.Close()
		}
		return int(n), err
	}); ok {
		marks = append(marks, mark{"gzip -9", b})
	}
	if b, ok := bits(func(b []byte) (int, error) {
		c := exec.CommandContext(ctx, "xz", "-9e", "-c")
		c.Stdin = bytes.NewReader(b)
		out, err := c.Output()
		return len(out), err
	}); ok {
		marks = append(marks, mark{"xz -9e", b})
	}
	return marks
}

type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// plotLoss draws the run, bits per byte against steps, into files that are called
// path and .png and .svg.
func plotLoss(path string, s *settings, c *material, run []metrics.Record, final float64, marks []mark) error {
	var training, held plotter.XYs
	add := func(to *plotter.XYs, step int, loss *metrics.Float) {
		if loss != nil && !math.IsNaN(float64(*loss)) && !math.IsInf(float64(*loss), 0) {
			*to = append(*to, plotter.XY{X: float64(step), Y: c.bits(float64(*loss))})
		}
	}
	for _, r := range run {
		switch r.Type {
		case train.Stepped:
			add(&training, r.Step, r.Loss)
		case train.Evaluated:
			add(&held, r.Step, r.ValLoss)
		}
	}
	if len(training) == 0 {
		return nil
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %.2f bits per byte of held-out text", filepath.Base(s.Data), final)
	p.Title.TextStyle.Font.Size = 14
	p.Title.Padding = 8
	p.X.Label.Text, p.Y.Label.Text = "step", "bits per byte"
	p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 12, 12
	p.X.Min, p.X.Max = 0, training[len(training)-1].X
	p.Legend.Top, p.Legend.TextStyle.Font.Size = true, 11
	p.Legend.XOffs, p.Legend.YOffs = -8, -8
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{230}, color.Gray{230}
	p.Add(grid)
	line := func(name string, xy plotter.XYs, c color.Color, width float64, dashes ...vg.Length) error {
		l, err := plotter.NewLine(xy)
		if err != nil {
			return err
		}
		l.Color, l.Width, l.Dashes = c, vg.Points(width), dashes
		p.Add(l)
		p.Legend.Add(name, l)
		return nil
	}
	if err := line("training batch", training, color.RGBA{150, 180, 215, 255}, 1); err != nil {
		return err
	}
	if len(held) > 0 {
		if err := line("held out, a tenth of it", held, color.RGBA{20, 80, 160, 255}, 2.2); err != nil {
			return err
		}
	}
	for i, m := range marks {
		at := plotter.XYs{{X: 0, Y: m.bits}, {X: p.X.Max, Y: m.bits}}
		c := []color.Color{color.RGBA{200, 80, 30, 255}, color.RGBA{60, 140, 60, 255}}[i%2]
		if err := line(fmt.Sprintf("%s (%.2f)", m.name, m.bits), at, c, 1.5, vg.Points(6), vg.Points(4)); err != nil {
			return err
		}
	}
	p.Y.Min = math.Floor(min(final, p.Y.Min)*2) / 2
	for _, form := range []string{".png", ".svg"} {
		if err := p.Save(8*vg.Inch, 4.5*vg.Inch, path+form); err != nil {
			return err
		}
	}
	return nil
}
