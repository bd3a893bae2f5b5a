package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
	"berth/oci/failure"
	"berth/oci/procfs"
	"berth/oci/shim/pause"
	"berth/oci/shimapi"
)

// acceptPause keeps a shim that has no descriptors left from using all of a CPU.
const acceptPause = 50 * time.Millisecond

// Config identifies a shim.
type Config struct {
	ID      string
	Dir     string // the shim's own directory, on a file system that ends with the boot; its last element is ID
	Version string // berth's
	// Foreign makes what drives shims of containerd; nil: pods with one are refused. oom is
	// told of containers in which the OOM killer was active.
	Foreign func(oom func(container string)) (Foreign, error)
}

// Server is one shim: the listener, and what carries out the verbs. It serves until it is
// told to exit and has no pods.
type Server struct {
	config   Config
	listener *net.UnixListener
	registry *registry
	hub      *hub
	pauses   *pause.Launcher
	ooms     *oomWatcher
	verbs    map[string]verb // by method
	left     chan struct{}   // closed when an exit was granted
	foreign  Foreign         // nil: there are no foreign shims
	journal  *journal        // nil: there is none
}

// New makes the socket of the shim and writes its identity. Clients can connect once it has
// returned; they are answered when [Server.Serve] runs.
func New(c Config) (*Server, error) {
	logrus.SetLevel(logrus.WarnLevel) // the log of libcontainer, which goes where the shim's own goes
	s := &Server{config: c, registry: newRegistry(), hub: newHub(), left: make(chan struct{})}
	sleepers() // now, while there are descriptors
	bootID, err := procfs.BootID()
	if err != nil {
		return nil, err
	}
	empty := filepath.Join(c.Dir, "empty")
	if err := os.Mkdir(empty, 0o555); err != nil && !errors.Is(err, os.ErrExist) { // it exists if this shim is a replacement
		return nil, fmt.Errorf("root for pauses: %w", err)
	}
	if s.pauses, err = pause.NewLauncher(empty); err != nil {
		return nil, err
	}
	if s.ooms, err = newOOMWatcher(); err != nil {
		return nil, errors.Join(err, s.pauses.Close())
	}
	if c.Foreign != nil {
		if s.foreign, err = c.Foreign(s.registry.noteOOM); err != nil {
			return nil, errors.Join(err, s.pauses.Close(), s.ooms.close())
		}
	}
	if s.journal, err = newJournal(c.Dir); err != nil {
		return nil, errors.Join(err, s.pauses.Close(), s.ooms.close())
	}
	s.wire(bootID)
	if err := s.appear(); err != nil {
		return nil, errors.Join(err, s.pauses.Close(), s.ooms.close())
	}
	return s, nil
}

// appear makes the shim reachable. The identity is written last, so a client that can read
// it can connect.
func (s *Server) appear() error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.config.Dir, shimapi.SocketName)})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.listener = listener
	if err := atomicfile.WriteVolatile(filepath.Join(s.config.Dir, shimapi.IdentityName), s.hello()); err != nil {
		return errors.Join(err, listener.Close())
	}
	return nil
}

func (s *Server) hello() shimapi.HelloResponse {
	hello := shimapi.HelloResponse{ID: s.config.ID, PID: os.Getpid(), Wire: shimapi.Version, Version: s.config.Version, Libcontainer: libcontainerVersion(), Foreign: s.foreign != nil}
	if s.journal != nil {
		hello.Journal = journalName
	}
	return hello
}

// libcontainerVersion is what the linker noted of the module; "" in a program that was
// built without modules.
func libcontainerVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/opencontainers/runc" {
			return m.Version
		}
	}
	return ""
}

