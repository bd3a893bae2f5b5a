package server

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"berth/server/config"
)

// newPair makes a certificate with its key, as PEM.
func newPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	cfg := config.Default()
	cfg.State = t.TempDir()
	pair, err := selfSigned(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = os.ReadFile(filepath.Join(cfg.State, selfSignedFile)); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// shake makes a handshake between server's and a client that trusts trusted alone.
func shake(t *testing.T, server *tls.Config, trusted []byte, client *tls.Config) error {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() { _ = tls.Server(far, server).HandshakeContext(t.Context()) }() // the client's error is looked at
	client.RootCAs, client.ServerName = x509.NewCertPool(), "127.0.0.1"
	client.RootCAs.AppendCertsFromPEM(trusted)
	return tls.Client(near, client).HandshakeContext(t.Context())
}

func put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// A pair that is replaced is in use at the next handshake; while only half of it is, or
// none of it is there, the earlier pair stays.
func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	crt, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cfg.StreamTLS = []string{crt, key}
	if _, err := streamTLS(cfg); err == nil {
		t.Error("the daemon starts without the certificate it was told of")
	}
	oldCert, oldKey := newPair(t)
	newCert, newKey := newPair(t)
	put(t, crt, oldCert)
	put(t, key, oldKey)
	server, err := streamTLS(cfg)
	if err != nil {
		t.Fatal(err)
	}
	trusts := func(when string, cert []byte) {
		t.Helper()
		if err := shake(t, server, cert, &tls.Config{MinVersion: tls.VersionTLS12}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	trusts("at first", oldCert)
	put(t, crt, newCert)
	trusts("with half of a new pair", oldCert)
	put(t, key, newKey)
	trusts("with a new pair", newCert)
	if err := os.Remove(crt); err != nil {
		t.Fatal(err)
	}
	trusts("without a file", newCert)
	put(t, crt, append(oldCert, oldKey...))
	put(t, key, oldKey)
	trusts("with the first pair again", oldCert)
	cfg.StreamTLS = []string{crt}
	if server, err = streamTLS(cfg); err != nil {
		t.Fatal(err)
	}
	trusts("with both in one file", oldCert)
}

func TestOldestTLS(t *testing.T) {
	cfg := config.Default()
	cfg.State, cfg.StreamTLS = t.TempDir(), []string{config.SelfSigned}
	for oldest, works := range map[string]map[uint16]bool{
		"1.2": {tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true},
		"1.3": {tls.VersionTLS11: false, tls.VersionTLS12: false, tls.VersionTLS13: true},
	} {
		cfg.StreamTLS = []string{config.SelfSigned, "min=" + oldest}
		server, err := streamTLS(cfg)
		if err != nil {
			t.Fatal(err)
		}
		trusted, err := os.ReadFile(filepath.Join(cfg.State, selfSignedFile))
		if err != nil {
			t.Fatal(err)
		}
		for version, want := range works {
			err := shake(t, server, trusted, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version})
			if (err == nil) != want {
				t.Errorf("a client of %s at a server of at least %s: %v", tls.VersionName(version), oldest, err)
			}
		}
	}
}

// The certificate that berthd makes is for the names that are in its URLs, and outlives it.
func TestSelfSigned(t *testing.T) {
	for address, names := range map[string][]string{
		"127.0.0.1:0": {"127.0.0.1"}, "node-1.example:10010": {"node-1.example"},
		"0.0.0.0:0": {"localhost", "127.0.0.1", "0.0.0.0"}, ":0": {"localhost", "127.0.0.1", "::"},
	} {
		cfg := config.Default()
		cfg.State, cfg.StreamAddress = t.TempDir(), address
		pair, err := selfSigned(cfg)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Errorf("at %s: %v", address, err)
			}
		}
		if leaf.VerifyHostname("other.example") == nil || leaf.NotAfter.Before(time.Now().AddDate(9, 0, 0)) {
			t.Errorf("at %s: the certificate is for other.example, or ends on %s", address, leaf.NotAfter)
		}
	}
}
