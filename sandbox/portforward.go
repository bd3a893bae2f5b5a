package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// portForwardDial bounds the connection to a port of a pod, which is local.
const portForwardDial = 10 * time.Second

// PortForward connects stream with a TCP port on a pod's loopback, IPv4 first
// then IPv6, until both directions have ended or ctx has, which the caller ends when
// its client is gone: a program of the pod may never close its side.
func (x *sessions) PortForward(ctx context.Context, podID string, port int32, stream io.ReadWriteCloser) error {
	s, err := x.index.pod(podID)
	if err != nil {
		return err
	}
	if err := s.guard(verbForward); err != nil {
		return err
	}
	if err := CheckPort(port); err != nil {
		return err
	}
	conn, err := s.dial(ctx, int(port))
	if err != nil {
		return fmt.Errorf("connect to port %d in pod sandbox %s: %w", port, s.id, err)
	}
	return relay(ctx, conn, stream)
}

// dial connects to a port of the pod. A runtime with a network stack of its own leaves none
// on the loopback of the pod's namespace, but has the pod's addresses.
func (s *Sandbox) dial(ctx context.Context, port int) (*net.TCPConn, error) {
	rec := s.rec.get()
	conn, err := dialIn(ctx, rec.netns, port)
	if err == nil || !rec.isForeign() || rec.Network == nil {
		return conn, err
	}
	d := net.Dialer{Timeout: portForwardDial}
	for _, ip := range rec.Network.IPs {
		outer, oerr := d.DialContext(ctx, "tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
		if oerr == nil {
			return outer.(*net.TCPConn), nil
		}
		err = errors.Join(err, oerr)
	}
	return nil, err
}

// relay copies both ways. Each half is closed on its own, so that a client that
// sent all it had still gets the whole answer.
func relay(ctx context.Context, conn *net.TCPConn, stream io.ReadWriteCloser) error {
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetLinger(0) // a reset: the pod's program may never close its end
		_ = conn.Close()
	})
	defer stop()
	defer func() { _ = conn.Close() }()
	in := make(chan struct{})
	go func() {
		defer close(in)
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
		// What the pod's program does not take any more must not wait in front of what
		// the client sends to others.
		_, _ = io.Copy(io.Discard, stream)
	}()
	// A reset by the pod's program ends this stream, not the client's session.
	_, _ = io.Copy(stream, conn)
	_ = stream.Close()
	_ = conn.CloseRead()
	select {
	case <-in:
	case <-ctx.Done():
	}
	return nil
}

// dialIn connects to a loopback port inside a network namespace; "" is the
// host's.
func dialIn(ctx context.Context, netns string, port int) (*net.TCPConn, error) {
	if netns == "" {
		return dialLoopback(ctx, port)
	}
	f, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var conn *net.TCPConn
	err = inNamespaces([]namespace{{f, unix.CLONE_NEWNET}}, func() (err error) {
		conn, err = dialLoopback(ctx, port)
		return err
	})
	return conn, err
}

// dialLoopback uses addresses, not the name localhost: a name would be dialed
// from other goroutines, outside the namespace.
func dialLoopback(ctx context.Context, port int) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: portForwardDial, FallbackDelay: -1}
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
