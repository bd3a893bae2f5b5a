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

// Credentials are what a client gives with a pull; the fields are those of the
// CRI's AuthConfig.
type Credentials struct {
	Username, Password string
	Auth               string // base64 of USERNAME:PASSWORD
	ServerAddress      string // the host they are for; "" means the image's registry
	IdentityToken      string // exchanged for an access token by OAuth2
	RegistryToken      string // sent as it is, as bearer token
}

// helperTimeout is how long a credential helper may take; some ask the network.
const helperTimeout = 30 * time.Second

// normalized fills username and password from Auth, and the identity token from
// the user name that stands for one.
func (c Credentials) normalized() (Credentials, error) {
	if c.Auth != "" && c.Username == "" {
		// As docker and base64(1) write it: with or without padding, with zeros or an end of
		// the line after it.
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

// authorize answers a 401: it gives the Authorization header to come back with.
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

// basic is user name and password as HTTP's basic scheme wants them.
func (c Credentials) basic() string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
}

// bearer gets a token for the challenge, from the cache unless it is the refused one.
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
