package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/server/config"
)

func TestProfilesAreForRoot(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "debug.sock")
	n := &node{cfg: config.Config{DebugSocket: socket}}
	if err := n.serveProfiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the socket has the mode %o, want 600", got)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://berth/debug/pprof/goroutine?debug=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "TestProfilesAreForRoot") {
		t.Errorf("the profile of goroutines lacks this test's (%v): %.200s", err, text)
	}
	n.close(t.Context())
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left after the end: %v", err)
	}
}
