package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"

	helpers "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Credentials are what a client gives with a pull; the fields are those of the
// CRI's AuthConfig.
type Credentials struct {
	Username, Password string
	Auth               string // base64 of USERNAME:PASSWORD
	ServerAddress      string // the host they are for; "" means the image's registry
	IdentityToken      string // exchanged for an access token by OAuth2
	RegistryToken      string // sent as it is, as bearer token
}

// tokenFloor is how long a token is taken to live when the server does not say.
const tokenFloor = 60 * time.Second

// helperTimeout is how long a credential helper may take; some ask the network.
const helperTimeout = 30 * time.Second

// normalized fills username and password from Auth, and the identity token from
// the user name that stands for one.
func (c Credentials) normalized() (Credentials, error) {
	if c.Auth != "" && c.Username == "" {
		// Docker's own configuration holds the same field.
		raw, err := json.Marshal(map[string]string{"auth": strings.TrimRight(c.Auth, "\x00")})
		if err != nil {
			return c, err
		}
		var cfg authn.AuthConfig
		if err := json.Unmarshal(raw, &cfg); err != nil {
			return c, fmt.Errorf("%w: the auth field is not base64 of USERNAME:PASSWORD", ErrUnauthorized)
		}
		c.Username, c.Password = cfg.Username, strings.TrimRight(cfg.Password, "\x00")
	}
	if c.Username == "<token>" {
		c.IdentityToken, c.Username, c.Password = c.Password, "", ""
	}
	return c, nil
}

func (c Credentials) empty() bool {
	return c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

func (c Credentials) hash() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q", c.Username, c.Password, c.IdentityToken, c.RegistryToken))
	return string(sum[:])
}

// forHost gives the credentials that may go to h: the host's own, or the client's
// when h is where they belong.
func forHost(ctx context.Context, h *host, registry string, given *Credentials) (Credentials, error) {
	if given != nil && belongs(*given, h, registry) {
		if c, err := given.normalized(); err != nil || !c.empty() {
			return c, err
		}
	}
	if h.helper != "" {
		return askHelper(ctx, h.helper, h.base.Host)
	}
	if h.creds != nil {
		return h.creds.normalized()
	}
	return Credentials{}, nil
}

func belongs(c Credentials, h *host, registry string) bool {
	if c.ServerAddress == "" {
		return h.upstream
	}
	addr := c.ServerAddress
	if i := strings.Index(addr, "://"); i >= 0 {
		addr = addr[i+3:]
	}
	addr, _, _ = strings.Cut(addr, "/")
	addr, err := canonicalHost(addr)
	own, ownErr := canonicalHost(h.base.Host)
	return err == nil && (addr == own && ownErr == nil || h.upstream && addr == registry)
}

// askHelper has docker-credential-NAME give what it keeps for the host; a helper that
// keeps nothing for it is no error.
func askHelper(ctx context.Context, helperName, registry string) (Credentials, error) {
	if strings.ContainsAny(helperName, "/ ") {
		return Credentials{}, fmt.Errorf("%w: credential helper %q must be a bare name: NAME of docker-credential-NAME", ErrUnauthorized, helperName)
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	got, err := helpers.Get(func(args ...string) helpers.Program {
		return helper{exec.CommandContext(ctx, "docker-credential-"+helperName, args...)}
	}, registry)
	if credentials.IsErrCredentialsNotFound(err) {
		return Credentials{}, nil
	}
	if err != nil {
		return Credentials{}, fmt.Errorf("%w: credential helper docker-credential-%s: %.300w", ErrUnauthorized, helperName, err)
	}
	return Credentials{Username: got.Username, Password: got.Secret}.normalized()
}

// helper is a run of a credential helper, which has an end in time.
type helper struct{ *exec.Cmd }

// Input implements [helpers.Program].
func (h helper) Input(r io.Reader) { h.Stdin = r }

// token is a bearer token and when to ask for another.
type token struct {
	value   string
	expires time.Time
}

// authorize answers a 401: it gives the Authorization header to come back with.
func (e *endpoint) authorize(ctx context.Context, resp *http.Response, refused string) (string, error) {
	detail := e.client.newStatusError(resp, true).Error()
	switch c := challenge(ctx, resp); {
	case c.Scheme == "bearer" && e.creds.RegistryToken == "":
		tok, err := e.bearer(ctx, c, refused)
		if err != nil {
			return "", err
		}
		return "Bearer " + tok, nil
	case c.Scheme == "basic" && e.creds.Username != "":
		if value := "Basic " + e.creds.basic(); value != refused {
			return value, nil
		}
	}
	if e.creds.empty() {
		return "", fmt.Errorf("%w: %s; no credentials for this host were given", ErrUnauthorized, detail)
	}
	return "", fmt.Errorf("%w: %s; the credentials given are wrong or do not suffice", ErrUnauthorized, detail)
}

// challenge has the library read what the registry wants, bearer tokens before
// passwords. The library would ask for it itself, at /v2/; it is shown the answer
// that came to the request for the image.
func challenge(ctx context.Context, resp *http.Response) *transport.Challenge {
	headers := slices.Clone(resp.Header.Values("WWW-Authenticate"))
	isBearer := func(h string) bool { return len(h) > 6 && strings.EqualFold(h[:6], "bearer") }
	slices.SortStableFunc(headers, func(a, b string) int {
		switch {
		case isBearer(a) == isBearer(b):
			return 0
		case isBearer(a):
			return -1
		}
		return 1
	})
	answered := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": headers},
			Body: http.NoBody, Request: req,
		}, nil
	})
	c, err := transport.Ping(ctx, name.Registry{}, answered)
	if err != nil { // the context's end
		return &transport.Challenge{}
	}
	c.Insecure = resp.Request.URL.Scheme == "http"
	return c
}

