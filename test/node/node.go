package node

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"berth/cni"
	"berth/test/client"
	"berth/test/registry"
)

var (
	readyTimeout = client.Bound(60 * time.Second)
	stopTimeout  = client.Bound(30 * time.Second)
	// aloneTimeout is how long shims may take to leave once they are empty.
	aloneTimeout = client.Bound(10 * time.Second)
)

// Options say how a node differs from the usual one.
type Options struct {
	Registry *registry.Registry // pulls of registry.Upstreams go there; nil: nowhere
	Args     []string           // further flags of berthd
	Env      []string           // further environment of berthd, KEY=VALUE
	// Dir is made for the node and removed with it. Empty: a new one in /var/tmp,
	// which is a disk where /tmp often is not.
	Dir       string
	Tmpfs     bool   // the directory is a tmpfs: no test waits for fsync
	Root      string // berthd's root directory, elsewhere than in Dir; it stays
	Binary    string
	Older     bool // Binary is of an older release: it gets no Args
	NoNetwork bool // leave the CNI configuration directory empty
}

// Node is a berthd with everything it works on.
type Node struct {
	Dir, Root, State  string
	ConfDir, CertsDir string // of CNI and of registry mirrors
	LogDir            string // for pods' log directories
	LogFile           string // of the daemon
	Endpoint          string // unix:///…
	Bridge, Subnet    string
	CgroupMark        string // part of the name of cgroups that tests ask for

	*client.Client // nil until the daemon was ready once

	opt    Options
	keeper *exec.Cmd
	orders io.WriteCloser
	notify *net.UnixConn
	ready  chan string // what berthd tells systemd
	watch  *fsnotify.Watcher
	before machine
	// patience is how long shims may take to leave.
	patience time.Duration

	mu      sync.Mutex
	pid     int
	started chan struct{} // closed when the keeper has told its pid
	exited  chan struct{} // closed when the daemon of the moment has ended
	status  string        // how
	alone   chan struct{} // closed while no process is below the keeper
	pods    []string      // every pod ID ever seen below Root
	shims   []string      // IDs
}

// Start starts a node and waits until it is ready.
func Start(ctx context.Context, opt Options) (*Node, error) {
	n := &Node{opt: opt, ready: make(chan string, 8), exited: closed(), alone: closed(), patience: aloneTimeout}
	if err := n.prepare(); err != nil {
		return nil, errors.Join(err, n.cleanUp())
	}
	err := n.startKeeper()
	if err == nil {
		err = n.Restart(ctx)
	}
	if err == nil {
		n.Client, err = client.Dial(n.Endpoint)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// prepare makes the directories and all that berthd reads.
func (n *Node) prepare() error {
	if err := n.makeDir(); err != nil {
		return err
	}
	n.name()
	for _, d := range []string{n.ConfDir, n.CertsDir, n.LogDir, filepath.Join(n.Root, "pods")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(n.watchPods(), n.listenNotify(), n.writeConfig()); err != nil {
		return err
	}
	var err error
	n.before, err = look()
	return err
}

func (n *Node) makeDir() (err error) {
	n.Dir = n.opt.Dir
	if n.Dir == "" {
		n.Dir, err = os.MkdirTemp("/var/tmp", "berth-test-")
	} else {
		err = os.MkdirAll(n.Dir, 0o755)
	}
	if err == nil {
		// As /var/lib and /run are: the root of a user namespace must get through.
		err = os.Chmod(n.Dir, 0o755)
	}
	if err == nil && n.opt.Tmpfs {
		err = syscall.Mount("berth-test", n.Dir, "tmpfs", 0, "mode=755")
	}
	return err
}

// name derives every name from the directory's.
func (n *Node) name() {
	n.Root, n.State = filepath.Join(n.Dir, "root"), filepath.Join(n.Dir, "run")
	n.ConfDir, n.CertsDir = filepath.Join(n.Dir, "net.d"), filepath.Join(n.Dir, "certs.d")
	if n.opt.Root != "" {
		n.Root = n.opt.Root
	}
	n.LogDir, n.LogFile = filepath.Join(n.Dir, "logs"), filepath.Join(n.Dir, "berthd.log")
	n.Endpoint = "unix://" + filepath.Join(n.Dir, "berth.sock")
	sum := sha256.Sum256([]byte(n.Dir))
	n.Bridge = fmt.Sprintf("bt%x", sum[:5])
	n.Subnet = fmt.Sprintf("10.%d.%d.0/24", 192+sum[0]%63, sum[1])
	n.CgroupMark = "berthtest-" + n.Bridge
}

func (n *Node) writeConfig() error {
	if n.opt.Registry != nil {
		if err := n.opt.Registry.WriteHosts(n.CertsDir, registry.Upstreams...); err != nil {
			return err
		}
	}
	if n.opt.NoNetwork {
		return nil
	}
	return n.WriteNetwork()
}

// WriteNetwork gives the node its CNI configuration.
func (n *Node) WriteNetwork() error {
	list, err := cni.DefaultConflist(n.Bridge, filepath.Join(n.Dir, "leases"), n.Subnet)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.ConfDir, "10-berth.conflist"), list, 0o644)
}

// watchPods notes the ID of every pod, from the directory it gets first.
func (n *Node) watchPods() (err error) {
	if n.watch, err = fsnotify.NewWatcher(); err != nil {
		return err
	}
	go func(events <-chan fsnotify.Event) {
		for e := range events {
			if e.Has(fsnotify.Create) {
				n.mu.Lock()
				n.pods = append(n.pods, filepath.Base(e.Name))
				n.mu.Unlock()
			}
		}
	}(n.watch.Events)
	return n.watch.Add(filepath.Join(n.Root, "pods"))
}

func (n *Node) listenNotify() (err error) {
	addr := &net.UnixAddr{Name: filepath.Join(n.Dir, "notify"), Net: "unixgram"}
	if n.notify, err = net.ListenUnixgram("unixgram", addr); err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			size, err := n.notify.Read(buf)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(buf[:size])) {
				if strings.TrimSpace(line) == "READY=1" {
					n.ready <- line
				}
			}
		}
	}()
	return nil
}

