package cni

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// Request names a pod to the plugins and holds what it asks of the network.
type Request struct {
	// Restore: the runtime may have taken the addresses from the interface, see
	// restoreAddresses.
	Restore      bool
	PodID        string // the CNI container ID
	Name         string // of the Kubernetes pod
	Namespace    string
	UID          string
	NetNS        string // path that pins the network namespace
	PortMappings []PortMapping
	Bandwidth    *Bandwidth // nil: no limit
	DNS          *DNS       // nil: the plugins decide
	Annotations  map[string]string
	CgroupParent string
	IPs          []string // addresses wanted, with prefix length; empty: any
}

// PortMapping asks for a port of the node to lead to one of the pod.
type PortMapping struct {
	Protocol      string // tcp, udp or sctp in any case
	ContainerPort int32
	HostPort      int32  // 0 or less: not mapped
	HostIP        string // empty: every address of the node
}

// Bandwidth limits a pod's traffic. Rates are in bits per second, bursts in
// bits; a zero rate is no limit. Ingress is towards the pod.
type Bandwidth struct {
	IngressRate, IngressBurst uint64
	EgressRate, EgressBurst   uint64
}

// DNS is the resolver configuration of the pod.
type DNS struct{ Servers, Searches, Options []string }

func (r Request) runtimeConf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    r.PodID,
		NetNS:          r.NetNS,
		IfName:         ifName,
		Args:           r.args(),
		CapabilityArgs: r.capabilities(),
	}
}

// args are CNI_ARGS. Multus, Calico, Cilium and others read the K8S_ ones;
// IgnoreUnknown lets the plugins pass that know none of them.
func (r Request) args() [][2]string {
	return sayable([][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", r.Namespace},
		{"K8S_POD_NAME", r.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", r.PodID},
		{"K8S_POD_UID", r.UID},
	})
}

// sayable leaves out what has a character that separates CNI_ARGS (CNI
// specification, "Parameters"): plugins refuse the whole for it, DEL included, and
// the pod could never be released.
func sayable(args [][2]string) [][2]string {
	return slices.DeleteFunc(args, func(pair [2]string) bool { return strings.ContainsAny(pair[1], ";=") })
}

// capabilities are the values offered to plugins; libcni hands each plugin
// those that its configuration declares. The keys and shapes are those of the
// CNI conventions and, for the last two, of what CRI runtimes have agreed on.
func (r Request) capabilities() map[string]any {
	caps := map[string]any{}
	if m := r.mappings(); len(m) > 0 {
		caps["portMappings"] = m
	}
	if b := r.Bandwidth; b != nil {
		caps["bandwidth"] = map[string]uint64{
			"ingressRate": b.IngressRate, "ingressBurst": b.IngressBurst,
			"egressRate": b.EgressRate, "egressBurst": b.EgressBurst,
		}
	}
	if d := r.DNS; d != nil {
		caps["dns"] = map[string][]string{"servers": d.Servers, "searches": d.Searches, "options": d.Options}
	}
	if len(r.IPs) > 0 {
		caps["ips"] = r.IPs
	}
	if len(r.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = r.Annotations
	}
	if r.CgroupParent != "" {
		caps["cgroupPath"] = r.CgroupParent
	}
	return caps
}

type mapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func (r Request) mappings() []mapping {
	var out []mapping
	for _, p := range r.PortMappings {
		if p.HostPort <= 0 {
			continue
		}
		m := mapping{p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol), p.HostIP}
		if m.Protocol == "" {
			m.Protocol = "tcp"
		}
		if ip, err := netip.ParseAddr(m.HostIP); err == nil && ip.IsUnspecified() && ip.Is4() {
			m.HostIP = "" // 0.0.0.0 means every address; the portmap plugin would cut it to IPv4
		}
		out = append(out, m)
	}
	return out
}
