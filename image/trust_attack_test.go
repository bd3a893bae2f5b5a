package image

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"berth/image/registry"
)

func policyOf(t *testing.T, text string) (*TrustPolicy, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadTrustPolicy(file)
}

// TestAttackTrustBySpelling pulls an image the trust policy refuses by other spellings
// of its registry's name: zeros before the port, an IPv4 address written as IPv6.
func TestAttackTrustBySpelling(t *testing.T) {
	reg := newRegistry(t, nil)
	ref := reg.push(t, "team/x", sampleImage(t))
	port := reg.host[strings.LastIndexByte(reg.host, ':')+1:]
	spellings := []string{
		"127.0.0.1:" + port, "127.0.0.1:" + fmt.Sprintf("%05s", port), "[::ffff:7f00:1]:" + port, "[0:0::FFFF:7F00:0001]:" + port,
	}
	for _, rule := range append(spellings, "127.0.0.1.:"+port) {
		trust, err := policyOf(t, fmt.Sprintf("[[rule]]\nmatch = %q\nreject = true\n", rule+"/team/*"))
		if err != nil {
			t.Fatal(err)
		}
		s := openStore(t, Options{Trust: trust})
		for _, name := range spellings {
			if _, err := s.Pull(t.Context(), PullRequest{Reference: name + "/team/x"}); !errors.Is(err, ErrSignature) {
				t.Errorf("the rule for %s lets %s pass: %v", rule, name, err)
			}
		}
	}
	s := openStore(t, Options{})
	for _, name := range spellings {
		if img := pullOK(t, s, name+"/team/x"); len(img.Tags) != 1 || img.Tags[0] != ref+":latest" && img.Tags[0] != ref {
			t.Errorf("%s is recorded as %v", name, img.Tags)
		}
	}
}

// TestAttackTrustSpelledHosts asks a policy about hosts that can't be reached here:
// capitals, the default port, a dot at the end, docker's other names.
func TestAttackTrustSpelledHosts(t *testing.T) {
	trust, err := policyOf(t, `
[[rule]]
match = "Registry.Example:443/*"
reject = true
[[rule]]
match = "[2001:DB8::0:1]:5000/*"
reject = true
[[rule]]
match = "index.docker.io/evil/*"
reject = true
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"registry.example/x", "REGISTRY.example:0443/x", "registry.example.:443/x", "[2001:db8::1]:5000/x", "[2001:db8:0:0:0:0:0:1]:05000/x",
		"evil/x", "Docker.IO:443/evil/x", "registry-1.docker.io./evil/x",
	} {
		ref, err := registry.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := trust.allowName(ref); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTrustPolicyMistakes: a rule that can match nothing is an error, not a hole.
func TestTrustPolicyMistakes(t *testing.T) {
	for match, want := range map[string]string{
		"":                      "matches all",
		"registry.example":      "registry.example/*",
		"registry.example/a:v1": "leave out tag",
		"registry.example/A":    "lower-case",
		"registry.example/A/*":  "capital letters",
		"registry.example/[a":   "bracket",
		"registry.example:x/*":  "port",
	} {
		if _, err := policyOf(t, fmt.Sprintf("[[rule]]\nmatch = %q\nreject = true\n", match)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", match, err, want)
		}
	}
}

// TestNamesOfEarlierRecords: records that keep names as they were written once are
// found by those names.
func TestNamesOfEarlierRecords(t *testing.T) {
	reg := newRegistry(t, nil)
	root := t.TempDir()
	s := openStore(t, Options{Root: root})
	img := pullOK(t, s, reg.push(t, "a", sampleImage(t)))
	r := s.cat.view().records[img.ID].with("EXAMPLE.com:443/a:v1", "")
	if err := s.cat.writeRecord(r); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = openStore(t, Options{Root: root})
	for _, name := range []string{"EXAMPLE.com:443/a:v1", "example.com/a:v1"} {
		if got, err := s.Get(name); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAttackDigestLie: a registry answers that its tag has the digest of an image that
// another registry gave with credentials; its own name would come to mean that image.
func TestAttackDigestLie(t *testing.T) {
	good := newRegistry(t, nil)
	var lie atomic.Value
	evil := newRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if d, ok := lie.Load().(string); ok && r.Method == http.MethodHead {
				w.Header().Set("Docker-Content-Digest", d)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	secret, own := imageOf(t, layersOf(t, "secret", 1)...), imageOf(t, layersOf(t, "own", 1)...)
	s := openStore(t, Options{})
	hidden, mine := pullOK(t, s, good.push(t, "secret", secret)), evil.push(t, "x", own)
	had := pullOK(t, s, mine)
	lie.Store(digestOf(t, secret).String())
	if img, err := s.Pull(t.Context(), PullRequest{Reference: mine}); err == nil && img.ID == hidden.ID || err == nil && img.ID != had.ID {
		t.Errorf("it pulled %v", img.Tags)
	}
	if got, err := s.Get(mine); err != nil || got.ID != had.ID {
		t.Errorf("its name means another image: %v", err)
	}
}
