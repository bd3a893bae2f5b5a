package traces

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

const (
	// perMillion is what the rate counts of.
	perMillion = 1e6
	// complainEvery is how often at most the log says that spans can't be delivered.
	complainEvery = time.Minute
	// FlushTimeout bounds the last delivery, at the daemon's end.
	FlushTimeout = 2 * time.Second
)

// Exporter sends spans to one collector.
type Exporter struct {
	provider *sdktrace.TracerProvider
}

// Open makes an exporter for the collector at endpoint, which is an URL: http:// for gRPC
// without TLS, https:// for gRPC with TLS by the machine's CA certificates, or unix:///PATH.
// Of calls whose client has no opinion it records rate in a million. It does not wait for
// the collector, which may come later.
func Open(ctx context.Context, endpoint, version string, rate int) (*Exporter, error) {
	where := []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(endpoint)}
	if u, err := url.Parse(endpoint); err != nil {
		return nil, err
	} else if u.Scheme == "unix" {
		where = []otlptracegrpc.Option{otlptracegrpc.WithEndpoint("unix://" + u.Path), otlptracegrpc.WithInsecure()}
	}
	exporter, err := otlptracegrpc.New(ctx, where...)
	if err != nil {
		return nil, fmt.Errorf("exporter of traces: %w", err)
	}
	otel.SetErrorHandler(&complaints{}) // the library has no other way to tell
	host, _ := os.Hostname()            // its lack is no reason to have no traces
	return &Exporter{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(rate)/perMillion))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "berthd"),
			attribute.String("service.version", version),
			attribute.String("host.name", host),
		)),
	)}, nil
}

// ServerOption makes a gRPC server begin a span for each call, below its client's. Of the
// messages it records nothing.
func (e *Exporter) ServerOption() grpc.ServerOption {
	return grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(e.provider),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
	))
}

// Close delivers what waits, for a moment, and ends the exporter.
func (e *Exporter) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, FlushTimeout)
	defer cancel()
	return e.provider.Shutdown(ctx)
}

// complaints logs that spans can't be delivered, but not every time.
type complaints struct {
	mu   sync.Mutex
	last time.Time
}

// Handle implements [otel.ErrorHandler].
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.last) >= complainEvery {
		c.last = now
		klog.ErrorS(err, "Traces are not delivered")
	}
}
