package shims

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"berth/oci/shimapi"
)

// TestHandoverFiles: what is kept is closed exactly when it is dropped.
func TestHandoverFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	unnamed, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unnamed.Close()
	state := shimapi.HandoverState{ID: "c", Pod: "p", Files: []string{shimapi.FileStdin}}
	all := handovers{"c": newHandover(nil, state, []*os.File{w, other})}
	if _, err := unnamed.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a file without a name is kept: %v", err)
	}
	if err := r.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the pipe is not kept: %v", err)
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	all.drop("another")
	all.dropAll()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || len(all) != 0 {
		t.Errorf("after dropAll %d are kept, read %v", len(all), err)
	}
}

// TestFailureIsExplained: a caller learns whether the shim is gone or its own context ended.
func TestFailureIsExplained(t *testing.T) {
	dead := make(chan struct{})
	close(dead)
	set := &Set{}
	set.ctx = t.Context()
	sh := set.newShim("s")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(ErrStuck)
	for name, c := range map[string]struct {
		ctx  context.Context
		gone chan struct{}
		want error
	}{
		"dead shim":     {t.Context(), dead, ErrGone},
		"no socket":     {t.Context(), make(chan struct{}), os.ErrNotExist},
		"context's end": {ended, make(chan struct{}), ErrStuck},
		"both, the ctx": {ended, dead, ErrStuck},
	} {
		p := &process{shim: sh, gone: c.gone, decided: make(chan struct{})}
		call := p.dial(c.ctx)
		call.WriteRequest(shimapi.MethodHello, struct{}{})
		first := call.failure(c.ctx)
		if err := call.answer(c.ctx, nil); !errors.Is(err, c.want) || err != first { //nolint:errorlint // the same one
			t.Errorf("%s: %v, then %v, want %v", name, first, err, c.want)
		}
	}
}
