package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// dripper sends the first byte of every layer of the repositories named drip*, and then
// nothing until the client goes away.
type dripper struct {
	h       http.Handler
	config  map[string]bool // digests that are sent whole
	dripped chan string     // digests, as they begin
}

func (d *dripper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	digest := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/v2/drip") || !strings.Contains(r.URL.Path, "/blobs/") || d.config[digest] {
		d.h.ServeHTTP(w, r)
		return
	}
	w.Write([]byte{0x1f})
	w.(http.Flusher).Flush()
	d.dripped <- digest
	<-r.Context().Done()
}

func newDripper(t *testing.T) (*testRegistry, *dripper) {
	d := &dripper{config: map[string]bool{}, dripped: make(chan string, 100)}
	return newRegistry(t, func(h http.Handler) http.Handler { d.h = h; return d }), d
}

// drip pushes an image whose layers never come.
func (d *dripper) push(t *testing.T, reg *testRegistry, name string, img v1.Image) string {
	t.Helper()
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	d.config[config.String()] = true
	return reg.push(t, name, img)
}

// begin pulls an image until its context ends.
func begin(t *testing.T, s *Store, ref string) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, PullRequest{Reference: ref})
		done <- err
	}()
	return func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func layersOf(t *testing.T, name string, n int) []v1.Layer {
	t.Helper()
	var out []v1.Layer
	for i := range n {
		out = append(out, layerOf(t, layerTar(t, entry{fmt.Sprint(name, i), name})))
	}
	return out
}

// TestAttackDripTakesAllSlots: images whose layers never come take every slot there is
// for downloads, so that no other image can be pulled.
func TestAttackDripTakesAllSlots(t *testing.T) {
	evil, d := newDripper(t)
	good := newRegistry(t, nil)
	elsewhere := good.push(t, "good", imageOf(t, layersOf(t, "good", 3)...))
	beside := evil.push(t, "beside", imageOf(t, layersOf(t, "beside", 3)...))
	var drips []string
	for i := range 3 {
		drips = append(drips, d.push(t, evil, fmt.Sprint("drip", i), imageOf(t, layersOf(t, fmt.Sprint("drip", i), 6)...)))
	}
	s := openStore(t, Options{MaxParallel: 2})
	s.staging.slots.patience = 20 * time.Millisecond
	for _, ref := range drips {
		defer begin(t, s, ref)()
	}
	for range drips { // both slots are taken, and each pull has at least one
		select {
		case <-d.dripped:
		case <-time.After(20 * time.Second):
			t.Fatal("a pull never got a slot")
		}
	}
	for _, ref := range []string{elsewhere, beside} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.Pull(ctx, PullRequest{Reference: ref}); err != nil {
			t.Errorf("beside layers that drip: %v", err)
		}
	}
}

// TestAttackDripSharedLayer: an image of one registry names the layers of another's
// images, and its registry never sends them; all who want them would wait for it.
func TestAttackDripSharedLayer(t *testing.T) {
	evil, d := newDripper(t)
	good := newRegistry(t, nil)
	img := imageOf(t, layersOf(t, "base", 2)...)
	ref, drip := good.push(t, "good", img), d.push(t, evil, "drip", img)
	s := openStore(t, Options{})
	end := begin(t, s, drip)
	<-d.dripped
	<-d.dripped
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Pull(ctx, PullRequest{Reference: ref}); err != nil {
		t.Errorf("beside one that drips its layers: %v", err)
	}
	end()
	s.bg.running.Wait()
	if left := layerDirs(t, s); len(left) != 2 {
		t.Errorf("on disk: %v", left)
	}
	if len(s.staging.stages) != 0 || s.staging.slots.held != 0 || len(s.staging.slots.byPull)+len(s.staging.slots.byRegistry) != 0 {
		t.Errorf("left: %v, %+v", s.staging.stages, s.staging.slots)
	}
}

// TestOwnAttemptFails: a pull whose own registry lacks a layer is told so, and does not
// wait for another registry that has it in the making.
func TestOwnAttemptFails(t *testing.T) {
	evil, d := newDripper(t)
	var missing string
	good := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, missing) && missing != "" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	layers := layersOf(t, "base", 1)
	img := imageOf(t, layers...)
	ref, drip := good.push(t, "good", img), d.push(t, evil, "drip", img)
	l, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	missing = l.String()
	s := openStore(t, Options{})
	defer begin(t, s, drip)()
	<-d.dripped
	if _, err := s.Pull(t.Context(), PullRequest{Reference: ref}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// TestSlots: a free slot goes to the registry, and of it to the pull, that has the
// fewest; a pull without one gets one of its own in time, up to a bound.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2)
		ctx, cancel := context.WithCancel(t.Context())
		a, b, c := &ingest{}, &ingest{}, &ingest{}
		start := func(p *ingest, registry string) *turn {
			turn := newTurn(origin{pull: p, registry: registry})
			go s.take(ctx, &turn)
			synctest.Wait()
			return &turn
		}
		has := func(turns ...*turn) (out string) {
			for _, t := range turns {
				select {
				case <-t.ready:
					out += "x"
				default:
					out += "-"
				}
			}
			return out
		}
		a1, a2, a3 := start(a, "one"), start(a, "one"), start(a, "one")
		b1, c1 := start(b, "one"), start(c, "two")
		if got := has(a1, a2, a3, b1, c1); got != "xx---" {
			t.Errorf("at first: %s", got)
		}
		s.give(a1)
		if got := has(a3, b1, c1); got != "--x" {
			t.Errorf("another registry's turn: %s", got)
		}
		s.give(c1)
		if got := has(a3, b1); got != "-x" {
			t.Errorf("the turn of the registry's pull that has none: %s", got)
		}
		more := &ingest{}
		m1, m2 := start(more, "three"), start(more, "three")
		time.Sleep(slotPatience)
		synctest.Wait()
		if got := has(m1, m2); got != "x-" && got != "-x" {
			t.Errorf("a pull without a slot after a while: %s", got)
		}
		var crowd []*turn
		for range 30 {
			crowd = append(crowd, start(&ingest{}, "four"))
		}
		time.Sleep(2 * slotPatience)
		synctest.Wait()
		if got := strings.Count(has(crowd...), "x"); got > s.size+maxExtra/2 || got < maxExtra/2 {
			t.Errorf("one registry has %d slots", got)
		}
		cancel()
		synctest.Wait()
		if len(s.queue) != 0 {
			t.Errorf("%d are still waiting", len(s.queue))
		}
	})
}
