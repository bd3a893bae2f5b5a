package cri

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"path"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// What clients speak over WebSocket and the library does not know. Both are what the
// API server takes from kubectl and turns into SPDY; crictl speaks them to a runtime.
const (
	// commandProtocol is of exec and attach: a channel for each stream, and a message
	// that says that the client's input has ended.
	commandProtocol = "v5.channel.k8s.io"
	// tunnelProtocol is of port-forward: the bytes of a SPDY connection.
	tunnelProtocol = "SPDY/3.1+" + portforward.ProtocolV1Name
	// lastWrite bounds the goodbye to a client that takes nothing any more.
	lastWrite = time.Second
)

// streamFront is the library's server with the two protocols it does not know, which
// it gets as SPDY. It sees the token first: nothing is upgraded without one.
type streamFront struct {
	streaming.Server
	idle time.Duration // of a WebSocket

	mu     sync.Mutex
	wanted map[string]wanted // by token, until its first use or the end of its life
}

// wanted are the streams of a token's request. A client of a WebSocket does not say them
// again, and the library keeps them to itself.
type wanted struct {
	streams map[string]bool
	given   time.Time
}

// GetExec implements [streaming.Server].
func (f *streamFront) GetExec(r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	resp, err := f.Server.GetExec(r)
	if err == nil {
		f.want(resp.GetUrl(), r)
	}
	return resp, err
}

// GetAttach implements [streaming.Server].
func (f *streamFront) GetAttach(r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	resp, err := f.Server.GetAttach(r)
	if err == nil {
		f.want(resp.GetUrl(), r)
	}
	return resp, err
}

func (f *streamFront) want(address string, r interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(f.wanted, func(_ string, w wanted) bool { return now.Sub(w.given) > tokenLife })
	f.wanted[path.Base(address)] = wanted{given: now, streams: map[string]bool{
		remotecommand.StreamTypeStdin: r.GetStdin(), remotecommand.StreamTypeStdout: r.GetStdout(),
		remotecommand.StreamTypeStderr: r.GetStderr(), remotecommand.StreamTypeResize: r.GetTty(),
		remotecommand.StreamTypeError: true,
	}}
}

// take returns the streams of the request's token, which is used up by it.
func (f *streamFront) take(r *http.Request) map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	token := path.Base(r.URL.Path)
	w := f.wanted[token]
	delete(f.wanted, token)
	return w.streams
}

// ServeHTTP implements [http.Handler].
func (f *streamFront) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer closesWithContext(r)()
	streams := f.take(r)
	switch {
	case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
		hijack := func() (net.Conn, error) { return f.join(w, r, streams) }
		f.Server.ServeHTTP(&spdyUpgrade{w, hijack}, asSPDY(r, remotecommand.StreamProtocolV4Name))
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		hijack := func() (net.Conn, error) { return openTunnel(w, r) }
		f.Server.ServeHTTP(&spdyUpgrade{w, hijack}, asSPDY(r, portforward.ProtocolV1Name))
	default:
		f.Server.ServeHTTP(w, r)
	}
}

// asSPDY is the request that a SPDY client had sent.
func asSPDY(r *http.Request, protocol string) *http.Request {
	c := r.Clone(r.Context())
	c.Method = http.MethodPost
	c.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	c.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	c.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	return c
}

// spdyUpgrade lets the library have a SPDY connection where the client gets a WebSocket.
type spdyUpgrade struct {
	http.ResponseWriter
	hijack func() (net.Conn, error)
}

// WriteHeader implements [http.ResponseWriter]; hijack answers an upgrade itself.
func (u *spdyUpgrade) WriteHeader(code int) {
	if code != http.StatusSwitchingProtocols {
		u.ResponseWriter.WriteHeader(code)
	}
}

// Hijack implements [http.Hijacker].
func (u *spdyUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, err := u.hijack()
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)), nil
}

// channel is one of a WebSocket for exec and attach, by its number.
type channel struct {
	stream string // of SPDY
	kind   wsstream.ChannelType
}

var channels = []channel{
	{remotecommand.StreamTypeStdin, wsstream.ReadChannel},
	{remotecommand.StreamTypeStdout, wsstream.WriteChannel},
	{remotecommand.StreamTypeStderr, wsstream.WriteChannel},
	{remotecommand.StreamTypeError, wsstream.WriteChannel},
	{remotecommand.StreamTypeResize, wsstream.ReadChannel},
}

// join upgrades to a WebSocket of channels and returns the end of a SPDY connection
// whose streams they are.
func (f *streamFront) join(w http.ResponseWriter, r *http.Request, streams map[string]bool) (net.Conn, error) {
	config := wsstream.ChannelProtocolConfig{Binary: true}
	for _, c := range channels {
		if !streams[c.stream] {
			c.kind = wsstream.IgnoreChannel
		}
		config.Channels = append(config.Channels, c.kind)
	}
	ws := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{commandProtocol: config})
	ws.SetIdleTimeout(f.idle)
	_, ends, err := ws.Open(w, r)
	if err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		defer func() { _ = ws.Close() }() // the client may be gone
		if err := copyStreams(near, config.Channels, ends); err != nil {
			klog.FromContext(r.Context()).V(2).Info("WebSocket not joined", "reason", err.Error())
		}
	}()
	return far, nil
}

// copyStreams opens a SPDY stream for every channel and copies until the streams that
// go to the client have ended.
func copyStreams(near net.Conn, kinds []wsstream.ChannelType, ends []io.ReadWriteCloser) error {
	conn, err := spdy.NewClientConnection(near)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // both ends are ours
	var out sync.WaitGroup
	defer out.Wait()
	for i, kind := range kinds {
		if kind == wsstream.IgnoreChannel {
			continue
		}
		h := http.Header{}
		h.Set(remotecommand.StreamType, channels[i].stream)
		stream, err := conn.CreateStream(h)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		if kind == wsstream.ReadChannel {
			go func() {
				_, _ = io.Copy(stream, ends[i])
				_ = stream.Close() // the other end may be gone
			}()
			continue
		}
		out.Go(func() {
			_, _ = io.Copy(ends[i], stream)
			_, _ = io.Copy(io.Discard, stream) // a stream that is not read stops the others
		})
	}
	return nil
}

// openTunnel upgrades to a WebSocket whose messages are the bytes of a connection.
func openTunnel(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	opened, ended := make(chan *tunnel, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	server := websocket.Server{
		Handshake: func(c *websocket.Config, _ *http.Request) error {
			c.Protocol = []string{tunnelProtocol}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.PayloadType = websocket.BinaryFrame
			t := &tunnel{Conn: ws, cancel: cancel, peer: ws.RemoteAddr()}
			if c, ok := r.Context().Value(clientKey{}).(*clientConn); ok {
				t.peer = c.RemoteAddr()
			}
			opened <- t
			<-ctx.Done() // the server closes the connection when this returns
		},
	}
	go func() {
		defer close(ended)
		defer cancel()
		server.ServeHTTP(w, r)
	}()
	select {
	case t := <-opened:
		return t, nil
	case <-ended:
		return nil, errors.New("the WebSocket was not opened")
	}
}

// tunnel is a connection inside a WebSocket.
type tunnel struct {
	*websocket.Conn
	cancel context.CancelFunc
	peer   net.Addr
}

// RemoteAddr implements [net.Conn]; see clientConn.
func (t *tunnel) RemoteAddr() net.Addr { return t.peer }

// Close implements [net.Conn].
func (t *tunnel) Close() error {
	defer t.cancel()
	_ = t.SetWriteDeadline(time.Now().Add(lastWrite)) // else it waits for a write that waits for the client
	return t.Conn.Close()
}
