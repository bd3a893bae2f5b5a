package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
)

// reach is from where an address can be reached, which decides whether an answer of a
// registry may have this machine connect to it.
type reach uint32

const (
	public    reach = iota
	private         // inside a company or a cluster
	linkLocal       // the same wire; clouds have their metadata there
	loopback        // this machine
	nowhere         // no server's: multicast, reserved
)

func (r reach) String() string {
	return [...]string{"a public", "a private", "a link-local", "a loopback", "a reserved"}[r]
}

// regions are the addresses that are not public, the smallest first where one lies in
// another.
var regions = []struct {
	reach    reach
	prefixes []netip.Prefix
}{
	{loopback, prefixes("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128")},
	// The second is where a large cloud keeps its metadata.
	{linkLocal, prefixes("169.254.0.0/16", "168.63.129.16/32", "fe80::/10")},
	{private, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fc00::/7", "fec0::/10", "64:ff9b:1::/48")},
	{nowhere, prefixes("224.0.0.0/4", "240.0.0.0/4", "ff00::/8")},
}

// embedding are IPv6 addresses that are translated to the IPv4 address in them, and
// its first byte's place: NAT64, SIIT, IPv4-compatible, 6to4.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12},
	{netip.MustParsePrefix("::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// reachOf classifies an address.
func reachOf(a netip.Addr) reach {
	a = a.Unmap().WithZone("")
	for _, r := range regions {
		for _, p := range r.prefixes {
			if p.Contains(a) {
				return r.reach
			}
		}
	}
	for _, e := range embedding {
		if b := a.As16(); a.Is6() && e.prefix.Contains(a) {
			return reachOf(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
		}
	}
	return public
}

// errFenced says that a registry named a host that it may not have this machine
// connect to.
var errFenced = errors.New("not allowed")

// fence is where the hosts may be that a registry sends a pull to: its redirects, its
// token server, the URLs of foreign layers. They may be public, where the registry
// itself is, and what its hosts.toml lists.
type fence struct {
	own    reach // where the registry's answer came from
	listed []netip.Prefix
}

func (f fence) String() string { return fmt.Sprint(f.own, f.listed) }

// check refuses an address. It leaves the address out, which may be the answer of an
// internal name server.
func (f fence) check(a netip.Addr) error {
	r := reachOf(a)
	if r == public || r == f.own && r != nowhere {
		return nil
	}
	for _, p := range f.listed {
		if p.Contains(a.Unmap().WithZone("")) {
			return nil
		}
	}
	return fmt.Errorf("%w: it has %s address, and the registry that names it has not; if it should be reached, list the address under private_redirects in the registry's hosts.toml", errFenced, r)
}

// control is for [net.Dialer]: it sees each address after the name was resolved, so
// that no name and no later change of one gets round it.
func (f fence) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", errFenced, err)
	}
	return f.check(ap.Addr())
}

// checkURL is for requests through a proxy, which resolves the names: what can be
// seen here is an address in place of a name.
func (f fence) checkURL(u *url.URL) error {
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return f.check(a)
	}
	if isLoopback(u.Host) {
		return f.check(netip.IPv6Loopback())
	}
	return nil
}

// arrival keeps where the registry's own answer to a request came from.
type arrival struct{ at atomic.Uint32 }

type arrivalKey struct{}

func withArrival(ctx context.Context) context.Context {
	return context.WithValue(ctx, arrivalKey{}, &arrival{})
}

func arrivalOf(ctx context.Context) *arrival {
	if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
		return a
	}
	return &arrival{}
}

func (a *arrival) reach() reach { return reach(a.at.Load()) }

func (a *arrival) note(addr net.Addr) {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		a.at.Store(uint32(reachOf(tcp.AddrPort().Addr())))
	}
}

// away sends a request to a host that h named, whose answer came from own. What goes
// wrong there is told without what was answered: it is no registry's word.
func (c *Client) away(req *http.Request, h *host, own reach) (*http.Response, error) {
	f := &fence{own, h.redirects}
	if c.proxied(req) { // the proxy's address is the operator's word
		if err := f.checkURL(req.URL); err != nil {
			return nil, &awayError{req.URL.Host, err}
		}
		f = nil
	}
	rt, err := c.transport(h, f)
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, &awayError{req.URL.Host, err}
	}
	resp.Body = awayBody{resp.Body, req.URL.Host}
	return resp, nil
}

func (c *Client) proxied(req *http.Request) bool {
	u, err := c.proxy(req)
	return u != nil || err != nil
}

// awayError is a failure at a host the registry named.
type awayError struct {
	host string
	err  error
}

func (e *awayError) Unwrap() error { return e.err }

// Error says what kind of failure it was; the texts of most errors quote the peer.
func (e *awayError) Error() string {
	var errno syscall.Errno
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var timeout net.Error
	text := "it gave no valid answer or broke off"
	switch {
	case errors.Is(e.err, errFenced), errors.Is(e.err, errStalled):
		text = e.err.Error()
		var op *net.OpError
		if errors.As(e.err, &op) {
			text = op.Err.Error()
		}
	case errors.As(e.err, &dns):
		text = "its name was not resolved"
	case errors.As(e.err, &errno):
		text = errno.Error()
	case errors.As(e.err, &cert):
		text = "its certificate is not trusted"
	case errors.As(e.err, &timeout) && timeout.Timeout():
		text = "it did not answer in time"
	case errors.Is(e.err, context.Canceled):
		text = context.Canceled.Error()
	}
	return fmt.Sprintf("%s: %s", e.host, text)
}

// awayBody tells the failures of a body in the same way.
type awayBody struct {
	io.ReadCloser
	host string
}

func (b awayBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &awayError{b.host, err}
	}
	return n, err
}
