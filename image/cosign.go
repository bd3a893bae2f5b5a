package image

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/image/registry"
)

// errUnsigned is returned when an image has no signature by one of the wanted keys.
var errUnsigned = errors.New("not signed")

const (
	cosignPayload   = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignSignature = "dev.cosignproject.cosign/signature"
	sigstoreBundle  = "application/vnd.dev.sigstore.bundle"
	maxSignatures   = 50
)

// verifySigned looks for a signature of the digest by one of the keys in the two places
// where cosign stores signatures: under the tag sha256-HEX.sig (cosign 1 and 2), and in
// sigstore bundles that refer to the image (cosign 3).
func verifySigned(ctx context.Context, repo *registry.Repository, d digest.Digest, keys []crypto.PublicKey) error {
	seen, err := verifyTagged(ctx, repo, d, keys)
	if err == nil || !errors.Is(err, errUnsigned) {
		return err
	}
	more, err := verifyReferrers(ctx, repo, d, keys)
	if err == nil || !errors.Is(err, errUnsigned) {
		return err
	}
	if seen+more == 0 {
		return fmt.Errorf("%w: %s has no signature in its repository", errUnsigned, d)
	}
	return fmt.Errorf("%w: none of the %d signatures of %s is by a key of the trust policy", errUnsigned, seen+more, d)
}

func verifyTagged(ctx context.Context, repo *registry.Repository, d digest.Digest, keys []crypto.PublicKey) (seen int, err error) {
	m, err := repo.Tag(ctx, strings.Replace(d.String(), ":", "-", 1)+".sig")
	if errors.Is(err, ErrNotFound) {
		return 0, errUnsigned
	}
	if err != nil {
		return 0, fmt.Errorf("look for a signature: %w", err)
	}
	var parsed ocispec.Manifest
	if err := registry.Decode(m.Raw, &parsed); err != nil {
		return 0, errUnsigned
	}
	for _, l := range parsed.Layers[:min(len(parsed.Layers), maxSignatures)] {
		sig, err := base64.StdEncoding.DecodeString(l.Annotations[cosignSignature])
		if l.MediaType != cosignPayload || err != nil {
			continue
		}
		payload, err := repo.Document(ctx, l.Digest)
		if err != nil {
			return seen, fmt.Errorf("fetch a signature: %w", err)
		}
		seen++
		if namesDigest(payload, d) && verifyAny(keys, payload, sig) {
			return seen, nil
		}
	}
	return seen, errUnsigned
}

// namesDigest reports whether the payload of a cosign signature is about the digest d.
func namesDigest(payload []byte, d digest.Digest) bool {
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	return registry.Decode(payload, &p) == nil && p.Critical.Image.Digest == d.String() &&
		p.Critical.Type == "cosign container image signature"
}

func verifyReferrers(ctx context.Context, repo *registry.Repository, d digest.Digest, keys []crypto.PublicKey) (seen int, err error) {
	list, err := repo.Referrers(ctx, d)
	if err != nil {
		return 0, fmt.Errorf("look for a signature: %w", err)
	}
	for _, ref := range list[:min(len(list), maxSignatures)] {
		if !strings.HasPrefix(ref.ArtifactType, sigstoreBundle) {
			continue
		}
		m, err := repo.Manifest(ctx, ref.Digest)
		if err != nil {
			return seen, fmt.Errorf("fetch a signature: %w", err)
		}
		var parsed ocispec.Manifest
		if registry.Decode(m.Raw, &parsed) != nil || len(parsed.Layers) != 1 {
			continue
		}
		bundle, err := repo.Document(ctx, parsed.Layers[0].Digest)
		if err != nil {
			return seen, fmt.Errorf("fetch a signature: %w", err)
		}
		seen++
		if verifyBundle(bundle, d, keys) {
			return seen, nil
		}
	}
	return seen, errUnsigned
}

// verifyBundle checks the DSSE envelope of a sigstore bundle and that its in-toto
// statement is about the digest.
func verifyBundle(raw []byte, d digest.Digest, keys []crypto.PublicKey) bool {
	var b struct {
		Envelope struct {
			Payload     []byte `json:"payload"`
			PayloadType string `json:"payloadType"`
			Signatures  []struct {
				Sig []byte `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if registry.Decode(raw, &b) != nil {
		return false
	}
	var statement struct {
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if registry.Decode(b.Envelope.Payload, &statement) != nil || statement.PredicateType != "https://sigstore.dev/cosign/sign/v1" {
		return false // an attestation: a statement about the image, but no signature of it
	}
	about := false
	for _, s := range statement.Subject {
		about = about || s.Digest[d.Algorithm().String()] == d.Encoded()
	}
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(b.Envelope.PayloadType), b.Envelope.PayloadType, len(b.Envelope.Payload), b.Envelope.Payload)
	for _, s := range b.Envelope.Signatures {
		if about && verifyAny(keys, signed, s.Sig) {
			return true
		}
	}
	return false
}

func verifyAny(keys []crypto.PublicKey, message, sig []byte) bool {
	return slices.ContainsFunc(keys, func(k crypto.PublicKey) bool { return verify(k, message, sig) })
}

func verify(key crypto.PublicKey, message, sig []byte) bool {
	sum := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], sig)
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil ||
			rsa.VerifyPSS(k, crypto.SHA256, sum[:], sig, nil) == nil
	}
	return false
}
