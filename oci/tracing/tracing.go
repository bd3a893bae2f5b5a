package tracing

import (
	"context"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope names the code that makes the spans.
const scope = "berth"

// maxError bounds the text of an error in a span, in bytes: it may quote a container.
const maxError = 512

// Active tells whether what is done under ctx is recorded.
func Active(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Begin starts a step of the call that ctx is of. The step ends with end, which is told
// how. attributes are names and values in turn, see the package's invariants.
func Begin(ctx context.Context, name string, attributes ...string) (step context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, unrecorded
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithAttributes(pairs(attributes)...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, shorten(err.Error()))
		}
		span.End()
	}
}

func unrecorded(error) {}

// Stage is a part of a step that was measured elsewhere.
type Stage struct {
	Name       string
	Begin, End time.Time
}

// Report makes spans of stages that have ended, below that of ctx.
func Report(ctx context.Context, stages []Stage, attributes ...string) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return
	}
	tracer := parent.TracerProvider().Tracer(scope)
	for _, s := range stages {
		_, span := tracer.Start(ctx, s.Name, trace.WithTimestamp(s.Begin), trace.WithAttributes(pairs(attributes)...))
		span.End(trace.WithTimestamp(s.End))
	}
}

// Note adds an attribute to the step that ctx is of.
func Note(ctx context.Context, name, value string) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String(name, valid(value)))
	}
}

// Carry gives ctx, which ends by itself, the step that from is of.
func Carry(ctx, from context.Context) context.Context {
	span := trace.SpanFromContext(from)
	if !span.IsRecording() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, span)
}

// Environ is env with what a program needs to go on with the trace, as the OpenTelemetry
// specification names it (Environment Variables as Context Propagation Carriers). env is
// not changed.
func Environ(ctx context.Context, env []string) []string {
	if !Active(ctx) {
		return env
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return append(env[:len(env):len(env)], "TRACEPARENT="+carrier.Get("traceparent"))
}

func pairs(list []string) []attribute.KeyValue {
	out := make([]attribute.KeyValue, 0, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		out = append(out, attribute.String(list[i], valid(list[i+1])))
	}
	return out
}

// valid is what a collector takes: a message with other text is refused as a whole.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

func shorten(s string) string {
	if len(s) > maxError {
		s = s[:maxError] + "…"
	}
	return valid(s)
}
