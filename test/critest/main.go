package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"berth/test/node"
	"berth/test/peer"
	"berth/test/registry"
	"berth/test/testlog"
)

type options struct {
	focus, skip, endpoint string
	nri                   string
	handler               string
	peer, peerRuntime     string
	build, suite          string
	timeout               time.Duration
	verbose               bool
}

func main() {
	var o options
	flag.StringVar(&o.focus, "focus", "", "run the specs whose names match this regular expression")
	flag.StringVar(&o.skip, "skip", "", "leave out the specs whose names match")
	flag.StringVar(&o.endpoint, "endpoint", "", "unix:///… of a runtime that runs already; empty: start bin/berthd")
	flag.StringVar(&o.nri, "nri-socket", "", "with -endpoint, where that runtime serves NRI plugins; empty: the specs of NRI are skipped")
	flag.StringVar(&o.handler, "handler", "", "run the pods with this runtime handler; of a runtime that is started here $BERTH_TEST_RUNTIME has its table, see package node")
	flag.StringVar(&o.peer, "peer", "", "run the suite against the containerd of this `directory`, see package peer; its NRI too")
	flag.StringVar(&o.peerRuntime, "peer-runtime", "", "the OCI runtime of that containerd; empty: runc")
	flag.StringVar(&o.build, "build", "", "build the suite as this `file`, and run nothing")
	flag.StringVar(&o.suite, "suite", "", "run this `file`, which -build made; empty: build bin/critest")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Minute, "for the whole suite")
	flag.BoolVar(&o.verbose, "v", false, "print what the suite prints")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

// nriPatience is more than the default of two seconds, as two specs of plugin
// synchronisation let a plugin take at least these for an answer: a runtime cuts it off
// then, and the specs skip themselves.
const nriPatience = 10 * time.Second

func run(ctx context.Context, o options) (err error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	suite := o.suite
	if suite == "" {
		suite, err = build(ctx, bin)
	} else {
		suite, err = filepath.Abs(suite)
	}
	if err != nil {
		return err
	}
	if o.build != "" {
		return copyProgram(o.build, suite)
	}
	if o.endpoint != "" {
		return runSuite(ctx, o, suite, bin, os.TempDir())
	}
	return runOwn(ctx, o, suite, bin)
}

// runOwn runs the suite against a runtime that it starts, with a registry of its images.
func runOwn(ctx context.Context, o options, suite, bin string) (err error) {
	reg, err := registry.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	images, err := registry.Critest()
	if err == nil {
		err = reg.PushAll(images)
	}
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	n, err := node.Start(ctx, node.Options{Registry: reg, Args: []string{"--nri-timeouts", "request=" + nriPatience.String()}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	o.endpoint, o.nri = n.Endpoint, filepath.Join(n.State, "nri.sock")
	if o.peer != "" {
		p, err := peer.Start(ctx, peer.Options{Bin: o.peer, Binary: o.peerRuntime, Images: reg, NetConf: n.ConfDir, CNI: filepath.Join(bin, "cni")})
		if err != nil {
			return err
		}
		defer func() { _ = p.Close() }()
		o.endpoint, o.nri = p.Endpoint, p.NRI
	}
	temp := filepath.Join(n.Dir, "tmp")
	if err := os.Mkdir(temp, 0o1777); err != nil {
		return err
	}
	defer removeSharedMemory()()
	return runSuite(ctx, o, suite, bin, temp)
}

// runSuite runs critest and prints its result; temp is where it makes its files.
func runSuite(ctx context.Context, o options, suite, bin, temp string) error {
	report := filepath.Join(bin, "critest-report.json")
	_ = os.Remove(report) // an old one must not pass for this run's
	args := []string{
		"-runtime-endpoint", o.endpoint, "-image-endpoint", o.endpoint,
		"-ginkgo.no-color", "-ginkgo.v", "-ginkgo.json-report", report,
		"-ginkgo.timeout", o.timeout.String(), "-test.timeout", (o.timeout + time.Minute).String(),
	}
	if o.nri != "" {
		args = append(args, "-nri-socket", o.nri)
	}
	if o.focus != "" {
		args = append(args, "-ginkgo.focus", o.focus)
	}
	if o.handler != "" {
		args = append(args, "-runtime-handler", o.handler)
	}
	if o.skip != "" {
		args = append(args, "-ginkgo.skip", o.skip)
	}
	log, err := os.Create(filepath.Join(bin, "critest.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, suite, args...)
	c.Dir = temp
	c.Env = append(os.Environ(), "TMPDIR="+temp)
	c.Stdout = io.Writer(log)
	if o.verbose {
		c.Stdout = io.MultiWriter(log, os.Stdout)
	}
	c.Stderr = c.Stdout
	c.Cancel = func() error { return c.Process.Signal(unix.SIGINT) } // ginkgo cleans up and reports
	c.WaitDelay = time.Minute
	began := time.Now()
	ran := c.Run()
	specs, err := testlog.ReadGinkgo(report)
	if err != nil {
		return errors.Join(fmt.Errorf("the suite gave no report, see %s: %w", log.Name(), err), ran)
	}
	n := tell(os.Stdout, specs)
	fmt.Printf("in %v; details in %s\n", time.Since(began).Round(time.Second), log.Name())
	switch {
	case n.failed > 0:
		return fmt.Errorf("%d specs failed", n.failed)
	case n.passed == 0:
		return errors.New("no spec ran")
	}
	return ran
}

// removeSharedMemory notes the SysV segments of the host and returns what
// removes newer ones: critest makes them on the host and leaves them.
func removeSharedMemory() func() {
	before := sharedMemory()
	return func() {
		for id := range sharedMemory() {
			if !before[id] {
				_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			}
		}
	}
}
