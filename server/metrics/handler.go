package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// AnswerTimeout is for collecting and writing the text.
	AnswerTimeout = 20 * time.Second
	// maxReadings may run at once; further ones get 503.
	maxReadings = 4
)

// Handler answers GET /metrics, and nothing else.
func (m *Instruments) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxReadings, Timeout: AnswerTimeout, ErrorHandling: promhttp.ContinueOnError,
	}))
	return mux
}
