package shims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"berth/oci/shimapi"
)

// Shim is one living (or dead) shim. Its methods may be called concurrently. An
// error that the shim answered is a *[shimapi.Error]; see its Kind.
type Shim struct {
	shims   *Set
	id, dir string
	pid     int
	version string
	reaped  <-chan struct{} // closed when we have waited for it; nil: not our child
	gone    chan struct{}   // closed when its process has ended
	born    time.Time
	decided chan struct{} // closed when it is known who takes over from it
	stuck   atomic.Bool   // it let the last call wait for too long
	next    *Shim         // its heir, or nil; not read before decided

	// guarded by shims.mu
	followed bool // else it has no heir
	restless int  // how many shims before it lived for a moment only
	pods     map[string]struct{}
	kept     map[string]*custody // of its pods and containers
	reserved int                 // by ForNewPod, not yet run
	leaving  bool
}

// ID names the shim for [Set.Get].
func (sh *Shim) ID() string { return sh.id }

// PID is the shim's process.
func (sh *Shim) PID() int { return sh.pid }

func (sh *Shim) isGone() bool {
	select {
	case <-sh.gone:
		return true
	default:
		return false
	}
}

// Ping asks the shim who it is.
func (sh *Shim) Ping(ctx context.Context) (hello shimapi.HelloResponse, err error) {
	err = sh.call(ctx, shimapi.MethodHello, struct{}{}, &hello)
	return hello, err
}

// Release gives back the room that ForNewPod reserved, when no RunPod follows.
func (sh *Shim) Release() {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	sh.reserved = max(0, sh.reserved-1)
}

// RunPod starts a pause.
func (sh *Shim) RunPod(ctx context.Context, r *shimapi.RunPodRequest) (pause shimapi.RunPodResponse, err error) {
	c := shimapi.Custody{ID: r.ID, Dir: r.Dir}
	if r.NewNet {
		c.NetNSPath = r.NetNSPath
	}
	sh = sh.current(ctx)
	sh.shims.mu.Lock()
	sh.pods[r.ID] = struct{}{}
	sh.reserved = max(0, sh.reserved-1)
	sh.keepLocked(c, nil)
	sh.shims.mu.Unlock()
	err = sh.ask(ctx, shimapi.MethodRunPod, r, &pause)
	var told *shimapi.Error
	if errors.As(err, &told) && told.Kind != shimapi.KindExists {
		sh.forget(r.ID) // it is certain that the shim has it not
	}
	return pause, err
}

// StopPod kills a pause and unbinds its network namespace; unknown: nil.
func (sh *Shim) StopPod(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodStopPod, shimapi.IDRequest{ID: id}, nil)
}

// RemovePod forgets a pod; unknown: nil. A shim that is not shared, or is of
// another version, leaves with its last.
func (sh *Shim) RemovePod(ctx context.Context, id string) error {
	if err := sh.call(ctx, shimapi.MethodRemovePod, shimapi.IDRequest{ID: id}, nil); err != nil {
		return err
	}
	sh = sh.current(ctx) // which was asked
	if left := sh.forget(id); left == 0 && (sh.shims.config.PodsPerShim > 0 || sh.version != sh.shims.config.Version) {
		_, err := sh.shims.dismiss(ctx, sh)
		return err
	}
	return nil
}

func (sh *Shim) forget(id string) (left int) {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	delete(sh.pods, id)
	sh.dropLocked(id)
	return len(sh.pods) + sh.reserved
}

// Create makes a container, which then waits to be started.
func (sh *Shim) Create(ctx context.Context, r *shimapi.CreateRequest) (created shimapi.CreateResponse, err error) {
	c, err := sh.send(ctx, shimapi.MethodCreate, r, nil)
	if err != nil {
		return created, err
	}
	defer c.close()
	files, err := c.receive(ctx, &created)
	if err != nil || created.Custody == nil { // a shim of before the hand-over
		shimapi.CloseFiles(files)
		return created, err
	}
	c.shim.keep(*created.Custody, files)
	created.Custody = nil
	if c.shim.isGone() {
		return created, c.shim.handLate(ctx, r.ID)
	}
	return created, nil
}

// Start lets a created container execute its command.
func (sh *Shim) Start(ctx context.Context, id string) error {
	sh = sh.current(ctx)
	err := sh.ask(ctx, shimapi.MethodStart, shimapi.IDRequest{ID: id}, nil)
	if !errors.Is(err, ErrGone) {
		return err
	}
	next := sh.heir(ctx)
	if next == nil {
		return err
	}
	err = next.Start(ctx, id)
	var told *shimapi.Error
	if errors.As(err, &told) && told.Kind == shimapi.KindNotRunning {
		return nil // the dead shim has started it
	}
	return err
}

// Kill sends a signal.
func (sh *Shim) Kill(ctx context.Context, r *shimapi.KillRequest) error {
	return sh.call(ctx, shimapi.MethodKill, r, nil)
}

