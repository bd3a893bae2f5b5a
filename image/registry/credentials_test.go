package registry

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
			t.Errorf("helper %q: credentials %+v, error %v; want none, and an error: %v", script, c, err, !ok)
		}
	}
}
