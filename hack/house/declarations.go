package main

import (
	"cmp"
	"go/ast"
	"go/types"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// tally counts what packages declare; each map is from a name with its package to
// a figure.
type tally struct {
	methods, fields, interfaces map[string]int
	exported                    map[string]int // of packages
	keys                        int            // of the configuration
}

// declarations prints what the types are like.
func declarations(r *report, m *module) {
	t := tally{methods: map[string]int{}, fields: map[string]int{}, interfaces: map[string]int{}, exported: map[string]int{}}
	for _, p := range m.code() {
		scope := p.Types.Scope()
		for _, name := range scope.Names() {
			t.add(m.local(p.PkgPath), p, scope.Lookup(name))
		}
	}
	total := 0
	for _, n := range t.exported {
		total += n
	}
	r.section("Types")
	r.top("methods of types", t.methods)
	r.top("fields of structs", t.fields)
	r.line("interfaces", "%d", len(t.interfaces))
	r.top("methods of interfaces", t.interfaces)
	r.line("exported identifiers, per 1,000 lines of code", "%d, %.0f", total, 1000*share(total, m.codeLines()))
	r.top("exported identifiers of packages", t.exported)
	r.line("configuration keys", "%d", t.keys)
}

// add counts one declaration of the package at rel.
func (t *tally) add(rel string, p *packages.Package, o types.Object) {
	isAPI := o.Exported() && p.Name != "main"
	if isAPI {
		t.exported[rel]++
	}
	named, ok := o.Type().(*types.Named)
	if _, isType := o.(*types.TypeName); !isType || !ok || o.Pkg() != p.Types {
		return
	}
	name := rel + "." + o.Name()
	if n := named.NumMethods(); n > 0 {
		t.methods[name] = n
	}
	if isAPI {
		t.exported[rel] += exportedMethods(named)
	}
	switch u := named.Underlying().(type) {
	case *types.Struct:
		t.fields[name] = u.NumFields()
		t.keys = max(t.keys, configKeys(u))
	case *types.Interface:
		t.interfaces[name] = u.NumMethods()
	}
}

func exportedMethods(t *types.Named) int {
	n := 0
	for f := range t.Methods() {
		if f.Exported() {
			n++
		}
	}
	return n
}

// configKeys counts the fields of a struct that an operator sets: those with a
// key and a help text.
func configKeys(s *types.Struct) int {
	n := 0
	for i := range s.NumFields() {
		tag := reflect.StructTag(s.Tag(i))
		if tag.Get("toml") != "" && tag.Get("help") != "" {
			n++
		}
	}
	return n
}

func (m *module) codeLines() int {
	n := 0
	for _, f := range m.files {
		if isCode(f.rel) {
			n += sizeOf(f.text).code
		}
	}
	return n
}

// rules prints how often the same question is asked of what a client sent: which
// fields of the CRI's messages are read, in several packages, by functions that
// can answer with an error. Such a function judges the field, or calls one that does.
func rules(r *report, m *module) {
	readers := map[string]map[string]bool{} // field → functions
	places := map[string]map[string]bool{}  // field → packages
	m.eachFunction(func(p *packages.Package, f *ast.FuncDecl) {
		o, ok := p.TypesInfo.Defs[f.Name].(*types.Func)
		if !ok || !givesError(o.Signature()) {
			return
		}
		for field := range criFields(p.TypesInfo, f.Body) {
			add(readers, field, m.functionName(p, f))
			add(places, field, m.local(p.PkgPath))
		}
	})
	inTwo := map[string]int{}
	for field, pkgs := range places {
		if len(pkgs) > 1 {
			inTwo[field] = len(readers[field])
		}
	}
	r.section("Rules asked of a request in several places")
	r.line("CRI fields judged in more than one package", "%d of %d", len(inTwo), len(places))
	r.top("by functions", inTwo)
}

func add(sets map[string]map[string]bool, key, value string) {
	if sets[key] == nil {
		sets[key] = map[string]bool{}
	}
	sets[key][value] = true
}

func givesError(s *types.Signature) bool {
	for v := range s.Results().Variables() {
		if types.Identical(v.Type(), types.Universe.Lookup("error").Type()) {
			return true
		}
	}
	return false
}

const criPackage = "k8s.io/cri-api/pkg/apis/runtime/v1"

// criFields are the fields of CRI messages that a body reads, as Message.Field.
func criFields(info *types.Info, body ast.Node) map[string]bool {
	out := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		s := info.Selections[sel]
		if s == nil {
			return true
		}
		recv := s.Recv()
		if p, ok := recv.(*types.Pointer); ok {
			recv = p.Elem()
		}
		named, ok := recv.(*types.Named)
		if !ok || named.Obj().Pkg() == nil || !strings.HasSuffix(named.Obj().Pkg().Path(), criPackage) {
			return true
		}
		name := sel.Sel.Name
		if s.Kind() == types.MethodVal {
			if len(name) < 4 || name[:3] != "Get" {
				return true
			}
			name = name[3:]
		}
		out[named.Obj().Name()+"."+name] = true
		return true
	})
	return out
}

func sortBy[T any, K cmp.Ordered](list []T, key func(T) K) {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}
