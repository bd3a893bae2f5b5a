package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

var (
	manifest   = []byte(`{"schemaVersion":2,"mediaType":"` + manifestType + `"}`)
	blobData   = bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	blobDigest = digest.FromBytes(blobData)
)

// fake is one host of a registry; what it is asked is kept.
type fake struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
	hook func(w http.ResponseWriter, r *http.Request) bool // true: answered
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.seen = append(f.seen, r.Clone(context.Background()))
	f.mu.Unlock()
	if f.hook != nil && f.hook(w, r) {
		return
	}
	switch {
	case strings.Contains(r.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
		w.Write(manifest)
	case strings.HasSuffix(r.URL.Path, "/blobs/"+blobDigest.String()):
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blobData))
	default:
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}`)
	}
}

func (f *fake) requests() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*http.Request(nil), f.seen...)
}

func newFake(t testing.TB, hook func(http.ResponseWriter, *http.Request) bool) *fake {
	t.Helper()
	f := &fake{hook: hook}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func status(code int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
}

// client reads hosts.toml for docker.io from the text given.
func client(t testing.TB, hosts string, files map[string]string) *Client {
	t.Helper()
	certs := t.TempDir()
	dir := filepath.Join(certs, "docker.io")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n, data := range files {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{CertsDirs: []string{filepath.Join(certs, "absent"), certs}, Backoff: time.Millisecond, Timeout: 2 * time.Second})
	t.Cleanup(c.Close)
	return c
}

func repo(t testing.TB, c *Client, name string, creds *Credentials) *Repository {
	t.Helper()
	ref, err := Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Repository(ref, creds)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func readBlob(t testing.TB, r *Repository) error {
	t.Helper()
	b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: blobDigest, Size: int64(len(blobData))})
	if err != nil {
		return err
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if err == nil && !bytes.Equal(got, blobData) {
		t.Errorf("blob of %d bytes differs", len(got))
	}
	return err
}

func TestMirrors(t *testing.T) {
	down, missing, good, up := newFake(t, status(503)), newFake(t, status(404)), newFake(t, nil), newFake(t, nil)
	c := client(t, fmt.Sprintf(`
server = %q
[host.%q]
  capabilities = ["pull", "resolve"]
[host.%q]
  capabilities = ["pull"]
[host.%q]
  [host.%q.header]
    x-key = ["a", "b"]
