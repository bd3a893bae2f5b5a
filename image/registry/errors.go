package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

var (
	// ErrNotFound: the registry answered, and has no such image.
	ErrNotFound = errors.New("image not found")
	// ErrUnauthorized: the registry refuses these credentials, or wants some.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrUnavailable: the registry can't be reached, or answers that it can't serve now
	// (429 and 5xx). The text is what the kubelet looks for.
	ErrUnavailable = errors.New("RegistryUnavailable")
	// ErrRefused: the registry refuses the request for another reason than the
	// credentials, or gives an answer that is of no use.
	ErrRefused = errors.New("registry gave no usable answer")
)

// statusError is an answer that is no success.
type statusError struct {
	code       int // the HTTP status
	details    []errorDetail
	retryAfter time.Duration
	hasRetry   bool
}

// errorDetail is an element of the distribution API's error body.
type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error leaves out the request, which whoever wraps it names, and the bodies that
// are no registry's answer but some proxy's page.
func (e *statusError) Error() string {
	s := fmt.Sprintf("%d %s", e.code, http.StatusText(e.code))
	var parts []string
	for _, d := range e.details {
		parts = append(parts, strings.Trim(fmt.Sprintf("%s: %s", d.Code, d.Message), ": "))
	}
	if len(parts) > 0 {
		s += fmt.Sprintf(" (%s)", printable(strings.Join(parts, "; "), 500))
	}
	return s
}

// temporary goes by the status alone and not by the codes in the body: a 503 with any
// code is worth another try, a 404 with code UNKNOWN is not.
func (e *statusError) temporary() bool {
	switch e.code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// maxErrorBody is how many bytes of an error's body are read; a longer one is no
// registry's.
const maxErrorBody = 64 << 10

// newStatusError reads the distribution API's error body, when it is from the
// registry: another host's may be anything, and its text goes where people look.
func (c *Client) newStatusError(resp *http.Response, own bool) *statusError {
	e := &statusError{code: resp.StatusCode}
	if own {
		resp.Body = c.watch(resp)
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody+1))
		var body struct {
			Errors []errorDetail `json:"errors"`
		}
		if err == nil && len(raw) <= maxErrorBody {
			_ = Decode(raw, &body) // what can't be read is left out: the status alone will do
			e.details = body.Errors
		}
	}
	e.retryAfter, e.hasRetry = parseRetryAfter(resp.Header.Get("Retry-After"))
	return e
}

// maxErrorText is the most that is told of what one host said, in bytes.
const maxErrorText = 600

// printable makes a text that a host had a part in safe to show: up to limit bytes,
// with what is not printable escaped.
func printable(s string, limit int) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= limit {
			b.WriteString("…")
			break
		}
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return b.String()
}

func parseRetryAfter(v string) (time.Duration, bool) {
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		n = min(n, 1<<31) // what is more is too long anyway, and a Duration ends somewhere
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
		parts[i] = printable(fmt.Sprintf("%s: %v", a.host, a.err), maxErrorText)
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
	switch {
	case errors.Is(err, ErrUnauthorized):
		return ErrUnauthorized
	case errors.Is(err, errWrong), errors.Is(err, errFinal), errors.Is(err, errFenced):
		return ErrRefused
	case !errors.As(err, &se):
		return ErrUnavailable
	}
	switch code := se.code; {
	case code == http.StatusNotFound:
		return ErrNotFound
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return ErrUnauthorized
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return ErrUnavailable
	}
	return ErrRefused
}

// worthRetry tells whether the same host may do better in a moment.
func worthRetry(err error) bool {
	var se *statusError
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, ErrUnauthorized), errors.Is(err, errFinal), errors.Is(err, errFenced):
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

// errWrong marks an answer that is not what was asked for, though it was given as a
// success: bytes damaged on the way, or a page of some proxy. It is asked for once more.
var errWrong = errors.New("wrong content")

// errFinal marks what no retry mends.
var errFinal = errors.New("not retried")
