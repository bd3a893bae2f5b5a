package registry

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// hostTable has the keys of a table of hosts.toml, or of its top level. Unknown keys are
// ignored: the file may have been written for containerd.
type hostTable struct {
	Server       string         `toml:"server"`
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // FILE or [FILE...]
	Client       any            `toml:"client"` // FILE, [FILE...] or [[CERT, KEY]...]
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // VALUE or [VALUE...]
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
	Credentials  *credTable     `toml:"credentials"`

	// PrivateRedirects is an addition of berth too: non-public addresses (ADDRESS or
	// PREFIX/BITS) to which the host may send a pull, by a redirect, as its token server or
	// as the URL of a foreign layer.
	PrivateRedirects []string `toml:"private_redirects"`
}

// credTable is an addition of berth: credentials that are sent to this host only.
type credTable struct {
	Username      string `toml:"username"`
	Password      string `toml:"password"`
	Auth          string `toml:"auth"`
	IdentityToken string `toml:"identity_token"`
	RegistryToken string `toml:"registry_token"`
	Helper        string `toml:"helper"`
}

type hostsFile struct {
	hostTable
	Host map[string]hostTable `toml:"host"`
}

// parseHosts parses a hosts.toml. The names of files in it are relative to dir.
func parseHosts(data []byte, dir, registry string) ([]*host, error) {
	var f hostsFile
	meta, err := toml.Decode(string(data), &f)
	if err != nil {
		return nil, err
	}
	var hosts []*host
	for _, name := range tableOrder(meta) {
		h, err := newHost(name, f.Host[name], dir, registry)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		hosts = append(hosts, h)
	}
	server := f.Server
	if server == "" {
		server = upstreamOf(registry).String()
	}
	h, err := newHost(server, f.hostTable, dir, registry)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", server, err)
	}
	if f.Server == "" {
		h.mayHTTP = isLoopback(h.base.Host)
	}
	return append(hosts, h), nil
}

// tableOrder returns the names of the host tables in the order of the file.
func tableOrder(meta toml.MetaData) []string {
	var names []string
	seen := map[string]bool{}
	for _, key := range meta.Keys() {
		if len(key) >= 2 && key[0] == "host" && !seen[key[1]] {
			seen[key[1]] = true
			names = append(names, key[1])
		}
	}
	return names
}

func newHost(name string, t hostTable, dir, registry string) (*host, error) {
	h := &host{insecure: t.SkipVerify, dial: defaultDialTimeout}
	if err := h.setURL(name, t.OverridePath, registry); err != nil {
		return nil, err
	}
	if err := h.setCapabilities(t.Capabilities); err != nil {
		return nil, err
	}
	if t.DialTimeout != "" {
		d, err := time.ParseDuration(t.DialTimeout)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("dial_timeout must be a duration like \"5s\", not %q", t.DialTimeout)
		}
		h.dial = d
	}
	if err := h.setHeader(t.Header); err != nil {
		return nil, err
	}
	if err := h.setCerts(t, dir); err != nil {
		return nil, err
	}
	if err := h.setRedirects(t.PrivateRedirects); err != nil {
		return nil, err
	}
	if c := t.Credentials; c != nil {
		h.helper = c.Helper
		h.creds = &Credentials{Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	}
	return h, nil
}

func (h *host) setURL(name string, override bool, registry string) error {
	if !strings.Contains(name, "://") {
		h.mayHTTP = isLoopback(name)
		name = "https://" + name
	}
	u, err := url.Parse(name)
	if err != nil {
		return err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("it must be a URL like https://mirror.example")
	}
	h.base = &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	h.api = strings.TrimRight(u.Path, "/")
	if !override && !strings.HasSuffix(h.api, "/v2") {
		h.api = path.Join("/", h.api, "v2")
	}
	own, err := canonicalHost(u.Host)
	switch h.upstream = err == nil && own == registry; {
	case !h.upstream:
		h.ns = registry
	case registry == defaultHost:
		h.base.Host = upstreamOf(registry).base.Host // https://docker.io serves no registry API
	}
	return nil
}

func (h *host) setCapabilities(caps []string) error {
	h.pull, h.resolve = len(caps) == 0, len(caps) == 0
	for _, c := range caps {
		switch c {
		case "pull":
			h.pull = true
		case "resolve":
			h.resolve = true
		case "push", "referrers":
		default:
			return fmt.Errorf("unknown capability %q; use pull, resolve or push", c)
		}
	}
	return nil
}

func (h *host) setRedirects(list []string) error {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("private_redirects: want addresses like \"10.1.2.3\" or \"10.1.0.0/16\", not %q", s)
		}
		h.redirects = append(h.redirects, p.Masked())
	}
	return nil
}

func (h *host) setHeader(header map[string]any) error {
	h.header = http.Header{}
	for k, v := range header {
		values, err := stringList(v)
		if err != nil {
			return fmt.Errorf("header %s: %w", k, err)
		}
		for _, s := range values {
			h.header.Add(k, s)
		}
	}
	return nil
}

func (h *host) setCerts(t hostTable, dir string) error {
	abs := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	cas, err := stringList(t.CA)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	for _, file := range cas {
		pem, err := os.ReadFile(abs(file))
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		h.ca = append(h.ca, pem)
	}
	h.certs, err = clientPairs(t.Client, abs)
	return err
}

func clientPairs(v any, abs func(string) string) ([][2]string, error) {
	items, ok := v.([]any)
	if !ok && v != nil {
		items = []any{v}
	}
	var pairs [][2]string
	for _, it := range items {
		files, err := stringList(it)
		if err != nil || len(files) == 0 || len(files) > 2 {
			return nil, fmt.Errorf("client: want a file that holds certificate and key, or [[certificate, key]]")
		}
		key := files[0]
		if len(files) == 2 && files[1] != "" {
			key = files[1]
		}
		pairs = append(pairs, [2]string{abs(files[0]), abs(key)})
	}
	return pairs, nil
}

func stringList(v any) ([]string, error) {
	switch x := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{x}, nil
	case []any:
		var out []string
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("want strings, not %T", e)
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, fmt.Errorf("want a string or a list of strings, not %T", v)
}
