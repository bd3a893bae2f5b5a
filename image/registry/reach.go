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

// reach is the part of the network from which an address can be reached. It decides whether
// this machine connects to an address that a registry has named.
type reach uint32

const (
	public    reach = iota
	private         // the network of a company or a cluster
	linkLocal       // the same link; clouds have their metadata service there
	loopback        // this machine
	nowhere         // no server has such an address: multicast, reserved
)

func (r reach) String() string {
	return [...]string{"a public", "a private", "a link-local", "a loopback", "a reserved"}[r]
}

// regions are the addresses that are not public. A prefix inside another comes before it.
var regions = []struct {
	reach    reach
	prefixes []netip.Prefix
}{
	{loopback, prefixes("0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128")},
	// 168.63.129.16 is the metadata service of a large cloud.
	{linkLocal, prefixes("169.254.0.0/16", "168.63.129.16/32", "fe80::/10")},
	{private, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "fc00::/7", "fec0::/10", "64:ff9b:1::/48")},
	{nowhere, prefixes("224.0.0.0/4", "240.0.0.0/4", "ff00::/8")},
}

// embedding are the prefixes of IPv6 addresses that a router translates to an IPv4 address
// which they contain (NAT64, SIIT, IPv4-compatible, 6to4), with the position of its first
// byte.
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

// reachOf returns the reach of an address.
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

// errFenced is wrapped when a registry named a host to which this machine must not connect.
var errFenced = errors.New("not allowed")

// fence says which addresses the hosts may have that a registry names in redirects, as its
// token server or in the URLs of foreign layers: public ones, those of the same reach as the
// registry's own address, and those in private_redirects of its hosts.toml.
type fence struct {
	own    reach // of the address from which the registry's answer came
	listed []netip.Prefix
}

func (f fence) String() string { return fmt.Sprint(f.own, f.listed) }

// check refuses an address outside of the fence. The error does not contain the address:
// it may be the answer of an internal name server, and the error is shown to users.
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

// control is the Control function of a [net.Dialer]. It is called with each address after
// the name was resolved, directly before connect(2), so a name that resolves differently
// the next time can't evade it.
func (f fence) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", errFenced, err)
	}
	return f.check(ap.Addr())
}

// checkURL checks a request that goes through a proxy. The proxy resolves the name, so only
// a URL with an address in place of a name can be checked.
func (f fence) checkURL(u *url.URL) error {
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return f.check(a)
	}
	if isLoopback(u.Host) {
		return f.check(netip.IPv6Loopback())
	}
	return nil
}

// arrival holds the reach of the address from which the registry answered a request.
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

// away sends a request to a host that h has named; own is the reach from which h answered.
// Errors do not contain the host's answer, which could be that of an internal service.
func (c *Client) away(req *http.Request, h *host, own reach) (*http.Response, error) {
	f := &fence{own, h.redirects}
	if c.proxied(req) { // the operator configured the proxy, so its address is not checked
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

// awayError is the failure of a request to a host that the registry named.
type awayError struct {
	host string
	err  error
}

func (e *awayError) Unwrap() error { return e.err }

// Error returns the kind of the failure. The texts of most wrapped errors are left out,
// because they contain a part of the host's answer.
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

// awayBody is the body of an answer from such a host; its read errors become awayErrors.
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
