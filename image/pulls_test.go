package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/image/registry"
)

// callers is how many wait for the pull of a name.
func callers(p *pulls, name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, one := range p.byKey {
		if key == name {
			return one.refs
		}
	}
	return 0
}

func TestPullsShare(t *testing.T) {
	begun, gate := make(chan string, 10), make(chan struct{})
	want := &Image{ID: "sha256:1"}
	p := newPulls(newBackground(), newTrust(nil), func(_ context.Context, ref registry.Reference, _ *Auth, tell func(Progress)) (*Image, error) {
		begun <- ref.String()
		<-gate
		tell(Progress{Stage: StageDone})
		return want, nil
	})
	told, results := make(chan string, 10), make(chan *Image, 10)
	pull := func(ref, who string) {
		img, err := p.Pull(t.Context(), PullRequest{Reference: ref, Progress: func(pr Progress) { told <- who + " " + pr.Stage }})
		if err != nil {
			t.Error(err)
		}
		results <- img
	}
	go pull("reg.test/a:1", "first")
	<-begun
	go pull("reg.test/a:1", "second")
	go pull("reg.test/b:1", "other")
	if name := <-begun; name != "reg.test/b:1" {
		t.Errorf("%s was begun again, want one pull for all who ask for the same", name)
	}
	for callers(p, "reg.test/a:1") != 2 {
		time.Sleep(time.Millisecond)
	}
	close(gate)
	seen := map[string]bool{}
	for range 3 {
		if img := <-results; img != want {
			t.Errorf("a caller got %v", img)
		}
		seen[<-told] = true
	}
	if !seen["first done"] || !seen["second done"] || !seen["other done"] {
		t.Errorf("told: %v, want each caller", seen)
	}
	p.bg.stop()
	if len(p.byKey) != 0 {
		t.Errorf("left: %v", p.byKey)
	}
}

func TestPullsEndWithTheLastCaller(t *testing.T) {
	begun, ended := make(chan struct{}, 10), make(chan error, 10)
	p := newPulls(newBackground(), newTrust(nil), func(ctx context.Context, _ registry.Reference, _ *Auth, _ func(Progress)) (*Image, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	})
	pull := func(ctx context.Context, result chan<- error) {
		_, err := p.Pull(ctx, PullRequest{Reference: "reg.test/a:1"})
		result <- err
	}
	results := make(chan error, 10)
	first, giveUpFirst := context.WithCancelCause(t.Context())
	second, giveUpSecond := context.WithCancelCause(t.Context())
	go pull(first, results)
	<-begun
	go pull(second, results)
	for callers(p, "reg.test/a:1") != 2 {
		time.Sleep(time.Millisecond)
	}
	gone := errors.New("gone")
	giveUpFirst(gone)
	if err := <-results; !errors.Is(err, gone) {
		t.Errorf("the first caller got %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("the pull ended with %v while a caller was left", err)
	default:
	}
	last := errors.New("the last is gone")
	giveUpSecond(last)
	if err := <-ended; !errors.Is(err, last) {
		t.Errorf("the pull ended with %v, want the last caller's reason", err)
	}
	<-results
	go pull(t.Context(), results) // must not get the one that was given up
	<-begun
	p.bg.stop()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the next pull gave %v, want the store's end", err)
	}
}

func TestPullsRefuse(t *testing.T) {
	p := newPulls(newBackground(), newTrust(&TrustPolicy{Rules: []TrustRule{{Match: "reg.test/bad/*", Reject: true}}}), nil)
	for ref, want := range map[string]error{"reg.test/bad/x": ErrSignature, "reg.test/BAD": ErrInvalidReference} {
		if _, err := p.Pull(t.Context(), PullRequest{Reference: ref}); !errors.Is(err, want) {
			t.Errorf("%s gave %v, want %v", ref, err, want)
		}
	}
}

func TestPullFailureKind(t *testing.T) {
	ref, err := registry.Parse("reg.test/a:1")
	if err != nil {
		t.Fatal(err)
	}
	for cause, start := range map[error]string{
		fmt.Errorf("tried: %w", ErrRegistryUnavailable): ErrRegistryUnavailable.Error() + ": pull reg.test/a:1: ",
		refused(ref, "no"):                    ErrSignature.Error() + ": pull reg.test/a:1: ",
		fmt.Errorf("read: %w", ErrNotFound):   "pull reg.test/a:1: read: ",
		fmt.Errorf("write: %w", unix.ENOSPC):  "pull reg.test/a:1: " + ErrNoSpace.Error(),
		fmt.Errorf("x: %w", layer.ErrArchive): "pull reg.test/a:1: " + ErrCorrupt.Error(),
	} {
		if got := pullFailure(ref, cause); !strings.HasPrefix(got.Error(), start) || !errors.Is(got, cause) {
			t.Errorf("got %q, want it to start with %q", got, start)
		}
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
