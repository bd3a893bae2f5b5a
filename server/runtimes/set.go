package runtimes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/failure"
	"berth/sandbox/record"
	"berth/server/config"
)

// The errors of [Set.Handler].
var (
	// ErrUnknown: there is no table of that name.
	ErrUnknown = errors.New("unknown runtime handler")
	// ErrUnusable: the program of the handler can't be run, or does not answer.
	ErrUnusable = errors.New("unusable runtime handler")
)

const (
	// askTimeout bounds the question what a runtime can do.
	askTimeout = 10 * time.Second
	// askRetry is how long after a question that failed Status repeats it at the soonest.
	askRetry = 10 * time.Second
	// askedAtOnce is how many questions are asked at the same time.
	askedAtOnce = 8
	// maxSocketDir leaves room for the 64 digits that shims name their sockets by.
	maxSocketDir = 106 - 65
)

// Options say what a [Set] is made of.
type Options struct {
	Tables map[string]config.Runtime
	// Driver is the program that drives foreign shims and asks them.
	Driver string
	// State is the directory of what ends with the boot.
	State         string
	SystemdCgroup bool
	// Host are the features of the built-in runtime; no other has more on this host.
	Host *runtimeapi.RuntimeHandlerFeatures
	// Timeout bounds a question; 0 is ten seconds.
	Timeout time.Duration
	// Retry is how long after a question that failed Status repeats it at the soonest, and
	// twice as long after each that fails again; 0 is ten seconds.
	Retry time.Duration
}

// Set are the runtime handlers. Make it with [New]; it may be used from any goroutine.
type Set struct {
	opt      Options
	handlers map[string]*handler

	ctx    context.Context // of the questions
	cancel context.CancelFunc
	asking sync.WaitGroup
	slots  chan struct{}
}

// handler is one table.
type handler struct {
	name    string
	program string // of a foreign shim, by path or name; "": the built-in runtime
	means   record.Runtime

	mu    sync.Mutex
	asked *question // the newest; nil: none yet
}

