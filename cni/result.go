package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Result is what the network gave a pod.
type Result struct {
	// IPs are the addresses of the pod's eth0, IPv4 first; the first one is
	// the pod's primary. There is always one.
	IPs        []string
	Interfaces []Interface
	Network    string          // name of the network
	Raw        json.RawMessage // the plugins' own result, CNI 1.0 form
}

// Interface is a network device that the plugins made for the pod.
type Interface struct {
	Name  string
	MAC   string
	InPod bool // false: the node's end
}

func newResult(network string, raw types.Result) (Result, error) {
	if raw == nil {
		return Result{}, fmt.Errorf("the plugins gave no result")
	}
	r, err := types100.NewResultFromResult(raw)
	if err != nil {
		return Result{}, fmt.Errorf("the plugins' result: %w", err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return Result{}, err
	}
	res := Result{Network: network, Raw: data, IPs: podIPs(r)}
	for _, i := range r.Interfaces {
		res.Interfaces = append(res.Interfaces, Interface{Name: i.Name, MAC: i.Mac, InPod: i.Sandbox != ""})
	}
	return res, nil
}

// podIPs are the addresses of eth0. An address without an interface index is
// eth0's as well: plugins older than CNI 0.3 tell none.
func podIPs(r *types100.Result) []string {
	var v4, v6 []string
	for _, ip := range r.IPs {
		switch {
		case !onPodInterface(r, ip):
		case ip.Address.IP.To4() != nil:
			v4 = append(v4, text(ip.Address.IP))
		default:
			v6 = append(v6, text(ip.Address.IP))
		}
	}
	return slices.Concat(v4, v6)
}

func onPodInterface(r *types100.Result, ip *types100.IPConfig) bool {
	if ip.Interface == nil {
		return true
	}
	i := *ip.Interface
	return i >= 0 && i < len(r.Interfaces) && r.Interfaces[i].Name == ifName && r.Interfaces[i].Sandbox != ""
}

func text(ip net.IP) string {
	if v4 := ip.To4(); v4 != nil {
		return v4.String()
	}
	return ip.String()
}
