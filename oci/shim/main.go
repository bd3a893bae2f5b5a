package shim

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	// readyFD is a pipe of the client, which waits for one line: "ready", or the
	// reason why the shim can't serve.
	readyFD = 3
	// exeFD is the memfd that this program runs from. It may be closed: the kernel
	// keeps the file of a running program. Descriptor 4, between the two, holds the
	// flock on the shim's directory until the process exits, so that a daemon can
	// tell a living shim from a dead one.
	exeFD = 5
	// The heap is some MiB, and collecting it early is cheap. There is no soft limit of memory
	// beside it: what many containers need would be above any that suits few, and the collector
	// would then run at every turn.
	gcPercent = 50
	// Each processor that Go may use has caches and a thread or two; copying
	// logs and waiting need few, whatever the machine has.
	processors = 4
)

// Main is the function main of a program that is a shim. foreign makes what drives shims of
// containerd, of the shim's directory; nil: it drives none.
func Main(foreign func(dir string, debug bool, oom func(container string)) (Foreign, error)) {
	RunInit()
	dir := flag.String("dir", "", "directory of this shim; its last element is the shim's `ID`")
	version := flag.String("version", "", "berth's version")
	level := flag.Int("log-level", int(slog.LevelInfo), "lowest level that is logged, as log/slog counts")
	flag.Parse()
	ready := os.NewFile(readyFD, "ready")
	c := Config{ID: filepath.Base(*dir), Dir: *dir, Version: *version}
	if foreign != nil {
		c.Foreign = func(oom func(string)) (Foreign, error) {
			return foreign(c.Dir, slog.Level(*level) <= slog.LevelDebug, oom)
		}
	}
	if err := run(c, slog.Level(*level), ready); err != nil {
		_, _ = fmt.Fprintln(ready, err) // the client may be gone; the log has it too
		slog.Error("shim ends", "error", err)
		os.Exit(1)
	}
}

func run(c Config, level slog.Level, ready *os.File) error {
	if !filepath.IsAbs(c.Dir) {
		return errors.New("berth-shim is started by berthd; --dir must be absolute")
	}
	log := boundLog(os.Stderr, maxLog)
	slog.SetDefault(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})))
	logrus.SetOutput(log)
	nameThreads(filepath.Base(os.Args[0]))
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(min(processors, runtime.NumCPU()))
	if err := detach(); err != nil {
		return err
	}
	server, err := New(c)
	if err != nil {
		return err
	}
	go handleSignals(server)
	if _, err := fmt.Fprintln(ready, "ready"); err != nil {
		slog.Warn("client does not know that the shim serves", "error", err)
	}
	_ = ready.Close() // a pipe
	slog.Info("shim serves", "pid", os.Getpid(), "version", c.Version)
	return server.Serve()
}

// nameThreads gives the process and each of its threads the name of the program, by which
// operators and the package's scripts find it. The kernel has named them after the file that
// was executed, which is a descriptor: "5" (proc_pid_comm(5)). A new thread has the name of
// the thread that makes it, so this is done until all have it.
func nameThreads(name string) {
	name = name[:min(len(name), maxThreadName)]
	for range 10 {
		threads, _ := filepath.Glob("/proc/self/task/[0-9]*/comm") // no error with this pattern
		named := 0
		for _, comm := range threads {
			if was, _ := os.ReadFile(comm); strings.TrimSpace(string(was)) == name {
				named++
			} else {
				_ = os.WriteFile(comm, []byte(name), 0) // the thread may have ended
			}
		}
		if named == len(threads) {
			return
		}
	}
	slog.Warn("some threads do not have the program's name", "name", name)
}

// maxThreadName is what the kernel keeps of a name, TASK_COMM_LEN without the zero at its end.
const maxThreadName = 15

// detach frees the process from what it has inherited where it was started.
func detach() error {
	// The current directory would hold a mount; libcontainer records it as well.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(0o022)
	// Inits of containers start faster with one processor.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return err
	}
	_ = unix.Close(exeFD) // not open when started by hand
	// Nothing that the daemon happened to have open goes to containers.
	return unix.CloseRange(readyFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}

// handleSignals handles the signals that end a process by default. They are not
// ignored, because a container would inherit that. SIGTERM and SIGINT make a shim
// without pods exit. It returns only with the end of the process.
func handleSignals(server *Server) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGINT)
	for s := range signals {
		if s != syscall.SIGTERM && s != syscall.SIGINT {
			continue
		}
		if err := server.Leave(); err != nil {
			slog.Warn("shim was asked to exit and stays", "signal", s, "reason", err)
		}
	}
}
