package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options configures a [Client]. A zero field means the default.
type Options struct {
	// CertsDirs are directories with the configuration of registries, in the layout of
	// containerd's certs.d. The first one that exists is used; it is read for every pull.
	CertsDirs []string
	// UserAgent is sent to every host. Default "berth".
	UserAgent string
	// Timeout bounds the wait for the start of an answer and for each read of a body.
	// Default 60 s. A body must also bring 1 KiB/s on average over each minute of waiting.
	Timeout time.Duration
	// Attempts is how often the last host, the registry itself, is asked. A mirror is asked
	// at most twice. Default 5.
	Attempts int
	// Backoff is the pause before the second attempt. It doubles with each attempt, up to
	// 30 times Backoff. Default 500 ms.
	Backoff time.Duration
	// MaxRetryAfter is the longest time of a Retry-After header that is waited for.
	// Default 2 min.
	MaxRetryAfter time.Duration
	// Ranges is how many parts of blobs are fetched at once, over all pulls. Blobs are
	// fetched in parts when the registry is slow on one connection. Default 8; a negative
	// number disables parts.
	Ranges int

	// For tests.
	slowRate, minRate int64 // bytes per second
	rateWindow        time.Duration
}

func (o Options) withDefaults() Options {
	if o.UserAgent == "" {
		o.UserAgent = "berth"
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Backoff <= 0 {
		o.Backoff = 500 * time.Millisecond
	}
	if o.MaxRetryAfter <= 0 {
		o.MaxRetryAfter = 2 * time.Minute
	}
	if o.Ranges == 0 {
		o.Ranges = 8
	}
	o.slowRate, o.minRate, o.rateWindow = slowRate, minRate, rateWindow
	return o
}

// maxHeader is how many bytes the headers of an answer may have.
const maxHeader = 256 << 10

// cacheLimit is the number of entries of each cache. A cache that is full is emptied.
const cacheLimit = 128

// Client fetches images from registries. It is safe for concurrent use.
type Client struct {
	opts  Options
	parts chan struct{} // has an element for each part that is being fetched
	proxy func(*http.Request) (*url.URL, error)

	mu         sync.Mutex
	transports map[string]http.RoundTripper
	tokens     map[string]token
}

// New returns a client.
func New(opts Options) *Client {
	opts = opts.withDefaults()
	return &Client{
		opts: opts, parts: make(chan struct{}, max(opts.Ranges, 0)), proxy: http.ProxyFromEnvironment,
		transports: map[string]http.RoundTripper{}, tokens: map[string]token{},
	}
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropTransports()
}

func (c *Client) dropTransports() {
	for k, rt := range c.transports {
		if t, ok := rt.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
		delete(c.transports, k)
	}
}

func (c *Client) cachedToken(key string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tokens[key]
	return t.value, ok && time.Now().Before(t.expires)
}

func (c *Client) keepToken(key string, t token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= cacheLimit {
		c.tokens = map[string]token{}
	}
	c.tokens[key] = t
}

// transport returns the transport for connections with the configuration of h. All pulls
// with an equal configuration share it. f is nil for connections to h itself. Connections
// to hosts that h named have a fence, and share a transport only if their fences are equal.
func (c *Client) transport(h *host, f *fence) (http.RoundTripper, error) {
	key := h.fingerprint()
	if f != nil {
		key += f.String()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[key]; ok {
		return t, nil
	}
	plain, err := c.newTransport(h, f)
	if err != nil {
		return nil, err
	}
	t := redirecting{plain, c}
	if len(c.transports) >= cacheLimit {
		c.dropTransports()
	}
	c.transports[key] = t
	return t, nil
}

// redirecting bounds the time that the body of a redirect may take. http.Client reads up to
// 2 KiB of such a body before it follows the redirect, and nothing else bounds that.
type redirecting struct {
	http.RoundTripper
	client *Client
}

// RoundTrip implements [http.RoundTripper].
func (t redirecting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err == nil && resp.StatusCode/100 == 3 {
		resp.Body = t.client.watch(resp)
	}
	return resp, err
}

// CloseIdleConnections closes the idle connections of the transport below, for
// [Client.Close].
func (t redirecting) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

func (c *Client) newTransport(h *host, f *fence) (http.RoundTripper, error) {
	cfg, err := h.tlsConfig()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: h.dial, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                  c.proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        cfg,
		TLSHandshakeTimeout:    min(c.opts.Timeout, 30*time.Second),
		ResponseHeaderTimeout:  c.opts.Timeout,
		MaxResponseHeaderBytes: maxHeader,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true, // a compressed layer must arrive unchanged
		ReadBufferSize:         32 << 10,
	}
	if f != nil {
		t.Proxy, dialer.Control = nil, f.control
		return t, nil
	}
	if h.mayHTTP && h.base.Scheme == "https" {
		return &plainFallback{Transport: t}, nil
	}
	return t, nil
}

// tlsConfig returns the TLS configuration with the certificates of hosts.toml.
func (h *host) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{InsecureSkipVerify: h.insecure, MinVersion: tls.VersionTLS12} //nolint:gosec // skip_verify is the operator's word
	if len(h.ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, pem := range h.ca {
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca: no PEM certificate in the file")
			}
		}
		cfg.RootCAs = pool
	}
	for _, pair := range h.certs {
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		cfg.Certificates = append(cfg.Certificates, cert)
	}
	return cfg, nil
}

