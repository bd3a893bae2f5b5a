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
	// ErrNotFound: the registry answered that it has no such image.
	ErrNotFound = errors.New("image not found")
	// ErrUnauthorized: the registry requires credentials, or refuses those it got.
	ErrUnauthorized = errors.New("registry refused access")
	// ErrUnavailable: the registry can't be reached, or can't serve at present (429 and
	// 5xx). The kubelet looks for this text.
	ErrUnavailable = errors.New("RegistryUnavailable")
	// ErrRefused: the registry refused the request for another reason than the
	// credentials, or its answer is unusable.
	ErrRefused = errors.New("registry gave no usable answer")
)

// statusError is an answer whose status is not a success.
type statusError struct {
	code       int // the HTTP status
	details    []errorDetail
	retryAfter time.Duration
	hasRetry   bool
}

// errorDetail is an element of the error body of the OCI distribution specification.
type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error returns the status and the registry's reasons. The request is not in the text,
// because the functions that wrap this error name it; nor are bodies of another form, such
// as the HTML page of a proxy.
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

// temporary reports whether the same request may succeed later. It looks at the status and
// not at the codes in the body: a 503 with any code may, a 404 with code UNKNOWN may not.
func (e *statusError) temporary() bool {
	switch e.code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// maxErrorBody is how many bytes of an error's body are read. Registries send less.
const maxErrorBody = 64 << 10

// newStatusError returns the error for an answer. If the answer is the registry's own, its
// body is read for the reasons. The body of another host, after a redirect, is not read:
// the text of the error is shown to users, and could be that of an internal service.
func (c *Client) newStatusError(resp *http.Response, own bool) *statusError {
	e := &statusError{code: resp.StatusCode}
	if own {
		resp.Body = c.watch(resp)
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody+1))
		var body struct {
			Errors []errorDetail `json:"errors"`
		}
		if err == nil && len(raw) <= maxErrorBody {
			_ = Decode(raw, &body) // without readable reasons the status alone is reported
			e.details = body.Errors
		}
	}
	e.retryAfter, e.hasRetry = parseRetryAfter(resp.Header.Get("Retry-After"))
	return e
}

// maxErrorText is how many bytes of one host's error are reported.
const maxErrorText = 600

// printable returns at most limit bytes of a text from a host, in which all characters that
// are not printable are escaped.
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
		n = min(n, 1<<31) // a larger number would overflow time.Duration, and is too long anyway
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

// failure joins the errors of all hosts. The error of the registry itself, which is asked
// last, decides which sentinel is wrapped.
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

// worthRetry reports whether the same request to the same host may succeed soon.
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

// errWrong is wrapped when an answer has a status of success but the wrong content: bytes
// that were damaged on the way, or the page of a proxy. The request is repeated once.
var errWrong = errors.New("wrong content")

// errFinal is wrapped when a retry can't help.
var errFinal = errors.New("not retried")
