package image

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestDamagedLayer has a layer's bytes come damaged, once and for good.
func TestDamagedLayer(t *testing.T) {
	var asked, damaged atomic.Int64
	var path atomic.Value
	path.Store("none")
	reg := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, path.Load().(string)) || asked.Add(1) > damaged.Load() {
				h.ServeHTTP(w, r)
				return
			}
			sent := httptest.NewRecorder()
			h.ServeHTTP(sent, r)
			b := sent.Body.Bytes()
			b[len(b)/2] ^= 0xff
			w.Write(b)
		})
	})
	l := layerOf(t, layerTar(t, entry{"f", strings.Repeat("content", 10_000)}))
	ref := reg.push(t, "a", imageOf(t, l))
	d, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	path.Store("/blobs/" + d.String())
	s := openStore(t, Options{})
	damaged.Store(1000)
	_, err = s.Pull(t.Context(), PullRequest{Reference: ref})
	if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrRegistryUnavailable) || asked.Load() != 2 {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
	s.bg.running.Wait() // for the removal of what was damaged
	if left := layerDirs(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	asked.Store(0)
	damaged.Store(1)
	pullOK(t, s, ref)
	s.bg.running.Wait()
	if n := len(layerDirs(t, s)); n != 1 || asked.Load() != 2 {
		t.Errorf("%d layers after %d requests", n, asked.Load())
	}
}

// TestHeadFails pulls an image that is here already from a registry that answers HEAD
// with an error.
func TestHeadFails(t *testing.T) {
	var code atomic.Int64
	reg := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c := int(code.Load()); c != 0 && r.Method == http.MethodHead {
				w.WriteHeader(c)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	ref := reg.push(t, "a", sampleImage(t))
	s := openStore(t, Options{})
	img := pullOK(t, s, ref)
	for _, c := range []int64{400, 403, 500} {
		code.Store(c)
		if again := pullOK(t, s, ref); again.ID != img.ID {
			t.Errorf("%d: another image", c)
		}
	}
}
