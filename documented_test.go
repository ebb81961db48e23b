package chainrule_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// withoutExample are packages that no Example can run.
var withoutExample = map[string]bool{
	"backend/backendtest": true, // it needs a test
}

func TestEverythingPublicIsDocumentedAndPackagesHaveExamples(t *testing.T) {
	packages := 0
	require.NoError(t, filepath.WalkDir(".", func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return err
		case dir != "." && strings.Contains("._", d.Name()[:1]), d.Name() == "internal", d.Name() == "testdata":
			return fs.SkipDir
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil && dir != "." {
			return fs.SkipDir // another module
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			return err
		}
		documented, example := false, false
		for _, path := range files {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			if f.Name.Name == "main" { // a program
				return nil
			}
			if !strings.HasSuffix(path, "_test.go") {
				documented = documented || f.Doc != nil
				for _, name := range undocumented(f) {
					t.Errorf("%s: %s has no doc comment", path, name)
				}
				continue
			}
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && strings.HasPrefix(fn.Name.Name, "Example") {
					example = true
				}
			}
		}
		packages++
		if !documented {
			t.Errorf("%s: the package has no doc comment", dir)
		}
		if !example && !withoutExample[filepath.ToSlash(dir)] {
			t.Errorf("%s: the package has no Example", dir)
		}
		return nil
	}))
	require.Greater(t, packages, 10)
}

// undocumented lists the exported functions, methods, types, constants,
// variables and methods of interfaces of f that have no comment.
func undocumented(f *ast.File) (names []string) {
	need := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		for _, c := range comments {
			if c != nil {
				return
			}
		}
		if name.IsExported() {
			names = append(names, name.Name)
		}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type)) {
				need(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.ValueSpec:
					for _, name := range s.Names {
						need(name, d.Doc, s.Doc, s.Comment)
					}
				case *ast.TypeSpec:
					need(s.Name, d.Doc, s.Doc, s.Comment)
					if i, ok := s.Type.(*ast.InterfaceType); ok && s.Name.IsExported() {
						for _, m := range i.Methods.List {
							for _, name := range m.Names {
								need(name, m.Doc, m.Comment)
							}
						}
					}
				}
			}
		}
	}
	return names
}

// receiver is the name of a method's type.
func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}
