package main

import (
	"go/ast"
	"go/types"
	"slices"

	"golang.org/x/tools/go/callgraph"
	"golang.org/x/tools/go/callgraph/cha"
	"golang.org/x/tools/go/callgraph/vta"
	"golang.org/x/tools/go/ssa"
	"golang.org/x/tools/go/ssa/ssautil"
)

// graph is the static call graph of the module.
type graph struct {
	m     *module
	all   map[*ssa.Function]bool
	calls map[*ssa.Function][]*ssa.Function
	// leaves are the functions without a body that a function calls, by their full
	// names: those of other modules, and methods of their interfaces.
	leaves map[*ssa.Function][]string
	// mentions are the constants of other packages that a function names.
	mentions map[*types.Func]map[string]bool
}

func newGraph(m *module) *graph {
	prog, _ := ssautil.Packages(m.packages, ssa.InstantiateGenerics)
	prog.Build()
	all := ssautil.AllFunctions(prog)
	g := &graph{
		m: m, all: all, calls: map[*ssa.Function][]*ssa.Function{}, leaves: map[*ssa.Function][]string{},
		mentions: map[*types.Func]map[string]bool{},
	}
	cg := vta.CallGraph(all, cha.CallGraph(prog))
	for f, node := range cg.Nodes {
		if f != nil {
			g.addCalls(f, node)
		}
	}
	for f := range all {
		g.addHanded(f)
	}
	g.addMentions()
	return g
}

func (g *graph) addCalls(f *ssa.Function, node *callgraph.Node) {
	for _, e := range node.Out {
		callee := e.Callee.Func
		if callee.Blocks == nil {
			g.leaves[f] = append(g.leaves[f], callee.String())
		} else if !slices.Contains(g.calls[f], callee) {
			g.calls[f] = append(g.calls[f], callee)
		}
	}
}

// addHanded adds what f hands to functions without a body: it is called from there.
// Calls of foreign interfaces are leaves.
func (g *graph) addHanded(f *ssa.Function) {
	for _, b := range f.Blocks {
		for _, instr := range b.Instrs {
			call, ok := instr.(ssa.CallInstruction)
			if !ok {
				continue
			}
			c := call.Common()
			if c.IsInvoke() {
				g.leaves[f] = append(g.leaves[f], c.Method.FullName())
				continue
			}
			if callee := c.StaticCallee(); callee == nil || callee.Blocks != nil {
				continue
			}
			for _, arg := range c.Args {
				if handed := functionOf(arg); handed != nil {
					g.calls[f] = append(g.calls[f], handed)
				}
			}
		}
	}
}

// functionOf is the function that a value is for certain, or nil.
func functionOf(v ssa.Value) *ssa.Function {
	switch x := v.(type) {
	case *ssa.Function:
		return x
	case *ssa.MakeClosure:
		return functionOf(x.Fn)
	case *ssa.ChangeType:
		return functionOf(x.X)
	}
	return nil
}

func (g *graph) addMentions() {
	for _, p := range g.m.packages {
		for _, file := range p.Syntax {
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				o, ok := p.TypesInfo.Defs[f.Name].(*types.Func)
				if !ok {
					continue
				}
				g.mentions[o] = map[string]bool{}
				ast.Inspect(f, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						if c, ok := p.TypesInfo.Uses[id].(*types.Const); ok {
							g.mentions[o][c.Name()] = true
						}
					}
					return true
				})
			}
		}
	}
}

// object is the declared function that f is, or is a literal or an instance of.
func object(f *ssa.Function) *types.Func {
	for f.Parent() != nil {
		f = f.Parent()
	}
	if f.Origin() != nil {
		f = f.Origin()
	}
	o, _ := f.Object().(*types.Func)
	return o
}

// weight is 1 for a function with a name, and 0 for literals and for what the
// compiler makes, such as the method value of a method.
func weight(f *ssa.Function) int {
	made := f.Synthetic != "" && f.Origin() == nil
	if f.Parent() != nil || made || object(f) == nil {
		return 0
	}
	return 1
}

// stop is a condition that a way has to meet, one after the other.
type stop func(f *ssa.Function) bool

// place is where a way is: at a function, with some stops behind it.
type place struct {
	f      *ssa.Function
	passed int
}

// way finds the way from one of starts by all stops that has the fewest named
// functions, and gives these. The last stop is its end. A literal that is handed to
// another goroutine by a channel is called by nobody that the graph knows; when
// there is no other way, literals count as called where they are written.
func (g *graph) way(starts []*ssa.Function, stops []stop) []*ssa.Function {
	if found := g.search(starts, stops, func(f *ssa.Function) []*ssa.Function { return g.calls[f] }); found != nil {
		return found
	}
	return g.search(starts, stops, func(f *ssa.Function) []*ssa.Function { return append(f.AnonFuncs, g.calls[f]...) })
}

func (g *graph) search(starts []*ssa.Function, stops []stop, calls func(*ssa.Function) []*ssa.Function) []*ssa.Function {
	before := map[place]place{}
	cost := map[place]int{}
	var near, far []place // places at the present cost, and at the next
	reach := func(from place, f *ssa.Function, base int) {
		to := place{f, from.passed}
		for to.passed < len(stops) && stops[to.passed](f) {
			to.passed++
		}
		if old, seen := cost[to]; seen && old <= base+weight(f) {
			return
		}
		cost[to], before[to] = base+weight(f), from
		if weight(f) == 0 {
			near = append(near, to)
		} else {
			far = append(far, to)
		}
	}
	for _, f := range starts {
		reach(place{}, f, 0)
	}
	for len(near)+len(far) > 0 {
		if len(near) == 0 {
			near, far = far, nil
		}
		at := near[0]
		near = near[1:]
		if at.passed == len(stops) {
			return unwind(before, at)
		}
		for _, next := range calls(at.f) {
			reach(at, next, cost[at])
		}
	}
	return nil
}

// unwind lists the named functions of the way that ends at at.
func unwind(before map[place]place, at place) []*ssa.Function {
	var out []*ssa.Function
	for ; at.f != nil; at = before[at] {
		if weight(at.f) == 1 {
			out = append(out, at.f)
		}
	}
	slices.Reverse(out)
	return out
}
