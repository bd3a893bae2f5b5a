package cni

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// restoreAddresses gives the pod's interface the addresses back that the plugins gave it. A
// runtime with a network stack of its own takes them away, since the kernel must not answer
// in its place; plugins then can't find what they made for them, such as the bridge plugin
// its NAT rules, which it looks for by the addresses of the interface.
func (n *Network) restoreAddresses(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	if rt.NetNS == "" {
		return nil
	}
	cached, err := n.cni.GetNetworkListCachedResult(list, rt)
	if err != nil || cached == nil {
		return err
	}
	result, err := current.NewResultFromResult(cached)
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPath(rt.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close() //nolint:errcheck // a handle
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	link, err := handle.LinkByName(rt.IfName)
	if err != nil {
		return fmt.Errorf("interface %s: %w", rt.IfName, err)
	}
	var errs []error
	for _, ip := range result.IPs {
		if !isOf(rt.IfName, ip, result.Interfaces) {
			continue
		}
		if err := handle.AddrReplace(link, &netlink.Addr{IPNet: &ip.Address}); err != nil {
			errs = append(errs, fmt.Errorf("address %s: %w", ip.Address.String(), err))
		}
	}
	return errors.Join(errs...)
}

// isOf tells whether an address is of the pod's interface. One that names none is.
func isOf(name string, ip *current.IPConfig, all []*current.Interface) bool {
	if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(all) {
		return true
	}
	return all[*ip.Interface].Name == name
}
