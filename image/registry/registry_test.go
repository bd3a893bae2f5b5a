package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// newTokenServer is a registry that wants bearer tokens, and its token server.
func newTokenServer(t testing.TB, accept func(*http.Request) bool) (reg, auth *fake) {
	auth = newFake(t, nil)
	auth.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if err := r.ParseForm(); err != nil || r.Form.Get("scope") != "repository:library/busybox:pull" || r.Form.Get("service") != "svc" || !accept(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		io.WriteString(w, `{"token":"good","expires_in":300}`)
		return true
	}
	reg = newFake(t, nil)
	reg.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="svc",scope="repository:library/busybox:pull"`, auth.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	return reg, auth
}

func TestTokens(t *testing.T) {
	basic := func(user, pass string) func(*http.Request) bool {
		return func(r *http.Request) bool {
			u, p, _ := r.BasicAuth()
			return r.Method == http.MethodGet && u == user && p == pass
		}
	}
	oauth := func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("refresh_token") == "idt"
	}
	for n, x := range map[string]struct {
		creds  *Credentials
		accept func(*http.Request) bool
		ok     bool
	}{
		"anonymous":       {nil, func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }, true},
		"password":        {&Credentials{Username: "u", Password: "p"}, basic("u", "p"), true},
		"auth of a shell": {&Credentials{Auth: base64.StdEncoding.EncodeToString([]byte("u:pq")) + "\n"}, basic("u", "pq"), true},
		"auth field":      {&Credentials{Auth: base64.StdEncoding.EncodeToString([]byte("u:p:q"))}, basic("u", "p:q"), true},
		"identity":        {&Credentials{IdentityToken: "idt"}, oauth, true},
		"identity user":   {&Credentials{Username: "<token>", Password: "idt"}, oauth, true},
		"registry token":  {&Credentials{RegistryToken: "good"}, func(*http.Request) bool { return false }, true},
		"wrong":           {&Credentials{Username: "u", Password: "x"}, basic("u", "p"), false},
		"wrong token":     {&Credentials{RegistryToken: "bad"}, func(*http.Request) bool { return true }, false},
		"other server":    {&Credentials{Username: "u", Password: "p", ServerAddress: "https://other.example/v1/"}, basic("u", "p"), false},
		"no base64":       {&Credentials{Auth: "%%"}, basic("u", "p"), false},
	} {
		t.Run(n, func(t *testing.T) {
			reg, auth := newTokenServer(t, x.accept)
			if x.creds != nil && x.creds.ServerAddress == "" {
				c := *x.creds
				c.ServerAddress = reg.Listener.Addr().String()
				x.creds = &c
			}
			c := client(t, fmt.Sprintf("server = %q", reg.URL), nil)
			r := repo(t, c, "busybox", x.creds)
			_, err := r.Root(t.Context())
			if x.ok && err != nil {
				t.Fatal(err)
			}
			if !x.ok {
				if !errors.Is(err, ErrUnauthorized) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err := readBlob(t, r); err != nil {
				t.Error(err)
			}
			n := len(auth.requests())
			if _, err := repo(t, c, "busybox", x.creds).Root(t.Context()); err != nil || len(auth.requests()) != n {
				t.Errorf("the next pull asked for a token again: %v", err)
			}
		})
	}
}

func TestCredentialsStay(t *testing.T) {
	cdn := newFake(t, nil)
	mirror := newFake(t, nil)
	up := newFake(t, nil)
	up.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u != "u" || p != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, strings.Replace(cdn.URL, "127.0.0.1", "localhost", 1)+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	mirror.hook = status(404)
	addr := up.Listener.Addr().String()
	certs := t.TempDir()
	dir := filepath.Join(certs, addr)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\nheader = {x-secret = \"for the mirror\"}\n", mirror.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{CertsDirs: []string{certs}, Backoff: time.Millisecond})
	r := repo(t, c, addr+"/busybox", &Credentials{Username: "u", Password: "p"})
	if _, err := r.Root(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := readBlob(t, r); err != nil {
		t.Fatal(err)
	}
	for n, f := range map[string]*fake{"mirror": mirror, "cdn": cdn} {
		if len(f.requests()) == 0 {
			t.Errorf("the %s was not asked", n)
		}
		for _, q := range f.requests() {
			if q.Header.Get("Authorization") != "" {
				t.Errorf("the %s got credentials", n)
			}
			if n == "cdn" && q.Header.Get("X-Secret") != "" {
				t.Error("a header of the mirror went elsewhere")
			}
		}
	}
}

func TestHostCredentials(t *testing.T) {
	mirror := newFake(t, nil)
	mirror.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "mirror" && p == "mp" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	bin := t.TempDir()
	script := "#!/bin/sh\nread h\necho '{\"Username\":\"mirror\",\"Secret\":\"mp\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-berthtest"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, creds := range []string{`username = "mirror"` + "\npassword = \"mp\"", `helper = "berthtest"`} {
		c := client(t, fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\n[host.%q.credentials]\n%s\n", mirror.URL, mirror.URL, creds), nil)
		if _, err := repo(t, c, "busybox", &Credentials{Username: "hub", Password: "hp"}).Root(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, q := range mirror.requests() {
		if u, _, _ := q.BasicAuth(); u == "hub" {
			t.Error("the mirror got the registry's credentials")
		}
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

// TestResume cuts and stalls the connection in the middle of a blob.
func TestResume(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			var count atomic.Int64
			release := make(chan struct{})
			defer close(release)
			f := newFake(t, nil)
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				n := int(count.Add(1))
				if n > 3 {
					if ranges {
						return false
					}
					w.Write(blobData)
					return true
				}
				start := 0
				if rng := r.Header.Get("Range"); rng != "" && ranges {
					fmt.Sscanf(rng, "bytes=%d-", &start)
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(blobData)-1, len(blobData)))
					w.Header().Set("Content-Length", fmt.Sprint(len(blobData)-start))
					w.WriteHeader(http.StatusPartialContent)
				} else {
					w.Header().Set("Content-Length", fmt.Sprint(len(blobData)))
				}
				w.Write(blobData[start : start+(n+1)*200_000-start])
				w.(http.Flusher).Flush()
				if n == 2 {
					<-release
				}
				panic(http.ErrAbortHandler)
			}
			c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
			c.opts.Timeout = 300 * time.Millisecond
			if err := readBlob(t, repo(t, c, "busybox", nil)); err != nil {
				t.Fatal(err)
			}
			if n := count.Load(); n != 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestRanges has a blob come in parts, with hosts that fail now and then.
func TestRanges(t *testing.T) {
	data := make([]byte, 40<<20+12345)
	for i := range data {
		data[i] = byte(i >> 9 * 7)
	}
	d := digest.FromBytes(data)
	var parts atomic.Int64
	f := newFake(t, nil)
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			switch n := parts.Add(1); {
			case n%5 == 0:
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			case n%7 == 0:
				var first, last int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(data)))
				w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(data[first : first+1000])
				panic(http.ErrAbortHandler)
			case n == 23: // and from here on the host ignores ranges
				http.ServeContent(w, &http.Request{Method: http.MethodGet}, "", time.Time{}, bytes.NewReader(data))
				return true
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
		return true
	}
	c := client(t, fmt.Sprintf("server = %q", f.URL), nil)
	c.opts.slowRate = 1 << 60
	r := repo(t, c, "busybox", nil)
	b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
	b.Close()
	if parts.Load() < 18 {
		t.Errorf("%d parts", parts.Load())
	}
	for _, n := range []int64{0, 5 << 20, 20 << 20} { // given up early
		b, err := r.Blob(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(data))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, b, n); err != nil {
			t.Error(err)
		}
		b.Close()
	}
	if len(c.parts) != 0 {
		t.Errorf("%d parts are still counted", len(c.parts))
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

func TestParse(t *testing.T) {
	d := "@sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"busybox":                       "docker.io/library/busybox:latest",
		"busybox:1.2":                   "docker.io/library/busybox:1.2",
		"user/app":                      "docker.io/user/app:latest",
		"docker.io/busybox":             "docker.io/library/busybox:latest",
		"index.docker.io/library/b":     "docker.io/library/b:latest",
		"localhost/x":                   "localhost/x:latest",
		"localhost:5000/x/y:z":          "localhost:5000/x/y:z",
		"registry.k8s.io/pause:3.9":     "registry.k8s.io/pause:3.9",
		"registry.k8s.io/pause" + d:     "registry.k8s.io/pause" + d,
		"registry.k8s.io/pause:3.9" + d: "registry.k8s.io/pause:3.9" + d,
		"[::1]:5000/a":                  "[::1]:5000/a:latest",
		"EXAMPLE.com/a__b/c-d.e":        "example.com/a__b/c-d.e:latest",
	} {
		if r, err := Parse(in); err != nil || r.String() != want {
			t.Errorf("%q: %q %v", in, r, err)
		}
	}
	for _, in := range []string{"", "UPPER", "a//b", "/a", "a/", "a:", "a:b:c", "a@b", "a@sha256:12", "-a", "a/../b", "a b", "a\n", strings.Repeat("a", 300), strings.Repeat("ab", 32), "http://x/y", "x:" + strings.Repeat("t", 129)} {
		if r, err := Parse(in); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("%q is accepted as %q", in, r)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"busybox", "a.b:5/c/d:e@sha256:" + strings.Repeat("0", 64), "..", "a:/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q gives %q, which gives %q, %v", s, r, again, err)
		}
		if strings.ContainsAny(r.Host, "/\x00") || strings.Contains(r.Host, "..") {
			t.Fatalf("host %q is no file name", r.Host)
		}
	})
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

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://x/t",service="a\"b",scope=c`)
	f.Fuzz(func(t *testing.T, s string) {
		if c := challengeOf(unauthorized("http://x/v2/", `Basic realm="x"`, s)); c.scheme != "basic" && c.scheme != "bearer" {
			t.Errorf("got %+v, want one that can be met", c)
		}
	})
}

