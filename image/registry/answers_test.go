package registry

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// cut sends the first half of the blob, promising all of it.
func cut(w http.ResponseWriter) {
	w.Header().Set("Content-Length", fmt.Sprint(len(blobData)))
	w.Write(blobData[:len(blobData)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// TestResumeRefused has a download break off on hosts that give no range, each in its
// own way: the blob is begun anew, and no range without an end is ever asked for.
func TestResumeRefused(t *testing.T) {
	for n, refuse := range map[string]func(http.ResponseWriter){
		"416": func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
		"400": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) },
		"no Content-Range": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusPartialContent)
			w.Write(blobData[len(blobData)/2:])
		},
		"another range": func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(blobData)-1, len(blobData)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(blobData)
		},
	} {
		t.Run(n, func(t *testing.T) {
			var asked atomic.Int64
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
				if asked.Add(1) == 1 {
					cut(w)
				}
				rng := r.Header.Get("Range")
				if strings.HasSuffix(rng, "-") {
					t.Errorf("asked for the range %q", rng)
				}
				if rng != "" {
					refuse(w)
				}
				return rng != ""
			})
			if err := readBlob(t, repo(t, client(t, fmt.Sprintf("server = %q", f.URL), nil), "busybox", nil)); err != nil {
				t.Fatal(err)
			}
			if n := asked.Load(); n != 3 {
				t.Errorf("%d requests, want the first, one with a range and one without", n)
			}
		})
	}
}

// TestBadEnd has connections end badly after the last byte of a blob, which is all that
// is needed of them.
func TestBadEnd(t *testing.T) {
	for n, end := range map[string]func(*http.Request){
		"aborted": func(*http.Request) { panic(http.ErrAbortHandler) },
		"never":   func(r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(n, func(t *testing.T) {
			f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
				w.(http.Flusher).Flush() // no length is promised, so the end has to be told
				w.Write(blobData)
				w.(http.Flusher).Flush()
				end(r)
				return true
			})
			c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
			c.opts.Timeout = 300 * time.Millisecond
			if err := readBlob(t, repo(t, c, "busybox", nil)); err != nil {
				t.Error(err)
			}
			if n := len(f.requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestHeadRefused has a registry that answers GET and not HEAD.
func TestHeadRefused(t *testing.T) {
	for _, code := range []int{400, 403, 405, 500, 503} {
		f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(code)
			}
			return r.Method == http.MethodHead
		})
		r := repo(t, client(t, fmt.Sprintf("server = %q", f.URL), nil), "busybox", nil)
		if m, err := r.Resolve(t.Context()); err != nil || m.Digest != "" {
			t.Errorf("%d: %v %v", code, m, err)
		}
		if n := len(f.requests()); n != 1 {
			t.Errorf("%d: asked %d times", code, n)
		}
	}
}

// TestTokenRenewed has a registry refuse a token it gave, before that is due to end, in
// each way registries do. It is renewed once.
func TestTokenRenewed(t *testing.T) {
	for _, code := range []int{400, 401, 403} {
		for _, again := range []bool{true, false} { // the fresh token is of use
			t.Run(fmt.Sprintf("%d %v", code, again), func(t *testing.T) {
				var given, revoked atomic.Int64
				auth := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
					fmt.Fprintf(w, `{"token":"t%d","expires_in":3600}`, given.Add(1))
					return true
				})
				reg := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
					var n int64
					if _, err := fmt.Sscanf(r.Header.Get("Authorization"), "Bearer t%d", &n); err != nil {
						w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, auth.URL))
						w.WriteHeader(http.StatusUnauthorized)
						return true
					}
					if n > revoked.Load() {
						return false
					}
					if code == http.StatusUnauthorized {
						w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, auth.URL))
					}
					w.WriteHeader(code)
					return true
				})
				c := client(t, fmt.Sprintf("server = %q", reg.URL), nil)
				r := repo(t, c, "busybox", nil)
				if _, err := r.Root(t.Context()); err != nil {
					t.Fatal(err)
				}
				revoked.Store(1)
				if !again {
					revoked.Store(1000)
				}
				// In this order: to a pull that the next one was quicker than, a token
				// that is refused right after it was given is a final answer.
				pulls := []*Repository{r, repo(t, c, "busybox", nil)}
				for i, n := range []string{"same pull", "next pull"} {
					before := given.Load()
					_, err := pulls[i].Root(t.Context())
					if (err == nil) != again {
						t.Errorf("%s: %v", n, err)
					}
					if errors.Is(err, ErrUnavailable) {
						t.Errorf("%s: the network is blamed: %v", n, err)
					}
					if more := given.Load() - before; more > 2 || !again && more == 0 {
						t.Errorf("%s: %d tokens were asked for", n, more)
					}
				}
				if again && given.Load() != 2 {
					t.Errorf("%d tokens were given, want one and a fresh one", given.Load())
				}
			})
		}
	}
}

// login is the page of a proxy that answers everything with 200.
func login(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Content-Type", "text/html")
	io.WriteString(w, "<html>Please sign in.</html>")
	return true
}

