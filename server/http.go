package server

import (
	"errors"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

const (
	// requestTimeout is for a whole request; none of those served here has a body.
	requestTimeout = 5 * time.Second
	// idleTimeout is longer than the pause between two readings of a usual monitor.
	idleTimeout = 2 * time.Minute
	// maxHead is the longest head of a request, in bytes.
	maxHead = 16 << 10
)

// httpServer is a server of the daemon's own figures: metrics or profiles.
type httpServer struct {
	http *http.Server
	done chan struct{} // closed when the accept loop has ended
}

// serveHTTP answers at the listener, which it owns from now on, until close. longest is
// for one answer; what names the server in the log.
func serveHTTP(l net.Listener, h http.Handler, longest time.Duration, what string) *httpServer {
	s := &httpServer{done: make(chan struct{}), http: &http.Server{
		Handler: h, ReadHeaderTimeout: requestTimeout, ReadTimeout: requestTimeout,
		WriteTimeout: requestTimeout + longest, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead,
	}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "A server of the daemon's figures has ended; a restart is needed", "server", what, "address", l.Addr().String())
		}
	}()
	return s
}

// close ends the server and every connection.
func (s *httpServer) close() error {
	err := s.http.Close()
	<-s.done
	return err
}
