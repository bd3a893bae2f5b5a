package collector

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	service "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Collector has the spans that it was sent.
type Collector struct {
	service.UnimplementedTraceServiceServer
	// Endpoint is where it listens, as trace_endpoint has it.
	Endpoint string

	mu    sync.Mutex
	spans []*otlp.Span
	bytes []byte // of all requests
}

// Start serves until the test ends.
func Start(t *testing.T) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Endpoint: "http://" + l.Addr().String()}
	server := grpc.NewServer()
	service.RegisterTraceServiceServer(server, c)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return c
}

// Export implements [service.TraceServiceServer].
func (c *Collector) Export(_ context.Context, r *service.ExportTraceServiceRequest) (*service.ExportTraceServiceResponse, error) {
	data, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes = append(c.bytes, data...)
	for _, of := range r.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return &service.ExportTraceServiceResponse{}, nil
}

// Bytes is all that was sent.
func (c *Collector) Bytes() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.bytes)
}

// Count is how many spans of a name were sent, of all traces.
func (c *Collector) Count(name string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.GetName() == name {
			n++
		}
	}
	return n
}

// Spans are those of a trace, which is named in hexadecimal, in the order of their
// beginning.
func (c *Collector) Spans(trace string) (out []*otlp.Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if hex.EncodeToString(s.GetTraceId()) == trace {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b *otlp.Span) int {
		return int(int64(a.GetStartTimeUnixNano()) - int64(b.GetStartTimeUnixNano()))
	})
	return out
}

// Tree lists the spans of a trace, a line each, indented below their parents. The first
// level is that of the client's own span, which was not sent.
func (c *Collector) Tree(trace, client string) string {
	spans := c.Spans(trace)
	var b strings.Builder
	var below func(parent, indent string)
	below = func(parent, indent string) {
		for _, s := range spans {
			if hex.EncodeToString(s.GetParentSpanId()) != parent {
				continue
			}
			b.WriteString(indent + s.GetName() + "\n")
			below(hex.EncodeToString(s.GetSpanId()), indent+"  ")
		}
	}
	below(client, "")
	return b.String()
}
