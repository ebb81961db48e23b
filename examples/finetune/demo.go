package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/chainrule-go/chainrule/examples/internal/cli"
)

// writeDemo writes a data set to try: a conversation for every function of Go's
// standard library, which asks what it does, and answers with its declaration and
// the first sentence of its documentation. It is made of the Go distribution
// of this machine, whose licence (BSD) it has.
func writeDemo(ctx context.Context, path string, out io.Writer) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already", path)
	}
	root, err := goRoot()
	if err != nil {
		return err
	}
	records, err := documentation(ctx, root)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for _, messages := range records {
		if err := e.Encode(map[string][]message{"messages": messages}); err != nil {
			return err
		}
	}
	if err := replace(path, b.Bytes()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %d questions about the functions of Go's standard library, with answers\n\n  %s MODEL %[1]s\n",
		cli.Quote(path), len(records), cli.Command())
	return err
}

// message is one of a conversation, as a line of the file has it.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// goRoot returns where the Go distribution is.
func goRoot() (string, error) {
	//lint:ignore SA1019 it is right for a program that runs where it was built
	root := runtime.GOROOT()
	if b, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(b))
	}
	if _, err := os.Stat(filepath.Join(root, "src", "fmt")); err != nil {
		return "", fmt.Errorf("no Go distribution: %w", err)
	}
	return root, nil
}

// documentation returns a conversation for every function, in the order of
// their packages and names.
func documentation(ctx context.Context, root string) (all [][]message, err error) {
	src := filepath.Join(root, "src")
	err = filepath.WalkDir(src, func(dir string, d fs.DirEntry, err error) error {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil || !d.IsDir() {
			return err
		}
		switch d.Name() {
		case "internal", "vendor", "testdata", "cmd", "builtin":
			return fs.SkipDir
		}
		path, err := filepath.Rel(src, dir)
		if err != nil {
			return err
		}
		p, fset, err := parsePackage(dir, filepath.ToSlash(path))
		if p == nil || err != nil {
			return err
		}
		funcs := p.Funcs
		for _, t := range p.Types {
			funcs = append(funcs, t.Funcs...)
		}
		slices.SortFunc(funcs, func(a, b *doc.Func) int { return strings.Compare(a.Name, b.Name) })
		for _, f := range funcs {
			says := p.Synopsis(f.Doc)
			if says == "" || strings.HasPrefix(f.Doc, "Deprecated") {
				continue
			}
			var decl bytes.Buffer
			f.Decl.Body, f.Decl.Doc = nil, nil
			if err := printer.Fprint(&decl, fset, f.Decl); err != nil {
				return err
			}
			all = append(all, []message{
				{"user", fmt.Sprintf("What does %s.%s do in Go?", p.Name, f.Name)},
				{"assistant", fmt.Sprintf("%s\n\nThe declaration is `%s`, in package %s.", says, decl.String(), p.ImportPath)},
			})
		}
		return nil
	})
	return all, err
}

// parsePackage returns the documentation of the package in a directory, nil if
// there is none to import.
func parsePackage(dir, path string) (*doc.Package, *token.FileSet, error) {
	built := build.Default
	built.GOOS, built.GOARCH, built.CgoEnabled = "linux", "amd64", false // the same everywhere
	pkg, err := built.ImportDir(dir, 0)
	if err != nil || pkg.Name == "main" {
		var none *build.NoGoError
		if errors.As(err, &none) || err == nil {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, path)
	return p, fset, err
}
