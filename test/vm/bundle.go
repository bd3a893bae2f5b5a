package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"berth/test/program"
)

// portName is what the guest calls the port for results.
const portName = "berth.results"

// plan is what the guest is to do.
type plan struct {
	Suites   []string  `json:"suites"`
	Run      string    `json:"run"`
	Patience string    `json:"patience"`
	Deadline time.Time `json:"deadline"` // when the guest ends by itself
	Peer     bool      `json:"peer"`
	Procs    int       `json:"procs"` // how many specs of suite node run at once
	// Permissive leaves what the policy denies allowed; it is in the kernel's log then.
	Permissive bool `json:"permissive"`
	// Cgroupfs has berthd of suite node make the cgroups itself, rather than by systemd.
	Cgroupfs bool `json:"cgroupfs"`
}

// needs say what a suite has built for it.
type needs struct {
	packages                    string // expression of those of test/attack
	crash, critest, node, bench bool
	deb                         bool // the life of the Debian package
	reboot                      bool // the machine restarts
	selinux                     bool // the kernel's security module, instead of AppArmor
}

const (
	noPackage   = "^$"
	integration = "^test/integration$"
)

var suites = map[string]needs{
	"integration": {packages: integration}, "scenarios": {packages: integration}, "attack": {packages: "."}, "packages": {packages: "."},
	"crash": {crash: true}, "critest": {critest: true}, "node": {node: true}, "bench": {bench: true},
	"selinux": {packages: "^test/selinux$", selinux: true}, "deb": {deb: true}, "reboot": {reboot: true},
}

// choose checks the suites that were asked for.
func choose(o options) ([]string, error) {
	if len(o.suites) == 0 {
		return nil, errors.New("no suite is chosen")
	}
	for _, s := range o.suites {
		n, ok := suites[s]
		if !ok {
			return nil, fmt.Errorf("no suite is called %q, see go doc ./test/vm", s)
		}
		if n.node && o.node == "" {
			return nil, errors.New("suite node wants -node DIR, which has bin/e2e_node.test, bin/kubelet and img/*.tar")
		}
		if n.selinux && len(o.suites) > 1 {
			return nil, fmt.Errorf("suite %s is run alone: it boots with another security module than the others", s)
		}
		if n.reboot && len(o.suites) > 1 {
			return nil, fmt.Errorf("suite %s is run alone: the machine forgets the others", s)
		}
		if n.deb && o.suites[len(o.suites)-1] != s {
			return nil, fmt.Errorf("suite %s comes last: it installs berth as the machine's runtime", s)
		}
	}
	return o.suites, nil
}

// makeShare builds what goes into the guest and makes the image of it.
func makeShare(ctx context.Context, o options, p plan) error {
	share := filepath.Join(o.cache, "share")
	bundle := filepath.Join(share, "bundle")
	if err := os.RemoveAll(share); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(bundle, 0o755), os.MkdirAll(filepath.Join(share, "out"), 0o755)); err != nil {
		return err
	}
	tell("the bundle is built")
	made := func() error { return build(ctx, o, p, bundle) }
	if o.bundle != "" {
		made = func() error { return command(ctx, "cp", "-a", o.bundle+"/.", bundle) }
	}
	if err := made(); err != nil {
		return err
	}
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(filepath.Join(share, "plan.json"), data, 0o644)
	}
	if err == nil {
		err = copyFile("/proc/self/exe", filepath.Join(share, "vm"))
	}
	if err != nil {
		return err
	}
	size, err := sizeOf(share)
	if err != nil {
		return err
	}
	return makeImage(ctx, filepath.Join(o.cache, "share.img"), share, fmt.Sprintf("%dM", size>>20+2048))
}

