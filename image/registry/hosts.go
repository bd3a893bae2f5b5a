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

// host is one place an image may come from, as configured.
type host struct {
	base     *url.URL // scheme and host only
	api      string   // path of the API's root, "/v2" unless overridden
	pull     bool     // may serve what is named by digest
	resolve  bool     // may say what a tag is
	upstream bool     // the registry the image's name names
	mayHTTP  bool     // plain HTTP is fine when the host has no TLS
	ns       string   // told to a mirror as ?ns=
	header   http.Header
	ca       [][]byte    // PEM
	certs    [][2]string // client certificate and key files
	insecure bool        // accept any certificate
	dial     time.Duration
	creds    *Credentials
	helper   string // docker-credential-HELPER gives the credentials

	redirects []netip.Prefix // addresses that are not public it may send a pull to
}

func (h *host) String() string { return h.base.String() }

// fingerprint names everything that makes two hosts need different connections.
func (h *host) fingerprint() string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s|%v|%v|%v|%v|", h.base, h.mayHTTP, h.certs, h.insecure, h.dial)
	for _, pem := range h.ca {
		sum.Write(pem)
	}
	return string(sum.Sum(nil))
}

// loadHosts gives the hosts for a registry in the order to try them: the tables of
// hosts.toml in file order, then its server or the registry itself. dirs are
// candidates for the configuration directory; the first that exists is the one.
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

// hostDir finds the directory of a registry: HOST_PORT_ (where a colon can't be in
// a file name), HOST:PORT, one that spells it otherwise, then _default.
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

// dirNames are the entries that may be the registry's directory, the first one first.
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

// portInName is a port in the name of a directory that can't have a colon.
var portInName = regexp.MustCompile(`_([0-9]+)_$`)

// upstreamOf is the registry itself.
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

// isLoopback tells whether a host, with or without port, is this machine.
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

// loadDockerCerts reads a directory in docker's form: *.crt are CAs, *.cert with
// *.key client certificates.
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
