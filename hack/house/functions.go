package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/tools/go/packages"
)

func functions(r *report, m *module) {
	var lengths, branches []int
	var wide, once, restating []string
	uses := m.uses()
	unexported := 0
	m.eachFunction(func(p *packages.Package, f *ast.FuncDecl) {
		lines := m.fset.Position(f.End()).Line - m.fset.Position(f.Pos()).Line + 1
		lengths = append(lengths, lines)
		branches = append(branches, complexity(f))
		name := m.functionName(p, f)
		if f.Type.Params.NumFields() > 5 {
			wide = append(wide, name)
		}
		if !f.Name.IsExported() && f.Name.Name != "main" && f.Name.Name != "init" {
			unexported++
			if uses[p.TypesInfo.Defs[f.Name]] == 1 {
				once = append(once, name)
			}
		}
		if restates(f) {
			restating = append(restating, name)
		}
	})
	r.section("Functions")
	r.line("functions; lines median / p90 / max", "%d; %s", len(lengths), spread(lengths))
	r.line("longer than 60 / 100 lines", "%d / %d", countAbove(lengths, 60), countAbove(lengths, 100))
	r.line("cyclomatic median / p90 / max", "%s", spread(branches))
	r.list("with more than 5 parameters", wide)
	r.line("unexported and used once", "%d of %d (%.0f %%)", len(once), unexported, 100*share(len(once), unexported))
	r.list("doc comments that only restate the name", restating)
}

// complexity is McCabe's, as gocyclo counts it.
func complexity(f *ast.FuncDecl) int {
	n := 1
	ast.Inspect(f, func(node ast.Node) bool {
		switch x := node.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// uses counts where each object of the code is used, in code.
func (m *module) uses() map[types.Object]int {
	n := map[types.Object]int{}
	for _, p := range m.code() {
		for _, o := range p.TypesInfo.Uses {
			if f, ok := o.(*types.Func); ok {
				o = f.Origin()
			}
			n[o]++
		}
	}
	return n
}

// functionName is package.Type.name, with the package's path in the module.
func (m *module) functionName(p *packages.Package, f *ast.FuncDecl) string {
	name := f.Name.Name
	if f.Recv != nil {
		name = receiver(f) + "." + name
	}
	return m.local(p.PkgPath) + "." + name
}

func receiver(f *ast.FuncDecl) string {
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return "?"
		}
	}
}

var fillers = strings.Fields("a an and are as at be by for from given gives has if implements in into is it its new of on or " +
	"reports return returns tells that the this to whether which with")

// restates tells whether a doc comment says no word that is not in the
// function's name, its receiver's or its parameters'.
func restates(f *ast.FuncDecl) bool {
	if f.Doc == nil {
		return false
	}
	known := words(f.Name.Name)
	if f.Recv != nil {
		known = append(known, words(receiver(f))...)
	}
	for _, field := range f.Type.Params.List {
		for _, name := range field.Names {
			known = append(known, words(name.Name)...)
		}
	}
	for _, word := range strings.FieldsFunc(f.Doc.Text(), func(c rune) bool { return !unicode.IsLetter(c) }) {
		if word == f.Name.Name {
			continue
		}
		for _, part := range words(word) {
			same := func(k string) bool { return strings.TrimSuffix(k, "s") == strings.TrimSuffix(part, "s") }
			if !slices.Contains(fillers, part) && !slices.ContainsFunc(known, same) {
				return false
			}
		}
	}
	return true
}

// words splits a name in camel case, and makes its words lower-case.
func words(name string) []string {
	var out []string
	var word []rune
	for i, c := range []rune(name) {
		if i > 0 && unicode.IsUpper(c) && len(word) > 0 && !unicode.IsUpper(word[len(word)-1]) {
			out = append(out, strings.ToLower(string(word)))
			word = nil
		}
		word = append(word, c)
	}
	return append(out, strings.ToLower(string(word)))
}
