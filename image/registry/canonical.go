package registry

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// httpsPort is the port that is dialled when a name has none. A name with this port means
// the same registry as the name without it.
const httpsPort = "443"

// numeric matches the last label of a name that some resolvers read as an IPv4 address
// (inet_aton(3)): to them 127.1, 0x7f.1 and 2130706433 are 127.0.0.1.
var numeric = regexp.MustCompile(`^(?:[0-9]+|0x[0-9a-f]*)$`)

// canonicalHost returns the canonical form of HOST or HOST:PORT, which trust policies,
// hosts.toml directories, credentials and records use for a registry. Two names have the
// same form exactly if https would dial the same host and port for both:
//
//   - letters become lower case;
//   - a dot at the end, zeros before the port and port 443 are removed. The port stays if
//     the name would otherwise be read as a repository on docker.io: "mirror:443/x";
//   - IP addresses are written in their shortest form, and IPv4-mapped IPv6 addresses
//     (::ffff:a.b.c.d) as IPv4 addresses;
//   - all names of docker's registry become docker.io.
//
// Two names that only DNS resolves to the same machine are different registries.
func canonicalHost(s string) (string, error) {
	host, port, err := splitHost(s)
	if err != nil {
		return "", err
	}
	if port == "" && strings.HasSuffix(s, ":") {
		return "", fmt.Errorf("%.100q lacks the port after the colon", s)
	}
	if host, err = canonicalName(strings.ToLower(strings.TrimSuffix(host, "."))); err != nil {
		return "", err
	}
	if port == "" {
		port = httpsPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%.100q is not a port; use 1 to 65535", port)
	}
	port = strconv.FormatUint(n, 10)
	switch {
	case port != httpsPort, !strings.ContainsAny(host, ".:") && host != "localhost":
		return host + ":" + port, nil
	case host == name.DefaultRegistry, host == "registry-1.docker.io":
		return defaultHost, nil
	}
	return host, nil
}

// canonicalName returns the canonical form of a host without a port.
func canonicalName(host string) (string, error) {
	addr, err := netip.ParseAddr(host)
	switch addr = addr.Unmap(); {
	case err != nil && numeric.MatchString(host[strings.LastIndexByte(host, '.')+1:]):
		return "", fmt.Errorf("%.100q is not a host name; an address is written with four decimal numbers", host)
	case err != nil:
		return host, nil
	case addr.IsUnspecified(), addr.Zone() != "":
		return "", fmt.Errorf("%.100q is not the address of one host", host)
	case addr.Is6():
		return "[" + addr.String() + "]", nil
	}
	return addr.String(), nil
}

// splitHost splits HOST, HOST:PORT, [IPV6] or [IPV6]:PORT into the host, without brackets,
// and the port, which may be "".
func splitHost(s string) (host, port string, err error) {
	rest, bracketed := strings.CutPrefix(s, "[")
	if bracketed {
		var closed bool
		if host, port, closed = strings.Cut(rest, "]"); !closed || !strings.Contains(host, ":") || port != "" && port[0] != ':' {
			return "", "", fmt.Errorf("%.100q is not a host name", s)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return "", "", fmt.Errorf("%.100q is not an IPv6 address", host)
		}
		return host, strings.TrimPrefix(port, ":"), nil
	}
	host, port, _ = strings.Cut(s, ":")
	if host == "" || strings.Contains(port, ":") {
		return "", "", fmt.Errorf("%.100q is not a host name; an IPv6 address stands in brackets", s)
	}
	return host, port, nil
}

// Pattern selects images by their complete names. In it * stands for any number of
// characters, slashes too, ? for one character and [a-z] for one character of a set. Its
// host is brought into the canonical form like that of a [Reference].
type Pattern struct{ globs []string }

// ParsePattern parses a pattern. The error says what is malformed.
func ParsePattern(s string) (Pattern, error) {
	host, rest, slash := strings.Cut(s, "/")
	var globs []string
	if slash {
		host, err := canonicalPattern(host)
		if err != nil {
			return Pattern{}, fmt.Errorf("pattern %.300q: %w", s, err)
		}
		globs = []string{host + "/" + rest}
	} else { // a wildcard may span host, repository and tag; of these only a tag can have capitals
		globs = []string{s, strings.ToLower(s)}
	}
	for i, g := range globs {
		if _, err := path.Match(g, ""); err != nil {
			return Pattern{}, fmt.Errorf("pattern %.300q: a bracket is not closed, or a character is missing after \\", s)
		}
		globs[i] = flat(g)
	}
	return Pattern{globs}, nil
}

// Matches reports whether the pattern selects the name, which comes from [Reference.Name],
// TagName or DigestName. A name without a port is also tried with port 443, so that a
// pattern for *:443 matches it.
func (p Pattern) Matches(name string) bool {
	names := []string{flat(name)}
	if host, rest, _ := strings.Cut(name, "/"); !hasPort(host) {
		names = append(names, flat(host+":"+httpsPort+"/"+rest))
	}
	for _, g := range p.globs {
		for _, n := range names {
			if ok, err := path.Match(g, n); ok && err == nil {
				return true
			}
		}
	}
	return false
}

// canonicalPattern returns the host of a pattern in canonical form. If the host contains
// wildcards, only its letters are made lower case.
func canonicalPattern(host string) (string, error) {
	literal := host
	if inner, _, ok := strings.Cut(strings.TrimPrefix(host, "["), "]"); ok && strings.HasPrefix(host, "[") && strings.Count(inner, ":") > 1 {
		addr, err := netip.ParseAddr(inner) // an IPv6 address, or else a set of characters
		if err != nil {
			return "", fmt.Errorf("%.100q is not an IPv6 address", inner)
		}
		literal = host[len(inner)+2:]
		if strings.ContainsAny(literal, `*?[\`) {
			return escaped(addr.Unmap()) + strings.ToLower(literal), nil
		}
	}
	if strings.ContainsAny(literal, `*?[\`) {
		return strings.ToLower(host), nil
	}
	c, err := canonicalHost(host)
	return strings.ReplaceAll(c, "[", `\[`), err
}

// escaped returns the pattern that matches exactly this address.
func escaped(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return `\[` + a.String() + `]`
}

func hasPort(host string) bool {
	_, port, err := splitHost(host)
	return err == nil && port != ""
}

// flat replaces each slash by a byte that no name contains. In [path.Match] a * does not
// match a slash; in flat names it matches everything.
func flat(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