// roundTripper is a function as [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements [http.RoundTripper].
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// basic is user name and password as HTTP's basic scheme wants them.
func (c Credentials) basic() string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
}

// forTokens are the credentials as the library takes them to a token server.
func (c Credentials) forTokens() authn.Authenticator {
	switch {
	case c.IdentityToken != "": // Auth is for a server that has no OAuth2
		return authn.FromConfig(authn.AuthConfig{IdentityToken: c.IdentityToken, Auth: Credentials{Username: "<token>", Password: c.IdentityToken}.basic()})
	case c.Username != "":
		return authn.FromConfig(authn.AuthConfig{Auth: c.basic()})
	}
	return authn.Anonymous
}

// bearer gets a token for the challenge, from the cache unless it is the refused one.
func (e *endpoint) bearer(ctx context.Context, c *transport.Challenge, refused string) (string, error) {
	if tok, ok := e.client.cachedToken(e.tokenKey()); ok && "Bearer "+tok != refused {
		return tok, nil
	}
	scope := c.Parameters["scope"]
	if scope == "" {
		scope = "repository:" + e.repo + ":pull"
	}
	tok, err := e.requestToken(ctx, c, scope)
	if err != nil {
		return "", err
	}
	if "Bearer "+tok.value == refused {
		return "", fmt.Errorf("%w: the token server's token does not give access to %s", ErrUnauthorized, e.repo)
	}
	e.client.keepToken(e.tokenKey(), tok)
	return tok.value, nil
}

// dropToken forgets a token the registry gave earlier, if the Authorization header used
// holds one that came from the cache.
func (e *endpoint) dropToken(used string) bool {
	value, ok := strings.CutPrefix(used, "Bearer ")
	if !ok || e.creds.RegistryToken != "" {
		return false
	}
	e.client.mu.Lock()
	if e.client.tokens[e.tokenKey()].value == value {
		delete(e.client.tokens, e.tokenKey())
	}
	e.client.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.authz == used { // else another request has renewed it
		e.authz = ""
	}
	return true
}

// requestToken has the library do the exchange: by OAuth2 with an identity token,
// else, and where the server knows no OAuth2, by docker's token protocol.
func (e *endpoint) requestToken(ctx context.Context, c *transport.Challenge, scope string) (token, error) {
	realm, err := url.Parse(c.Parameters["realm"])
	if err != nil || realm.Host == "" {
		return token{}, fmt.Errorf("%w: the registry names %.200q as its token server; an https URL is needed", ErrUnauthorized, c.Parameters["realm"])
	}
	// The library judges addresses in the realm; here the dialer does, and names too.
	trusted, err := name.NewRegistry(realm.Host)
	if err != nil {
		return token{}, fmt.Errorf("%w: token server: %w", ErrUnauthorized, err)
	}
	got, err := transport.Exchange(ctx, trusted, e.creds.forTokens(), &tokenTransport{e, realm}, []string{scope}, c)
	var se *statusError
	var sent *url.Error
	switch {
	case errors.As(err, &se) && se.temporary():
		return token{}, fmt.Errorf("token server %s: %w", realm.Host, se)
	case se != nil:
		return token{}, fmt.Errorf("%w: token server %s: %w", ErrUnauthorized, realm.Host, se)
	case errors.Is(err, errFenced):
		return token{}, fmt.Errorf("%w: token server %w", ErrUnauthorized, shorten(err))
	case errors.As(err, &sent):
		return token{}, fmt.Errorf("token server: %w", shorten(err))
	case err != nil: // further lines would be what the server sent, a secret maybe
		text, _, _ := strings.Cut(err.Error(), "\n")
		return token{}, fmt.Errorf("%w: token server %s: %s", ErrUnauthorized, realm.Host, printable(text, 300))
	}
	life := max(time.Duration(min(got.ExpiresIn, 86400))*time.Second, tokenFloor)
	return token{cmp.Or(got.Token, got.AccessToken), time.Now().Add(life * 8 / 10)}, nil
}

// tokenTransport takes the library's requests to the token server, and nowhere else.
type tokenTransport struct {
	*endpoint
	realm *url.URL
}

// RoundTrip implements [http.RoundTripper]. What is no success nor a redirect becomes
// an error here, where its Retry-After is at hand; but for the answers of a server
// without OAuth2, which the library goes by.
func (t *tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != t.realm.Host || req.URL.Scheme != t.realm.Scheme {
		return nil, fmt.Errorf("%w: the token server redirects to %s://%s, which must not see the credentials", errFinal, req.URL.Scheme, req.URL.Host)
	}
	req.Header.Set("User-Agent", t.client.opts.UserAgent)
	resp, err := t.send(req)
	if err != nil {
		return nil, err
	}
	noOAuth := req.Method == http.MethodPost && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed)
	switch {
	case noOAuth:
		resp.StatusCode = http.StatusNotFound // the one of the two the library knows
	case resp.StatusCode >= http.StatusBadRequest:
		defer resp.Body.Close() // not wanted
		return nil, t.client.newStatusError(resp, strings.EqualFold(t.realm.Hostname(), t.host.base.Hostname()))
	}
	resp.Body = t.client.watch(resp)
	return resp, nil
}

func (t *tokenTransport) send(req *http.Request) (*http.Response, error) {
	if t.own(req.URL) {
		return t.base.RoundTrip(req)
	}
	return t.client.away(req, t.host, arrivalOf(req.Context()).reach())
}
