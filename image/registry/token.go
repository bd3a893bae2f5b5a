package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tokenFloor is the lifetime of a token if the token server names none, and the least one.
const tokenFloor = 60 * time.Second

// token is a bearer token and the time at which it is replaced.
type token struct {
	value   string
	expires time.Time
}

// tokenServer is the server that issues tokens for a registry.
type tokenServer struct {
	*endpoint
	realm *url.URL
}

// requestToken requests a token from the token server in the challenge. With an identity
// token it uses OAuth2. Without one, or if the server does not support OAuth2, it uses
// docker's token protocol.
func (e *endpoint) requestToken(ctx context.Context, c challenge) (token, error) {
	s, err := e.tokenServer(c)
	if err != nil {
		return token{}, err
	}
	scope := c.params["scope"]
	if scope == "" && e.repo != "" {
		scope = "repository:" + e.repo + ":pull"
	}
	var raw []byte
	var se *statusError
	oauth := e.creds.IdentityToken != ""
	if oauth {
		raw, err = s.askOAuth(ctx, c.params["service"], scope)
	}
	if !oauth || errors.As(err, &se) && (se.code == http.StatusNotFound || se.code == http.StatusMethodNotAllowed) {
		raw, err = s.ask(ctx, c.params["service"], scope)
	}
	if err != nil {
		return token{}, s.failure(err)
	}
	return s.parse(raw)
}

// tokenServer returns the token server in the challenge's realm. If the registry was reached
// by TLS, a realm without TLS is refused.
func (e *endpoint) tokenServer(c challenge) (*tokenServer, error) {
	realm, err := url.Parse(c.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && (realm.Scheme != "http" || !c.plain) {
		return nil, fmt.Errorf("%w: the registry names %.200q as its token server; an https URL is needed", ErrUnauthorized, c.params["realm"])
	}
	return &tokenServer{e, realm}, nil
}

// ask requests a token by docker's token protocol: a GET with user name and password, if
// there are any. It returns the body of the answer.
func (s *tokenServer) ask(ctx context.Context, service, scope string) ([]byte, error) {
	u := *s.realm
	q := u.Query()
	if scope != "" { // without one the credentials alone are checked
		q.Set("scope", scope)
	}
	q.Set("service", service)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	switch {
	case s.creds.IdentityToken != "": // a server without OAuth2 accepts it as a password
		req.SetBasicAuth("<token>", s.creds.IdentityToken)
	case s.creds.Username != "":
		req.SetBasicAuth(s.creds.Username, s.creds.Password)
	}
	return s.send(req)
}

// askOAuth exchanges the identity token, OAuth2's refresh token, for an access token (RFC
// 6749, section 6). It returns the body of the answer.
func (s *tokenServer) askOAuth(ctx context.Context, service, scope string) ([]byte, error) {
	form := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {s.creds.IdentityToken},
		"client_id": {s.client.opts.UserAgent}, "scope": {scope},
	}
	if service != "" {
		form.Set("service", service)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return s.send(req)
}

// send sends the request and returns the body of the answer, if its status is a success.
func (s *tokenServer) send(req *http.Request) ([]byte, error) {
	resp, err := (&http.Client{Transport: s, CheckRedirect: s.checkRedirect}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close() // it is not read
		return nil, s.client.newStatusError(resp, strings.EqualFold(s.realm.Hostname(), s.host.base.Hostname()))
	}
	return s.client.readDocument(resp)
}

// checkRedirect allows redirects only to the token server itself, because the request has
// credentials.
func (s *tokenServer) checkRedirect(next *http.Request, via []*http.Request) error {
	if next.URL.Host != s.realm.Host || next.URL.Scheme != s.realm.Scheme {
		return fmt.Errorf("%w: the token server redirects to %s://%s, which must not see the credentials", errFinal, next.URL.Scheme, next.URL.Host)
	}
	return checkRedirect(next, via)
}

// RoundTrip implements [http.RoundTripper].
func (s *tokenServer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", s.client.opts.UserAgent)
	if s.own(req.URL) {
		return s.base.RoundTrip(req)
	}
	return s.client.away(req, s.host, arrivalOf(req.Context()).reach())
}

// failure wraps the error of a request to the token server in its sentinel: [ErrUnavailable]
// if the server can't be reached or can't serve at present, otherwise [ErrUnauthorized].
func (s *tokenServer) failure(err error) error {
	var se *statusError
	var sent *url.Error
	switch {
	case errors.As(err, &se) && se.temporary():
		return fmt.Errorf("token server %s: %w", s.realm.Host, se)
	case se != nil:
		return fmt.Errorf("%w: token server %s: %w", ErrUnauthorized, s.realm.Host, se)
	case errors.Is(err, errFenced):
		return fmt.Errorf("%w: token server %w", ErrUnauthorized, shorten(err))
	case errors.As(err, &sent):
		return fmt.Errorf("token server: %w", shorten(err))
	}
	return fmt.Errorf("token server %s: %w", s.realm.Host, err)
}

// parse parses the answer of a token server.
func (s *tokenServer) parse(raw []byte) (token, error) {
	var got struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"` // seconds
	}
	err := Decode(raw, &got)
	value := cmp.Or(got.Token, got.AccessToken)
	var text string
	switch syntax := (*json.SyntaxError)(nil); {
	case errors.As(err, &syntax):
		text = syntax.Error()
	case err != nil: // not in the text: it may contain a part of the answer, even a secret
		text = "its answer has not the form of a token's"
	case value == "":
		text = "there is no token in its answer"
	default:
		life := max(time.Duration(min(got.ExpiresIn, 86400))*time.Second, tokenFloor)
		return token{value, time.Now().Add(life * 8 / 10)}, nil
	}
	return token{}, fmt.Errorf("%w: token server %s: %s", ErrUnauthorized, s.realm.Host, printable(text, 300))
}
