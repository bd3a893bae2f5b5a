package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	utilexec "k8s.io/utils/exec"

	"berth/sandbox"
	"berth/sandbox/inflight"
)

const defaultStreamAddress = "127.0.0.1:0"

// streams is the HTTP server behind the URLs that Exec, Attach and PortForward
// return: SPDY and WebSocket. A URL works once, for a minute.
type streams struct {
	server   streaming.Server
	tokens   tokens
	sessions *sessions
	listener *clientListener
	http     *http.Server
	done     chan struct{} // closed when the accept loop has ended
	cancel   context.CancelCauseFunc
}

// serveStreams listens first, so that the URLs carry the port that was given.
func serveStreams(opt Options) (*streams, error) {
	address := cmp.Or(opt.StreamAddress, defaultStreamAddress)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for exec, attach and port-forward; change the streaming address %q: %w", address, err)
	}
	open := newSessions()
	server, err := newStreamingServer(opt, urlHost(address, l.Addr()), open)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make streaming server: %w", err), l.Close())
	}
	hangups, err := newHangups()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	clients := &clientListener{Listener: l, hangups: hangups}
	s := &streams{server: server, sessions: open, listener: clients, done: make(chan struct{}), cancel: cancel}
	s.http = &http.Server{ //nolint:gosec // guard sets its timeouts
		Handler:     server,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: clients.bind,
		TLSConfig:   opt.StreamTLS,
	}
	guard(s.http)
	serve := func() error { return s.http.Serve(clients) }
	if opt.StreamTLS != nil {
		serve = func() error { return s.http.ServeTLS(clients, "", "") }
	}
	go func() {
		defer close(s.done)
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "The streaming server ended; exec, attach and port-forward need a restart", "address", address)
		}
	}()
	return s, nil
}

// newStreamingServer makes the library's server for URLs at address.
func newStreamingServer(opt Options, address string, open *sessions) (streaming.Server, error) {
	cfg := streaming.DefaultConfig
	cfg.BaseURL = &url.URL{Scheme: "http", Host: address}
	if opt.StreamTLS != nil {
		cfg.BaseURL.Scheme = "https"
	}
	cfg.StreamIdleTimeout = cmp.Or(opt.StreamIdleTimeout, cfg.StreamIdleTimeout)
	server, err := streaming.NewServer(cfg, streamRuntime{opt.Domain, open})
	if err != nil {
		return nil, err
	}
	return &streamFront{Server: server, idle: cfg.StreamIdleTimeout, wanted: map[string]wanted{}}, nil
}

// urlHost is the host:port of URLs: a name stays the name that was configured, since a
// certificate may have that alone.
func urlHost(configured string, at net.Addr) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, atErr := net.SplitHostPort(at.String())
	if err != nil || atErr != nil || host == "" || net.ParseIP(host) != nil {
		return at.String()
	}
	return net.JoinHostPort(host, port)
}

// close ends every stream, and returns when the clients were told: those upgraded from
// HTTP are no longer known to the http.Server, but their contexts descend from ours.
func (s *streams) close() error {
	s.cancel(inflight.ErrStopping)
	err := s.http.Close()
	<-s.done
	s.listener.settle()
	s.listener.hangups.close()
	if err != nil {
		return fmt.Errorf("close streaming server: %w", err)
	}
	return nil
}

// streamRuntime connects the streaming library to the domain.
type streamRuntime struct {
	domain Domain
	open   *sessions
}

//nolint:revive // argument-limit: the library's signature
func (r streamRuntime) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) (err error) {
	ctx, cancel := streamContext(ctx, "Exec", "container", id)
	defer cancel()
	defer r.open.begin("exec")()
	defer func() { err = streamEnd(ctx, recover(), err) }()
	code, err := r.domain.Exec(ctx, id, cmd, sandbox.Streams{
		Stdin: in, Stdout: out, Stderr: errOut, TTY: tty, Resize: sizes(ctx, resize),
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// Attach follows the container where the request asks for less: whether it has a
// terminal and an input was settled when it was created. A request for a terminal
// that is not there was refused before.
//
//nolint:revive // argument-limit: the library's signature
func (r streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) (err error) {
	ctx, cancel := streamContext(ctx, "Attach", "container", id)
	defer cancel()
	defer r.open.begin("attach")()
	defer func() { err = streamEnd(ctx, recover(), err) }()
	c, err := r.domain.Container(id)
	if err != nil {
		return err
	}
	st := sandbox.Streams{Stdout: out, TTY: c.Config.GetTty(), Resize: sizes(ctx, resize)}
	if c.Config.GetStdin() {
		st.Stdin = in
	}
	if !st.TTY {
		st.Stderr = errOut
	}
	if err := r.domain.Attach(ctx, id, st); err != nil {
		return err
	}
	return ctx.Err() // the container goes on when the daemon stops
}

func (r streamRuntime) PortForward(ctx context.Context, podID string, port int32, stream io.ReadWriteCloser) (err error) {
	client, ctx := newForwarded(ctx, stream)
	defer client.end()
	ctx, cancel := streamContext(ctx, "PortForward", "pod", podID)
	defer cancel()
	defer r.open.begin("portforward")()
	defer func() { err = streamEnd(ctx, recover(), err) }()
	err = r.domain.PortForward(ctx, podID, port, client)
	if ofConnection(err) {
		// A client ends its whole session at anything on an error stream, so the
		// log has to tell.
		klog.FromContext(ctx).Info("Forwarded connection refused", "port", port, "reason", err.Error())
		return nil
	}
	return err
}

func streamContext(ctx context.Context, what string, keys ...any) (context.Context, context.CancelFunc) {
	logger := klog.LoggerWithValues(klog.FromContext(ctx), append([]any{"stream", what}, keys...)...)
	return context.WithCancel(klog.NewContext(ctx, logger))
}

// streamEnd logs how a stream ended and keeps a panic from taking the daemon
// along: some of these run on goroutines of the library.
func streamEnd(ctx context.Context, p any, err error) error {
	if p != nil {
		err = inflight.Panicked(ctx, p)
	}
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), inflight.ErrStopping) {
		err = fmt.Errorf("%w: %w", inflight.ErrStopping, err)
	}
	var exit utilexec.ExitError
	if err != nil && !errors.As(err, &exit) {
		klog.FromContext(ctx).V(2).Info("Stream ended", "reason", err.Error())
	}
	return err
}

// sizes translates until the client closes its end or ctx is done.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan sandbox.Size {
	if in == nil {
		return nil
	}
	out := make(chan sandbox.Size)
	go func() {
		defer close(out)
		for {
			var size remotecommand.TerminalSize
			var ok bool
			select {
			case size, ok = <-in:
			case <-ctx.Done():
			}
			if !ok {
				return
			}
			select {
			case out <- sandbox.Size{Width: size.Width, Height: size.Height}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
