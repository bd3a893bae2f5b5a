package main

import (
	"encoding/json"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// suite is a package with attacks.
type suite struct {
	Package string            `json:"package"` // below the repository's root, such as test/integration
	Tests   map[string]string `json:"tests"`   // functions, with the first sentence of their comments
}

const (
	suitesFile  = "attacks.json"
	binaryName  = "attack.test"
	programsDir = "programs"
	prefix      = "TestAttack"
)

func load(root string) (suites []suite, err error) {
	data, err := os.ReadFile(filepath.Join(root, suitesFile))
	if err == nil {
		err = json.Unmarshal(data, &suites)
	}
	return suites, err
}

// keep forgets the functions whose names do not match.
func (s *suite) keep(only *regexp.Regexp) {
	for name := range s.Tests {
		if !only.MatchString(name) {
			delete(s.Tests, name)
		}
	}
}

// describe reads the attacks of a file of tests.
func (s *suite) describe(file string) error {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, prefix) {
			s.Tests[fn.Name.Name] = new(doc.Package).Synopsis(fn.Doc.Text())
		}
	}
	return nil
}
