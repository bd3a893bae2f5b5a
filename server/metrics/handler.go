package metrics

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/klog/v2"
)

const (
	// readTimeout is for a whole request, which has no body.
	readTimeout = 5 * time.Second
	// answerTimeout is for collecting and writing the text.
	answerTimeout = 20 * time.Second
	// idleTimeout is longer than the pause between two readings of a usual monitor.
	idleTimeout = 2 * time.Minute
	// maxReadings may run at once; further ones get 503.
	maxReadings = 4
	// maxHead is the longest head of a request, in bytes.
	maxHead = 16 << 10
)

// Server answers GET /metrics.
type Server struct {
	http *http.Server
	done chan struct{} // closed when the accept loop has ended
}

// Serve answers readings of m at the listener until Close. It owns the listener.
func Serve(l net.Listener, m *Instruments) *Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxReadings, Timeout: answerTimeout, ErrorHandling: promhttp.ContinueOnError,
	}))
	s := &Server{done: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout,
		WriteTimeout: answerTimeout + readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead,
	}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			klog.ErrorS(err, "Metrics are no longer served; a restart is needed", "address", l.Addr().String())
		}
	}()
	return s
}

// Close ends the server and every connection.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
