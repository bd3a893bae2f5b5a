package operator

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Backend does what the calls ask. Errors get their gRPC code from the server's
// interceptors. progress takes one line for a person to read; it never
// blocks and may be called from any goroutine.
type Backend interface {
	// Load takes a docker-archive or OCI archive and returns the images' names.
	Load(ctx context.Context, r io.Reader, progress func(string)) ([]string, error)
	// Export writes the images as one OCI archive.
	Export(ctx context.Context, refs []string, w io.Writer) error
	// Pull fetches an image and returns its ID.
	Pull(ctx context.Context, ref string, progress func(string)) (string, error)
	// Check compares the image store with what it should hold, and mends it when
	// asked to; the report is any JSON.
	Check(ctx context.Context, repair bool) (json.RawMessage, error)
	// Info describes the daemon.
	Info() Info
}

// Register puts the service on g.
func Register(g grpc.ServiceRegistrar, b Backend) { g.RegisterService(&desc, b) }

var desc = grpc.ServiceDesc{
	ServiceName: serviceName,
	HandlerType: (*Backend)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: methodCheck, Handler: unary(methodCheck, check)},
		{MethodName: methodInfo, Handler: unary(methodInfo, info)},
	},
	Streams: []grpc.StreamDesc{
		{StreamName: methodLoad, Handler: load, ClientStreams: true, ServerStreams: true},
		{StreamName: methodExport, Handler: export, ServerStreams: true},
		{StreamName: methodPull, Handler: pull, ServerStreams: true},
	},
}

// unary makes a grpc method handler of a typed function.
func unary[Req any, P interface {
	*Req
}](name string, f func(context.Context, Backend, P) (any, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := P(new(Req))
		if err := decode(req); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, req any) (any, error) { return f(ctx, srv.(Backend), req.(P)) }
		if intercept == nil {
			return handle(ctx, req)
		}
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceName + "/" + name}, handle)
	}
}

func check(ctx context.Context, b Backend, m *wrapperspb.StringValue) (any, error) {
	req, err := decodeRequest(m)
	if err != nil {
		return nil, err
	}
	report, err := b.Check(ctx, req.Repair)
	if err != nil {
		return nil, err
	}
	return wrapperspb.String(string(report)), nil
}

func info(_ context.Context, b Backend, _ *emptypb.Empty) (any, error) { return pack(b.Info()) }

func decodeRequest(m *wrapperspb.StringValue) (request, error) {
	var req request
	if err := unpack(m, &req); err != nil {
		return req, status.Error(codes.InvalidArgument, err.Error())
	}
	return req, nil
}

// receiveRequest reads the one request of a call that answers with a stream.
func receiveRequest(ss grpc.ServerStream) (request, error) {
	m := &wrapperspb.StringValue{}
	if err := ss.RecvMsg(m); err != nil {
		return request{}, err
	}
	req, err := decodeRequest(m)
	if err == nil && len(req.Refs) == 0 {
		err = status.Error(codes.InvalidArgument, "no image is named; give at least one reference")
	}
	return req, err
}

func load(srv any, ss grpc.ServerStream) error {
	r := &chunkReader{recv: func() ([]byte, error) {
		m := &wrapperspb.BytesValue{}
		err := ss.RecvMsg(m)
		return m.GetValue(), err
	}}
	return narrate(ss, func(tell func(string)) ([]string, error) {
		return srv.(Backend).Load(ss.Context(), r, tell)
	})
}

func pull(srv any, ss grpc.ServerStream) error {
	req, err := receiveRequest(ss)
	if err != nil {
		return err
	}
	return narrate(ss, func(tell func(string)) ([]string, error) {
		id, err := srv.(Backend).Pull(ss.Context(), req.Refs[0], tell)
		return []string{id}, err
	})
}

func export(srv any, ss grpc.ServerStream) error {
	req, err := receiveRequest(ss)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(chunkWriter{func(m *wrapperspb.BytesValue) error { return ss.SendMsg(m) }}, chunkSize)
	if err := srv.(Backend).Export(ss.Context(), req.Refs, w); err != nil {
		return err
	}
	return w.Flush()
}

// reporter sends progress without ever making the work wait for a client that
// reads slowly: lines that find the queue full are dropped.
type reporter struct {
	mu     sync.Mutex // guards closing lines against tell
	lines  chan string
	closed bool
	done   chan struct{}
}

func report(ss grpc.ServerStream) *reporter {
	r := &reporter{lines: make(chan string, 64), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for line := range r.lines {
			if m, err := pack(update{Progress: line}); err == nil {
				_ = ss.SendMsg(m) // a client that has gone ends the call by its context
			}
		}
	}()
	return r
}

func (r *reporter) tell(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	select {
	case r.lines <- line:
	default:
	}
}

// close waits until what is queued is sent: a stream has one sender at a time.
func (r *reporter) close() {
	r.mu.Lock()
	r.closed = true
	close(r.lines)
	r.mu.Unlock()
	<-r.done
}

// narrate sends the progress of work and then its result.
func narrate(ss grpc.ServerStream, work func(tell func(string)) ([]string, error)) error {
	images, err := func() ([]string, error) {
		r := report(ss)
		defer r.close()
		return work(r.tell)
	}()
	if err != nil {
		return err
	}
	m, err := pack(update{Done: true, Images: images})
	if err != nil {
		return err
	}
	return ss.SendMsg(m)
}
