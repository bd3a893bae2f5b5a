package explain

import (
	"bufio"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (l *look) network() {
	l.enter("network")
	p := l.pod
	if p.options().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		l.fact("host network", filepath.Join(p.dir, "pod.json"), "it shares the machine's interfaces and ports")
	} else {
		l.interfaces(filepath.Join(p.state, "net"))
	}
	if l.proc.alive() {
		l.ports()
	}
	l.names()
}

// interfaces are read inside the pod's pinned network namespace.
func (l *look) interfaces(pinned string) {
	ns, err := netns.GetFromPath(pinned)
	if err != nil {
		l.fact("namespace", pinned, "gone: %v", err)
		if l.pod.Intent == "ready" && l.pause.alive() {
			l.find(strong, "remove the pod; the kubelet makes another", "the pod's network namespace is not there any more")
		}
		return
	}
	defer ns.Close() //nolint:errcheck // it was only read through
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		l.unreadable("interfaces", pinned, err)
		return
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		l.unreadable("interfaces", pinned, err)
		return
	}
	have := map[string]bool{}
	for _, link := range links {
		l.oneInterface(h, link, pinned, have)
	}
	for _, ip := range l.pod.Network.IPs {
		if !have[ip] {
			l.find(strong, "remove the pod; the kubelet makes another", "address %s was given to the pod and is not on any interface", ip)
		}
	}
	l.routes(h, pinned)
}

func (l *look) oneInterface(h *netlink.Handle, link netlink.Link, pinned string, have map[string]bool) {
	attrs := link.Attrs()
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		l.unreadable(attrs.Name, pinned, err)
		return
	}
	var text []string
	for _, a := range addrs {
		have[a.IP.String()] = true
		text = append(text, a.IPNet.String())
	}
	up := attrs.Flags&net.FlagUp != 0
	l.fact(attrs.Name, pinned, "%s, mtu %d, %s", map[bool]string{true: "up", false: "down"}[up], attrs.MTU, strings.Join(text, " "))
	if !up && (attrs.Name == "lo" || len(addrs) > 0) {
		l.find(strong, "see the CNI plugins", "interface %s is down", attrs.Name)
	}
}

func (l *look) routes(h *netlink.Handle, pinned string) {
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		l.unreadable("routes", pinned, err)
		return
	}
	for _, r := range routes {
		if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			l.fact("default route", pinned, "by %s", r.Gw)
			return
		}
	}
	l.fact("default route", pinned, "none")
	if l.pause.alive() {
		l.find(hint, "see the CNI configuration, if the pod must reach others", "the pod has no way out of its own network")
	}
}

// ports are those on which something in the network namespace listens.
func (l *look) ports() {
	var open []string
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := l.proc.read(table)
		if err != nil {
			l.unreadable("listening", l.proc.file(table), err)
			return
		}
		open = append(open, listening(text)...)
	}
	slices.Sort(open)
	if len(open) == 0 {
		open = append(open, "nothing")
	}
	l.fact("listening", l.proc.file("net/tcp"), "%s", some(open))
}

// listening are the sockets of /proc/net/tcp or tcp6 in state 0A, TCP_LISTEN.
func listening(table string) []string {
	var out []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "0A" {
			continue
		}
		address, port, _ := strings.Cut(f[1], ":")
		n, err := strconv.ParseUint(port, 16, 16)
		if ip := kernelIP(address); err == nil && ip != nil {
			out = append(out, net.JoinHostPort(ip.String(), strconv.FormatUint(n, 10)))
		}
	}
	return out
}

// kernelIP reads an address as /proc/net has it: words of four bytes, each in the
// order of the machine, which is little-endian wherever berth runs.
func kernelIP(text string) net.IP {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return nil
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	return net.IP(b)
}

// names tells whom the pod asks for names.
func (l *look) names() {
	file := filepath.Join(l.pod.dir, "resolv.conf")
	f, err := os.Open(file)
	if err != nil {
		l.unreadable("name servers", file, err)
		return
	}
	defer f.Close()
	var servers []string
	for in := bufio.NewScanner(f); in.Scan(); {
		if fields := strings.Fields(in.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	if len(servers) == 0 {
		l.fact("name servers", file, "none")
		l.find(hint, "give the pod a DNS configuration", "no name can be resolved: there is no name server")
		return
	}
	l.fact("name servers", file, "%s", strings.Join(servers, " "))
}