func (n *Node) startKeeper() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	value, err := json.Marshal(estate{Dir: n.Dir, Root: n.opt.Root, Tmpfs: n.opt.Tmpfs, Before: n.before})
	if err != nil {
		return err
	}
	n.keeper = exec.Command(self)
	n.keeper.Env = append(os.Environ(), keeperEnv+"="+string(value))
	n.keeper.Stderr = os.Stderr
	n.keeper.ExtraFiles = []*os.File{theirs}
	n.keeper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test, which closes the pipe
	if n.orders, err = n.keeper.StdinPipe(); err != nil {
		return err
	}
	if err := n.keeper.Start(); err != nil {
		ours.Close()
		return err
	}
	go n.read(ours)
	return nil
}

// read notes what the keeper reports, until it has ended.
func (n *Node) read(from *os.File) {
	defer from.Close()
	for in := bufio.NewScanner(from); in.Scan(); {
		var r report
		if json.Unmarshal(in.Bytes(), &r) != nil {
			continue
		}
		n.mu.Lock()
		switch {
		case r.Started != 0:
			n.pid, n.alone = r.Started, make(chan struct{})
			closeOnce(n.started)
		case r.Exited != 0:
			n.pid, n.status = 0, r.Status
			closeOnce(n.exited)
		case r.Alone:
			closeOnce(n.alone)
		case r.Error != "":
			n.status = r.Error
			closeOnce(n.exited)
		}
		n.mu.Unlock()
	}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (n *Node) order(o order) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = n.orders.Write(append(data, '\n'))
	return err
}

// Command is the command line of the daemon.
func (n *Node) Command() []string {
	binary := n.opt.Binary
	if repo, err := repository(); binary == "" && err == nil { // else the start fails
		binary = filepath.Join(repo, "bin", "berthd")
	}
	return append([]string{binary, "--config", "/dev/null", "--root", n.Root, "--state", n.State,
		"--listen", n.Endpoint, "--cni-conf-dir", n.ConfDir, "--cni-bin-dir", strings.Join(pluginDirs(), ","),
		"--certs-dir", n.CertsDir, "--log-level", "4"}, append(client.RuntimeFlags(), n.further(binary)...)...)
}

