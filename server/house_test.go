package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// local says which of berth's own packages each tree may import; what is not
// named it may not. A package of a tree may import the tree's own packages.
// Tests may import anything, as may test/ and hack/.
var local = map[string][]string{
	"cmd/berthd":          {"server", "server/config"},
	"cmd/berth":           {"cri/operator", "server/config", "cmd/berth/explain", "cmd/berth/hostcheck", "cmd/berth/leaks", "cmd/berth/printable"},
	"cmd/berth/explain":   {"oci", "oci/cgroup", "oci/openat2", "oci/procfs", "oci/shimapi", "sandbox/record", "cmd/berth/printable"},
	"cmd/berth/hostcheck": {"cni", "image/registry", "oci", "server/config", "server/runtimes", "cmd/berth/printable"},
	"cmd/berth/leaks":     {"cni", "oci/atomicfile", "oci/cgroup", "oci/dirtree", "oci/flock", "oci/procfs", "oci/shimapi", "sandbox/record"},
	"cmd/berth/printable": {},
	"cmd/berth-shim":      {"oci/shim"},
	"cmd/berth-shim-v2":   {"oci/shim", "oci/shim/shimv2", "oci/shimapi"},
	"server":              {"cri", "cri/operator", "sandbox", "sandbox/inflight", "image", "cni", "oci", "oci/atomicfile", "oci/failure", "oci/flock", "oci/procfs", "oci/shims", "oci/tracing", "server/config", "server/metrics", "server/nri", "server/runtimes", "server/traces"},
	"server/config":       {},
	"server/metrics":      {"image"},
	"server/traces":       {},
	"server/runtimes":     {"oci/failure", "oci/shimapi", "sandbox/record", "server/config"},
	"server/nri":          {"oci", "sandbox"},
	"cri":                 {"cri/containerdview", "sandbox", "sandbox/inflight", "image"},
	"cri/containerdview":  {"sandbox"},
	"sandbox":             {"oci", "oci/shims", "oci/shimapi", "oci/atomicfile", "oci/cgroup", "oci/dirtree", "oci/failure", "oci/openat2", "oci/procfs", "oci/thread", "oci/tinyinit", "oci/tracing", "sandbox/inflight", "sandbox/record"},
	"sandbox/inflight":    {},
	"sandbox/record":      {},
	"image":               {"oci/atomicfile", "oci/dirtree", "oci/failure", "oci/flock", "oci/idmap", "oci/openat2", "oci/thread", "oci/tracing"},
	"cni":                 {"oci/atomicfile", "oci/failure", "oci/procfs", "oci/tracing"},
	"oci":                 {"oci/failure", "oci/openat2", "oci/shimapi", "oci/thread"},
	"oci/atomicfile":      {},
	"oci/dirtree":         {"oci/openat2"},
	"oci/openat2":         {},
	"oci/shimapi":         {"oci/idmap", "oci/procfs"},
	"oci/tinyinit":        {"oci/atomicfile"},
	"oci/shim":            {"oci/shimapi", "oci/atomicfile", "oci/cgroup", "oci/idmap", "oci/memfd", "oci/procfs", "oci/thread", "oci/failure"},
	"oci/shim/shimv2":     {"oci/shim", "oci/shimapi", "oci/atomicfile", "oci/failure", "oci/procfs"},
	"oci/shims":           {"oci/shimapi", "oci/atomicfile", "oci/failure", "oci/flock", "oci/memfd", "oci/tracing", "oci/procfs"},
	"oci/cgroup":          {},
	"oci/failure":         {},
	"oci/flock":           {},
	"oci/idmap":           {},
	"oci/memfd":           {},
	"oci/procfs":          {},
	"oci/thread":          {},
	"oci/tracing":         {},
}

