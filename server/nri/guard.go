package nri

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// maxCalls is how many calls of plugins are worked on or wait at the same time.
	maxCalls = 16
	// stuckTime is how long after its time a request may still try to write.
	stuckTime = 200 * time.Millisecond
)

// guard stands between the library and the sockets of plugins.
type guard struct {
	patience time.Duration
	evict    func(context.Context, *api.ContainerEviction)
	calls    atomic.Int64 // of plugins, under way
	asked    atomic.Bool  // a plugin was asked something, so that there is or was one
}

// call makes a request of the library to a plugin. The library waits no longer than the
// request's context says for an answer, but without end for a plugin that does not read
// its socket. Such a plugin is taken for dead, which makes the library close its socket.
func (g *guard) call(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	g.asked.Store(true)
	own, done := &ttrpc.Response{}, make(chan error, 1)
	go func() { done <- invoke(ctx, req, own) }() // ends with the answer, the context or the socket
	take := func(err error) error {
		resp.Status, resp.Payload = own.GetStatus(), own.GetPayload()
		if err == nil {
			readEvictions(ctx, req.GetMethod(), own.GetPayload())
		}
		return err
	}
	select {
	case err := <-done:
		return take(err)
	case <-ctx.Done():
	}
	timer := time.NewTimer(stuckTime)
	defer timer.Stop()
	select {
	case err := <-done:
		return take(err)
	case <-timer.C:
		return fmt.Errorf("%w: the plugin does not read its socket", ttrpc.ErrClosed)
	}
}

// answer works on a call of a plugin. Those beyond maxCalls are refused at once.
func (g *guard) answer(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	defer g.calls.Add(-1)
	if g.calls.Add(1) > maxCalls {
		return nil, status.Errorf(codes.ResourceExhausted, "%d calls of plugins are under way: wait for their answers", maxCalls)
	}
	ctx, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	// The library does not hand on which containers a plugin wants to evict on its own.
	var evict []*api.ContainerEviction
	out, err := method(ctx, func(into any) error {
		err := unmarshal(into)
		if r, ok := into.(*api.UpdateContainersRequest); ok && err == nil {
			evict = r.GetEvict()
		}
		return err
	})
	for _, e := range evict {
		g.evict(ctx, e)
	}
	return out, err
}

// evictions are asked for by plugins in an answer, where the library does not look.
type evictions struct {
	mu  sync.Mutex
	all []*api.ContainerEviction
}

type evictionsKey struct{}

// noteEvictions gives a context whose requests note what plugins want to evict.
func (*guard) noteEvictions(ctx context.Context) (*evictions, context.Context) {
	e := &evictions{}
	return e, context.WithValue(ctx, evictionsKey{}, e)
}

func (e *evictions) list() []*api.ContainerEviction {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all
}

func readEvictions(ctx context.Context, method string, payload []byte) {
	e, ok := ctx.Value(evictionsKey{}).(*evictions)
	if !ok {
		return
	}
	var answer interface {
		proto.Message
		GetEvict() []*api.ContainerEviction
	}
	switch method {
	case "CreateContainer":
		answer = &api.CreateContainerResponse{}
	case "UpdateContainer":
		answer = &api.UpdateContainerResponse{}
	default:
		return
	}
	if proto.Unmarshal(payload, answer) != nil {
		return // the library says so
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, answer.GetEvict()...)
}

// inTurns wraps the connections by which plugins call.
type inTurns struct{}

// Handshake implements [ttrpc.Handshaker].
func (inTurns) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	return &turnConn{Conn: conn}, nil, nil
}

// turnConn reads no more calls while an answer can't be written. Without it a plugin that
// only sends fills the memory with its calls; as it is, the library's short queue
// overflows, and the plugin is cut off.
type turnConn struct {
	net.Conn
	writing sync.Mutex
}

// Read implements [net.Conn].
func (c *turnConn) Read(b []byte) (int, error) {
	c.writing.Lock()
	c.writing.Unlock() //nolint:staticcheck // to wait is all
	return c.Conn.Read(b)
}

// Write implements [net.Conn].
func (c *turnConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.Conn.Write(b)
}