// further are the flags that an older release may not know. One that is killed would leave its
// socket at containerd's path.
func (n *Node) further(binary string) (flags []string) {
	if !n.opt.Older || client.KnowsFlag(binary, "containerd-socket") {
		flags = append(flags, "--containerd-socket", "off")
	}
	if !n.opt.Older {
		flags = append(flags, n.opt.Args...)
	}
	return flags
}

// Use makes another berthd the one that the next [Node.Restart] starts; "" is that of the
// repository. One that is older gets no flags that its release may not have had.
func (n *Node) Use(binary string) { n.opt.Binary, n.opt.Older = binary, binary != "" }

// Restart starts the daemon, which must not be running, and waits for it.
func (n *Node) Restart(ctx context.Context) error {
	argv := n.Command()
	env := append(os.Environ(), append([]string{"NOTIFY_SOCKET=" + filepath.Join(n.Dir, "notify")}, n.opt.Env...)...)
	n.mu.Lock()
	n.started, n.exited, n.status = make(chan struct{}), make(chan struct{}), ""
	started, exited := n.started, n.exited
	n.mu.Unlock()
	for len(n.ready) > 0 {
		<-n.ready
	}
	if err := n.order(order{Start: &program{Argv: argv, Env: env, Log: n.LogFile}}); err != nil {
		return err
	}
	select {
	case <-n.ready:
		<-started // the keeper's report may come after the daemon's own
		return nil
	case <-exited:
		return fmt.Errorf("berthd ended before it was ready: %s\n%s", n.Exit(), n.Tail(30))
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(readyTimeout):
		return fmt.Errorf("berthd was not ready after %v\n%s", readyTimeout, n.Tail(30))
	}
}

// Reload has the daemon read its configuration anew, and waits until it has.
func (n *Node) Reload() error {
	for len(n.ready) > 0 {
		<-n.ready
	}
	if err := syscall.Kill(n.PID(), syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload berthd: %w", err)
	}
	select {
	case <-n.ready:
		return nil
	case <-time.After(readyTimeout):
		return fmt.Errorf("berthd did not reload within %v\n%s", readyTimeout, n.Tail(30))
	}
}

// pluginDirs are where CNI plugins may be; built ones first.
func pluginDirs() []string {
	var dirs []string
	if repo, err := repository(); err == nil {
		dirs = append(dirs, filepath.Join(repo, "bin", "cni"))
	}
	return append(dirs, "/opt/cni/bin", "/usr/lib/cni")
}

// PID is the daemon's; 0 while it is not running.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pid
}

// Exit tells how the last daemon ended.
func (n *Node) Exit() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// Kill ends the daemon as a crash would and waits for its end.
func (n *Node) Kill() error { return n.end(syscall.SIGKILL, "killed by killed") }

// Stop ends the daemon as an operator would and waits; it must exit with 0.
func (n *Node) Stop() error { return n.end(syscall.SIGTERM, "exit code 0") }

func (n *Node) end(sig syscall.Signal, want string) error {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	if n.PID() == 0 {
		return nil
	}
	if err := n.order(order{Signal: sig}); err != nil {
		return err
	}
	select {
	case <-exited:
	case <-time.After(stopTimeout):
		_ = n.order(order{Signal: syscall.SIGABRT}) // its stacks go to the log
		select {
		case <-exited:
		case <-time.After(stopTimeout):
		}
		return fmt.Errorf("berthd did not end %v after %v\n%s", stopTimeout, sig, n.Tail(60))
	}
	if got := n.Exit(); got != want {
		return fmt.Errorf("after %v berthd ended with %s, want %s\n%s", sig, got, want, n.Tail(30))
	}
	return nil
}

// Descendants lists the processes that berthd has started, and theirs.
func (n *Node) Descendants() ([]string, error) {
	ps, err := descendants(n.keeper.Process.Pid)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out, nil
}

// PIDs are the processes in the cgroups of a container, by its full ID, parents
// first.
func (n *Node) PIDs(container string) ([]int, error) {
	ps, err := descendants(n.keeper.Process.Pid)
	var out []int
	for _, p := range ps {
		cgroups, rerr := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		if rerr == nil && strings.Contains(string(cgroups), container) {
			out = append(out, p.PID)
		}
	}
	return out, err
}

// Tail is the end of the daemon's log.
func (n *Node) Tail(lines int) string {
	data, err := os.ReadFile(n.LogFile)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
