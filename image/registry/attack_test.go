package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// counted is a server on all addresses that counts the connections it gets.
type counted struct {
	*httptest.Server
	conns atomic.Int64
	port  string
}

func newCounted(t *testing.T, h http.Handler) *counted {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counted{port: fmt.Sprint(l.Addr().(*net.TCPAddr).Port)}
	c.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: h, ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			c.conns.Add(1)
		}
	}}}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// at starts a fake registry on one address.
func at(t *testing.T, addr string, hook func(http.ResponseWriter, *http.Request) bool) *fake {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{hook: hook}
	f.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	f.Start()
	t.Cleanup(f.Close)
	return f
}

// plainly is a client for which the registry is configured to speak HTTP, and a
// repository of it.
func plainly(t *testing.T, f *fake, extra string) *Repository {
	t.Helper()
	certs, addr := t.TempDir(), f.Listener.Addr().String()
	dir := filepath.Join(certs, addr)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %q\n%s", f.URL, extra), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{CertsDirs: []string{certs}, Backoff: time.Millisecond, Timeout: 2 * time.Second, Attempts: 2})
	t.Cleanup(c.Close)
	return repo(t, c, addr+"/library/busybox", nil)
}

// The ways in which a registry names another host.
var naming = map[string]struct {
	hook func(to string) func(http.ResponseWriter, *http.Request) bool
	ask  func(t *testing.T, r *Repository, to string) error
}{
	"manifest redirect": {redirectTo("/manifests/"), func(t *testing.T, r *Repository, _ string) error {
		_, err := r.Root(t.Context())
		return err
	}},
	"blob redirect": {redirectTo("/blobs/"), func(t *testing.T, r *Repository, _ string) error { return readBlob(t, r) }},
	"token realm": {func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, to))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
	}, func(t *testing.T, r *Repository, _ string) error {
		_, err := r.Root(t.Context())
		return err
	}},
	"foreign layer": {func(string) func(http.ResponseWriter, *http.Request) bool { return status(http.StatusNotFound) },
		func(t *testing.T, r *Repository, to string) error {
			if err := readBlob(t, r); !errors.Is(err, ErrNotFound) { // so that its host is known
				t.Errorf("the registry has it: %v", err)
			}
			var err error
			for _, scheme := range []string{"https", "http"} {
				b, xerr := r.External(t.Context(), []string{scheme + "://" + to + "/layer"})
				if xerr == nil {
					b.Close()
					return nil
				}
				err = errors.Join(err, xerr)
			}
			return err
		}},
}

func redirectTo(part string) func(to string) func(http.ResponseWriter, *http.Request) bool {
	return func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			http.Redirect(w, r, "http://"+to+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
	}
}

const (
	outside = "203.0.113.7" // of a net for documentation, which counts as public
	beyond  = "203.0.113.8"
)

var inside = []string{
	"127.0.0.1", "localhost", "0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.8.9.10", // loopback
	"169.254.169.254", "10.77.0.1", "172.16.5.5", "192.168.3.3", "100.64.0.9", "[fd00:77::1]", "[64:ff9b::7f00:1]", "[2002:a4d:1::1]",
}

func lo(hosts ...string) []string {
	out := []string{outside + "/32", beyond + "/32"}
	for _, h := range hosts {
		switch a, err := netip.ParseAddr(strings.Trim(h, "[]")); {
		case err != nil || a.Unmap().IsLoopback() || a.IsUnspecified():
		default:
			out = append(out, netip.PrefixFrom(a, a.BitLen()).String())
		}
	}
	return out
}

// TestAttackReachInside: a registry outside has the daemon, by a redirect, a token
// server or a foreign layer's URL, connect to this machine, to the cloud's metadata or
// to the networks inside, whatever way the address is written or resolved.
func TestAttackReachInside(t *testing.T) {
	if !inNetns(t, lo(inside...)...) {
		return
	}
	target := newCounted(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":[{"code":"SECRET","message":"inside"}]}`)
	}))
	for way, x := range naming {
		for _, host := range inside {
			to := host + ":" + target.port
			f := at(t, outside, x.hook(to))
			err := x.ask(t, plainly(t, f, ""), to)
			if err == nil || !strings.Contains(err.Error(), "private_redirects") || strings.Contains(err.Error(), "SECRET") {
				t.Errorf("%s to %s: %v", way, to, err)
			}
			if n := len(f.requests()); n > 2 {
				t.Errorf("%s to %s was tried again: %d requests", way, to, n)
			}
		}
	}
	if n := target.conns.Load(); n != 0 {
		t.Errorf("%d connections got inside", n)
	}
}

