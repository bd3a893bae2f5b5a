package explain

import (
	"encoding/hex"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox/record"
)

// networkLayer tells of interfaces, ports and name servers.
type networkLayer struct {
	subject
	*section
}

func (l networkLayer) tell() {
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
func (l networkLayer) interfaces(pinned string) {
	file, err := openFile(filepath.Dir(pinned), filepath.Base(pinned))
	if err != nil {
		l.fact("namespace", pinned, "gone: %v", err)
		if l.pod.Intent == record.Ready && l.pause.alive() {
			l.find(strong, "remove the pod; the kubelet makes another", "the pod's network namespace is not there any more")
		}
		return
	}
	defer file.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()))
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
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		l.unreadable("addresses", pinned, err)
		return
	}
	have, of := map[string]bool{}, map[int][]string{}
	for _, a := range addrs {
		have[a.IP.String()] = true
		of[a.LinkIndex] = append(of[a.LinkIndex], a.IPNet.String())
	}
	for _, link := range links[:min(len(links), manyInterfaces)] {
		l.oneInterface(link.Attrs(), of[link.Attrs().Index], pinned)
	}
	if more := len(links) - manyInterfaces; more > 0 {
		l.fact("interfaces", pinned, "%d more", more)
	}
	l.addresses(have, pinned)
	l.routes(h, pinned)
}

// addresses looks for those that the pod was given among those of its interfaces.
func (l networkLayer) addresses(have map[string]bool, pinned string) {
	for _, ip := range l.pod.ips() {
		switch {
		case have[ip]:
		case l.pod.hidden():
			l.fact("address", pinned, "%s is on no interface here: a runtime with a network stack of its own takes it over, which can't be looked into", ip)
		default:
			l.find(strong, "remove the pod; the kubelet makes another", "address %s was given to the pod and is not on any interface", ip)
		}
	}
}

// manyInterfaces is how many are shown: a workload that administers its network
// makes as many as it likes, with names of its own.
const manyInterfaces = 32

func (l networkLayer) oneInterface(attrs *netlink.LinkAttrs, addrs []string, pinned string) {
	up := attrs.Flags&net.FlagUp != 0
	l.fact(attrs.Name, pinned, "%s, mtu %d, %s", map[bool]string{true: "up", false: "down"}[up], attrs.MTU, some(addrs))
	if !up && (attrs.Name == "lo" || len(addrs) > 0) {
		l.find(strong, "see the CNI plugins", "interface %s is down", attrs.Name)
	}
}

func (l networkLayer) routes(h *netlink.Handle, pinned string) {
	// One after the other: there may be a million.
	var gateway net.IP
	err := h.RouteListFilteredIter(netlink.FAMILY_ALL, &netlink.Route{}, 0, func(r netlink.Route) (more bool) {
		if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
			gateway = r.Gw
		}
		return gateway == nil
	})
	switch {
	case gateway != nil:
		l.fact("default route", pinned, "by %s", gateway)
		return
	case err != nil:
		l.unreadable("routes", pinned, err)
		return
	}
	l.fact("default route", pinned, "none")
	if l.pause.alive() {
		l.find(hint, "see the CNI configuration, if the pod must reach others", "the pod has no way out of its own network")
	}
}

// ports are those on which something in the network namespace listens.
func (l networkLayer) ports() {
	var open []string
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := l.proc.read(table)
		if err != nil {
			l.unreadable("listening", l.proc.file(table), err)
		}
		if text == "" {
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
func (l networkLayer) names() {
	const name = "resolv.conf" // containers write to it where their root is not read-only
	file := filepath.Join(l.pod.dir, name)
	text, err := readFile(l.pod.dir, name, resolvBytes)
	if err != nil {
		l.unreadable("name servers", file, err)
	}
	if text == nil {
		return
	}
	var servers []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "nameserver" {
			servers = append(servers, fields[1])
		}
	}
	if len(servers) == 0 {
		l.fact("name servers", file, "none")
		l.find(hint, "give the pod a DNS configuration", "no name can be resolved: there is no name server")
		return
	}
	l.fact("name servers", file, "%s", some(servers))
}
