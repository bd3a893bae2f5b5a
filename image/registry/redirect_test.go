package registry

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestRedirectsWithoutEnd has a registry redirect with a body that never ends: net/http reads
// up to 2 KiB of it before it follows. The redirect is followed all the same, once the body
// was silent, or slow, for too long.
func TestRedirectsWithoutEnd(t *testing.T) {
	bodies := map[string]func(http.ResponseWriter, *http.Request) bool{
		"silent": func(w http.ResponseWriter, r *http.Request) bool {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		},
		"a byte at a time": func(w http.ResponseWriter, r *http.Request) bool {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-r.Context().Done():
					tick.Stop()
					return true
				case <-tick.C:
					w.Write([]byte("0"))
					w.(http.Flusher).Flush()
				}
			}
		},
	}
	asks := map[string]func(context.Context, *testing.T, *fake, *Repository) error{
		"/manifests/": func(ctx context.Context, _ *testing.T, _ *fake, r *Repository) error {
			_, err := r.Root(ctx)
			return err
		},
		"/blobs/": func(_ context.Context, t *testing.T, _ *fake, r *Repository) error { return readBlob(t, r) },
		"/layer": func(ctx context.Context, _ *testing.T, f *fake, r *Repository) error {
			if _, err := r.Root(ctx); err != nil { // so that the registry's own address is known
				return err
			}
			b, err := r.External(ctx, []string{f.URL + "/layer"})
			if err != nil {
				return err
			}
			return b.Close()
		},
	}
	for path, ask := range asks {
		for n, body := range bodies {
			t.Run(fmt.Sprintf("%s %s", strings.Trim(path, "/"), n), func(t *testing.T) {
				redirected := 0
				f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
					switch {
					case r.URL.Query().Has("there"):
						if path == "/layer" {
							w.WriteHeader(http.StatusOK)
							return true
						}
						return false
					case strings.Contains(r.URL.Path, path):
						redirected++
						w.Header().Set("Location", r.URL.Path+"?there")
						w.Header().Set("Content-Length", "2000")
						w.WriteHeader(http.StatusFound)
						return body(w, r)
					}
					return false
				})
				r := plainly(t, f, "")
				r.client.opts.Timeout, r.client.opts.rateWindow, r.client.opts.minRate = 300*time.Millisecond, 100*time.Millisecond, 1<<20
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if err := ask(ctx, t, f, r); err != nil || redirected != 1 {
					t.Errorf("%d redirects, then %v; want one that is followed to a success", redirected, err)
				}
			})
		}
	}
}
