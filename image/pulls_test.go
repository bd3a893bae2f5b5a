package image

import (
	"context"
	"errors"
	"testing"

	"berth/image/registry"
)

func TestPullsShare(t *testing.T) {
	bg := newBackground()
	p := newPulls(bg)
	begun, gate := make(chan struct{}, 10), make(chan struct{})
	want := &Image{ID: "sha256:1"}
	work := func(_ context.Context, tell func(Progress)) (*Image, error) {
		begun <- struct{}{}
		<-gate
		tell(Progress{Stage: StageDone})
		return want, nil
	}
	told := make(chan string, 10)
	first := p.join("k", func(pr Progress) { told <- "first " + pr.Stage }, work)
	<-begun
	second := p.join("k", func(pr Progress) { told <- "second " + pr.Stage }, work)
	other := p.join("other", nil, work)
	<-begun
	if first != second || first == other {
		t.Error("want one pull for the same key, another for another")
	}
	close(gate)
	for _, one := range []*pull{first, other} {
		if <-one.done; one.img != want || one.err != nil {
			t.Errorf("the pull gave %v, %v", one.img, one.err)
		}
	}
	if a, b := <-told, <-told; a != "first done" || b != "second done" {
		t.Errorf("told %q and %q, want both callers", a, b)
	}
	if again := p.join("k", nil, work); again == first {
		t.Error("a pull that has ended was joined")
	}
	bg.stop()
	if len(p.byKey) != 0 {
		t.Errorf("left: %v", p.byKey)
	}
}

func TestPullsEndWithTheLastCaller(t *testing.T) {
	bg := newBackground()
	p := newPulls(bg)
	ended := make(chan error, 2)
	work := func(ctx context.Context, _ func(Progress)) (*Image, error) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	}
	gone := errors.New("gone")
	one := p.join("k", nil, work)
	p.join("k", nil, work)
	p.leave(one, errors.New("one is left"))
	select {
	case err := <-ended:
		t.Errorf("it ended with %v while a caller was left", err)
	default:
	}
	p.leave(one, gone)
	next := p.join("k", nil, work) // before the old one has ended
	if next == one {
		t.Error("a pull that was given up was joined")
	}
	if err := <-ended; !errors.Is(err, gone) {
		t.Errorf("it ended with %v, want the last caller's reason", err)
	}
	bg.stop() // ends the next, which nobody left
	if <-next.done; !errors.Is(next.err, context.Canceled) {
		t.Errorf("the next ended with %v, want the store's end", next.err)
	}
}

func TestPullKey(t *testing.T) {
	ref, err := registry.Parse("reg.test/a")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, auth := range []*Auth{nil, {}, {Username: "a"}, {Password: "a"}, {Username: "a", Password: "b"}} {
		seen[pullKey(ref, auth)] = true
	}
	if len(seen) != 5 || !seen[pullKey(ref, &Auth{Username: "a"})] {
		t.Errorf("%d keys for 5 different credentials", len(seen))
	}
}
