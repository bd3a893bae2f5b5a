package shimv2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"berth/oci/atomicfile"
	"berth/oci/procfs"
	"berth/oci/shim"
	"berth/oci/shimapi"
)

const (
	// namespace is containerd's name for what belongs to Kubernetes; shims use it in paths.
	namespace = "k8s.io"
	// newestVersion is the newest version of the task API that this package speaks.
	newestVersion = 3
	// startTimeout bounds the actions of a shim's program.
	startTimeout = 30 * time.Second
	// addressName is the file of a pod's bundle that says where its shim serves.
	addressName = "shim.json"
)

// Variables for the tests.
var (
	// identifyTimeout bounds the first call to a shim.
	identifyTimeout = 10 * time.Second
	// writeTimeout bounds the wait for a shim that does not read.
	writeTimeout = 10 * time.Second
)

// Client starts shims and serves their events. Make it with [New].
type Client struct {
	events *eventServer
	socket string // of the events
	debug  bool
}

// New serves the events of shims at a socket in dir until Close. oom is called with the ID
// of a container in which the OOM killer has killed.
func New(dir string, debug bool, oom func(container string)) (*Client, error) {
	quietLibrary()
	socket := filepath.Join(dir, "ev.sock")
	events, err := serveEvents(socket, oom)
	if err != nil {
		return nil, err
	}
	return &Client{events: events, socket: socket, debug: debug}, nil
}

// quietLibrary drops what ttrpc logs: a line for each message that nobody has waited for, as
// many as a shim sends.
var quietLibrary = sync.OnceFunc(func() {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	log.L = logrus.NewEntry(quiet)
})

// Close ends the serving of events.
func (c *Client) Close() error { return c.events.close() }

// address says where the shim of a pod serves. It is written before the shim is started,
// and when that has told more.
type address struct {
	Address   string `json:"address"`
	Events    string `json:"events,omitempty"` // the socket of events that the shim was given
	Protocol  string `json:"protocol"`
	Version   int    `json:"version"`
	PID       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
}

// Start runs the program's action "start", which starts the shim itself in the background
// and prints where it serves (containerd's docs/runtime-v2.md).
func (c *Client) Start(ctx context.Context, b shimapi.Bundle) (shim.ForeignShim, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	messages, err := openLog(b)
	if err != nil {
		return nil, err
	}
	s, err := c.start(ctx, b)
	if err != nil {
		messages.close()
		return nil, fmt.Errorf("shim %s: %w", b.Runtime.Shim, err)
	}
	s.log = messages
	return s, nil
}

func (c *Client) start(ctx context.Context, b shimapi.Bundle) (*connection, error) {
	params := &bootstrap.BootstrapParams{
		InstanceID: b.ID, Namespace: namespace, LogLevel: bootstrap.LogLevel_LOG_LEVEL_INFO, ContainerdVersion: "2.4.0",
		ContainerdGrpcAddress: c.socket, ContainerdTtrpcAddress: c.socket, ContainerdBinary: "berthd",
	}
	if c.debug {
		params.LogLevel = bootstrap.LogLevel_LOG_LEVEL_DEBUG
	}
	if b.Runtime.SocketDir != "" {
		params.SocketDir = &b.Runtime.SocketDir
	}
	options, err := encodeOptions(b.Runtime)
	if err == nil && options != nil {
		err = params.AddExtension(options)
	}
	if err != nil {
		return nil, err
	}
	input, err := proto.Marshal(params)
	if err != nil {
		return nil, err
	}
	s, err := c.launch(ctx, b, input)
	if err != nil {
		return nil, errors.Join(err, c.ReclaimShim(ctx, b))
	}
	return s, nil
}

// launch runs the action "start" and connects to the shim. After an error that may run.
func (c *Client) launch(ctx context.Context, b shimapi.Bundle, input []byte) (*connection, error) {
	if err := atomicfile.WriteVolatile(filepath.Join(b.Dir, addressName), address{Events: c.socket}); err != nil {
		return nil, err
	}
	output, err := c.run(ctx, b, "start", input)
	if err != nil {
		return nil, err
	}
	where, err := parseAnswer(output)
	if err != nil {
		return nil, err
	}
	where.Events = c.socket
	if err := atomicfile.WriteVolatile(filepath.Join(b.Dir, addressName), where); err != nil {
		return nil, err
	}
	s, err := c.dial(ctx, b, where)
	if err != nil {
		return nil, err
	}
	if err := s.identify(ctx); err != nil {
		return nil, errors.Join(err, s.client.Close())
	}
	return s, nil
}

