package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/pprof"
	"os"
	"time"

	"k8s.io/klog/v2"
)

// profileTimeout bounds one profile or trace, whose length the client chooses.
const profileTimeout = 5 * time.Minute

// serveProfiles answers at debug_socket, if it is set. Profiles show the memory of the
// daemon in part, so the socket is for root alone, unlike that of the CRI.
func (n *node) serveProfiles(ctx context.Context) error {
	if n.cfg.DebugSocket == "" {
		return nil
	}
	l, err := listen(ctx, n.cfg.DebugSocket)
	if err != nil {
		return err
	}
	if err := os.Chmod(n.cfg.DebugSocket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	server := &http.Server{Handler: mux, ReadTimeout: readersTimeout, WriteTimeout: profileTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.FromContext(ctx).Error(err, "Profiles are no longer served", "debugSocket", n.cfg.DebugSocket)
		}
	}()
	n.opened("profiles", func(context.Context) error {
		err := server.Close()
		<-done
		return err
	})
	return nil
}