// TestReachWhereTheRegistryIs: what is beside the registry, in public or listed may be
// named by it.
func TestReachWhereTheRegistryIs(t *testing.T) {
	if !inNetns(t, lo("10.77.0.1", "10.77.0.2", "192.168.3.3", "[fd00:77::1]")...) {
		return
	}
	for _, x := range []struct {
		registry, target, extra string
		ok                      bool
	}{
		{"127.0.0.1", "127.0.0.9", "", true},
		{"127.0.0.1", "localhost", "", true},
		{"127.0.0.1", "10.77.0.1", "", false},
		{"10.77.0.1", "10.77.0.2", "", true},
		{"10.77.0.1", "192.168.3.3", "", true},
		{"10.77.0.1", "127.0.0.1", "", false},
		{outside, beyond, "", true},
		{outside, "10.77.0.1", `private_redirects = ["10.77.0.0/24", "fd00:77::1"]`, true},
		{outside, "[fd00:77::1]", `private_redirects = ["10.77.0.0/24", "fd00:77::1"]`, true},
		{outside, "192.168.3.3", `private_redirects = ["10.77.0.0/24", "fd00:77::1"]`, false},
		{outside, "[::ffff:10.77.0.1]", `private_redirects = ["10.77.0.0/24"]`, true},
	} {
		target := newCounted(t, &fake{hook: func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				io.WriteString(w, `{"token":"good"}`)
			} else if r.URL.Path == "/layer" {
				w.Write(blobData)
			}
			return r.URL.Path == "/token" || r.URL.Path == "/layer"
		}})
		for way, n := range naming {
			if way == "foreign layer" && !isLoopback(x.target) {
				continue // it wants https
			}
			to := x.target + ":" + target.port
			hook := n.hook(to)
			f := at(t, x.registry, func(w http.ResponseWriter, r *http.Request) bool {
				return r.Header.Get("Authorization") != "Bearer good" && hook(w, r)
			})
			if err := n.ask(t, plainly(t, f, x.extra), to); (err == nil) != x.ok {
				t.Errorf("%s from %s to %s %s: %v", way, x.registry, x.target, x.extra, err)
			}
		}
	}
}

func TestReachOf(t *testing.T) {
	for want, list := range map[reach]string{
		public:    "8.8.8.8 203.0.113.7 2606:4700::1 172.32.0.1 100.128.0.1 64:ff9b::808:808 2002:808:808::1",
		private:   "10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255 198.18.0.1 fc00::1 fdff::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1:: ::10.0.0.1 ::ffff:0:10.0.0.1",
		linkLocal: "169.254.169.254 169.254.0.1 fe80::1 fe80::1%eth0 febf::1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 168.63.129.16",
		loopback:  "127.0.0.1 127.255.255.255 0.0.0.0 0.1.2.3 :: ::1 ::ffff:127.0.0.1 ::ffff:0.0.0.0 64:ff9b::7f00:1 ::127.0.0.1 2002:7f00:1::",
		nowhere:   "224.0.0.1 255.255.255.255 240.0.0.1 ff02::1",
	} {
		for _, a := range strings.Fields(list) {
			if got := reachOf(netip.MustParseAddr(a)); got != want {
				t.Errorf("%s is %v, want %v", a, got, want)
			}
		}
	}
}