// New makes the handlers of the configuration and begins to ask what their runtimes can do,
// which ends with Close.
func New(ctx context.Context, opt Options) *Set {
	if opt.Timeout == 0 {
		opt.Timeout = askTimeout
	}
	if opt.Retry == 0 {
		opt.Retry = askRetry
	}
	s := &Set{opt: opt, handlers: map[string]*handler{}, slots: make(chan struct{}, askedAtOnce)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for name, table := range opt.Tables {
		h := &handler{name: name, means: record.Runtime{
			Annotations: table.Annotations, Devices: table.Devices, AllowedDevices: table.AllowedDevices,
			NoHostDevices: table.PrivilegedWithoutHostDevices, AllDevicesAllowed: table.AllDevicesAllowed,
		}}
		if table.Type == config.ShimV2 {
			h.program = table.Shim
			h.means.NoContainer, h.means.Image = table.NoSandboxContainer, table.SandboxImage
			h.means.Options, h.means.SocketDir, h.means.ShimCgroup = s.shimOptions(table), s.socketDir(), table.ShimCgroup
		}
		s.handlers[name] = h
		if program, err := s.find(h); err == nil && h.program != "" {
			s.ask(h, program, false)
		}
	}
	return s
}

// Close ends the questions that are still asked.
func (s *Set) Close() {
	s.cancel()
	s.Wait()
}

// Wait returns when all that are being asked have answered, or not in time.
func (s *Set) Wait() { s.asking.Wait() }

// Names are the names of the handlers, in order.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.handlers)) }

// Handler is what a handler means. The error matches [ErrUnknown] or [ErrUnusable] and says
// what to change. It waits for the answer of a program that is being asked, and asks one
// again that did not answer in time.
func (s *Set) Handler(ctx context.Context, name string) (record.Runtime, error) {
	h, ok := s.handlers[name]
	if !ok {
		return record.Runtime{}, failure.New(ErrUnknown, "runtime handler %q has no table [runtime.NAME] in the configuration; name none or one of %q", name, s.Names())
	}
	if h.program == "" {
		return h.means, nil
	}
	program, err := s.find(h)
	if err != nil {
		return record.Runtime{}, err
	}
	q := s.ask(h, program, true)
	select {
	case <-q.done:
	case <-ctx.Done():
		return record.Runtime{}, ctx.Err()
	}
	if q.hung || q.refused {
		return record.Runtime{}, q.err
	}
	means := h.means
	means.Shim = program.path
	return means, nil
}

// Announced is what Status says of each runtime handler, the default "" first. A handler
// whose runtime has not told what it can do has no features. It does not wait.
func (s *Set) Announced() []*runtimeapi.RuntimeHandler {
	all := []*runtimeapi.RuntimeHandler{{Features: s.opt.Host}}
	for _, name := range s.Names() {
		h := &runtimeapi.RuntimeHandler{Name: name, Features: s.opt.Host}
		if s.handlers[name].program != "" {
			h.Features, _ = s.known(s.handlers[name])
		}
		all = append(all, h)
	}
	return all
}

// State is what is known of a handler with a foreign shim.
type State struct {
	Name  string `json:"name"`
	Shim  string `json:"shim"`            // its program, as configured
	Error string `json:"error,omitempty"` // why its features are not known
	// Refused: pods of the handler are refused for it.
	Refused bool `json:"refused,omitempty"`
}

// States tell of the handlers with a foreign shim, for the operator. It does not wait.
func (s *Set) States() []State {
	all := []State{}
	for _, name := range s.Names() {
		h := s.handlers[name]
		if h.program == "" {
			continue
		}
		state := State{Name: name, Shim: h.program}
		if _, err := s.known(h); err != nil {
			state.Error, state.Refused = err.Error(), errors.Is(err, ErrUnusable)
		}
		all = append(all, state)
	}
	return all
}

// known are the features that a runtime has told, or why they are not known. A program that
// is another one than last time is asked, and one again of which the last question has failed
// some time ago, without waiting for the answer.
func (s *Set) known(h *handler) (*runtimeapi.RuntimeHandlerFeatures, error) {
	program, err := s.find(h)
	if err != nil {
		return nil, err
	}
	q := s.ask(h, program, false)
	select {
	case <-q.done:
		return q.features, q.err
	default:
	}
	if q.last != nil {
		return nil, q.last
	}
	return nil, fmt.Errorf("%s is being asked what it can do", program.path)
}

// program is a file that can be run, and what tells it from another of the same path.
type program struct {
	path  string
	inode uint64
	size  int64
	wrote time.Time
}

// find looks for the programs that a handler needs; there are none for the built-in runtime.
func (s *Set) find(h *handler) (program, error) {
	if h.program == "" {
		return program{}, nil
	}
	path, err := exec.LookPath(h.program)
	if err != nil {
		return program{}, failure.New(ErrUnusable,
			"runtime handler %q: its shim can't be run: %w; install it, or change runtime.%s.shim in the configuration", h.name, err, h.name)
	}
	if _, err := os.Stat(s.opt.Driver); err != nil {
		return program{}, failure.New(ErrUnusable, "runtime handler %q: the program that drives shims of containerd can't be run: %w; install it beside berth-shim", h.name, err)
	}
	return identify(path)
}

// shimOptions adds to the options of a shim of runc what follows from the configuration of
// berth: the cgroup driver, and a directory for the runtime's state that ends with the boot.
func (s *Set) shimOptions(table config.Runtime) map[string]any {
	if !strings.Contains(filepath.Base(table.Shim), "shim-runc-") {
		return table.Options
	}
	all := map[string]any{"SystemdCgroup": s.opt.SystemdCgroup, "Root": filepath.Join(s.opt.State, "runc")}
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	for key, value := range table.Options {
		maps.DeleteFunc(all, func(k string, _ any) bool { return plain(k) == plain(key) })
		all[key] = value
	}
	return all
}

// socketDir is where shims are asked to make their sockets, "" if the path is too long for
// that.
func (s *Set) socketDir() string {
	if dir := filepath.Join(s.opt.State, "s"); len(dir) <= maxSocketDir {
		return dir
	}
	return ""
}
