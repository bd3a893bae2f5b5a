package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/program"
	"berth/test/testlog"
)

// guest is the service in the guest.
type guest struct {
	plan   plan
	share  string
	bundle string
	out    string
	told   io.Writer
}

// serve runs the plan's suites and powers the machine off, unless it restarts.
func serve(ctx context.Context, share string) error {
	restarts := false
	defer func() {
		if !restarts {
			powerOff()
		}
	}()
	g := &guest{share: share, bundle: filepath.Join(share, "bundle"), out: filepath.Join(share, "out")}
	port, err := os.OpenFile("/dev/virtio-ports/"+portName, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	g.told = port
	data, err := os.ReadFile(filepath.Join(share, "plan.json"))
	if err == nil {
		err = json.Unmarshal(data, &g.plan)
	}
	if err == nil {
		err = g.prepare(ctx)
	}
	if err != nil {
		g.tell(result{Suite: "guest", Outcome: failed, Message: err.Error()})
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, g.plan.Deadline)
	defer cancel()
	for _, s := range g.plan.Suites {
		began := time.Now()
		one := result{Suite: s, Outcome: passed}
		err := g.suite(ctx, s)
		if restarts = errors.Is(err, errRestarts); restarts {
			return nil
		}
		if err != nil {
			one.Outcome, one.Message = failed, err.Error()
		}
		one.Seconds = time.Since(began).Seconds()
		g.tell(one)
		unix.Sync()
	}
	return nil
}

// powerOff ends the machine; no file system but the share matters any more.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // on an error the unit's end powers off
}

// prepare sets what every suite's processes inherit.
func (g *guest) prepare(ctx context.Context) error {
	// Roots of daemons are here: on memory no test waits for an emulated disk.
	options := "mode=1777,size=4g"
	if g.plan.needs().selinux {
		options += ",rootcontext=system_u:object_r:tmp_t:s0"
	}
	if err := unix.Mount("tmpfs", "/var/tmp", "tmpfs", 0, options); err != nil {
		return err
	}
	if g.plan.needs().selinux {
		if err := g.enforce(ctx); err != nil {
			return err
		}
	}
	return errors.Join(
		os.Setenv("BERTH_TEST_PATIENCE", g.plan.Patience),
		os.Setenv(program.BuiltEnv, filepath.Join(g.bundle, "programs")),
		os.Chdir(g.bundle),
	)
}

func (g *guest) tell(r result) {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = g.told.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm: result not told:", err)
	}
}

// chosen are the tests of a suite; $RUN replaces both expressions.
var chosen = map[string]struct {
	pkg       string // "" for every package that test/attack has put into the bundle
	run, skip string // names of functions
}{
	"integration": {"test/integration", ".", "^TestAttack|" + scenarios},
	"scenarios":   {"test/integration", scenarios, ""},
	"attack":      {"", "^TestAttack", ""},
	"packages":    {"", ".", "^TestAttack"},
	"crash":       {"test/crash", ".", ""},
	"selinux":     {"test/selinux", ".", ""},
	"deb":         {lifePackage, "^TestGuest", ""},
}

const scenarios = "^TestS[0-9][0-9]"

func (g *guest) suite(ctx context.Context, name string) error {
	own := map[string]func(context.Context) error{"critest": g.critest, "node": g.node, "bench": g.bench, "deb": g.life, "reboot": g.reboot}
	if run := own[name]; run != nil {
		return run(ctx)
	}
	c, ok := chosen[name]
	if !ok {
		return fmt.Errorf("no suite is called %s", name)
	}
	if g.plan.Run != "" {
		c.run, c.skip = g.plan.Run, ""
	}
	if name == "selinux" {
		return errors.Join(g.tests(ctx, name, c.pkg, c.run, c.skip), g.denied())
	}
	if c.pkg != "" {
		return g.tests(ctx, name, c.pkg, c.run, c.skip)
	}
	packages, err := g.packages()
	for _, p := range packages {
		if name != "packages" || p != "test/integration" {
			err = errors.Join(err, g.tests(ctx, name, p, c.run, c.skip))
		}
	}
	return err
}

// packages are those that test/attack has put into the bundle.
func (g *guest) packages() (names []string, err error) {
	data, err := os.ReadFile("attacks.json")
	if err != nil {
		return nil, err
	}
	var all []struct {
		Package string `json:"package"`
	}
	err = json.Unmarshal(data, &all)
	for _, p := range all {
		names = append(names, p.Package)
	}
	return names, err
}

// tests runs a package's compiled tests and tells what came of each.
func (g *guest) tests(ctx context.Context, suite, pkg, run, skip string) error {
	binary := filepath.Join(g.bundle, pkg, testBinary)
	args := []string{"-test.v=test2json", "-test.timeout=0", "-test.run", run}
	if skip != "" {
		args = append(args, "-test.skip", skip)
	}
	log, err := g.log(suite, pkg)
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, binary, args...)
	c.Dir = filepath.Join(g.bundle, pkg)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGQUIT) } // the stacks tell what it waited for
	c.WaitDelay = 10 * time.Second
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		return err
	}
	r := testlog.NewReader()
	r.Ended = func(o *testlog.Outcome) { g.tell(resultOf(suite, pkg, o)) }
	read := r.Read(io.TeeReader(bufio.NewReaderSize(out, 1<<16), log))
	ended := c.Wait()
	for _, name := range r.Order {
		if o := r.Tests[name]; o.Status == "" {
			g.tell(resultOf(suite, pkg, o))
		}
	}
	if ended != nil {
		return fmt.Errorf("%s: %w: %s", pkg, ended, last(r.Outside.Output, 8))
	}
	return read
}

func last(lines []string, n int) string { return strings.Join(lines[max(0, len(lines)-n):], "\n") }

func resultOf(suite, pkg string, o *testlog.Outcome) result {
	one := result{Suite: suite, Test: pkg + " " + o.Name, Seconds: o.Seconds}
	switch o.Status {
	case "PASS":
		one.Outcome = passed
	case "SKIP":
		one.Outcome, one.Message = skipped, o.Reason()
	case "":
		one.Outcome, one.Message = failed, "it did not end: "+last(o.Output, 20)
	default:
		one.Outcome, one.Message = failed, last(o.Output, 20)
	}
	return one
}

// log is the file in out/ that gets what a suite's program prints.
func (g *guest) log(suite, part string) (*os.File, error) {
	file := filepath.Join(g.out, suite, filepath.Clean("/"+part)+".log")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	return os.Create(file)
}

// logged runs a program whose output is the suite's log.
func (g *guest) logged(ctx context.Context, suite string, env []string, name string, args ...string) error {
	log, err := g.log(suite, filepath.Base(name))
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, name, args...)
	c.Stdout, c.Stderr, c.Env = log, log, append(os.Environ(), env...)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGINT) }
	c.WaitDelay = time.Minute
	if err := c.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w: %s", name, err, lastLines(string(text), 8))
	}
	return nil
}