// TestAttackPooledConnection: a registry outside redirects to a registry inside that
// was pulled from before, whose connection is still open.
func TestAttackPooledConnection(t *testing.T) {
	if !inNetns(t, lo("10.77.0.1")...) {
		return
	}
	good := at(t, "10.77.0.1", nil)
	evil := at(t, outside, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, good.URL+r.URL.Path, http.StatusFound)
		return true
	})
	r := plainly(t, good, "")
	if _, err := r.Root(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := len(good.requests())
	bad := plainly(t, evil, "")
	bad.client = r.client
	if _, err := bad.Root(t.Context()); err == nil || len(good.requests()) != n {
		t.Errorf("%d requests came over the open connection: %v", len(good.requests())-n, err)
	}
}

// TestAttackErrorTexts: what a host says in an error goes into the events people read:
// another host's answer, control characters, megabytes.
func TestAttackErrorTexts(t *testing.T) {
	banner, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer banner.Close()
	go func() {
		for {
			c, err := banner.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "SECRET-2.0-shell\r\n")
			c.Close()
		}
	}()
	elsewhere := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "99999999999999999999")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, `{"errors":[{"code":"SECRET","message":"SECRET"}]}`)
		return true
	})
	byName := "http://" + strings.Replace(elsewhere.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	for n, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"redirected error": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, byName+"/x", http.StatusFound)
			return true
		},
		"no HTTP": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://"+banner.Addr().String(), http.StatusFound)
			return true
		},
		"token server": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, byName))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"control characters": func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":[{"code":"X","message":"\u001b[2J\u202egood\nforged line`+strings.Repeat("x", 5000)+`"}]}`)
			return true
		},
		"realm": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+strings.Repeat("\u202e", 500)+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
		"location": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", "http://%zz"+strings.Repeat("\u202e", 3000))
			w.WriteHeader(http.StatusFound)
			return true
		},
	} {
		t.Run(n, func(t *testing.T) {
			_, err := plainly(t, newFake(t, hook), "").Root(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			if text := err.Error(); strings.Contains(text, "SECRET") || strings.ContainsAny(text, "\x1b\n\u202e") || len(text) > 2*maxErrorText {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		})
	}
	_, err = plainly(t, elsewhere, "").client.external(t.Context(), &host{base: &url.URL{Scheme: "https"}}, loopback, byName+"/x")
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("foreign layer: %v", err)
	}
}

// trickle sends a byte at a time, ever again, until the client goes away.
func trickle(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Content-Length", fmt.Sprint(len(blobData)))
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
}

// TestAttackDrip: a registry sends a manifest, a blob or a token a byte at a time, never
// silent for long enough to be given up; or a little of a blob per connection.
func TestAttackDrip(t *testing.T) {
	part := func(p string, hook func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return strings.Contains(r.URL.Path, p) && hook(w, r)
		}
	}
	little := func(w http.ResponseWriter, r *http.Request) bool {
		var first int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(blobData)-1, len(blobData)))
		w.Header().Set("Content-Length", fmt.Sprint(len(blobData)-first))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(blobData[first : first+100])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	root := func(t *testing.T, r *Repository) error { _, err := r.Root(t.Context()); return err }
	blob := func(t *testing.T, r *Repository) error { return readBlob(t, r) }
	for n, x := range map[string]struct {
		hook func(http.ResponseWriter, *http.Request) bool
		ask  func(*testing.T, *Repository) error
		want string
	}{
		"manifest": {part("/manifests/", trickle), root, "bytes/s"},
		"blob":     {part("/blobs/", trickle), blob, "bytes/s"},
		"error": {func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return trickle(w, r)
		}, root, "500"},
		"a little each time": {part("/blobs/", little), blob, "times in a row"},
	} {
		t.Run(n, func(t *testing.T) {
			f := newFake(t, x.hook)
			r := plainly(t, f, "")
			r.client.opts.rateWindow, r.client.opts.minRate = 100*time.Millisecond, 1<<20
			err := x.ask(t, r)
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), f.Listener.Addr().String()) {
				t.Errorf("got %v, want ErrUnavailable with %q and the host", err, x.want)
			}
			if n := len(f.requests()); n > 4 {
				t.Errorf("%d requests, want at most 4", n)
			}
		})
	}
}

