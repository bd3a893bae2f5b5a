package hostcheck

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/server/config"
)

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Each registry that is configured has a line: what it answers, and what to change.
func TestRegistries(t *testing.T) {
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer good.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer login.Close()
	cfg := here(t)
	for name, text := range map[string]string{
		"good.example":    "server = \"" + good.URL + "\"",
		"secure.example":  "server = \"" + secure.URL + "\"",
		"plain.example":   "server = \"" + strings.Replace(good.URL, "http:", "https:", 1) + "\"",
		"other.example":   "server = \"" + other.URL + "\"",
		"login.example":   "server = \"" + login.URL + "\"",
		"wrong.example":   "server = \"" + login.URL + "\"\n[credentials]\nusername = \"u\"\npassword = \"secret\"",
		"refused.example": "server = \"http://127.0.0.1:1\"",
		"broken.example":  "server = ",
	} {
		put(t, filepath.Join(cfg.CertsDir[0], name, "hosts.toml"), text)
	}
	lines := map[string]Finding{}
	for _, f := range checkRegistries(t.Context(), machine{cfg: cfg}) {
		lines[strings.FieldsFunc(f.Seen, func(r rune) bool { return r == ' ' || r == ':' })[0]] = f
		if strings.Contains(f.Seen+f.Do, "secret") {
			t.Errorf("%+v has the password", f)
		}
	}
	for name, want := range map[string]Finding{
		"good.example": {Level: Fine}, "login.example": {Level: Fine, Seen: "public images only"},
		"secure.example": {Level: Limited, Do: "ca in its hosts.toml"}, "plain.example": {Level: Limited, Do: "http://"},
		"other.example": {Level: Limited, Do: "override_path"}, "wrong.example": {Level: Limited, Do: "credentials"},
		"refused.example": {Level: Limited, Do: "port"}, "broken.example": {Level: Limited, Do: "mend its hosts.toml"},
	} {
		if got := lines[name]; got.Level != want.Level || !strings.Contains(got.Seen, want.Seen) || !strings.Contains(got.Do, want.Do) || got.Seen == "" {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

// A drop-in that can't be read is named with its line, one that is not looked at is too, and
// the other checks are made.
func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	put(t, file, "")
	put(t, filepath.Join(dir, "config.d", "10-level.toml"), "log_level = 4\n")
	put(t, filepath.Join(dir, "config.d", "20-size.conf"), "shm_size = \"1MiB\"\n")
	first := func() Finding {
		cfg, err := config.Load(file)
		cfg.CertsDir = nil
		findings := Run(t.Context(), cfg, file, err)
		if len(findings) <= len(checks) {
			t.Errorf("%d findings of %d checks", len(findings), len(checks))
		}
		return findings[0]
	}
	if f := first(); f.Level != Limited || !strings.Contains(f.Seen, "10-level.toml") || !strings.Contains(f.Seen, "not read: "+dir+"/config.d/20-size.conf") {
		t.Errorf("%+v", f)
	}
	put(t, filepath.Join(dir, "config.d", "30-bad.toml"), "\nlog_stage = 4\n")
	if f := first(); f.Level != Broken || !strings.Contains(f.Seen, "30-bad.toml:2: log_stage: unknown key") {
		t.Errorf("%+v", f)
	}
}
