package server

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"berth/server/config"
	"berth/server/nri"
)

// The configuration takes the words that the validator knows.
func TestNRIRejectTakesWhatTheValidatorKnows(t *testing.T) {
	cfg := config.Default()
	cfg.NRIReject = nri.Rejections
	if err := cfg.Check(); err != nil {
		t.Error(err)
	}
}

// A socket at which somebody answers is not taken: a daemon that was told to have it does
// not start, and one that was not goes without.
func TestNRISocketOfAnother(t *testing.T) {
	state := t.TempDir()
	path := filepath.Join(state, "nri.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := &node{cfg: config.Default()}
	n.cfg.State, n.cfg.NRIPluginDir, n.cfg.NRISocket = state, "", path
	if err := n.openPlugins(t.Context()); err == nil || !strings.Contains(err.Error(), "nri_socket: ") || !strings.Contains(err.Error(), path) {
		t.Errorf("a socket that was named: %v", err)
	}
	n.cfg.NRISocket = config.Auto
	if err := n.openPlugins(t.Context()); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	} else {
		conn.Close()
	}
	n.close(t.Context())
}