// Delete kills what is left of a container and removes it; unknown: nil.
func (sh *Shim) Delete(ctx context.Context, id string) error {
	err := sh.call(ctx, shimapi.MethodDelete, shimapi.IDRequest{ID: id}, nil)
	if err == nil {
		sh.drop(id)
	}
	return err
}

// Resize sets the size of a container's terminal.
func (sh *Shim) Resize(ctx context.Context, r *shimapi.ResizeRequest) error {
	return sh.call(ctx, shimapi.MethodResize, r, nil)
}

// CloseStdin ends a container's input.
func (sh *Shim) CloseStdin(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodCloseStdin, shimapi.IDRequest{ID: id}, nil)
}

// Reopen makes the container's log go to a new file at its path.
func (sh *Shim) Reopen(ctx context.Context, id string) error {
	return sh.call(ctx, shimapi.MethodReopen, shimapi.IDRequest{ID: id}, nil)
}

// Update changes a container's limits.
func (sh *Shim) Update(ctx context.Context, r *shimapi.UpdateRequest) error {
	return sh.call(ctx, shimapi.MethodUpdate, r, nil)
}

// List tells everything the shim holds.
func (sh *Shim) List(ctx context.Context) (held shimapi.ListResponse, err error) {
	err = sh.call(ctx, shimapi.MethodList, struct{}{}, &held)
	return held, err
}

// watch calls told for each event until the connection or ctx ends.
func (sh *Shim) watch(ctx context.Context, told func(shimapi.Event)) error {
	c, err := sh.sendAlone(ctx, shimapi.MethodWatch, struct{}{}, nil)
	if err != nil {
		return err
	}
	defer c.close()
	for {
		var e shimapi.Event
		if _, err := c.receive(ctx, &e); err != nil {
			return err
		}
		told(e)
	}
}

// call is for methods that may be repeated: when the shim dies meanwhile, its heir
// is asked.
func (sh *Shim) call(ctx context.Context, method string, request, response any) error {
	err := sh.askInTime(ctx, method, request, response)
	if errors.Is(err, ErrGone) {
		if next := sh.heir(ctx); next != nil {
			return next.call(ctx, method, request, response)
		}
	}
	return err
}

// ask is a call of this shim and no other.
func (sh *Shim) ask(ctx context.Context, method string, request, response any) error {
	c, err := sh.sendAlone(ctx, method, request, nil)
	if err != nil {
		return err
	}
	defer c.close()
	files, err := c.receive(ctx, response)
	shimapi.CloseFiles(files)
	return err
}

// connection is a call under way. It is cut when the context it was begun with
// ends, unless detached.
type connection struct {
	shim *Shim
	conn *net.UnixConn
	stop func() bool
}

// send begins a call; of the heir, when the shim is dead already.
func (sh *Shim) send(ctx context.Context, method string, request any, files []*os.File) (*connection, error) {
	c, err := sh.sendAlone(ctx, method, request, files)
	if errors.Is(err, ErrGone) { // so it did not get the request, not all of it
		if next := sh.heir(ctx); next != nil {
			return next.send(ctx, method, request, files)
		}
	}
	return c, err
}

// sendAlone is send without regard to an heir: for who decides on it.
func (sh *Shim) sendAlone(ctx context.Context, method string, request any, files []*os.File) (*connection, error) {
	if sh.isGone() {
		return nil, fmt.Errorf("shim %s: %w", sh.id, ErrGone)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", method, err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(sh.dir, shimapi.SocketName))
	if err != nil {
		return nil, sh.explain(ctx, err)
	}
	c := &connection{shim: sh, conn: conn.(*net.UnixConn)}
	c.stop = context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	if err := shimapi.WriteFrame(c.conn, shimapi.Request{Method: method, Body: body}, files...); err != nil {
		c.close()
		return nil, sh.explain(ctx, err)
	}
	return c, nil
}

// receive reads one answer into response, which may be nil.
func (c *connection) receive(ctx context.Context, response any) ([]*os.File, error) {
	var r shimapi.Response
	files, err := shimapi.ReadFrame(c.conn, &r)
	if err != nil {
		return nil, c.shim.explain(ctx, err)
	}
	if r.Error != nil {
		shimapi.CloseFiles(files)
		return nil, r.Error
	}
	if response != nil && len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, response); err != nil {
			shimapi.CloseFiles(files)
			return nil, fmt.Errorf("answer of shim %s: %w", c.shim.id, err)
		}
	}
	return files, nil
}

// detach makes the connection outlive the context it was begun with.
func (c *connection) detach() { c.stop() }

func (c *connection) close() {
	c.stop()
	_ = c.conn.Close() // the shim takes it as the end of the call
}

// explain turns a broken connection into its cause: our caller gave up, or the
// shim is gone.
func (sh *Shim) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("shim %s: %w", sh.id, context.Cause(ctx))
	}
	sh.settled(ctx)
	if sh.isGone() {
		return fmt.Errorf("shim %s: %w", sh.id, ErrGone)
	}
	return fmt.Errorf("shim %s: %w", sh.id, err)
}
