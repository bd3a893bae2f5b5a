package registry

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wantsLogin answers as a registry whose every answer needs the user u with the password p.
func wantsLogin(w http.ResponseWriter, r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	if user != "u" || password != "p" {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	return true
}

// Each host of each directory is asked once, side by side, with what is configured for it.
func TestPing(t *testing.T) {
	open, login := newFake(t, status(http.StatusOK)), newFake(t, wantsLogin)
	old := newFake(t, status(http.StatusNotFound))
	slow := newFake(t, func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = log.New(io.Discard, "", 0)
	tls.StartTLS()
	t.Cleanup(tls.Close)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"docker.io":           fmt.Sprintf("server = %q\n[host.%q]\n", open.URL, login.URL),
		"a.example":           fmt.Sprintf("server = %q\n[credentials]\nusername = \"u\"\npassword = \"p\"\n", login.URL),
		"b.example":           fmt.Sprintf("server = %q\n[credentials]\nusername = \"u\"\npassword = \"wrong\"\n", login.URL),
		"c.example":           fmt.Sprintf("server = %q\n", old.URL),
		"d.example":           fmt.Sprintf("server = %q\n", slow.URL),
		"e.example":           fmt.Sprintf("server = %q\n", tls.URL),
		"f.example":           "server = \"http://" + gone.Addr().String() + "\"\n",
		"g.example":           "server = 7\n",
		"_default":            fmt.Sprintf("[host.%q]\n", open.URL),
		"not a name":          "",
		"127.0.0.1_1_":        "",
		"h.example/unrelated": "",
	} {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	os.RemoveAll(filepath.Join(dir, "h.example"))
	c := New(Options{CertsDirs: []string{filepath.Join(dir, "absent"), dir}})
	t.Cleanup(c.Close)
	began := time.Now()
	answers, more, err := c.Ping(t.Context())
	if err != nil || more {
		t.Fatal(more, err)
	}
	if took := time.Since(began); took > 2*pingTimeout {
		t.Errorf("it took %v, though one host alone does not answer", took)
	}
	got := map[string]string{}
	for _, a := range answers {
		what := "ok"
		switch {
		case a.Login:
			what = "login"
		case a.Err != nil:
			what = a.Err.Error()
		}
		got[a.Registry] += what + " "
	}
	for registry, want := range map[string]string{
		"docker.io": "login ok ", "a.example": "ok ", "b.example": "credentials given are wrong", "c.example": "404 Not Found to GET /v2/",
		"d.example": "deadline exceeded", "e.example": "certificate", "f.example": "connection refused", "g.example": "hosts.toml",
		"_default": "ok ", "not a name": "hosts.toml", "127.0.0.1_1_": "connection refused",
	} {
		if !strings.Contains(got[registry], want) {
			t.Errorf("%s: %q, want %q", registry, got[registry], want)
		}
		delete(got, registry)
	}
	if len(got) > 0 {
		t.Errorf("answers of others: %q", got)
	}
}

// A token is asked for without a scope, as there is no repository yet.
func TestPingWithToken(t *testing.T) {
	var server *fake
	server = newFake(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/token":
			if user, _, _ := r.BasicAuth(); user != "u" || r.URL.Query().Has("scope") {
				w.WriteHeader(http.StatusForbidden)
			}
			fmt.Fprint(w, `{"token":"good"}`)
		case r.Header.Get("Authorization") != "Bearer good":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	c := client(t, fmt.Sprintf("server = %q\n[credentials]\nusername = \"u\"\npassword = \"p\"\n", server.URL), nil)
	answers, _, err := c.Ping(t.Context())
	if err != nil || len(answers) != 1 || answers[0].Err != nil || answers[0].Login {
		t.Errorf("%+v, %v", answers, err)
	}
}

// However many hosts there are, the number that is asked is bounded.
func TestPingIsBounded(t *testing.T) {
	f := newFake(t, status(http.StatusOK))
	dir := t.TempDir()
	for i := range pingHosts + 3 {
		at := filepath.Join(dir, fmt.Sprintf("r%d.example", i))
		if err := errors.Join(os.MkdirAll(at, 0o755), os.WriteFile(filepath.Join(at, "hosts.toml"), []byte("server = \""+f.URL+"\"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Options{CertsDirs: []string{dir}})
	t.Cleanup(c.Close)
	answers, more, err := c.Ping(t.Context())
	if err != nil || !more || len(answers) != pingHosts || len(f.requests()) != pingHosts {
		t.Errorf("%d answers of %d requests, more %v, %v", len(answers), len(f.requests()), more, err)
	}
}
