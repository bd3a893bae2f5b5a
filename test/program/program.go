package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// BuiltEnv names the directory that has the programs already.
const BuiltEnv = "BERTH_TEST_PROGRAMS"

// All are the packages whose programs tests ask for, as [Build] takes them.
func All() []string {
	return []string{"cmd/berth-shim", "test/hostileshim", "test/integration/probe", "test/registry/probe", "test/streams/client", "test/streams/kubelet", "test/cadvisor", "test/disk"}
}

// modules are modules of their own, whose dependencies are the programs' and not berth's.
var modules = []string{"test/streams", "test/cadvisor", "test/disk"}

// linksC are the programs that can't be built without a C compiler.
var linksC = map[string]bool{"cmd/berth-shim": true}

// Build makes file the program of a package of this repository, such as
// "cmd/berth-shim", for a caller whose working directory is inside it. The error
// is that of the Go command with what it said.
func Build(pkg, file string) error {
	if dir := os.Getenv(BuiltEnv); dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, pkg))
		if err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o755)
	}
	cgo, tags, flags := "CGO_ENABLED=0", "seccomp,runc_nocriu", "-s -w"
	if linksC[pkg] { // static, as the Makefile's
		cgo, tags, flags = "CGO_ENABLED=1", tags+",osusergo,netgo", flags+" -linkmode external -extldflags -static"
	}
	c := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags", tags, "-ldflags", flags, "-o", file, "berth/"+pkg)
	if i := slices.IndexFunc(modules, func(m string) bool { return pkg == m || strings.HasPrefix(pkg, m+"/") }); i >= 0 {
		root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			return fmt.Errorf("find the module of %s: %w", pkg, err)
		}
		c.Dir = filepath.Join(strings.TrimSpace(string(root)), modules[i])
		c.Args[len(c.Args)-2], err = filepath.Abs(file)
		if err != nil {
			return err
		}
	}
	c.Env = append(os.Environ(), cgo)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	return nil
}