// TestAttackHeaders: a registry answers with endless headers, redirects in a circle, or
// has the daemon come back in ages or at once for ever.
func TestAttackHeaders(t *testing.T) {
	for n, hook := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"megabytes of headers": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
			return false
		},
		"redirects in a circle": func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		},
		"Retry-After of ages": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "9223372036854775807")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		},
		"a new realm each time": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="%d"`, time.Now().UnixNano()))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		},
	} {
		f := newFake(t, hook)
		if _, err := plainly(t, f, "").Root(t.Context()); err == nil || len(f.requests()) > 30 {
			t.Errorf("%s: %d requests, %v", n, len(f.requests()), err)
		}
	}
	waits := make(chan struct{})
	f := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusTooManyRequests)
		close(waits)
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-waits; cancel() }()
	if _, err := plainly(t, f, "").Root(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it waits: %v", err)
	}
}

// TestAttackDowngrade: a registry with TLS redirects to plain HTTP, where anybody on the
// way reads and answers.
func TestAttackDowngrade(t *testing.T) {
	plain := newFake(t, nil)
	secure := &fake{hook: func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusFound)
		return true
	}}
	secure.Server = httptest.NewTLSServer(secure)
	t.Cleanup(secure.Close)
	r := plainly(t, secure, "skip_verify = true\n")
	if _, err := r.Root(t.Context()); err == nil || !strings.Contains(err.Error(), "redirect from https") {
		t.Errorf("manifest: %v", err)
	}
	h := &host{base: &url.URL{Scheme: "https"}, insecure: true}
	if _, err := r.client.external(t.Context(), h, loopback, secure.URL+"/layer"); err == nil || !strings.Contains(err.Error(), "redirect from https") {
		t.Errorf("foreign layer: %v", err)
	}
	if n := len(plain.requests()); n != 0 {
		t.Errorf("%d requests in the clear", n)
	}
}

// TestAttackCredentialsByRedirect: a registry redirects to another port of its own host,
// to another name, and to a URL with user and password; the credentials must stay.
func TestAttackCredentialsByRedirect(t *testing.T) {
	thief := newFake(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("WWW-Authenticate", `Basic realm="again"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	_, port, _ := net.SplitHostPort(thief.Listener.Addr().String())
	secret := base64.StdEncoding.EncodeToString([]byte("u:p"))
	for _, to := range []string{"127.0.0.1:" + port, "localhost:" + port, "x:y@127.0.0.1:" + port} {
		up := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
			if _, _, ok := r.BasicAuth(); !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			http.Redirect(w, r, "http://"+to+r.URL.Path, http.StatusFound)
			return true
		})
		r := plainly(t, up, "")
		r.given = &Credentials{Username: "u", Password: "p"}
		if _, err := r.Root(t.Context()); err == nil {
			t.Errorf("%s: no error", to)
		}
	}
	for _, q := range thief.requests() {
		if strings.Contains(q.Header.Get("Authorization"), secret) || q.Header.Get("Authorization") != "" {
			t.Errorf("it got %q", q.Header.Get("Authorization"))
		}
	}
}

// TestProxy: the proxy of the environment may be anywhere, and so may what it resolves;
// addresses written out are judged before they are handed to it.
func TestProxy(t *testing.T) {
	var to string
	proxy := newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Host == "registry.example" && to != "" {
			http.Redirect(w, r, to+r.URL.Path, http.StatusFound)
			return true
		}
		return false
	})
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	for target, ok := range map[string]bool{"": true, "http://cdn.example": true, "http://10.1.2.3": false, "http://[::1]:5": false, "http://a.localhost": false} {
		to = target
		c := client(t, `server = "http://registry.example"`, nil)
		c.proxy = http.ProxyURL(u)
		m, err := repo(t, c, "busybox", nil).Root(t.Context())
		if (err == nil) != ok || ok && m.Digest != digest.FromBytes(manifest) {
			t.Errorf("redirect to %q: %v", target, err)
		}
	}
	for _, q := range proxy.requests() {
		if q.URL.Host != "registry.example" && q.URL.Host != "cdn.example" {
			t.Errorf("the proxy was asked for %s", q.URL)
		}
	}
}
