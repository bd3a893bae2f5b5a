package image

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func keyPair(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, pemFile(t, key.Public())
}

func pemFile(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func digestOf(t testing.TB, img interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// signTag signs as cosign 2 does.
func signTag(t testing.TB, reg *testRegistry, repo string, about, signed v1.Hash, key crypto.Signer) {
	t.Helper()
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, signed)
	sum := sha256.Sum256([]byte(payload))
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       static.NewLayer([]byte(payload), cosignPayload),
		Annotations: map[string]string{cosignSignature: base64.StdEncoding.EncodeToString(sig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	reg.push(t, repo+":"+strings.Replace(about.String(), ":", "-", 1)+".sig", img)
}

// signBundle signs as cosign 3 does.
func signBundle(t testing.TB, reg *testRegistry, repo string, img v1.Image, predicate string, key ed25519.PrivateKey) {
	t.Helper()
	d := digestOf(t, img)
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s"}`, d.Hex, predicate)
	const kind = "application/vnd.in-toto+json"
	sig := ed25519.Sign(key, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement))
	bundle, err := json.Marshal(map[string]any{"mediaType": sigstoreBundle + ".v0.3+json", "dsseEnvelope": map[string]any{
		"payload": []byte(statement), "payloadType": kind, "signatures": []map[string]any{{"sig": sig}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	size, _ := img.Size()
	mt, _ := img.MediaType()
	art, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(bundle, sigstoreBundle+".v0.3+json"))
	if err != nil {
		t.Fatal(err)
	}
	art = mutate.ConfigMediaType(art, sigstoreBundle+".v0.3+json")
	subject := mutate.Subject(art, v1.Descriptor{Digest: d, Size: size, MediaType: mt}).(v1.Image)
	reg.push(t, repo+":"+digestOf(t, subject).Hex, subject)
}

func TestTrust(t *testing.T) {
	reg := newRegistry(t, nil)
	good, goodFile := keyPair(t)
	other, _ := keyPair(t)
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edFile := pemFile(t, edPub)
	img := func(s string) v1.Image { return imageOf(t, layerOf(t, layerTar(t, entry{"f", s}))) }
	signed, unsigned, forged, replayed, bundled, attested := img("signed"), img("unsigned"), img("forged"), img("replayed"), img("bundled"), img("attested")
	refs := map[string]string{}
	for n, i := range map[string]v1.Image{"signed": signed, "unsigned": unsigned, "forged": forged, "replayed": replayed, "bundled": bundled, "attested": attested} {
		refs[n] = reg.push(t, "keys/"+n, i)
	}
	signTag(t, reg, "keys/signed", digestOf(t, signed), digestOf(t, signed), good)
	signTag(t, reg, "keys/forged", digestOf(t, forged), digestOf(t, forged), other)
	signTag(t, reg, "keys/replayed", digestOf(t, replayed), digestOf(t, signed), good)
	signBundle(t, reg, "keys/bundled", bundled, "https://sigstore.dev/cosign/sign/v1", edKey)
	signBundle(t, reg, "keys/attested", attested, "https://slsa.dev/provenance/v1", edKey)
	refs["pinned"], refs["unpinned"] = reg.push(t, "pin/a", signed), reg.push(t, "pin/b", unsigned)
	refs["rejected"], refs["free"] = reg.push(t, "bad/x", signed), reg.push(t, "free/x", unsigned)
	refs["tag only"] = reg.push(t, "digest/x", signed)
	refs["with digest"] = refs["tag only"] + "@" + digestOf(t, signed).String()

	file := filepath.Join(t.TempDir(), "policy.toml")
	policy := fmt.Sprintf(`
[[rule]]
match = "%[1]s/keys/*"
keys = [%[2]q, %[3]q]
[[rule]]
match = "%[1]s/pin/*"
digests = [%[4]q]
[[rule]]
match = "%[1]s/bad/*"
reject = true
[[rule]]
match = "%[1]s/digest/*"
require_digest = true
`, reg.host, goodFile, edFile, digestOf(t, signed))
	if err := os.WriteFile(file, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := LoadTrustPolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	for n, ok := range map[string]bool{
		"signed": true, "unsigned": false, "forged": false, "replayed": false, "bundled": true, "attested": false, "pinned": true,
		"unpinned": false, "rejected": false, "free": true, "tag only": false, "with digest": true,
	} {
		s := openStore(t, Options{Trust: trust})
		_, err := s.Pull(t.Context(), PullRequest{Reference: refs[n]})
		if ok && err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if !ok && (!errors.Is(err, ErrSignature) || !strings.HasPrefix(err.Error(), "SignatureValidationFailed")) {
			t.Errorf("%s: got %v", n, err)
		}
	}
	s := openStore(t, Options{Trust: trust})
	pullOK(t, s, refs["free"]) // the unsigned image is here now
	if _, err := s.Pull(t.Context(), PullRequest{Reference: refs["unsigned"]}); !errors.Is(err, ErrSignature) {
		t.Errorf("an image that is here got a name the policy refuses: %v", err)
	}
}

func TestSeed(t *testing.T) {
	dir := t.TempDir()
	sample := sampleImage(t)
	if err := os.WriteFile(filepath.Join(dir, "a.tar"), dockerArchive(t, sample, "seed/a:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "junk"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Options{})
	for range 2 {
		imgs, err := s.Seed(t.Context(), dir)
		if len(imgs) != 1 || imgs[0].ID != idOf(t, sample) || err == nil || !strings.Contains(err.Error(), "junk") {
			t.Errorf("%v %v", imgs, err)
		}
	}
	if imgs, err := s.Seed(t.Context(), filepath.Join(dir, "absent")); len(imgs) != 0 || err != nil {
		t.Errorf("%v %v", imgs, err)
	}
}