// foreign says in which trees alone a module may be imported.
var foreign = map[string][]string{
	"github.com/opencontainers/runc":            {"oci/shim", "cmd/berth-shim"},
	"github.com/google/go-containerregistry":    {"image", "test"},
	"github.com/docker":                         {"image"},
	"github.com/containernetworking/cni":        {"cni", "test"},
	"google.golang.org/grpc":                    {"cri", "server", "oci/shim/shimv2", "test"},
	"github.com/prometheus":                     {"server"},
	"go.opentelemetry.io":                       {"oci/tracing", "server/traces", "test"},
	"github.com/containerd/containerd/api":      {"cri/containerdview", "oci/shim/shimv2", "test"},
	"github.com/containerd/nri":                 {"server/nri", "test"},
	"github.com/containerd/ttrpc":               {"server/nri", "oci/shim/shimv2", "test"},
	"github.com/containerd/cgroups":             {"oci/shim/shimv2"},
	"github.com/BurntSushi/toml":                {"server/config", "image", "test"},
	"github.com/containernetworking/plugins":    {"test"},
	"github.com/seccomp/libseccomp-golang":      {},
	"github.com/sirupsen/logrus":                {"oci/shim", "cmd/berth-shim"},
	"github.com/moby/profiles":                  {"oci"},
	"tags.cncf.io/container-device-interface":   {"oci"},
	"k8s.io/cri-streaming":                      {"cri", "test"},
	"github.com/coreos/go-systemd/v22/daemon":   {"server"},
	"github.com/coreos/go-systemd/v22/dbus":     {"oci/shims", "oci/shim"},
	"github.com/godbus/dbus":                    {"oci/shims", "oci/shim"},
	"github.com/opencontainers/cgroups/devices": {"oci/shim"},
}

