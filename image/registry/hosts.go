package registry

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const defaultDialTimeout = 30 * time.Second

// host is the configuration of one host that serves a registry's images.
type host struct {
	base     *url.URL // scheme and host only
	api      string   // path of the API's root, "/v2" unless overridden
	pull     bool     // it may serve content by digest
	resolve  bool     // it may resolve tags
	upstream bool     // it is the registry in the image's name, and no mirror
	mayHTTP  bool     // plain HTTP is used if it does not speak TLS
	ns       string   // the registry's name, sent to a mirror as ?ns=
	header   http.Header
	ca       [][]byte    // PEM
	certs    [][2]string // client certificate and key files
	insecure bool        // accept any certificate
	dial     time.Duration
	creds    *Credentials
	helper   string // docker-credential-HELPER provides the credentials

	redirects []netip.Prefix // non-public addresses to which it may send a pull
}

func (h *host) String() string { return h.base.String() }

// fingerprint returns a text that is equal for two hosts exactly if they can share
// connections.
func (h *host) fingerprint() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s|%v|%v|%v|%v|", h.base, h.mayHTTP, h.certs, h.insecure, h.dial)
	for _, pem := range h.ca {
		sum.Write(pem)
	}
	return string(sum.Sum(nil))
}

// loadHosts returns the hosts of a registry in the order in which they are tried: the tables
// of hosts.toml in the order of the file, then its server or the registry itself. The first
// of dirs that exists is the configuration directory.
func loadHosts(dirs []string, registry string) ([]*host, error) {
	dir, err := hostDir(dirs, registry)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return []*host{upstreamOf(registry)}, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
	if errors.Is(err, os.ErrNotExist) {
		h := upstreamOf(registry)
		return []*host{h}, loadDockerCerts(dir, h)
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration of registry %s: %w", registry, err)
	}
	hosts, err := parseHosts(data, dir, registry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "hosts.toml"), err)
	}
	return hosts, nil
}

// hostDir returns the directory with the configuration of a registry: HOST_PORT_ (the form
// for filesystems without colons in names), HOST:PORT, a directory whose name has the same
// canonical form, or _default, in this order. It is "" if there is none.
func hostDir(dirs []string, registry string) (string, error) {
	for _, root := range dirs {
		entries, err := os.ReadDir(root)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		for _, name := range dirNames(entries, registry) {
			dir := filepath.Join(root, name)
			if st, serr := os.Stat(dir); serr == nil && st.IsDir() {
				return dir, nil
			} else if serr != nil && !errors.Is(serr, os.ErrNotExist) {
				err = errors.Join(err, serr)
			}
		}
		if err != nil {
			return "", fmt.Errorf("read the configuration of registry %s: %w", registry, err)
		}
		return "", nil
	}
	return "", nil
}

// dirNames returns the names of the entries that may be the registry's directory, the
// preferred one first.
func dirNames(entries []os.DirEntry, registry string) []string {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 && !strings.HasSuffix(registry, "]") {
		names = append([]string{registry[:i] + "_" + registry[i+1:] + "_"}, names...)
	}
	for _, e := range entries {
		spelled := portInName.ReplaceAllString(e.Name(), ":$1")
		if host, err := canonicalHost(spelled); err == nil && host == registry && !slices.Contains(names, e.Name()) {
			names = slices.Insert(names, len(names)-1, e.Name())
		}
	}
	return names
}

// portInName matches a port in the form HOST_PORT_.
var portInName = regexp.MustCompile(`_([0-9]+)_$`)

// upstreamOf returns the host for the registry itself, without configuration.
func upstreamOf(registry string) *host {
	name := registry
	if registry == defaultHost {
		name = "registry-1.docker.io"
	}
	return &host{
		base: &url.URL{Scheme: "https", Host: name}, api: "/v2", pull: true, resolve: true,
		upstream: true, mayHTTP: isLoopback(name), dial: defaultDialTimeout,
	}
}

// isLoopback reports whether a host, with or without a port, is a loopback address or a name
// for one: localhost and what ends with .localhost (RFC 6761).
func isLoopback(hostport string) bool {
	name := hostname(hostport)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

func hostname(hostport string) string {
	hostport = strings.ToLower(hostport)
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.Trim(hostport, "[]")
}

// loadDockerCerts reads a directory in the layout of docker's certs.d: *.crt are CA
// certificates, *.cert and *.key are client certificates and their keys.
func loadDockerCerts(dir string, h *host) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the certificates of registry %s: %w", h, err)
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch filepath.Ext(name) {
		case ".crt":
			pem, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("read the CA of registry %s: %w", h, err)
			}
			h.ca = append(h.ca, pem)
		case ".cert":
			h.certs = append(h.certs, [2]string{name, strings.TrimSuffix(name, ".cert") + ".key"})
		}
	}
	return nil
}
