// Dashboard shows training runs in a browser.
//
//	go run ./examples/dashboard runs
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
	"github.com/chainrule-go/chainrule/train/dashboard"
)

const help = `Show training runs in a browser: those that are through, and those that are
under way.

  go run ./examples/dashboard runs

The folder is a run of examples/train, or has some in it. Nothing in it is
changed. The page is for this machine alone, unless -http says otherwise.
Ctrl-C ends the program, and no run.

  -http ADDR        where the page is (localhost:8080)
`

func main() {
	cli.Main("dashboard", run)
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("dashboard", flag.ContinueOnError)
	addr := f.String("http", "localhost:8080", "")
	if err := cli.Parse(f, args, true, help, out); err != nil {
		return err
	}
	dir := "runs"
	switch f.NArg() {
	case 0:
	case 1:
		dir = f.Arg(0)
	default:
		return cli.Usagef("unexpected argument %q: name one folder", f.Arg(1))
	}
	if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("no folder of runs: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is a file, want a folder of runs", dir)
	}
	d, err := dashboard.Start(*addr, dir, dashboard.Options{})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "the runs in %s are at %s\nCtrl-C ends this program\n", dir, d.URL()); err != nil {
		d.Close()
		return err
	}
	<-ctx.Done()
	if err := d.Close(); err != nil {
		return err
	}
	return context.Cause(ctx)
}