// identify asks the shim for its PID and notes it. A shim need not tell, but has to answer.
func (c *connection) identify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	var told task.ConnectResponse
	err := c.call(ctx, "Connect", &task.ConnectRequest{ID: c.bundle.ID}, &told)
	pid := int(told.GetShimPid())
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it does not answer the call Connect within %v", identifyTimeout)
	case errors.Is(err, ttrpc.ErrClosed) || isClosed(c.gone):
		return errors.New("it closes the connection at the call Connect")
	case err != nil || pid <= 0:
		return nil //nolint:nilerr // it is found by its environment then
	}
	began, err := shimapi.StartTime(pid)
	if ours, berr := belongs(pid, c.bundle.ID); err != nil || berr != nil || !ours {
		return nil //nolint:nilerr // as above; when it has ended the connection tells
	}
	c.where.PID, c.where.StartTime = pid, began
	return atomicfile.WriteVolatile(filepath.Join(c.bundle.Dir, addressName), c.where)
}

// Connect implements [shim.Foreign].
func (c *Client) Connect(ctx context.Context, b shimapi.Bundle) (shim.ForeignShim, error) {
	var where address
	if err := atomicfile.Read(filepath.Join(b.Dir, addressName), &where); err != nil {
		return nil, err
	}
	s, err := c.dial(ctx, b, where)
	if err != nil {
		return nil, err
	}
	if s.log, err = openLog(b); err != nil {
		return nil, errors.Join(err, s.client.Close())
	}
	return s, nil
}

// promptConn gives up a peer that reads nothing: a call to it would hold the connection's
// lock, past the end of its own context. What was cut off can't be continued.
type promptConn struct{ net.Conn }

// Write implements [io.Writer].
func (c promptConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.Close() // the shim counts as gone
	}
	return n, err
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// dial connects to a shim.
func (c *Client) dial(ctx context.Context, b shimapi.Bundle, where address) (*connection, error) {
	if where.Protocol != "" && !strings.EqualFold(where.Protocol, "ttrpc") {
		return nil, fmt.Errorf("it serves by %s, berth speaks ttrpc", where.Protocol)
	}
	path, isPath := strings.CutPrefix(where.Address, "unix://")
	if !isPath {
		path = "@" + where.Address // abstract, as shims had it before containerd 1.4
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("it does not serve where it says: %w", err)
	}
	s := &connection{bundle: b, where: where, gone: make(chan struct{}), service: fmt.Sprintf("containerd.task.v%d.Task", where.Version)}
	s.client = ttrpc.NewClient(promptConn{conn}, ttrpc.WithOnClose(func() { close(s.gone) }))
	return s, nil
}

// parseAnswer reads what "start" has printed: a message, JSON, or in old versions nothing
// but the address.
func parseAnswer(output []byte) (address, error) {
	var result bootstrap.BootstrapResult
	where := address{}
	text := bytes.TrimSpace(output)
	switch {
	case len(text) > 0 && text[0] == '{' && json.Unmarshal(text, &where) == nil && where.Address != "":
	case proto.Unmarshal(output, &result) == nil && result.GetAddress() != "":
		where = address{Address: result.GetAddress(), Protocol: result.GetProtocol(), Version: int(result.GetVersion())}
	default:
		where = address{Address: string(text)}
	}
	where.Version = max(where.Version, 2)
	if where.Version > newestVersion {
		return where, fmt.Errorf("it speaks version %d of the task API, berth at most %d", where.Version, newestVersion)
	}
	if !strings.HasPrefix(where.Address, "unix:///") && !strings.HasPrefix(where.Address, "/") || strings.ContainsAny(where.Address, "\x00\n") {
		return where, fmt.Errorf("it does not tell where it serves, but says %.200q", output)
	}
	return where, nil
}

