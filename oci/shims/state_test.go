package shims

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"berth/oci/shimapi"
	"berth/test/fewfiles"
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

// A stream for whose duplicate there is no descriptor is kept all the same.
func TestHandoverKeepsFilesWithoutDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	enough := fewfiles.Spare(t, 0)
	all := handovers{"c": newHandover(nil, shimapi.HandoverState{ID: "c", Files: []string{shimapi.FileStdin}}, []*os.File{w})}
	enough()
	fd, err := all["c"].streams[shimapi.FileStdin].duplicate()
	if err != nil {
		t.Fatalf("the stream is not kept: %v", err)
	}
	_ = os.NewFile(uintptr(fd), "copy").Close()
	all.dropAll()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after dropAll the stream is open: %v", err)
	}
}

// A shim that has left is told from one of which nothing was kept that could be handed over.
func TestNothingKept(t *testing.T) {
	sh := (&Set{}).newShim("s")
	if err := sh.nothingKept(); err != nil {
		t.Errorf("without pods: %v", err)
	}
	sh.pods["p"] = struct{}{}
	if sh.nothingKept() == nil {
		t.Error("with a pod: no error")
	}
	sh.leaving = true
	if err := sh.nothingKept(); err != nil {
		t.Errorf("of a shim that was told to leave: %v", err)
	}
}

// A shim that lacks descriptors for a state is asked for it again.
func TestAStateIsRequestedAgainAfterAShortage(t *testing.T) {
	set := &Set{}
	set.ctx, set.cancel = context.WithCancel(t.Context())
	defer set.tasks.Wait()
	defer set.cancel()
	sh := set.newShim("s")
	sh.dir = t.TempDir()
	p := &process{shim: sh, gone: make(chan struct{}), decided: make(chan struct{})}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(sh.dir, shimapi.SocketName)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	answers := []shimapi.Response{
		{Error: &shimapi.Error{Kind: shimapi.KindShortage, Message: "no descriptors"}},
		{Error: &shimapi.Error{Kind: shimapi.KindShortage, Message: "no descriptors"}},
		{Body: []byte(`{"id":"c","pod":"p"}`)},
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for _, r := range answers {
			conn, err := socket.AcceptUnix()
			if err != nil {
				return
			}
			var request shimapi.Request
			_, _ = shimapi.ReadFrame(conn, &request) // the answer does not depend on it
			_ = shimapi.WriteFrame(conn, r)
			_ = conn.Close()
		}
	}()
	p.requestState(t.Context(), "c")
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Fatal("the shim is not asked again")
	}
	for end := time.Now().Add(10 * time.Second); sh.Handovers() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the state is not kept")
		}
	}
}

// The states of all that a shim holds come in one call. What that call leaves out is requested by
// itself, and so is everything of a shim that does not know the call.
func TestStatesComeTogether(t *testing.T) {
	for name, c := range map[string]struct {
		together []string // what the call for all brings; nil: it is refused
		want     []string // the calls
	}{
		"all":       {[]string{"a", "b", "c"}, []string{shimapi.MethodHandoverStates}},
		"but one":   {[]string{"a", "c"}, []string{shimapi.MethodHandoverStates, "b"}},
		"a stray":   {[]string{"a", "x", "c"}, []string{shimapi.MethodHandoverStates, "b", "c"}},
		"old shims": {nil, []string{shimapi.MethodHandoverStates, "a", "b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := &Set{}
			set.ctx, set.cancel = context.WithCancel(t.Context())
			defer set.cancel()
			sh := set.newShim("s")
			sh.dir = t.TempDir()
			calls := serveStates(t, filepath.Join(sh.dir, shimapi.SocketName), c.together)
			p := &process{shim: sh, gone: make(chan struct{}), decided: make(chan struct{})}
			p.requestStates(t.Context(), []shimapi.Record{{ID: "a"}, {ID: "b", Pod: "a"}, {ID: "c", Pod: "a"}})
			got := calls()
			slices.Sort(got[1:]) // they are made side by side
			if !slices.Equal(got, c.want) {
				t.Errorf("calls %q, want %q", got, c.want)
			}
			if sh.Handovers() != 3 || sh.handover["b"] == nil {
				t.Errorf("%d states are kept, want those of a, b and c", sh.Handovers())
			}
		})
	}
}

// serveStates is a shim that gives states, several with the call for all. calls ends it and gives
// the methods, or IDs, that it was asked for.
func serveStates(t *testing.T, socket string, together []string) (calls func() []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			var request shimapi.Request
			_, _ = shimapi.ReadFrame(conn, &request) // what it lacks is seen in the calls
			var r shimapi.IDRequest
			_ = json.Unmarshal(request.Body, &r)
			got = append(got, cmp.Or(r.ID, request.Method))
			answers := []string{r.ID}
			if r.ID == "" {
				answers = append(slices.Clone(together), "")
			}
			for _, id := range answers {
				answer := shimapi.Response{Body: []byte(`{"id":"` + id + `"}`)}
				if id == "" {
					answer.Body = nil
				}
				if r.ID == "" && together == nil {
					answer.Error = &shimapi.Error{Kind: shimapi.KindInvalid, Message: "no such method"}
				}
				_ = shimapi.WriteFrame(conn, answer) // the client may have had enough
			}
			_ = conn.Close()
		}
	}()
	return func() []string {
		_ = l.Close()
		<-ended
		return got
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