// TestMirrorAnswersAnything has mirrors that answer with success what they don't have.
func TestMirrorAnswersAnything(t *testing.T) {
	for n, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"page": login,
		"page without a length": func(w http.ResponseWriter, r *http.Request) bool {
			w.(http.Flusher).Flush()
			return login(w, r)
		},
		"error as success": func(w http.ResponseWriter, _ *http.Request) bool {
			io.WriteString(w, `{"errors":[{"code":"DENIED"}]}`)
			return true
		},
		"empty": func(http.ResponseWriter, *http.Request) bool { return true },
	} {
		t.Run(n, func(t *testing.T) {
			mirror, up := newFake(t, hook), newFake(t, nil)
			r := repo(t, client(t, fmt.Sprintf("server = %q\n[host.%q]\n", up.URL, mirror.URL), nil), "busybox", nil)
			if m, err := r.Root(t.Context()); err != nil || m.Digest != digest.FromBytes(manifest) {
				t.Errorf("tag: %v", err)
			}
			if _, err := r.Manifest(t.Context(), digest.FromBytes(manifest)); err != nil {
				t.Errorf("digest: %v", err)
			}
			b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: blobDigest, Size: int64(len(blobData))})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			b.Close()
			if err != nil || int64(len(got)) != int64(len(blobData)) {
				t.Fatalf("%d bytes: %v", len(got), err)
			}
			if bytes.Equal(got, blobData) {
				return
			}
			if !b.(*blob).Reject() {
				t.Fatal("the blob is given up")
			}
			if err := readBlob(t, r); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDamagedOnce has a registry's answers come damaged, once and for good.
func TestDamagedOnce(t *testing.T) {
	var asked atomic.Int64
	damaged := int64(1)
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
		if asked.Add(1) > damaged {
			return false
		}
		w.Write(bytes.Repeat([]byte("x"), len(manifest)))
		return true
	})
	r := repo(t, client(t, fmt.Sprintf("server = %q", f.URL), nil), "busybox", nil)
	if _, err := r.Manifest(t.Context(), digest.FromBytes(manifest)); err != nil {
		t.Error(err)
	}
	damaged = 100
	asked.Store(0)
	_, err := r.Manifest(t.Context(), digest.FromBytes(manifest))
	if !errors.Is(err, ErrRefused) || errors.Is(err, ErrUnavailable) || asked.Load() != 2 {
		t.Errorf("after %d requests: %v", asked.Load(), err)
	}
}

// TestReject asks each host for a blob once, and the last of them once more.
func TestReject(t *testing.T) {
	bad := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Write(bytes.Repeat([]byte("x"), len(blobData)))
		return true
	}
	a, b, up := newFake(t, bad), newFake(t, bad), newFake(t, bad)
	r := repo(t, client(t, fmt.Sprintf("server = %q\n[host.%q]\n[host.%q]\n", up.URL, a.URL, b.URL), nil), "busybox", nil)
	for n := 1; ; n++ {
		body, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: blobDigest, Size: int64(len(blobData))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Fatal(err)
		}
		body.Close()
		if !body.(*blob).Reject() || n > 10 {
			break
		}
	}
	if n := fmt.Sprint(len(a.requests()), len(b.requests()), len(up.requests())); n != "1 1 2" {
		t.Errorf("asked %s times", n)
	}
}

// TestBlame tells refusals from registries that can't be reached.
func TestBlame(t *testing.T) {
	for code, want := range map[int]error{
		400: ErrRefused, 401: ErrUnauthorized, 403: ErrUnauthorized, 404: ErrNotFound, 410: ErrRefused,
		429: ErrUnavailable, 451: ErrRefused, 500: ErrUnavailable, 503: ErrUnavailable,
	} {
		f := newFake(t, status(code))
		r := repo(t, client(t, fmt.Sprintf("server = %q\nprivate_redirects = [\"127.0.0.0/8\"]", f.URL), nil), "busybox", nil)
		_, rootErr := r.Root(t.Context())
		_, blobErr := r.Blob(t.Context(), ocispec.Descriptor{Digest: blobDigest, Size: 5})
		_, foreignErr := r.External(t.Context(), []string{f.URL})
		for _, err := range []error{rootErr, blobErr, foreignErr} {
			if !errors.Is(err, want) || code < 429 && errors.Is(err, ErrUnavailable) || code == 451 && errors.Is(err, ErrUnavailable) {
				t.Errorf("%d is told as %v", code, err)
			}
		}
	}
}

// TestEncodedManifest has a server compress what it was asked to send as it is.
func TestEncodedManifest(t *testing.T) {
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("asked for the encoding %q", got)
		}
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		z.Write(manifest)
		return z.Close() == nil
	})
	r := repo(t, client(t, fmt.Sprintf("server = %q", f.URL), nil), "busybox", nil)
	if m, err := r.Root(t.Context()); err != nil || m.Digest != digest.FromBytes(manifest) || !bytes.Equal(m.Raw, manifest) {
		t.Errorf("%+v: %v", m, err)
	}
}

// A registry sends a few kilobytes that inflate to gigabytes as a manifest; they are not
// inflated beyond the size a manifest may have.
func TestAttackInflatedManifest(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := io.CopyN(z, zeros{}, 1<<30); err != nil {
		t.Fatal(err)
	}
	z.Close()
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(bomb.Bytes())
		return true
	})
	r := repo(t, client(t, fmt.Sprintf("server = %q", f.URL), nil), "busybox", nil)
	if _, err := r.Root(t.Context()); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
	if n := len(f.requests()); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