// plainFallback repeats a request by plain HTTP if the host does not speak TLS.
type plainFallback struct {
	*http.Transport
	mu    sync.Mutex
	plain map[string]bool
}

func (p *plainFallback) RoundTrip(req *http.Request) (*http.Response, error) {
	if p.isPlain(req.URL.Host) {
		return p.Transport.RoundTrip(asPlain(req))
	}
	resp, err := p.Transport.RoundTrip(req)
	var rec tls.RecordHeaderError
	if err == nil || req.URL.Scheme != "https" || !isLoopback(req.URL.Host) {
		return resp, err
	}
	if errors.As(err, &rec) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		p.mu.Lock()
		if p.plain == nil {
			p.plain = map[string]bool{}
		}
		p.plain[req.URL.Host] = true
		p.mu.Unlock()
		return p.Transport.RoundTrip(asPlain(req))
	}
	return resp, err
}

func (p *plainFallback) isPlain(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.plain[host]
}

func asPlain(req *http.Request) *http.Request {
	r := req.Clone(req.Context())
	r.URL.Scheme = "http"
	if r.URL.Port() == "" { // stay with the port that answered instead of 80
		r.URL.Host += ":" + httpsPort
	}
	return r
}

// endpoint is a host together with one pull's repository and credentials.
type endpoint struct {
	client *Client
	host   *host
	repo   string
	creds  Credentials
	base   http.RoundTripper
	http   *http.Client
	last   arrival // of the host's last answer

	mu    sync.Mutex
	authz string // Authorization header that worked last
}

// newEndpoint prepares a host for the requests of one pull.
func (c *Client) newEndpoint(ctx context.Context, h *host, ref Reference, given *Credentials) (*endpoint, error) {
	rt, err := c.transport(h, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFinal, err)
	}
	creds, err := forHost(ctx, h, ref.Host, given)
	if err != nil {
		return nil, err
	}
	e := &endpoint{client: c, host: h, repo: ref.Repo, creds: creds, base: rt}
	e.http = &http.Client{Transport: e, CheckRedirect: checkRedirect}
	switch tok, ok := c.cachedToken(e.tokenKey()); {
	case creds.RegistryToken != "":
		e.authz = "Bearer " + creds.RegistryToken
	case ok:
		e.authz = "Bearer " + tok
	}
	return e, nil
}

func (e *endpoint) tokenKey() string {
	return e.host.base.String() + " " + e.repo + " " + e.creds.hash()
}

// checkRedirect allows up to ten redirects, and none from https to http.
func checkRedirect(next *http.Request, via []*http.Request) error {
	if len(via) > 10 {
		return fmt.Errorf("%w: more than ten redirects", errFinal)
	}
	if next.Response.TLS != nil && next.URL.Scheme != "https" {
		return fmt.Errorf("%w: redirect from https to %s://%s", errFinal, next.URL.Scheme, next.URL.Host)
	}
	return nil
}

// RoundTrip adds the host's headers and credentials to requests to the host itself. It sends
// requests to other hosts, to which the host has redirected, without them and through a
// [fence].
func (e *endpoint) RoundTrip(req *http.Request) (*http.Response, error) {
	from := arrivalOf(req.Context())
	ctx := req.Context()
	own := e.own(req.URL)
	if own && !e.client.proxied(req) {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
			from.note(got.Conn.RemoteAddr())
			e.last.note(got.Conn.RemoteAddr())
		}})
	}
	r := req.Clone(ctx)
	r.Header.Set("User-Agent", e.client.opts.UserAgent)
	if !own {
		r.Header.Del("Authorization")
		return e.client.away(r, e.host, from.reach())
	}
	for k, vs := range e.host.header {
		r.Header[http.CanonicalHeaderKey(k)] = vs
	}
	if a := e.authorization(); a != "" {
		r.Header.Set("Authorization", a)
	}
	return e.base.RoundTrip(r)
}

// own reports whether a URL belongs to this host: it has the same name and port. A host that
// is configured with http may also be reached by https.
func (e *endpoint) own(u *url.URL) bool {
	base := e.host.base
	if !strings.EqualFold(u.Hostname(), base.Hostname()) {
		return false
	}
	return port(u) == port(base) || base.Scheme == "http" && u.Scheme == "https" && u.Port() == "" && base.Port() == ""
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return httpsPort
}

func (e *endpoint) authorization() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.authz
}

func (e *endpoint) setAuthorization(v string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.authz = v
}