// build makes the bundle: the programs, and what the suites of the plan need.
func build(ctx context.Context, o options, p plan, bundle string) error {
	all := p.needs()
	steps := []func() error{func() error {
		return run(ctx, "go", "run", "-buildvcs=false", "./test/attack", "-build", bundle, "-in", all.packages)
	}, func() error { return copyShims("bin/shims", filepath.Join(bundle, "bin/shims")) }}
	if all.crash {
		steps = append(steps, func() error {
			return run(ctx, "go", "test", "-c", "-buildvcs=false", "-tags", tags, "-o", filepath.Join(bundle, "test/crash", testBinary), "./test/crash")
		})
	}
	if all.reboot {
		steps = append(steps, func() error {
			return run(ctx, "go", "test", "-c", "-buildvcs=false", "-tags", tags, "-o", filepath.Join(bundle, rebootPackage, testBinary), "./"+rebootPackage)
		})
	}
	if all.critest {
		steps = append(steps, func() error {
			return run(ctx, "go", "run", "-buildvcs=false", "./test/critest", "-build", filepath.Join(bundle, "bin/critest"))
		},
			func() error { return staticProgram(ctx, filepath.Join(bundle, "critest"), "./test/critest") })
	}
	if all.bench {
		steps = append(steps, func() error { return staticProgram(ctx, filepath.Join(bundle, "bench"), "./test/bench") },
			func() error { return program.Build("test/streams/client", filepath.Join(bundle, "streams-client")) },
			func() error { return copyPeer(ctx, o.peer, filepath.Join(bundle, "peer")) })
	}
	if all.deb {
		steps = append(steps, func() error { return packLife(ctx, o.node, bundle) })
	}
	if all.node {
		steps = append(steps, func() error { return copyNode(ctx, o, filepath.Join(bundle, "node")) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	return nil
}

// needs are those of all its suites.
func (p plan) needs() needs {
	all := needs{packages: noPackage}
	for _, s := range p.Suites {
		n := suites[s]
		if all.packages == noPackage || n.packages == "." {
			all.packages = cmp.Or(n.packages, all.packages)
		}
		all.crash, all.critest = all.crash || n.crash, all.critest || n.critest
		all.node, all.bench, all.deb = all.node || n.node, all.bench || n.bench, all.deb || n.deb
		all.selinux, all.reboot = all.selinux || n.selinux, all.reboot || n.reboot
	}
	return all
}

const (
	tags       = "seccomp,runc_nocriu"
	testBinary = "attack.test" // as test/attack calls a package's tests
)

func staticProgram(ctx context.Context, file, pkg string) error {
	c := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", file, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stderr = os.Stderr
	return c.Run()
}

func run(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %v: %w", name, args, err)
	}
	return nil
}

// ginkgoProgram is what runs several specs at once.
const ginkgoProgram = "ginkgo"

// copyNode copies the node tests' programs and images.
func copyNode(ctx context.Context, o options, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	files := []string{"bin/e2e_node.test", "bin/kubelet"}
	if o.procs > 1 {
		files = append(files, "bin/"+ginkgoProgram)
	}
	for _, name := range nodeLayers {
		files = append(files, filepath.Join("img", name+".tar"))
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(o.node, f), filepath.Join(to, f)); err != nil {
			return fmt.Errorf("node tests: %w", err)
		}
	}
	return ctx.Err()
}

// copyPeer copies what the bench compares with, nothing without a directory, and compiles the pause
// process of the peer's pods, which the bench wants with its own daemon alone, too.
func copyPeer(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := run(ctx, "gcc", "-Os", "-static", "-s", "-o", filepath.Join(to, "pause"), "test/bench/testdata/pause.c"); err != nil {
		return err
	}
	if from == "" {
		return nil
	}
	for _, f := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		if err := copyFile(filepath.Join(from, f), filepath.Join(to, f)); err != nil {
			return fmt.Errorf("peer: %w", err)
		}
	}
	return nil
}

// copyShims copies the foreign shims that were built; the tests of others skip themselves.
func copyShims(from, to string) error {
	shims, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, s := range shims {
		err = errors.Join(err, copyFile(filepath.Join(from, s.Name()), filepath.Join(to, s.Name())))
	}
	return err
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close())
}

// sizeOf is what the files below a directory take, in bytes.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + 4096
		}
		return err
	})
	return size, err
}