func unauthorized(u string, challenges ...string) *http.Response {
	req := httptest.NewRequest(http.MethodGet, u, nil)
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": challenges}, Body: http.NoBody, Request: req}
}

func TestChallenge(t *testing.T) {
	c := challengeOf(unauthorized("http://x/v2/", "Negotiate", `Basic realm="x"`, `BEARER realm="https://x/t", service="a\"b",scope=c`))
	if c.scheme != "bearer" || !c.plain || c.params["realm"] != "https://x/t" || c.params["service"] != `a"b` || c.params["scope"] != "c" {
		t.Errorf("%+v", c)
	}
	if c := challengeOf(unauthorized("https://x/v2/", "Negotiate", `basic realm="x"`)); c.scheme != "basic" || c.plain {
		t.Errorf("%+v", c)
	}
	if c := challengeOf(unauthorized("https://x/v2/")); c.scheme != "" {
		t.Errorf("%+v", c)
	}
}

// TestChallengeForms has hosts write their challenges as hosts do.
func TestChallengeForms(t *testing.T) {
	for header, want := range map[string]challenge{
		`Bearer realm="https://x/t",service="s"`: {"bearer", map[string]string{"realm": "https://x/t", "service": "s"}, false},
		`Basic realm="a, b", charset=UTF-8, Bearer realm="https://x/t" , scope="repository:a:pull,push"`: {
			"bearer", map[string]string{"realm": "https://x/t", "scope": "repository:a:pull,push"}, false},
		`Negotiate YWJj==, Basic realm=x`:               {"basic", map[string]string{"realm": "x"}, false},
		`bearer Realm = https://x/t,scope=repository:a`: {"bearer", map[string]string{"realm": "https://x/t", "scope": "repository:a"}, false},
		`Bearer realm="never ends`:                      {"bearer", map[string]string{"realm": "never ends"}, false},
		`realm="of nothing", Basic`:                     {"basic", map[string]string{}, false},
		`"Bearer" realm="x"`:                            {},
		"":                                              {},
		"Digest realm=x":                                {},
	} {
		if got := challengeOf(unauthorized("https://x/v2/", header)); got.scheme != want.scheme || !maps.Equal(got.params, want.params) || got.plain {
			t.Errorf("%s: got %+v, want %+v", header, got, want)
		}
	}
}

