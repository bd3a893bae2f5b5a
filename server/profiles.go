package server

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"
)

// profileTimeout bounds one profile or trace, whose length the client chooses.
const profileTimeout = 5 * time.Minute

// serveProfiles answers at debug_socket, if it is set. Profiles show the memory of the
// daemon in part, so the socket is for root alone, unlike that of the CRI.
func (n *node) serveProfiles(ctx context.Context) error {
	if n.cfg.DebugSocket == "" {
		return nil
	}
	const forRoot = 0o600
	l, err := listen(ctx, "debug-socket", n.cfg.DebugSocket, forRoot)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	server := serveHTTP(l, mux, profileTimeout, "profiles")
	n.opened("profiles", func(context.Context) error { return server.close() })
	return nil
}