// Serve answers clients until a shutdown is granted, then removes the shim's
// directory and returns nil.
func (s *Server) Serve() error {
	go func() {
		<-s.left
		_ = s.listener.Close() // ends Accept below
	}()
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil { // no descriptors or memory left, for now
			slog.Error("accept", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		go s.serve(conn)
	}
	s.hub.close()
	return errors.Join(s.closeForeign(), s.pauses.Close(), s.ooms.close(), os.RemoveAll(s.config.Dir))
}

func (s *Server) closeForeign() error {
	if s.foreign == nil {
		return nil
	}
	return s.foreign.Close()
}

// call is one connection: the body and files of the request, and where the response goes.
type call struct {
	conn   *net.UnixConn
	method string
	body   json.RawMessage
	files  []*os.File // closed after the verb; one that keeps them sets nil
	stages *stages    // nil: the client does not trace
}

func (s *Server) serve(conn *net.UnixConn) {
	defer func() { _ = conn.Close() }() // the response was sent already
	if !trusted(conn) {
		return
	}
	var request shimapi.Request
	files, err := shimapi.ReadFrame(conn, &request)
	if err != nil {
		slog.Warn("unreadable request", "error", err)
		if failure.IsShortage(err) { // the client sends it again
			(&call{conn: conn}).finish(nil, err)
		}
		return
	}
	c := &call{conn: conn, method: request.Method, body: request.Body, files: files}
	if request.Stages {
		c.stages = &stages{}
	}
	defer c.survivePanic()
	verb, ok := s.verbs[c.method]
	if !ok {
		verb = unknown
	}
	answer, err := verb(c)
	c.finish(answer, err)
	if c.method == shimapi.MethodShutdown && err == nil {
		close(s.left)
	}
}

// finish closes the files that nobody has kept, and sends what the verb has returned.
func (c *call) finish(answer any, failure error) {
	shimapi.CloseFiles(c.files)
	if errors.Is(failure, errAnswered) {
		return
	}
	if err := c.answer(answer, failure); err != nil {
		slog.Debug("answer not delivered", "method", c.method, "error", err)
	}
}

// survivePanic is deferred: a panic, for example in libcontainer, ends one call and not
// the shim with all its containers.
func (c *call) survivePanic() {
	if p := recover(); p != nil {
		slog.Error("panic", "method", c.method, "panic", p, "stack", stack())
		c.finish(nil, fault(shimapi.KindInternal, "panic in %s: %v", c.method, p))
	}
}

// trusted reports whether the peer runs as our own user. The mode of the directory ensures
// that too; this check holds even if somebody changes the mode.
func trusted(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cerr == nil && err == nil && int(peer.Uid) == os.Geteuid()
}

// errAnswered is returned by verbs that have sent their own responses.
var errAnswered = errors.New("answered")

func (c *call) answer(body any, failure error, files ...*os.File) error {
	r := shimapi.Response{Stages: c.stages.measured()}
	if failure != nil {
		r.Error = asWireError(failure)
	} else if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			r.Error = asWireError(err)
		}
		r.Body = data
	}
	return shimapi.WriteFrame(c.conn, r, files...)
}

// hungUp returns a channel that is closed when the client has hung up. The client sends
// nothing after its request, so a read returns only then.
func (c *call) hungUp() <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		_, _ = c.conn.Read(b[:]) // the result does not matter
	}()
	return gone
}

// verb carries out one method of the wire. It returns the response.
type verb func(c *call) (any, error)

// with makes a verb of a function that needs the decoded body.
func with[T any](f func(*call, T) (any, error)) verb {
	return func(c *call) (any, error) {
		request, err := decode[T](c)
		if err != nil {
			return nil, err
		}
		return f(c, request)
	}
}

func decode[T any](c *call) (request T, err error) {
	if err := json.Unmarshal(c.body, &request); err != nil {
		return request, fault(shimapi.KindInvalid, "request body: %w", err)
	}
	c.body = nil
	return request, nil
}

// wire makes what carries out the verbs, and the table of these.
func (s *Server) wire(bootID string) {
	foreigns := foreigns{s.registry, s.foreign}
	pods := &pods{s.registry, s.hub, s.pauses, bootID, foreigns}
	containers := &containers{
		s.registry, s.hub, s.ooms, stateDir(filepath.Join(s.config.Dir, "state")), bootID, s.foreign, newTemplate(s.config.Dir), s.journal,
	}
	streams, execs, handovers := streams{s.registry}, execs{s.registry}, handovers{s.registry, pods, containers}
	s.verbs = map[string]verb{
		shimapi.MethodHello:          func(*call) (any, error) { return s.hello(), nil },
		shimapi.MethodShutdown:       func(*call) (any, error) { return nil, s.registry.leave() },
		shimapi.MethodList:           func(*call) (any, error) { return s.hub.list(), nil },
		shimapi.MethodWatch:          s.hub.watch,
		shimapi.MethodRunPod:         with(pods.run),
		shimapi.MethodStopPod:        with(pods.stop),
		shimapi.MethodRemovePod:      with(pods.remove),
		shimapi.MethodUpdatePod:      with(pods.update),
		shimapi.MethodCreate:         with(containers.create),
		shimapi.MethodStart:          with(containers.start),
		shimapi.MethodKill:           with(containers.kill),
		shimapi.MethodUpdate:         with(containers.update),
		shimapi.MethodDelete:         with(containers.delete),
		shimapi.MethodExec:           with(execs.exec),
		shimapi.MethodAttach:         with(streams.attach),
		shimapi.MethodCloseStdin:     with(streams.closeStdin),
		shimapi.MethodReopen:         with(streams.reopen),
		shimapi.MethodResize:         with(streams.resize),
		shimapi.MethodHandoverState:  with(handovers.state),
		shimapi.MethodHandoverStates: handovers.states,
		shimapi.MethodAdopt:          with(handovers.adopt),
		shimapi.MethodReportExit:     with(handovers.reportExit),
		shimapi.MethodStartSandbox:   with(foreigns.start),
		shimapi.MethodReclaim:        with(foreigns.reclaimPod),
		shimapi.MethodStats:          with(foreigns.usage),
	}
}

func unknown(c *call) (any, error) {
	return nil, fault(shimapi.KindInvalid, "this shim (wire %d) knows no method %q", shimapi.Version, c.method)
}

// Leave makes the shim exit if it has no pods and containers, as a shutdown call does. It is
// for a signal handler.
func (s *Server) Leave() error {
	err := s.registry.leave()
	if err == nil {
		close(s.left)
	}
	return err
}
