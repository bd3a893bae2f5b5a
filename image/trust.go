package image

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/BurntSushi/toml"
	"github.com/opencontainers/go-digest"

	"berth/image/registry"
)

// TrustPolicy says which images may be pulled. The first rule that matches an image's name
// decides; an image without a matching rule may be pulled. The policy does not apply to
// archives, which only an operator can load.
type TrustPolicy struct {
	Rules []TrustRule

	mu       sync.Mutex
	verified map[string]bool // "DIGEST RULE" of the signatures that were verified
}

// trust holds the policy in force, which may be replaced while images are pulled.
type trust struct{ now atomic.Pointer[TrustPolicy] }

func newTrust(p *TrustPolicy) *trust {
	t := &trust{}
	t.set(p)
	return t
}

// policy is nil when all images are accepted.
func (t *trust) policy() *TrustPolicy { return t.now.Load() }

func (t *trust) set(p *TrustPolicy) { t.now.Store(p) }

// TrustRule is one rule.
type TrustRule struct {
	// Match is a [registry.Pattern] for HOST/REPOSITORY, without tag and digest. Any
	// spelling of the host that means the same registry will do. A host name that only DNS
	// resolves to the same machine is another registry.
	Match string
	// Reject refuses the images.
	Reject bool
	// RequireDigest refuses names without a digest.
	RequireDigest bool
	// Digests are those of the manifests or indexes that are allowed; if empty, all are.
	Digests []digest.Digest
	// Keys are public keys (ECDSA, Ed25519 or RSA). The image must have a cosign signature
	// by one of them; if empty, no signature is required.
	Keys []crypto.PublicKey
}

// trustFile is the TOML form of the policy.
type trustFile struct {
	Rule []struct {
		Match         string   `toml:"match"`
		Reject        bool     `toml:"reject"`
		RequireDigest bool     `toml:"require_digest"`
		Digests       []string `toml:"digests"`
		Keys          []string `toml:"keys"` // PEM files, relative to the policy's directory
	} `toml:"rule"`
}

// LoadTrustPolicy reads a policy, a TOML file of rules that are tried in file order.
// All keys but match may be left out; an unknown key is an error.
//
//	[[rule]]
//	match = "docker.io/mine/*"     # HOST/REPOSITORY; * is any characters, / too
//	keys = ["cosign.pub"]          # PEM, relative to this file; one must have signed
//
//	[[rule]]
//	match = "registry.example/base"
//	digests = ["sha256:..."]       # manifests or indexes that are allowed
//	require_digest = true          # pulls must name one
//
//	[[rule]]
//	match = "*"
//	reject = true                  # every image that no rule above matches
func LoadTrustPolicy(path string) (*TrustPolicy, error) {
	var f trustFile
	meta, err := toml.DecodeFile(path, &f)
	if err == nil && len(meta.Undecoded()) > 0 {
		err = fmt.Errorf("unknown key %q", meta.Undecoded()[0])
	}
	if err != nil {
		return nil, fmt.Errorf("trust policy %s: %w", path, err)
	}
	var p TrustPolicy
	for i, r := range f.Rule {
		rule := TrustRule{Match: r.Match, Reject: r.Reject, RequireDigest: r.RequireDigest}
		if err := checkMatch(r.Match); err != nil {
			return nil, fmt.Errorf("trust policy %s: rule %d: %w", path, i+1, err)
		}
		for _, s := range r.Digests {
			d, err := digest.Parse(s)
			if err != nil {
				return nil, fmt.Errorf("trust policy %s: digest %q: %w", path, s, err)
			}
			rule.Digests = append(rule.Digests, d)
		}
		for _, name := range r.Keys {
			key, err := readKey(filepath.Dir(path), name)
			if err != nil {
				return nil, fmt.Errorf("trust policy %s: %w", path, err)
			}
			rule.Keys = append(rule.Keys, key)
		}
		p.Rules = append(p.Rules, rule)
	}
	return &p, nil
}

// checkMatch refuses a pattern that no image name can match. An operator would rely on such
// a rule, and it would have no effect.
func checkMatch(match string) error {
	if match == "" {
		return errors.New(`it has no match; "*" matches all`)
	}
	if _, err := registry.ParsePattern(match); err != nil {
		return err
	}
	host, repo, slash := strings.Cut(match, "/")
	if strings.ContainsAny(match, `*?[\`) && !strings.HasPrefix(match, "[") {
		if slash && strings.ToLower(repo) != repo {
			return fmt.Errorf("match %q: repositories have no capital letters", match)
		}
		return nil
	}
	if !slash {
		return fmt.Errorf("match %q is no HOST/REPOSITORY; %q matches all of a registry", match, host+"/*")
	}
	if strings.ContainsAny(repo, ":@") {
		return fmt.Errorf("match %q: a rule holds for a repository; leave out tag and digest, and list digests under digests", match)
	}
	if strings.ContainsAny(repo, `*?[\`) {
		return nil
	}
	_, err := registry.Parse(match)
	return err
}

func readKey(dir, name string) (crypto.PublicKey, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("public key %s is not PEM", name)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", name, err)
	}
	return key, nil
}

// rule returns the rule for a name and its number, or nil if the name may be pulled without
// conditions.
func (p *TrustPolicy) rule(ref registry.Reference) (*TrustRule, int) {
	if p == nil {
		return nil, 0
	}
	for i := range p.Rules {
		pat, err := registry.ParsePattern(p.Rules[i].Match)
		if err != nil || pat.Matches(ref.Name()) { // an unreadable pattern counts as matching
			return &p.Rules[i], i
		}
	}
	return nil, 0
}

func refused(ref registry.Reference, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrSignature, ref, fmt.Sprintf(format, args...))
}

// allowName checks the conditions that concern the name alone, before the registry is asked.
func (p *TrustPolicy) allowName(ref registry.Reference) error {
	r, _ := p.rule(ref)
	switch {
	case r == nil:
		return nil
	case r.Reject:
		return refused(ref, "the trust policy refuses images of this name")
	case r.RequireDigest && ref.Digest == "":
		return refused(ref, "the trust policy wants it named by digest (NAME@sha256:...)")
	}
	return nil
}

// allow checks the conditions for an image with these digests: the digest that the name
// refers to and, if that is an index, the digest of the manifest that was chosen from it.
func (p *TrustPolicy) allow(ctx context.Context, ref registry.Reference, repo *registry.Repository, digests ...digest.Digest) error {
	r, n := p.rule(ref)
	if r == nil {
		return nil
	}
	if len(r.Digests) > 0 && !slices.ContainsFunc(digests, func(d digest.Digest) bool { return slices.Contains(r.Digests, d) }) {
		return refused(ref, "it is %s, which is none of the digests the trust policy lists", digests[0])
	}
	if len(r.Keys) == 0 {
		return nil
	}
	var errs []error
	for _, d := range digests {
		err := p.signed(ctx, repo, d, r, n)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errUnsigned) {
			return err // the registry failed, which says nothing about the image
		}
		errs = append(errs, err)
	}
	return refused(ref, "%v", errs[0])
}

// signed verifies a signature once per digest and rule.
func (p *TrustPolicy) signed(ctx context.Context, repo *registry.Repository, d digest.Digest, r *TrustRule, n int) error {
	key := fmt.Sprint(d, " ", n)
	p.mu.Lock()
	good := p.verified[key]
	p.mu.Unlock()
	if good {
		return nil
	}
	if err := verifySigned(ctx, repo, d, r.Keys); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verified == nil || len(p.verified) > 10_000 {
		p.verified = map[string]bool{}
	}
	p.verified[key] = true
	return nil
}
