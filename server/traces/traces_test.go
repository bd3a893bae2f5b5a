package traces

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"berth/oci/tracing"
	"berth/test/collector"
)

const (
	trace  = "0123456789abcdef0123456789abcdef"
	parent = "0123456789abcdef"
)

// served gives a client of a server whose calls e traces.
func served(t *testing.T, e *Exporter, step func(context.Context)) healthpb.HealthClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	within := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		step(ctx)
		return h(ctx, req)
	}
	server := grpc.NewServer(e.ServerOption(), grpc.ChainUnaryInterceptor(within))
	healthpb.RegisterHealthServer(server, health.NewServer())
	go server.Serve(l)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return healthpb.NewHealthClient(conn)
}

func call(t *testing.T, client healthpb.HealthClient, traceparent string) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", traceparent)
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
}

// A client that traces gets its call and the steps of it; one that does not, or says not
// to, is traced at the configured rate alone.
func TestTraceIsContinued(t *testing.T) {
	for _, rate := range []int{0, perMillion} {
		c := collector.Start(t)
		e, err := Open(t.Context(), c.Endpoint, "1.2.3", rate)
		if err != nil {
			t.Fatal(err)
		}
		client := served(t, e, func(ctx context.Context) {
			_, end := tracing.Begin(ctx, "step")
			end(nil)
		})
		call(t, client, "00-"+trace+"-"+parent+"-01")
		call(t, client, "00-1"+trace[1:]+"-"+parent+"-00")
		if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := c.Tree(trace, parent), "grpc.health.v1.Health/Check\n  step\n"; got != want {
			t.Errorf("the client's trace has\n%s, want\n%s", got, want)
		}
		if got := c.Tree("1"+trace[1:], parent); got != "" {
			t.Errorf("a client that says not to trace has the trace\n%s", got)
		}
		if own := c.Count("grpc.health.v1.Health/Check") - 1; (own > 0) != (rate > 0) {
			t.Errorf("at %d in a million, %d calls without a trace are recorded", rate, own)
		}
		if !strings.Contains(c.Bytes(), "berthd") || !strings.Contains(c.Bytes(), "1.2.3") {
			t.Error("the spans do not say whose they are")
		}
	}
}

// A collector that is gone costs no call anything, and the daemon's end only a moment.
func TestCollectorIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it accepts in the backlog, and never answers
	e, err := Open(t.Context(), "http://"+l.Addr().String(), "1.2.3", perMillion)
	if err != nil {
		t.Fatal(err)
	}
	client := served(t, e, func(ctx context.Context) {
		for range 20 {
			_, end := tracing.Begin(ctx, "step")
			end(nil)
		}
	})
	began := time.Now()
	for range 500 { // 10,000 spans are more than the queue holds
		call(t, client, "00-"+trace+"-"+parent+"-01")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("500 calls took %s", took)
	}
	began = time.Now()
	_ = e.Close(t.Context()) // that not all was delivered
	if took := time.Since(began); took > FlushTimeout+2*time.Second {
		t.Errorf("the end took %s", took)
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(t.Context(), "http://[", "1.2.3", 0); err == nil {
		t.Error("an URL that is none is accepted")
	}
}
