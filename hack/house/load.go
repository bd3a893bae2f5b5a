package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

// module is a Go module as it is measured.
type module struct {
	path  string // as in go.mod
	fset  *token.FileSet
	files []sourceFile // all Go files, in the order of their names
	// packages are the module's, type-checked without tests; and, for the call
	// graph, libcontainer where the module uses it.
	packages []*packages.Package
}

// sourceFile is a Go file by its path from the module's root.
type sourceFile struct {
	rel  string
	text []byte
}

// isTest tells whether a file counts as test.
func isTest(rel string) bool {
	return strings.HasSuffix(rel, "_test.go") || strings.HasPrefix(rel, "test/")
}

// isCode tells whether a file counts as code.
func isCode(rel string) bool { return !isTest(rel) && !strings.HasPrefix(rel, "hack/") }

// libcontainer does the last steps of creating and starting a container.
const libcontainer = "github.com/opencontainers/runc/libcontainer"

func load(root, tags string) (*module, error) {
	m := &module{fset: token.NewFileSet()}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if err := m.read(root); err != nil {
		return nil, err
	}
	config := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedTypes |
			packages.NeedTypesInfo | packages.NeedTypesSizes | packages.NeedSyntax | packages.NeedModule | packages.NeedExportFile,
		Dir: root, Fset: m.fset, BuildFlags: []string{"-buildvcs=false", "-tags=" + tags},
	}
	patterns := []string{"./..."}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	if bytes.Contains(mod, []byte("github.com/opencontainers/runc ")) {
		patterns = append(patterns, libcontainer)
	}
	list, err := packages.Load(config, patterns...)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if len(p.Errors) > 0 {
			return nil, fmt.Errorf("%s: %w", p.PkgPath, p.Errors[0])
		}
		if p.Module != nil && p.Module.Main {
			m.path = p.Module.Path
		}
	}
	m.packages = list
	return m, nil
}

// read takes in every Go file that belongs to the module at root.
func (m *module) read(root string) error {
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, other := os.Stat(filepath.Join(file, "go.mod"))
			if rel != "." && (other == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		text, err := os.ReadFile(file)
		m.files = append(m.files, sourceFile{rel, text})
		return err
	})
}

// local is a package's path below the module's, or "" for a foreign package.
func (m *module) local(pkg string) string {
	rest, ok := strings.CutPrefix(pkg, m.path+"/")
	if !ok {
		return ""
	}
	return rest
}

// code are the packages that count as code.
func (m *module) code() []*packages.Package {
	var out []*packages.Package
	for _, p := range m.packages {
		rel := m.local(p.PkgPath)
		if rel != "" && isCode(rel+"/") {
			out = append(out, p)
		}
	}
	return out
}

// eachFunction calls do for every function with a body that counts as code.
func (m *module) eachFunction(do func(p *packages.Package, f *ast.FuncDecl)) {
	for _, p := range m.code() {
		for _, file := range p.Syntax {
			if m.generated(file) {
				continue
			}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
					do(p, f)
				}
			}
		}
	}
}

// generated tells whether a file is cgo's, which is compiled in place of ours.
func (m *module) generated(f *ast.File) bool {
	return filepath.Base(m.fset.Position(f.Package).Filename) == "_cgo_gotypes.go"
}
