package cri

import (
	"context"
	"crypto/tls"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cri/containerdview"
	"berth/cri/operator"
	"berth/sandbox"
	"berth/sandbox/inflight"
)

// Options is what a [Server] is built on. Images and Archive are usually the same
// *image.Store.
type Options struct {
	Domain  Domain
	Images  Images
	Archive Archive // nil: the operator service can't load, export or check
	// Calls are the mutating calls that run; the domain's own are among them. nil: none
	// are shared.
	Calls *inflight.Calls

	// NetworkReady is nil while pods can be networked, else the reason, which
	// becomes the NetworkReady condition's message. Must not block.
	NetworkReady func() error
	// SetPodCIDR is told the ranges that the kubelet has for the node's pods. May be nil.
	SetPodCIDR func(cidrs []string) error
	// Info gives what Status shows when asked to be verbose: a key per topic
	// ("config", "cniconfig"), each value encoded as JSON. May be nil.
	Info func() map[string]any

	// Shims gives the shims that serve, for the operator. May be nil.
	Shims func() []operator.Shim

	RuntimeName  string // "berth" when empty
	Version      string // of berth
	CgroupDriver runtimeapi.CgroupDriver
	// Features are what Status promises the kubelet of this host, Handlers what it promises
	// of each runtime handler now, the default "" among them; it must not block.
	Features *runtimeapi.RuntimeFeatures
	Handlers func() []*runtimeapi.RuntimeHandler

	StreamAddress     string        // host:port of Exec, Attach and PortForward; "127.0.0.1:0" when empty
	StreamTLS         *tls.Config   // the same over TLS alone; nil: without
	StreamIdleTimeout time.Duration // after which a silent stream is closed; 4 h when 0
	ReadyWait         time.Duration // how long a call waits for SetReady before it gets Unavailable

	// MaxMessage is the largest request that is taken, in bytes; 16 MiB when 0. Answers are
	// bounded by what the kubelet takes, see fit.go.
	MaxMessage int

	// Observe is told of every call that has ended: the method's name without its
	// service, the name of the gRPC code. It must not block. May be nil.
	Observe func(method, code string, took time.Duration)
}

// Server answers the CRI. Make it with [NewServer], put it on a grpc.Server
// with [Server.Register] and [Server.Interceptors].
type Server struct {
	opt     Options
	calls   *callStats
	streams *streams
	started time.Time

	readyOnce sync.Once
	ready     chan struct{} // closed once recovery is done
}

// NewServer opens the streaming port and serves it. The error is that the port
// can't be had.
func NewServer(opt Options) (*Server, error) {
	if opt.RuntimeName == "" {
		opt.RuntimeName = "berth"
	}
	if opt.Calls == nil {
		opt.Calls = inflight.New()
	}
	if opt.MaxMessage == 0 {
		opt.MaxMessage = 16 << 20
	}
	if opt.Observe == nil {
		opt.Observe = func(string, string, time.Duration) {}
	}
	if opt.NetworkReady == nil {
		opt.NetworkReady = func() error { return nil }
	}
	s := &Server{opt: opt, calls: newCallStats(), started: time.Now(), ready: make(chan struct{})}
	streams, err := serveStreams(opt)
	if err != nil {
		return nil, err
	}
	s.streams = streams
	return s, nil
}

// Register puts RuntimeService, ImageService and the operator service on g.
func (s *Server) Register(g *grpc.Server) {
	s.registerCRI(g)
	operator.Register(g, &backend{s})
}

func (s *Server) registerCRI(g *grpc.Server) {
	runtimeapi.RegisterRuntimeServiceServer(g, &runtimeService{Server: s})
	runtimeapi.RegisterImageServiceServer(g, &imageService{Server: s})
}

// RegisterAsContainerd puts on g what clients of containerd's socket may find there: the
// CRI, and what cAdvisor asks. The operator's calls are not for them.
func (s *Server) RegisterAsContainerd(g *grpc.Server) {
	s.registerCRI(g)
	s.RegisterContainerd(g)
}

// RegisterContainerd puts on g what the kubelet's cAdvisor asks of containerd.
func (s *Server) RegisterContainerd(g *grpc.Server) {
	image := func(c *sandbox.Subject) string { return strings.ToValidUTF8(s.imageName(c.Image, c.ImageID), "") }
	containerdview.Register(g, s.opt.Domain, image, s.opt.Version)
}

// SetReady lets calls through; until then they wait a little and get
// Unavailable, but for Version, Status and RuntimeConfig.
func (s *Server) SetReady() { s.readyOnce.Do(func() { close(s.ready) }) }

func (s *Server) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// Drain refuses new mutating calls and waits for those that run, detached from
// their clients as they are. When ctx ends first they are cancelled, and have a few
// seconds to undo what they had begun; the error names them.
func (s *Server) Drain(ctx context.Context) error { return s.opt.Calls.Drain(ctx) }

// Close ends the streaming server and every open stream. It does not wait for
// calls: see [Server.Drain].
func (s *Server) Close() error { return s.streams.close() }

// StreamAddress is the host:port the streaming server listens on.
func (s *Server) StreamAddress() string { return s.streams.listener.Addr().String() }

// Streams counts the open sessions of exec, attach and port-forward, by these names.
func (s *Server) Streams() map[string]int { return s.streams.sessions.snapshot() }

// Counters are the calls by full gRPC method name.
func (s *Server) Counters() map[string]RPCStats { return s.calls.snapshot() }

// runtimeService implements every method of RuntimeService itself; the embedded
// type only satisfies the generated interface.
type runtimeService struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	*Server
}

// imageService is the same for ImageService.
type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	*Server
}
