package cri

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// stopGrace is how long close waits for clients to be told why their streams end.
	stopGrace = 2 * time.Second
	// resetPoll is how often a forwarded connection is looked at for a reset by its
	// client, of which the library gives no event.
	resetPoll = time.Second
)

// clientListener accepts connections whose end cancels a context. The library cancels
// a request only when it reads the connection's end, and it stops reading when a SPDY
// client says goodbye, or while the container does not take what a client sends.
type clientListener struct {
	net.Listener
	hangups *hangups
	open    sync.WaitGroup // connections that are not closed yet
}

// Accept implements [net.Listener].
func (l *clientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the streaming port has a connection of type %T", conn), conn.Close())
	}
	l.open.Add(1)
	return &clientConn{TCPConn: tcp, listener: l}, nil
}

// bind is the [http.Server]'s ConnContext. Every request of the connection, upgraded or
// not, descends from the context that it returns.
func (l *clientListener) bind(ctx context.Context, conn net.Conn) context.Context {
	c, ok := plain(conn).(*clientConn)
	if !ok {
		return ctx
	}
	c.ctx, c.cancel = context.WithCancel(context.WithValue(ctx, clientKey{}, c))
	c.watch = l.hangups.add(c.TCPConn, c.cancel)
	return c.ctx
}

// settle waits until all connections are closed, which each is after its client was
// told how its stream ended; a client that takes nothing is not waited for long.
func (l *clientListener) settle() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		l.open.Wait()
	}()
	select {
	case <-closed:
	case <-time.After(stopGrace):
		klog.InfoS("Some clients of exec, attach or port-forward could not be told that the daemon stops")
	}
}

// clientConn is a client's connection. ctx ends when it is closed, on either side.
type clientConn struct {
	*net.TCPConn
	listener *clientListener
	ctx      context.Context
	cancel   context.CancelFunc
	watch    uint32
	once     sync.Once
}

type clientKey struct{}

// plain is the connection below TLS, or conn itself where there is none.
func plain(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// Close implements [net.Conn].
func (c *clientConn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() {
		if c.cancel != nil {
			c.cancel()
			c.listener.hangups.remove(c.watch)
		}
		c.listener.open.Done()
	})
	return err
}

// RemoteAddr implements [net.Conn]. The address brings the connection's context along:
// it is all that a stream of the library tells of its connection.
func (c *clientConn) RemoteAddr() net.Addr { return clientAddr{c.TCPConn.RemoteAddr(), c.ctx} }

type clientAddr struct {
	net.Addr
	ctx context.Context
}

// forwarded is the client's side of one forwarded connection. The library reads its
// end as one that has sent all it had, which may still wait for the answer, and also as
// one that is gone.
type forwarded struct {
	io.ReadWriteCloser
	ctx    context.Context
	gone   context.CancelFunc
	looked sync.Once
}

// newForwarded returns stream with a context that ends with the stream's connection,
// for which the library has none.
func newForwarded(ctx context.Context, stream io.ReadWriteCloser) (*forwarded, context.Context) {
	if s, ok := stream.(interface{ RemoteAddr() net.Addr }); ok {
		if a, ok := s.RemoteAddr().(clientAddr); ok && a.ctx != nil {
			ctx = a.ctx
		}
	}
	f := &forwarded{ReadWriteCloser: stream}
	f.ctx, f.gone = context.WithCancel(ctx)
	return f, f.ctx
}

// Read implements [io.Reader].
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.ReadWriteCloser.Read(p)
	if err != nil {
		f.looked.Do(func() { go f.awaitReset() })
	}
	return n, err
}

// awaitReset cancels the context when the client has given the connection up.
func (f *forwarded) awaitReset() {
	s, ok := f.ReadWriteCloser.(interface{ IsFinished() bool })
	if !ok { // a channel of a WebSocket ends with the WebSocket only
		f.gone()
		return
	}
	t := time.NewTicker(resetPoll)
	defer t.Stop()
	for !s.IsFinished() {
		select {
		case <-t.C:
		case <-f.ctx.Done():
			return
		}
	}
	f.gone()
}

// end closes the stream. What the client still sends is dropped then, instead of
// waiting for a reader and holding up the client's other connections.
func (f *forwarded) end() {
	f.gone()
	_ = f.Close() // it may be closed already
	if s, ok := f.ReadWriteCloser.(interface{ Reset() error }); ok {
		_ = s.Reset() // the client may be gone
	}
}

// ofConnection tells whether err is a failure of one forwarded connection alone: the
// pod's port is closed or does not answer.
func ofConnection(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && failed.Op == "dial"
}

// closesWithContext closes the connection of a port-forward when its context ends; the
// library waits for the client only.
func closesWithContext(r *http.Request) (stop func() bool) {
	c, ok := r.Context().Value(clientKey{}).(*clientConn)
	if !ok || !strings.HasPrefix(r.URL.Path, "/portforward/") {
		return func() bool { return true }
	}
	return context.AfterFunc(c.ctx, func() { _ = c.Close() })
}