// TestTokenServers has token servers do what the protocol does not foresee.
func TestTokenServers(t *testing.T) {
	elsewhere := newFake(t, nil)
	once := 0
	for n, x := range map[string]struct {
		creds  *Credentials
		answer func(w http.ResponseWriter, r *http.Request)
		want   string // "" is success
	}{
		"without OAuth2": {&Credentials{IdentityToken: "idt"}, func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); r.Method != http.MethodGet || u != "<token>" || p != "idt" {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			io.WriteString(w, `{"access_token":"good"}`)
		}, ""},
		"busy": {nil, func(w http.ResponseWriter, _ *http.Request) {
			if once++; once == 1 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			io.WriteString(w, `{"token":"good"}`)
		}, ""},
		"redirects": {&Credentials{IdentityToken: "idt"}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusTemporaryRedirect)
		}, "must not see the credentials"},
		"redirects and stalls": {&Credentials{IdentityToken: "idt"}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1))
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusTemporaryRedirect)
			w.(http.Flusher).Flush()
			<-r.Context().Done() // the body never comes
		}, "must not see the credentials"},
		"no token": {nil, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"refresh_token":"secret"}`) }, "no token"},
		"no JSON":  {nil, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `<html>`) }, "invalid character"},
		"denied": {nil, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"not you"}]}`)
		}, "403 Forbidden (DENIED: not you)"},
	} {
		t.Run(n, func(t *testing.T) {
			auth := newFake(t, func(w http.ResponseWriter, r *http.Request) bool { x.answer(w, r); return true })
			reg := newFake(t, nil)
			reg.hook = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
				w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, auth.URL))
				if r.Header.Get("Authorization") == "Bearer good" {
					return false
				}
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			if x.creds != nil {
				x.creds.ServerAddress = reg.Listener.Addr().String()
			}
			_, err := repo(t, client(t, fmt.Sprintf("server = %q", reg.URL), nil), "busybox", x.creds).Root(t.Context())
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "secret")) {
				t.Errorf("got %v, want %q", err, x.want)
			}
		})
	}
	if len(elsewhere.requests()) > 0 {
		t.Error("the token went with the redirect")
	}
	for realm, want := range map[string]string{
		"http://169.254.169.254/latest": "link-local",
		"ftp://x/":                      "https",
		"":                              "https URL is needed",
	} {
		reg := newFake(t, nil)
		reg.hook = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q`, realm))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		_, err := repo(t, client(t, fmt.Sprintf("server = %q", reg.URL), nil), "busybox", nil).Root(t.Context())
		if !errors.Is(err, ErrUnauthorized) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

func TestHelperWithoutCredentials(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for script, ok := range map[string]bool{
		"echo credentials not found in native keychain; exit 1": true,
		"echo the keychain is locked; exit 1":                   false,
		"echo no JSON":                                          false,
	} {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-berthtest"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c, err := askHelper(t.Context(), "berthtest", "x.example")
		if (err == nil) != ok || !c.empty() {
			t.Errorf("%s: %+v, %v", script, c, err)
		}
	}
}
