package registry

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	helpers "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// Credentials are the credentials of one pull; the fields are those of the CRI's
// AuthConfig.
type Credentials struct {
	Username, Password string
	Auth               string // base64 of USERNAME:PASSWORD
	ServerAddress      string // the only host that gets them; "" is the image's registry
	IdentityToken      string // an OAuth2 refresh token, exchanged for an access token
	RegistryToken      string // a bearer token, sent unchanged
}

// helperTimeout is how long a credential helper may take. Some helpers use the network.
const helperTimeout = 30 * time.Second

// normalized returns the credentials with Auth decoded into username and password. The
// username "<token>" says that the password is an identity token.
func (c Credentials) normalized() (Credentials, error) {
	if c.Auth != "" && c.Username == "" {
		// Docker and base64(1) write it with or without padding, and with zero bytes or a
		// newline at the end.
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(c.Auth, "=\x00\r\n"))
		name, password, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			return c, fmt.Errorf("%w: the auth field is not base64 of USERNAME:PASSWORD", ErrUnauthorized)
		}
		c.Username, c.Password = name, strings.TrimRight(password, "\x00")
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

// forHost returns the credentials that are sent to h: the client's if they are for h,
// otherwise those that hosts.toml has for h.
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

// askHelper runs docker-credential-NAME and returns the credentials that it has for the
// registry. It is no error if it has none.
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

// helper is one run of a credential helper. It is killed when its context ends.
type helper struct{ *exec.Cmd }

// Input implements [helpers.Program].
func (h helper) Input(r io.Reader) { h.Stdin = r }

// authorize returns the Authorization header with which a request is repeated after the
// answer resp with status 401.
func (e *endpoint) authorize(ctx context.Context, resp *http.Response, refused string) (string, error) {
	detail := e.client.newStatusError(resp, true).Error()
	switch c := challengeOf(resp); {
	case c.scheme == "bearer" && e.creds.RegistryToken == "":
		tok, err := e.bearer(ctx, c, refused)
		if err != nil {
			return "", err
		}
		return "Bearer " + tok, nil
	case c.scheme == "basic" && e.creds.Username != "":
		if value := "Basic " + e.creds.basic(); value != refused {
			return value, nil
		}
	}
	if e.creds.empty() {
		return "", fmt.Errorf("%w: %s; no credentials for this host were given", ErrUnauthorized, detail)
	}
	return "", fmt.Errorf("%w: %s; the credentials given are wrong or do not suffice", ErrUnauthorized, detail)
}

// basic returns user name and password in the form of HTTP's Basic scheme (RFC 7617).
func (c Credentials) basic() string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
}

// bearer returns a token for the challenge: from the cache, unless that is the one that was
// refused, or from the token server.
func (e *endpoint) bearer(ctx context.Context, c challenge, refused string) (string, error) {
	if tok, ok := e.client.cachedToken(e.tokenKey()); ok && "Bearer "+tok != refused {
		return tok, nil
	}
	tok, err := e.requestToken(ctx, c)
	if err != nil {
		return "", err
	}
	if "Bearer "+tok.value == refused {
		return "", fmt.Errorf("%w: the token server's token does not give access to %s", ErrUnauthorized, e.repo)
	}
	e.client.keepToken(e.tokenKey(), tok)
	return tok.value, nil
}

// dropToken removes the token in the Authorization header used from the cache. It reports
// whether the header had a token of the registry, and not one of the client.
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
	if e.authz == used { // otherwise another request has replaced it already
		e.authz = ""
	}
	return true
}
