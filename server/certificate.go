package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"berth/oci/atomicfile"
	"berth/server/config"
)

const (
	// selfSignedFile is below the state directory; who has to trust the daemon reads it.
	selfSignedFile = "streams.crt"
	// selfSignedLife is longer than a daemon runs; each start makes another certificate.
	selfSignedLife = 10 * 365 * 24 * time.Hour
	// clockSkew is how much slower a client's clock may be.
	clockSkew = time.Hour
)

// streamTLS is how the streaming server encrypts; nil when stream_tls asks for nothing.
func streamTLS(cfg config.Config) (*tls.Config, error) {
	files, oldest, err := cfg.StreamCertificate()
	if err != nil {
		return nil, fmt.Errorf("stream_tls: %w", err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if oldest == "1.3" {
		out.MinVersion = tls.VersionTLS13
	}
	switch {
	case len(files) == 0:
		return nil, nil
	case files[0] == config.SelfSigned:
		own, err := selfSigned(cfg)
		if err != nil {
			return nil, fmt.Errorf("stream_tls: %w", err)
		}
		out.Certificates = []tls.Certificate{own}
	default:
		pair := &certificate{cert: files[0], key: files[len(files)-1]}
		if err := pair.load(); err != nil {
			return nil, fmt.Errorf("stream_tls: %w", err)
		}
		out.GetCertificate = pair.get
	}
	return out, nil
}

// certificate is a pair of files, which may be the same one, that others replace while
// the daemon runs.
type certificate struct {
	cert, key string
	now       atomic.Pointer[tls.Certificate]

	mu   sync.Mutex // held by the one handshake that looks at the files
	seen []os.FileInfo
}

// get is the certificate for one handshake. A pair that can't be read, such as one of
// which only half was replaced yet, leaves the earlier one in use. No handshake waits for
// another one's look at the files.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.mu.TryLock() {
		defer c.mu.Unlock()
		if err := c.refresh(); err != nil {
			klog.ErrorS(err, "The certificate of the streaming server has changed and can't be used; the earlier one is", "certificate", c.cert, "key", c.key)
		}
	}
	return c.now.Load(), nil
}

func (c *certificate) load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refresh()
}

// refresh reads the files if they are not those that were read last. An error is given
// once for each state of the files. The caller holds mu.
func (c *certificate) refresh() error {
	var found []os.FileInfo
	for _, name := range []string{c.cert, c.key} {
		info, err := os.Stat(name)
		if err != nil && c.now.Load() != nil {
			return nil // between two names; the pair that was read is good
		}
		if err != nil {
			return err
		}
		found = append(found, info)
	}
	if slices.EqualFunc(found, c.seen, sameFile) {
		return nil
	}
	c.seen = found
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.now.Store(&pair)
	return nil
}

// sameFile tells whether a file is still what it was.
func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// selfSigned makes a certificate for the names at which the streams are reached and
// writes it, without its key, below the state directory.
func selfSigned(cfg config.Config) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "berth streams"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(selfSignedLife),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	template.DNSNames, template.IPAddresses = streamNames(cfg.StreamAddress)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := atomicfile.WriteBytes(filepath.Join(cfg.State, selfSignedFile), text, 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// streamNames are the host's names and addresses that a URL of a stream may have. For an
// address that stands for all of the machine's these are all it has now.
func streamNames(address string) (names []string, ips []net.IP) {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	switch {
	case err != nil: // the configuration was checked
	case ip != nil && !ip.IsUnspecified():
		return nil, []net.IP{ip}
	case ip == nil && host != "":
		return []string{host}, nil
	}
	names = []string{"localhost"}
	if own, err := os.Hostname(); err == nil {
		names = append(names, own)
	}
	found, _ := net.InterfaceAddrs() // without them the names are left
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return names, append(ips, net.IPv4zero, net.IPv6unspecified)
}