// goPackage is what `go list -json` tells of a package, as far as it is used.
type goPackage struct {
	ImportPath string
	Dir        string
	Name       string
	Imports    []string
	CgoFiles   []string
	GoFiles    []string
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func goList(t *testing.T, cgo string, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-tags", "seccomp,runc_nocriu", "-json=ImportPath,Dir,Name,Imports,CgoFiles,GoFiles"}, args...)...)
	cmd.Dir = moduleRoot(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// treeOf is the longest key of local that pkg is or lies below, or "".
func treeOf(pkg string) string {
	for p := pkg; p != "."; p = path.Dir(p) {
		if _, ok := local[p]; ok {
			return p
		}
	}
	return ""
}

func below(pkg string, trees []string) bool {
	return slices.ContainsFunc(trees, func(t string) bool { return pkg == t || strings.HasPrefix(pkg, t+"/") })
}

func TestImports(t *testing.T) {
	for _, p := range goList(t, "1", "./...") {
		pkg := strings.TrimPrefix(p.ImportPath, "berth/")
		tree := treeOf(pkg)
		for _, imp := range p.Imports {
			if dep, own := strings.CutPrefix(imp, "berth/"); own {
				if !allowedLocal(pkg, tree, dep) {
					t.Errorf("%s imports %s: see the table in %s", pkg, dep, "server/house_test.go")
				}
				continue
			}
			for module, trees := range foreign {
				if below(imp, []string{module}) && !below(pkg, trees) {
					t.Errorf("%s imports %s, which is for %s only", pkg, imp, strings.Join(trees, ", "))
				}
			}
		}
	}
}

func allowedLocal(pkg, tree, dep string) bool {
	if below(pkg, []string{"test", "hack"}) {
		return true
	}
	if tree == "" {
		return false
	}
	if slices.Contains(local[tree], dep) {
		return true
	}
	// A package below a tree that has no rule of its own belongs to the tree.
	return treeOf(dep) == tree
}

func TestProgramsStaySmall(t *testing.T) {
	// What berth explain reads, and what berth check asks registries with.
	small := []string{"berth/sandbox/record", "berth/image/registry"}
	for program, never := range map[string][]string{
		"cmd/berthd":     {"github.com/opencontainers/runc"},
		"cmd/berth":      {"github.com/opencontainers/runc", "berth/sandbox", "berth/image"},
		"cmd/berth-shim": {"google.golang.org/grpc", "k8s.io/cri-api", "github.com/google/go-containerregistry", "github.com/containernetworking/cni"},
	} {
		cgo := "0"
		if program == "cmd/berth-shim" {
			cgo = "1"
		}
		for _, p := range goList(t, cgo, "-deps", "./"+program) {
			if below(p.ImportPath, never) && !slices.Contains(small, p.ImportPath) {
				t.Errorf("%s links %s", program, p.ImportPath)
			}
		}
	}
}

func TestEveryPackageHasItsDoc(t *testing.T) {
	for _, p := range goList(t, "1", "./...") {
		text, err := os.ReadFile(filepath.Join(p.Dir, "doc.go"))
		if err != nil {
			t.Errorf("%s has no doc.go: say what it owns, its invariants, locks, files and why not otherwise", p.ImportPath)
			continue
		}
		if fault := docFault(string(text)); fault != "" {
			t.Errorf("%s/doc.go %s", p.ImportPath, fault)
		}
	}
}

// docSections are the headings of a doc.go, in their order; "# Why not X" follows, once
// for each alternative X, or once with a list of them.
var docSections = []struct {
	title    string
	required bool
}{{"What it owns", true}, {"Invariants", true}, {"Locks", false}, {"Files", false}}

// docFault says how the headings of a doc.go differ from the form that all packages
// share. It is "" when they don't.
func docFault(text string) string {
	var titles []string
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		title, ok := strings.CutPrefix(l, "// # ")
		if !ok {
			continue
		}
		titles = append(titles, title)
		if i+2 >= len(lines) || lines[i+1] != "//" || len(lines[i+2]) <= len("// ") || strings.HasPrefix(lines[i+2], "// # ") {
			return "has nothing under # " + title
		}
	}
	for _, s := range docSections {
		if len(titles) > 0 && titles[0] == s.title {
			titles = titles[1:]
		} else if s.required {
			return "lacks # " + s.title + ", or has it in another place"
		}
	}
	if len(titles) == 0 {
		return "lacks # Why not X"
	}
	for _, title := range titles {
		if not, ok := strings.CutPrefix(title, "Why not "); !ok || strings.Trim(not, " .") == "" {
			return "has # " + title + " where only # Why not X may follow"
		}
	}
	return ""
}

func TestDocFaultsAreFound(t *testing.T) {
	const owns, inv, locks, files, why = "// # What it owns\n//\n// a\n//\n", "// # Invariants\n//\n// a\n//\n",
		"// # Locks\n//\n// a\n//\n", "// # Files\n//\n// a\n//\n", "// # Why not X\n//\n// a\npackage x\n"
	for text, want := range map[string]string{
		owns + inv + why:                             "",
		owns + inv + locks + files + why + why:       "",
		owns + inv + files + locks + why:             "has # Locks where only # Why not X may follow",
		owns + why:                                   "lacks # Invariants, or has it in another place",
		inv + owns + why:                             "lacks # What it owns, or has it in another place",
		owns + inv + files:                           "lacks # Why not X",
		owns + "// # Invariants\n//\n" + locks + why: "has nothing under # Invariants",
		owns + inv + "// # Limits\n//\n// a\n" + why: "has # Limits where only # Why not X may follow",
		owns + inv + "// # Why not ...\n//\n// a\n":  "has # Why not ... where only # Why not X may follow",
	} {
		if got := docFault(text); got != want {
			t.Errorf("docFault(%q) = %q, want %q", text, got, want)
		}
	}
}

// eachFile calls do for each file and folder of the tree that is not built.
func eachFile(t *testing.T, do func(rel string, d fs.DirEntry)) {
	t.Helper()
	root := moduleRoot(t)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if rel == ".git" || rel == "bin" {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		do(rel, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNamesSayWhatIsInside(t *testing.T) {
	vague := regexp.MustCompile(`^(utils?|commons?|helpers?|misc|types?)(_test|_linux)*(\.go)?$`)
	eachFile(t, func(rel string, _ fs.DirEntry) {
		if vague.MatchString(path.Base(rel)) {
			t.Errorf("%s: name it after what it holds", rel)
		}
	})
}

func TestTopLevel(t *testing.T) {
	want := []string{".ci", ".editorconfig", ".gitignore", ".golangci.yml", "Makefile", "README.md",
		"cmd", "cni", "cri", "go.mod", "go.sum", "hack", "image", "oci", "sandbox", "server", "test"}
	eachFile(t, func(rel string, _ fs.DirEntry) {
		if rel != "." && !strings.Contains(rel, "/") && !slices.Contains(want, rel) {
			t.Errorf("%s does not belong at the top level", rel)
		}
	})
}

// TestRecordsAreAtomic: a file that encodes JSON and writes files by itself is
// most likely writing a record past oci/atomicfile.
func TestRecordsAreAtomic(t *testing.T) {
	encodes := regexp.MustCompile(`json\.(Marshal|MarshalIndent|NewEncoder)\(`)
	writes := regexp.MustCompile(`os\.(WriteFile|Rename|Create|CreateTemp)\(`)
	eachFile(t, func(rel string, d fs.DirEntry) {
		records := below(rel, []string{"sandbox", "oci", "cni", "image", "cri", "server", "cmd"})
		if d.IsDir() || !records || !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go") || below(rel, []string{"oci/atomicfile"}) {
			return
		}
		text, err := os.ReadFile(filepath.Join("..", rel))
		if err != nil {
			t.Fatal(err)
		}
		if encodes.Match(text) && writes.Match(text) {
			t.Errorf("%s writes JSON past oci/atomicfile", rel)
		}
	})
}

// TestDaemonMainIsThin: a main wires and starts; it holds no logic of its own.
func TestDaemonMainIsThin(t *testing.T) {
	text, err := os.ReadFile("../cmd/berthd/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > 100 {
		t.Errorf("cmd/berthd/main.go has %d lines; logic belongs to package server", n)
	}
}
