package tracing

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// recorded runs do below a span and gives the spans that ended, that one last.
func recorded(t *testing.T, do func(context.Context)) []sdktrace.ReadOnlySpan {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	ctx, call := provider.Tracer("test").Start(t.Context(), "call")
	do(ctx)
	call.End()
	return spans.Ended()
}

// What nobody traces costs no memory and no time to speak of.
func TestUntracedCostsNothing(t *testing.T) {
	ctx, env := t.Context(), []string{"A=b"}
	if n := testing.AllocsPerRun(100, func() {
		step, end := Begin(ctx, "step", "pod", "p1")
		end(nil)
		Report(step, nil, "pod", "p1")
		Note(step, "k", "v")
		Carry(step, ctx)
		Environ(step, env)
	}); n != 0 {
		t.Errorf("steps that are not traced allocate %v times", n)
	}
	if Active(ctx) {
		t.Error("a context without a span is active")
	}
}

func BenchmarkUntraced(b *testing.B) {
	ctx := b.Context()
	for b.Loop() {
		_, end := Begin(ctx, "step", "pod", "p1")
		end(nil)
	}
}

func TestSteps(t *testing.T) {
	began := time.Now().Add(-time.Second)
	var env, own []string
	spans := recorded(t, func(ctx context.Context) {
		step, end := Begin(ctx, "step", "pod", "p1", "bad", "a\xffb")
		Report(step, []Stage{{Name: "stage", Begin: began, End: began.Add(time.Millisecond)}})
		Note(step, "later", "x")
		own = []string{"A=b"}
		env = Environ(step, own)
		_, carried := Begin(Carry(t.Context(), step), "carried")
		carried(nil)
		end(errors.New(strings.Repeat("é", maxError)))
	})
	if len(spans) != 4 || spans[0].Name() != "stage" || spans[1].Name() != "carried" || spans[2].Name() != "step" {
		t.Fatalf("the spans are %v", spans)
	}
	stage, carried, step := spans[0], spans[1], spans[2]
	if stage.Parent().SpanID() != step.SpanContext().SpanID() || carried.Parent().SpanID() != step.SpanContext().SpanID() {
		t.Error("a stage, or what was carried, is not below its step")
	}
	if !stage.StartTime().Equal(began) || stage.EndTime().Sub(began) != time.Millisecond {
		t.Errorf("the stage is from %s to %s", stage.StartTime(), stage.EndTime())
	}
	var got []string
	for _, a := range step.Attributes() {
		got = append(got, string(a.Key)+"="+a.Value.AsString())
	}
	if want := []string{"pod=p1", "bad=a�b", "later=x"}; !slices.Equal(got, want) {
		t.Errorf("attributes %q, want %q", got, want)
	}
	if text := step.Status().Description; len(text) > maxError+10 || !strings.HasPrefix(text, "éé") {
		t.Errorf("the error is told in %d bytes: %.20s", len(text), text)
	}
	want := "TRACEPARENT=00-" + step.SpanContext().TraceID().String() + "-" + step.SpanContext().SpanID().String() + "-01"
	if len(env) != 2 || env[1] != want || len(own) != 1 {
		t.Errorf("a program's environment is %q, want %s added", env, want)
	}
}