// run executes the shim's program and returns what it prints to stdout.
func (c *Client) run(ctx context.Context, b shimapi.Bundle, action string, input []byte) ([]byte, error) {
	args := []string{"-namespace", namespace, "-address", c.socket, "-publish-binary", "berthd", "-id", b.ID}
	if action == "delete" {
		args = append(args, "-bundle", b.Dir)
	}
	if c.debug {
		args = append(args, "-debug")
	}
	cmd := groupCommand(ctx, b.Runtime.Shim, append(args, action)...)
	cmd.Dir = b.Dir
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION="+fmt.Sprint(newestVersion),
		"TTRPC_ADDRESS="+c.socket, "GRPC_ADDRESS="+c.socket, "NAMESPACE="+namespace, podVariable+"="+b.ID)
	var place func(int) error
	if cgroup := b.Runtime.ShimCgroup; action == "start" && cgroup != "" {
		place = func(pid int) error { return shim.EnterCgroup(cgroup, pid) }
	}
	said, err := output(ctx, cmd, input, place)
	if err != nil {
		return nil, fmt.Errorf("action %s: %w", action, err)
	}
	return said, nil
}

// Reclaim runs the program's action "delete", which ends a container without its shim and
// prints how it ended.
func (c *Client) Reclaim(ctx context.Context, b shimapi.Bundle) (shimapi.ExitStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	output, err := c.run(ctx, b, "delete", nil)
	if err != nil {
		return shimapi.ExitStatus{}, fmt.Errorf("shim %s: %w", b.Runtime.Shim, err)
	}
	var answer task.DeleteResponse
	if err := proto.Unmarshal(output, &answer); err != nil {
		return shimapi.ExitStatus{}, fmt.Errorf("shim %s: answer of delete: %w", b.Runtime.Shim, err)
	}
	return exitStatus(answer.GetExitStatus(), answer.GetExitedAt()), nil
}

// ReclaimShim implements [shim.Foreign].
func (c *Client) ReclaimShim(_ context.Context, b shimapi.Bundle) error {
	var where address
	err := atomicfile.Read(filepath.Join(b.Dir, addressName), &where)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // none was started
	}
	if err != nil || where.PID <= 0 { // it was being started
		return errors.Join(killOf(b.ID), where.removeSockets(b))
	}
	return errors.Join(where.kill(0), where.removeSockets(b))
}

// sockets are where a shim may have made its sockets: at the address that it has told, and
// in the directory that it was asked to use, by the names that containerd's library for shims
// gives them, one of them for debugging.
func (a address) sockets(b shimapi.Bundle) (paths []string) {
	if path, ok := strings.CutPrefix(a.Address, "unix://"); ok {
		paths = append(paths, path)
	}
	if b.Runtime.SocketDir == "" || a.Events == "" {
		return paths
	}
	for _, last := range []string{"", "debug"} {
		sum := sha256.Sum256([]byte(filepath.Join(a.Events, namespace, b.ID, last)))
		paths = append(paths, filepath.Join(b.Runtime.SocketDir, fmt.Sprintf("%x", sum)))
	}
	return paths
}

// removeSockets removes what a killed shim leaves. Others remove them themselves. A path
// that is no socket was no shim's to name.
func (a address) removeSockets(b shimapi.Bundle) error {
	var errs []error
	for _, path := range a.sockets(b) {
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket {
			continue // most often it is gone
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("socket of the shim: %w", err))
		}
	}
	return errors.Join(errs...)
}

// kill gives the shim some time to end and kills it then. The PID is not that of another
// process, as the start time tells.
func (a address) kill(after time.Duration) error {
	fd, err := procfs.Pidfd(a.PID, a.StartTime, 0)
	if errors.Is(err, procfs.ErrEnded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill shim %d: %w", a.PID, err)
	}
	defer unix.Close(fd)
	if ended(fd, after) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill shim %d: %w", a.PID, err)
	}
	if !ended(fd, startTimeout) {
		return fmt.Errorf("shim %d does not end by SIGKILL, see /proc/%d/stack", a.PID, a.PID)
	}
	return nil
}

// ended waits for the end of a process.
func ended(pidfd int, within time.Duration) bool {
	deadline := time.Now().Add(within)
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline))/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}
