package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/flock"
)

// options are the command line.
type options struct {
	suites   []string
	run      string        // what to run of them
	limit    time.Duration // for everything after the tree is there
	cache    string
	node     string // directory of the node tests
	bundle   string // made by a run before; empty: build one
	peer     string // directory of containerd and runc, for the bench
	cpus     int
	procs    int    // specs of suite node at once
	append   string // to the kernel's command line
	patience string // BERTH_TEST_PATIENCE in the guest
	guest    string // this process is the service in the guest
	reboots  bool   // the guest restarts
	// permissive: suite selinux does without enforcement.
	permissive bool
	cgroupfs   bool // suite node: berthd makes the cgroups itself
}

func main() {
	var o options
	suites := flag.String("suites", "integration scenarios attack critest", "which `suites` to run, see doc.go")
	flag.StringVar(&o.run, "run", "", "run the functions or specs whose names match this regular `expression`")
	flag.DurationVar(&o.limit, "limit", 2*time.Hour, "`time` for the whole run; making the tree is not counted")
	flag.StringVar(&o.cache, "cache", "bin/vm", "`directory` of the tree, the disks and the results")
	flag.StringVar(&o.node, "node", "", "`directory` with bin/ and img/ of Kubernetes' node tests")
	flag.StringVar(&o.bundle, "bundle", "", "take this `directory`, such as bin/vm/share/bundle copied, and build nothing")
	flag.StringVar(&o.peer, "peer", "", "`directory` with containerd, containerd-shim-runc-v2 and runc")
	flag.IntVar(&o.cpus, "cpus", 2, "processors of the guest; one does better where the host is busy")
	flag.IntVar(&o.procs, "procs", 1, "how many specs of suite node run at once; serial ones run alone, after the others")
	flag.StringVar(&o.append, "append", "", "more for the guest kernel's command `line`")
	flag.StringVar(&o.patience, "patience", "3m", "how `long` tests wait for what must come, in the guest")
	flag.BoolVar(&o.permissive, "permissive", false, "suite selinux: the kernel only logs what it would deny")
	flag.BoolVar(&o.cgroupfs, "cgroupfs", false, "suite node: cgroups are not systemd's; specs that look for scopes know other runtimes' names only")
	flag.StringVar(&o.guest, "guest", "", "for the guest's own use")
	flag.Parse()
	o.suites = strings.FieldsFunc(*suites, func(r rune) bool { return r == ' ' || r == ',' })
	if err := start(o); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func start(o options) error {
	runtime.LockOSThread() // the child dies with this thread
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	switch {
	case o.guest != "":
		return serve(ctx, o.guest)
	case os.Geteuid() != 0:
		return errors.New("making a Debian tree and its disk needs root")
	case runtime.GOARCH != "amd64":
		return errors.New("the guest is amd64, and runs on amd64 hosts alone")
	case os.Getenv(apartEnv) == "":
		return apart(ctx)
	}
	return host(ctx, o)
}

// host is the whole run, in namespaces of its own.
func host(ctx context.Context, o options) (err error) {
	if err := settle(); err != nil {
		return err
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	if err := os.MkdirAll(o.cache, 0o755); err != nil {
		return err
	}
	lock, err := flock.Try(filepath.Join(o.cache, "lock"))
	if err != nil {
		return fmt.Errorf("%s: another run uses it: %w", o.cache, err)
	}
	defer lock.Close()
	chosen, err := choose(o)
	if err != nil {
		return err
	}
	if err := makeTree(ctx, o.cache); err != nil {
		return err
	}
	deadline := time.Now().Add(o.limit)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := makeShare(ctx, o, plan{
		Suites: chosen, Run: o.run, Patience: o.patience, Deadline: deadline.Add(-reserve), Peer: o.peer != "", Procs: o.procs, Permissive: o.permissive, Cgroupfs: o.cgroupfs,
	}); err != nil {
		return err
	}
	o.reboots = suites[chosen[0]].reboot
	if suites[chosen[0]].selinux {
		o.append += selinuxArgs
	}
	results, err := boot(ctx, o)
	if err != nil {
		return err
	}
	return results.report(os.Stdout, filepath.Join(o.cache, "out", "result.json"))
}

// reserve is what of the time is left for bringing the logs back.
const reserve = 2 * time.Minute
