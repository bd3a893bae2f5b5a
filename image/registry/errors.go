package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrNotFound: the registry answered, and has no such image.
	ErrNotFound = errors.New("image not found")
	// ErrUnauthorized: the registry refuses these credentials, or wants some.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrUnavailable: no host gave a usable answer. The text is what the kubelet
	// looks for.
	ErrUnavailable = errors.New("RegistryUnavailable")
)

// statusError is an answer that is no success.
type statusError struct {
	status     int
	detail     string // what the registry says, "" when nothing
	retryAfter time.Duration
	hasRetry   bool
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%d %s", e.status, http.StatusText(e.status))
	if e.detail != "" {
		s += " (" + e.detail + ")"
	}
	return s
}

func (e *statusError) temporary() bool {
	switch e.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// newStatusError reads the distribution API's error body.
func newStatusError(resp *http.Response) *statusError {
	e := &statusError{status: resp.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10)) // the status alone will do
	var parsed struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &parsed) == nil {
		var parts []string
		for _, x := range parsed.Errors {
			parts = append(parts, strings.Trim(x.Code+": "+x.Message, ": "))
		}
		e.detail = fmt.Sprintf("%.500s", strings.Join(parts, "; "))
	}
	e.retryAfter, e.hasRetry = parseRetryAfter(resp.Header.Get("Retry-After"))
	return e
}

func parseRetryAfter(v string) (time.Duration, bool) {
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0), true
	}
	return 0, false
}

// attempt is one host's failure.
type attempt struct {
	host *host
	err  error
}

// failure joins what all hosts said; the registry's own answer, which comes last,
// decides what kind of failure it is.
func failure(what string, tried []attempt) error {
	if len(tried) == 0 {
		return fmt.Errorf("%w: %s: no host of hosts.toml has the capability for it", ErrUnavailable, what)
	}
	parts := make([]string, len(tried))
	errs := make([]error, len(tried))
	for i, a := range tried {
		parts[i] = fmt.Sprintf("%s: %v", a.host, a.err)
		errs[i] = a.err
	}
	kind := kindOf(tried[len(tried)-1].err)
	return &pullError{kind: kind, text: fmt.Sprintf("%v: %s: tried %s", kind, what, strings.Join(parts, "; ")), errs: errs}
}

type pullError struct {
	kind error
	text string
	errs []error
}

func (e *pullError) Error() string   { return e.text }
func (e *pullError) Unwrap() []error { return append([]error{e.kind}, e.errs...) }

func kindOf(err error) error {
	var se *statusError
	if errors.Is(err, ErrUnauthorized) {
		return ErrUnauthorized
	}
	if errors.As(err, &se) {
		switch se.status {
		case http.StatusNotFound:
			return ErrNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return ErrUnauthorized
		}
	}
	return ErrUnavailable
}

// worthRetry tells whether the same host may do better in a moment.
func worthRetry(err error) bool {
	var se *statusError
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrUnauthorized), errors.Is(err, errFinal):
		return false
	case errors.As(err, &se):
		return se.temporary()
	case errors.As(err, &cert):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return true
}

// errFinal marks what no retry mends.
var errFinal = errors.New("not retried")
