package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// keeperEnv makes a binary that imports this package be a keeper; its value is
// what is to be cleaned up, an [estate].
const keeperEnv = "BERTH_TEST_KEEPER"

// estate is what the keeper must know of a node to clean up after a test
// process that died.
type estate struct {
	Dir    string  `json:"dir"`
	Root   string  `json:"root"`
	Tmpfs  bool    `json:"tmpfs"`
	Before machine `json:"before"`
}

func init() {
	value := os.Getenv(keeperEnv)
	if value == "" {
		return
	}
	if err := keep(value); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// order is one line to the keeper.
type order struct {
	Start  *program       `json:"start,omitempty"`
	Signal syscall.Signal `json:"signal,omitempty"` // to the last started program
	Closed bool           `json:"closed,omitempty"` // the test process cleans up itself
}

// program is what the keeper starts.
type program struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	Log  string   `json:"log"` // appended to
}

// report is one line of the keeper.
type report struct {
	Started int    `json:"started,omitempty"` // pid
	Exited  int    `json:"exited,omitempty"`  // pid of a program that was started by order
	Status  string `json:"status,omitempty"`
	Alone   bool   `json:"alone,omitempty"` // no process is left below the keeper
	Error   string `json:"error,omitempty"`
}

// keeperProcess is the state of the keeper itself.
type keeperProcess struct {
	mu      sync.Mutex
	started *sync.Cond // a program was started: there is something to wait for
	pid     int        // of the last started program
	starts  int        // how many were started
	out     *json.Encoder
}

// keep is the keeper's life: orders on standard input, reports on file 3.
func keep(value string) error {
	var e estate
	if err := json.Unmarshal([]byte(value), &e); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	k := &keeperProcess{out: json.NewEncoder(os.NewFile(3, "reports"))}
	unix.CloseOnExec(3)
	k.started = sync.NewCond(&k.mu)
	go k.reap()
	closed := false
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		closed = closed || o.Closed
		k.obey(o)
	}
	err := killDescendants(os.Getpid())
	if closed {
		return err
	}
	return errors.Join(err, e.cleanUp())
}

// cleanUp does what Close of a node whose process died would have done.
func (e estate) cleanUp() error {
	n := &Node{opt: Options{Root: e.Root, Tmpfs: e.Tmpfs}, Dir: e.Dir, before: e.Before}
	n.name()
	pods, _ := filepath.Glob(filepath.Join(n.Root, "pods", "*"))
	for _, p := range pods {
		n.pods = append(n.pods, filepath.Base(p))
	}
	n.noteShims()
	return n.cleanUp()
}

func (k *keeperProcess) obey(o order) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	switch {
	case o.Start != nil:
		if err = k.start(o.Start); err == nil {
			return
		}
	case o.Signal != 0 && k.pid != 0:
		err = unix.Kill(k.pid, o.Signal)
	}
	if err != nil {
		_ = k.out.Encode(report{Error: err.Error()})
	}
}

func (k *keeperProcess) start(p *program) error {
	log, err := os.OpenFile(p.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	path, err := exec.LookPath(p.Argv[0])
	if err != nil {
		return err
	}
	proc, err := os.StartProcess(path, p.Argv, &os.ProcAttr{
		Env: p.Env, Files: []*os.File{null, log, log}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	k.pid = proc.Pid
	k.starts++
	_ = k.out.Encode(report{Started: k.pid})
	_ = proc.Release() // reap waits for it
	k.started.Broadcast()
	return nil
}

// reap collects every process that ends below the keeper, as PID 1 would.
func (k *keeperProcess) reap() {
	for {
		k.mu.Lock()
		starts := k.starts
		k.mu.Unlock()
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		k.mu.Lock()
		switch {
		case errors.Is(err, unix.ECHILD) && starts == k.starts: // else one was started since
			_ = k.out.Encode(report{Alone: true})
			k.started.Wait()
		case err == nil && pid == k.pid:
			_ = k.out.Encode(report{Exited: pid, Status: describe(ws)})
			k.pid = 0
		}
		k.mu.Unlock()
	}
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "killed by " + ws.Signal().String()
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// killDescendants kills what is below pid until nothing is.
func killDescendants(pid int) error {
	for {
		below, err := descendants(pid)
		if err != nil || len(below) == 0 {
			return err
		}
		for _, p := range below {
			_ = unix.Kill(p.PID, unix.SIGKILL)
		}
		// The reaper takes them; those in uninterruptible sleep take their time.
		for _, p := range below {
			waitGone(p.PID)
		}
	}
}

// waitGone blocks until pid has ended, at most for the patience of a test.
func waitGone(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
}
