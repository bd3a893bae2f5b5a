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

// httpsPort is dialled when a name gives no port, so naming it changes nothing.
const httpsPort = "443"

// numeric is a last label that some resolvers read as a number of an IPv4 address:
// 127.1, 0x7f.1 and 2130706433 are 127.0.0.1 to them.
var numeric = regexp.MustCompile(`^(?:[0-9]+|0x[0-9a-f]*)$`)

// canonicalHost gives the one spelling of HOST or HOST:PORT by which a registry is
// known to policies, hosts.toml directories, credentials and records. Two spellings
// have the same one exactly when https dials the same host and port for both: letters
// are small, a dot at the end, zeros before the port and port 443 are dropped (the
// port not where only it tells the host from a repository of docker's: "mirror:443/x"),
// addresses are written in their shortest form, IPv4 ones in IPv6 clothes as IPv4.
// Docker's hosts are all docker.io. What other names mean the same machine only the
// resolver knows; they are other registries.
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

// canonicalName is the host without its port.
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

// splitHost takes HOST, HOST:PORT, [IPV6] or [IPV6]:PORT apart; the port may be
// missing, the brackets are dropped.
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

// Pattern selects images by their complete names, in which * is any characters, the
// slash too, ? one character and [a-z] one of several. Its host may be written in any
// way a reference's may.
type Pattern struct{ globs []string }

// ParsePattern reads a pattern; the error says what is wrong with it.
func ParsePattern(s string) (Pattern, error) {
	host, rest, slash := strings.Cut(s, "/")
	var globs []string
	if slash {
		host, err := canonicalPattern(host)
		if err != nil {
			return Pattern{}, fmt.Errorf("pattern %.300q: %w", s, err)
		}
		globs = []string{host + "/" + rest}
	} else { // the host, the repository and a tag in one, of which only a tag has capitals
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

// Matches tells whether the pattern selects the name, as [Reference.Name], TagName or
// DigestName gives it. A name without port is also matched with the port it has, so
// that patterns for *:443 hold.
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

// canonicalPattern is the host of a pattern as names have it: completely when it has
// no wildcards, else in small letters.
func canonicalPattern(host string) (string, error) {
	literal := host
	if inner, _, ok := strings.Cut(strings.TrimPrefix(host, "["), "]"); ok && strings.HasPrefix(host, "[") && strings.Count(inner, ":") > 1 {
		addr, err := netip.ParseAddr(inner) // not a choice of characters
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

// escaped is an address as a pattern for itself.
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

// flat has * match slashes too, which [path.Match] lets only the slash match.
func flat(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