`, up.URL, down.URL, missing.URL, good.URL+"/sub", good.URL+"/sub"), nil)
	r := repo(t, c, "busybox:1", &Credentials{Username: "u", Password: "secret"})
	m, err := r.Root(t.Context())
	if err != nil || m.Digest != digest.FromBytes(manifest) {
		t.Fatal(err)
	}
	if err := readBlob(t, r); err != nil {
		t.Fatal(err)
	}
	if n := len(down.requests()); n != 4 {
		t.Errorf("a failing mirror was asked %d times, want twice for each of two requests", n)
	}
	for _, q := range missing.requests() {
		if strings.Contains(q.URL.Path, "manifests") {
			t.Error("a host without the capability resolve was asked for a tag")
		}
	}
	for _, q := range good.requests() {
		if q.URL.Query().Get("ns") != "docker.io" || !strings.HasPrefix(q.URL.Path, "/sub/v2/library/busybox/") {
			t.Errorf("request %s", q.URL)
		}
		if len(q.Header.Values("X-Key")) != 2 {
			t.Error("the header is missing")
		}
		if q.Header.Get("Authorization") != "" {
			t.Error("the mirror got the registry's credentials")
		}
	}
	if len(up.requests()) != 0 {
		t.Error("the server was asked though a mirror had it")
	}
}

func TestAllHostsNamed(t *testing.T) {
	a, b := newFake(t, status(503)), newFake(t, nil)
	b.hook = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true }
	c := client(t, fmt.Sprintf("server = %q\n[host.%q]\n[host.\"http://127.0.0.1:1\"]\n", b.URL, a.URL), nil)
	_, err := repo(t, c, "busybox", nil).Root(t.Context())
	if !errors.Is(err, ErrUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable") {
		t.Fatal(err)
	}
	for _, want := range []string{a.URL, b.URL, "127.0.0.1:1", "503", "500", "connection refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	b.hook = nil
	if _, err := repo(t, c, "busybox", nil).Document(t.Context(), digest.FromString("x")); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no such thing") {
		t.Error(err)
	}
}

func TestRetries(t *testing.T) {
	var n int
	f := newFake(t, nil)
	f.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		if n++; n == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		} else if n == 2 {
			w.WriteHeader(http.StatusBadGateway)
		}
		return n <= 2
	}
	c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
	if _, err := repo(t, c, "busybox", nil).Root(t.Context()); err != nil || n != 3 {
		t.Errorf("after %d requests: %v", n, err)
	}
	f.hook = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	if _, err := repo(t, c, "busybox", nil).Root(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "1h0m0s") {
		t.Errorf("a long Retry-After: %v", err)
	}
}

func TestTLS(t *testing.T) {
	f := &fake{}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
	for n, x := range map[string]struct {
		toml string
		ok   bool
	}{
		"ca":          {fmt.Sprintf("server = %q\nca = \"ca.pem\"", f.URL), true},
		"ca list":     {fmt.Sprintf("server = %q\nca = [\"ca.pem\"]", f.URL), true},
		"skip_verify": {fmt.Sprintf("server = %q\nskip_verify = true", f.URL), true},
		"neither":     {fmt.Sprintf("server = %q", f.URL), false},
	} {
		c := client(t, x.toml, map[string]string{"ca.pem": ca})
		if _, err := repo(t, c, "busybox", nil).Root(t.Context()); (err == nil) != x.ok {
			t.Errorf("%s: %v", n, err)
		}
	}
}

func TestHostsFile(t *testing.T) {
	c := client(t, `
server = "https://up.example"
capabilities = ["pull"]
unknown_key = 3
[host."https://b.example/v2"]
  dial_timeout = "5s"
[host."https://a.example/proxy/api"]
  override_path = true
  client = [["c.pem", "k.pem"]]
[host."localhost:5000"]
  client = "both.pem"
`, nil)
	hosts, err := loadHosts(c.opts.CertsDirs, "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range hosts {
		got = append(got, h.String()+h.api)
	}
	want := "https://b.example/v2 https://a.example/proxy/api https://localhost:5000/v2 https://up.example/v2"
	if strings.Join(got, " ") != want {
		t.Errorf("got %v", got)
	}
	if hosts[0].dial != 5*time.Second || !strings.HasSuffix(hosts[1].certs[0][1], "/docker.io/k.pem") || hosts[2].certs[0][0] != hosts[2].certs[0][1] || !hosts[2].mayHTTP || hosts[3].resolve {
		t.Errorf("%+v", hosts)
	}
	for _, bad := range []string{"server = ", `[host."ftp://x"]`, `[host."https://x"]` + "\ncapabilities = [\"fly\"]", `[host."https://x"]` + "\nca = \"absent.pem\"", `[host."https://x"]` + "\ndial_timeout = \"soon\""} {
		c := client(t, bad, nil)
		if _, err := c.Repository(Reference{Host: "docker.io", Repo: "x"}, nil); err == nil || !strings.Contains(err.Error(), "hosts.toml") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://x\"\n[host.\"http://y:5/z\"]\ncapabilities=[\"pull\"]\nheader={a=\"b\"}\nclient=[[\"a\",\"b\"]]"))
	f.Add([]byte("host = 3\nca = [1]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		hosts, err := parseHosts(data, t.TempDir(), "docker.io")
		if err != nil {
			return
		}
		for _, h := range hosts {
			if h.base.Host == "" || (h.base.Scheme != "http" && h.base.Scheme != "https") {
				t.Fatalf("host %q", h)
			}
		}
	})
}
