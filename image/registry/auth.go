package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"
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

// normalized fills username and password from Auth, and the identity token from
// the user name that stands for one.
func (c Credentials) normalized() (Credentials, error) {
	if c.Auth != "" && c.Username == "" {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimRight(c.Auth, "\x00"))
		if err != nil {
			if raw, err = base64.RawStdEncoding.DecodeString(c.Auth); err != nil {
				return c, fmt.Errorf("%w: the auth field is not base64", ErrUnauthorized)
			}
		}
		user, pass, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if !ok {
			return c, fmt.Errorf("%w: the auth field does not hold USERNAME:PASSWORD", ErrUnauthorized)
		}
		c.Username, c.Password = user, pass
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
	if addr == "index.docker.io" || addr == "registry-1.docker.io" {
		addr = defaultHost
	}
	return addr == h.base.Host || (h.upstream && addr == registry)
}

// askHelper runs docker-credential-NAME, which prints what it has for the host.
func askHelper(ctx context.Context, name, registry string) (Credentials, error) {
	if strings.ContainsAny(name, "/ ") {
		return Credentials{}, fmt.Errorf("%w: credential helper %q must be a bare name: NAME of docker-credential-NAME", ErrUnauthorized, name)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(registry)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return Credentials{}, fmt.Errorf("%w: credential helper docker-credential-%s: %w: %.200s", ErrUnauthorized, name, err, stderr.String())
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return Credentials{}, fmt.Errorf("%w: credential helper docker-credential-%s printed no JSON", ErrUnauthorized, name)
	}
	return Credentials{Username: got.Username, Password: got.Secret}.normalized()
}

// token is a bearer token and when to ask for another.
type token struct {
	value   string
	expires time.Time
}

// authorize answers a 401: it gives the Authorization header to come back with.
func (e *endpoint) authorize(ctx context.Context, resp *http.Response, refused string) (string, error) {
	challenges := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	detail := newStatusError(resp).Error()
	if p, ok := challenges["bearer"]; ok && e.creds.RegistryToken == "" {
		tok, err := e.bearer(ctx, p, refused)
		if err != nil {
			return "", err
		}
		return "Bearer " + tok, nil
	}
	if _, ok := challenges["basic"]; ok && e.creds.Username != "" {
		if value := basicAuth(e.creds); value != refused {
			return value, nil
		}
	}
	switch {
	case e.creds.empty():
		return "", fmt.Errorf("%w: %s; no credentials for this host were given", ErrUnauthorized, detail)
	default:
		return "", fmt.Errorf("%w: %s; the credentials given are wrong or do not suffice", ErrUnauthorized, detail)
	}
}

func basicAuth(c Credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// bearer gets a token for the challenge, from the cache unless it is the refused one.
func (e *endpoint) bearer(ctx context.Context, p map[string]string, refused string) (string, error) {
	if tok, ok := e.client.cachedToken(e.tokenKey()); ok && "Bearer "+tok != refused {
		return tok, nil
	}
	realm, err := url.Parse(p["realm"])
	if err != nil || realm.Host == "" || (realm.Scheme != "https" && (realm.Scheme != "http" || e.url("").Scheme != "http")) {
		return "", fmt.Errorf("%w: the registry names %.200q as its token server; an https URL is needed", ErrUnauthorized, p["realm"])
	}
	form := url.Values{}
	if p["service"] != "" {
		form.Set("service", p["service"])
	}
	scope := p["scope"]
	if scope == "" {
		scope = "repository:" + e.repo + ":pull"
	}
	form.Set("scope", scope)
	tok, err := e.requestToken(ctx, realm, form)
	if err != nil {
		return "", err
	}
	if "Bearer "+tok.value == refused {
		return "", fmt.Errorf("%w: the token server's token does not give access to %s", ErrUnauthorized, e.repo)
	}
	e.client.keepToken(e.tokenKey(), tok)
	return tok.value, nil
}

// requestToken asks by OAuth2 with an identity token, else, and where the server
// knows no OAuth2, by the docker token protocol.
func (e *endpoint) requestToken(ctx context.Context, realm *url.URL, form url.Values) (token, error) {
	if e.creds.IdentityToken != "" {
		oauth := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.creds.IdentityToken}, "client_id": {"berth"}}
		for k, v := range form {
			oauth[k] = v
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(oauth.Encode()))
		if err != nil {
			return token{}, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		tok, status, err := e.sendTokenRequest(req)
		if status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			return tok, err
		}
	}
	u := *realm
	q := u.Query()
	for k, v := range form {
		q[k] = v
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return token{}, err
	}
	switch {
	case e.creds.Username != "":
		req.Header.Set("Authorization", basicAuth(e.creds))
	case e.creds.IdentityToken != "":
		req.Header.Set("Authorization", basicAuth(Credentials{Username: "<token>", Password: e.creds.IdentityToken}))
	}
	tok, _, err := e.sendTokenRequest(req)
	return tok, err
}

func (e *endpoint) sendTokenRequest(req *http.Request) (token, int, error) {
	req.Header.Set("User-Agent", e.client.opts.UserAgent)
	c := http.Client{Transport: e.base, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Host != via[0].URL.Host || next.URL.Scheme != via[0].URL.Scheme {
			return fmt.Errorf("%w: the token server redirects to %s://%s, which must not see the credentials", errFinal, next.URL.Scheme, next.URL.Host)
		}
		if len(via) > 5 {
			return fmt.Errorf("%w: too many redirects", errFinal)
		}
		return nil
	}}
	resp, err := c.Do(req)
	if err != nil {
		return token{}, 0, fmt.Errorf("token server: %w", err)
	}
	defer resp.Body.Close() // read to the end or not wanted
	if resp.StatusCode != http.StatusOK {
		se := newStatusError(resp)
		if se.temporary() {
			return token{}, se.status, fmt.Errorf("token server %s: %w", req.URL.Host, se)
		}
		return token{}, se.status, fmt.Errorf("%w: token server %s: %w", ErrUnauthorized, req.URL.Host, se)
	}
	var got struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&got); err != nil {
		return token{}, resp.StatusCode, fmt.Errorf("%w: token server %s: no JSON: %w", ErrUnauthorized, req.URL.Host, err)
	}
	if got.Token == "" {
		got.Token = got.AccessToken
	}
	if got.Token == "" {
		return token{}, resp.StatusCode, fmt.Errorf("%w: token server %s gave no token", ErrUnauthorized, req.URL.Host)
	}
	life := max(time.Duration(min(got.ExpiresIn, 86400))*time.Second, tokenFloor)
	return token{got.Token, time.Now().Add(life * 8 / 10)}, resp.StatusCode, nil
}

// parseChallenges reads WWW-Authenticate headers: scheme, in lower case, to its
// parameters.
func parseChallenges(headers []string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, h := range headers {
		scheme, rest, _ := strings.Cut(strings.TrimSpace(h), " ")
		out[strings.ToLower(scheme)] = parseParams(rest)
	}
	return out
}

func parseParams(s string) map[string]string {
	params := map[string]string{}
	for {
		s = strings.TrimLeft(s, " ,\t")
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return params
		}
		key = strings.ToLower(strings.TrimSpace(key))
		var value string
		if strings.HasPrefix(rest, `"`) {
			value, rest = quoted(rest[1:])
		} else {
			value, rest, _ = strings.Cut(rest, ",")
		}
		params[key] = strings.TrimSpace(value)
		s = rest
	}
}

// quoted reads up to the closing quote.
func quoted(s string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return b.String(), s[i+1:]
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
