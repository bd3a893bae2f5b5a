package registry

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
)

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://x/t",service="a\"b",scope=c`)
	f.Fuzz(func(t *testing.T, s string) {
		if c := challengeOf(unauthorized("http://x/v2/", `Basic realm="x"`, s)); c.scheme != "basic" && c.scheme != "bearer" {
			t.Errorf("got %+v, want one that can be met", c)
		}
	})
}

func unauthorized(u string, challenges ...string) *http.Response {
	req := httptest.NewRequest(http.MethodGet, u, nil)
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": challenges}, Body: http.NoBody, Request: req}
}

func TestChallenge(t *testing.T) {
	c := challengeOf(unauthorized("http://x/v2/", "Negotiate", `Basic realm="x"`, `BEARER realm="https://x/t", service="a\"b",scope=c`))
	if c.scheme != "bearer" || !c.plain || c.params["realm"] != "https://x/t" || c.params["service"] != `a"b` || c.params["scope"] != "c" {
		t.Errorf("of three challenges %+v is chosen, want the bearer's with all its parameters, over plain HTTP", c)
	}
	if c := challengeOf(unauthorized("https://x/v2/", "Negotiate", `basic realm="x"`)); c.scheme != "basic" || c.plain {
		t.Errorf("of Negotiate and Basic %+v is chosen, want basic over TLS", c)
	}
	if c := challengeOf(unauthorized("https://x/v2/")); c.scheme != "" {
		t.Errorf("without a challenge there is %+v, want no scheme", c)
	}
}

// TestChallengeForms has hosts write their challenges as hosts do.
func TestChallengeForms(t *testing.T) {
	for header, want := range map[string]challenge{
		`Bearer realm="https://x/t",service="s"`: {"bearer", map[string]string{"realm": "https://x/t", "service": "s"}, false},
		`Basic realm="a, b", charset=UTF-8, Bearer realm="https://x/t" , scope="repository:a:pull,push"`: {
			"bearer", map[string]string{"realm": "https://x/t", "scope": "repository:a:pull,push"}, false},
		`Negotiate YWJj==, Basic realm=x`:               {"basic", map[string]string{"realm": "x"}, false},
		`bearer Realm = https://x/t,scope=repository:a`: {"bearer", map[string]string{"realm": "https://x/t", "scope": "repository:a"}, false},
		`Bearer realm="never ends`:                      {"bearer", map[string]string{"realm": "never ends"}, false},
		`realm="of nothing", Basic`:                     {"basic", map[string]string{}, false},
		`"Bearer" realm="x"`:                            {},
		"":                                              {},
		"Digest realm=x":                                {},
	} {
		if got := challengeOf(unauthorized("https://x/v2/", header)); got.scheme != want.scheme || !maps.Equal(got.params, want.params) || got.plain {
			t.Errorf("%s: got %+v, want %+v", header, got, want)
		}
	}
}
