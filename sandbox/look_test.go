package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"berth/sandbox/record"
)

// A path that blocks whoever opens it is given up with an error that names it, keeps
// one call at most, and works again when it answers.
func TestLookIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	var l looks
	ended := make(chan struct{})
	open := func() (int, error) { // blocks until there is a writer
		f, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer close(ended)
		return 1, f.Close()
	}
	stop := errors.New("the pod is being stopped")
	for _, try := range []func() (int, error){open, func() (int, error) {
		t.Error("a second call on a path that does not answer")
		return 0, nil
	}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
		if _, err := lookAt(ctx, &l, path, try); !errors.Is(err, stop) || !strings.Contains(err.Error(), path) {
			t.Errorf("given up: %v", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // it answers
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	<-ended
	if got, err := lookAt(t.Context(), &l, path, func() (int, error) { return 7, nil }); got != 7 || err != nil {
		t.Errorf("after it answered: %d, %v", got, err)
	}
}

// Whoever asks a pod to stop ends the creation of a container that is under way.
func TestStopEndsACreation(t *testing.T) {
	s := newSandbox("", podRecord{Pod: record.Pod{ID: "pod", Intent: record.Making}})
	ctx, made := s.making(t.Context())
	s.beginStop()
	if err := context.Cause(ctx); !errors.Is(err, ErrState) {
		t.Errorf("the creation ended with %v", err)
	}
	made()
	s.beginStop() // nothing is under way
}
