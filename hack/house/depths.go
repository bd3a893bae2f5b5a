package main

import (
	"go/types"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/go/ssa"
)

// leg is a part of a call: within the daemon, or within the shim.
type leg struct {
	starts []*ssa.Function
	stops  []stop
}

// depths prints how many named functions are on the stack between a handler of the
// CRI and what it does in the end.
func depths(r *report, m *module) {
	g := newGraph(m)
	r.section("Depth: named functions on the shortest way")
	r.show(g, "RunPodSandbox to the clone of pause", g.daemonLeg("RunPodSandbox", "MethodRunPod"), g.shimLeg("RunPodRequest", g.calling(`^os\.StartProcess$`)))
	r.show(g, "CreateContainer to the clone of init", g.daemonLeg("CreateContainer", "MethodCreate"),
		g.shimLeg("CreateRequest", g.in(libcontainer, "Container.Start"), g.calling(`^\(\*os/exec\.Cmd\)\.Start$`)))
	r.show(g, "StartContainer to the FIFO of init", g.daemonLeg("StartContainer", "MethodStart"),
		g.shimLeg("IDRequest", g.in(libcontainer, "Container.Exec"), named("fifoOpen")))
	request := g.calling(`^\(net/http\.RoundTripper\)\.RoundTrip$|^\(\*net/http\.(Client|Transport)\)\.(Do|RoundTrip)$`)
	pull := append([]*ssa.Function{}, g.handlers("PullImage")...)
	r.show(g, "PullImage to the first HTTP request", leg{pull, []stop{g.below("image"), request}})
	r.show(g, "PullImage to the request of a layer", leg{pull, []stop{g.below("image"), g.in("image/registry", "Repository.Blob"), request}})
	r.show(g, "PullImage to the making of a file", leg{pull, []stop{g.in("image/layer", "Apply"), g.calling(`unix\.Openat$`)}})
}

// show prints one call; the interceptor is on the stack before each handler.
func (r *report) show(g *graph, name string, legs ...leg) {
	total := 0
	var texts []string
	for i, l := range legs {
		functions := g.way(l.starts, l.stops)
		if functions == nil {
			r.line(name, "not found: leg %d of %d, %d places to start", i+1, len(legs), len(l.starts))
			return
		}
		var names []string
		if i == 0 {
			names = g.interceptor()
		}
		for _, f := range functions {
			names = append(names, shortName(f))
		}
		total += len(names)
		texts = append(texts, strings.Join(names, " → "))
	}
	r.line(name, "%d", total)
	r.printf("    %s\n", strings.Join(texts, "\n  ‖ "))
}

func shortName(f *ssa.Function) string {
	o := object(f)
	name := o.Name()
	if recv := o.Signature().Recv(); recv != nil {
		name = typeName(recv.Type()) + "." + name
	}
	return path.Base(o.Pkg().Path()) + " " + name
}

func typeName(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name()
	}
	return t.String()
}

// functions are those with a body and a name that a condition holds for.
func (g *graph) functions(cond func(f *ssa.Function, o *types.Func) bool) []*ssa.Function {
	var out []*ssa.Function
	for f := range g.all {
		if o := object(f); f.Blocks != nil && weight(f) == 1 && o.Pkg() != nil && cond(f, o) {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *ssa.Function) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// handlers are the methods that serve a call of the CRI.
func (g *graph) handlers(call string) []*ssa.Function {
	return g.functions(func(_ *ssa.Function, o *types.Func) bool {
		return o.Name() == call && strings.HasPrefix(g.m.local(o.Pkg().Path()), "cri") && takes(o, criPackage, call+"Request")
	})
}

// interceptor is the function that gRPC calls before a handler.
func (g *graph) interceptor() []string {
	found := g.functions(func(_ *ssa.Function, o *types.Func) bool {
		return g.m.local(o.Pkg().Path()) != "" && takes(o, "google.golang.org/grpc", "UnaryServerInfo")
	})
	if len(found) == 0 {
		return nil
	}
	return []string{shortName(found[0])}
}

// takes tells whether a function has a parameter of a type, or a pointer to it.
func takes(o *types.Func, pkg, name string) bool {
	for v := range o.Signature().Params().Variables() {
		t := v.Type()
		if p, ok := t.(*types.Pointer); ok {
			t = p.Elem()
		}
		if n, ok := t.(*types.Named); ok && n.Obj().Name() == name && n.Obj().Pkg() != nil && strings.HasSuffix(n.Obj().Pkg().Path(), pkg) {
			return true
		}
	}
	return false
}

// daemonLeg goes from a handler by who names the shim's method to the wire.
func (g *graph) daemonLeg(call, method string) leg {
	names := func(f *ssa.Function) bool { return g.mentions[object(f)][method] && weight(f) == 1 }
	return leg{g.handlers(call), []stop{names, named("WriteRequest", "WriteFrame")}}
}

// shimLeg goes from who reads a request in the shim by who takes it to the end.
func (g *graph) shimLeg(request string, ends ...stop) leg {
	reads := g.functions(func(f *ssa.Function, o *types.Func) bool {
		rel := g.m.local(o.Pkg().Path())
		return rel == "oci/shim" && slices.ContainsFunc(g.calls[f], named("ReadFrame"))
	})
	taken := func(f *ssa.Function) bool {
		o := object(f)
		return weight(f) == 1 && o != nil && takes(o, "shimapi", request)
	}
	return leg{reads, append([]stop{taken}, ends...)}
}

func named(names ...string) stop {
	return func(f *ssa.Function) bool { return weight(f) == 1 && slices.Contains(names, object(f).Name()) }
}

// in is a function or method of a package, as name or Type.name.
func (g *graph) in(pkg, name string) stop {
	return func(f *ssa.Function) bool {
		o := object(f)
		return weight(f) == 1 && o.Pkg() != nil && (o.Pkg().Path() == pkg || g.m.local(o.Pkg().Path()) == pkg) && strings.HasSuffix(shortName(f), " "+name)
	}
}

// below is any function of a tree of the module's packages.
func (g *graph) below(tree string) stop {
	return func(f *ssa.Function) bool {
		o := object(f)
		return o != nil && o.Pkg() != nil && strings.HasPrefix(g.m.local(o.Pkg().Path())+"/", tree+"/")
	}
}

// calling is a function that calls one without a body whose full name matches.
func (g *graph) calling(pattern string) stop {
	match := regexp.MustCompile(pattern)
	return func(f *ssa.Function) bool { return slices.ContainsFunc(g.leaves[f], match.MatchString) }
}
