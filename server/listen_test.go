package server

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenModeAndRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "berth.sock")
	l, err := listen(t.Context(), "listen", path, forClients)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, want 0660", info.Mode().Perm())
	}
	if _, err := listen(t.Context(), "listen", path, forClients); err == nil || !strings.Contains(err.Error(), "answers at") {
		t.Errorf("a socket that is served was taken: %v", err)
	}
	l.(*socket).Listener.Close() // as after kill -9: the file stays, nobody answers
	again, err := listen(t.Context(), "listen", path, forClients)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	defer again.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files beside the socket, %v", len(entries)-1, err)
	}
	again.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("a daemon that ends well leaves its socket")
	}
}

func TestListenKeepsForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), "listen", path, forClients); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
}

func TestListenLongestPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("s", 107-len(dir)-1))
	l, err := listen(t.Context(), "listen", path, forClients)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
