package cni

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/containernetworking/cni/libcni"

	"berth/oci/atomicfile"
)

// templateFile is what [Network.SetPodCIDR] writes, below the configuration directory.
const templateFile = "10-berth.conflist"

// podCIDRs is what a template may use.
type podCIDRs struct {
	PodCIDR  string   // the first
	PodCIDRs []string // all: one of each IP family on a node with both
	Routes   []string // the default route of each family, as the "dst" of a CNI route
}

// SetPodCIDR makes the configuration of the template and the ranges of addresses that the
// cluster has given to this node. It does nothing without a template, without a range, or
// while a network is ready: a network add-on's configuration is worth more than a template.
func (n *Network) SetPodCIDR(cidrs []string) error {
	if n.opt.Template == "" || len(cidrs) == 0 || n.Ready() == nil {
		return nil
	}
	values := podCIDRs{PodCIDR: cidrs[0], PodCIDRs: cidrs}
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return fmt.Errorf("pod CIDR: %w", err)
		}
		route := "0.0.0.0/0"
		if p.Addr().Is6() {
			route = "::/0"
		}
		values.Routes = append(values.Routes, route)
	}
	text, err := render(n.opt.Template, values)
	if err != nil {
		return fmt.Errorf("cni_conf_template: %w", err)
	}
	if err := os.MkdirAll(n.opt.ConfDir, 0o755); err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(n.opt.ConfDir, templateFile), text, 0o644); err != nil {
		return err
	}
	n.reload() // else the answer to the kubelet would come before the watch sees the file
	return nil
}

// render gives a configuration that can be loaded, or an error.
func render(file string, values podCIDRs) ([]byte, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	t, err := template.New(filepath.Base(file)).Option("missingkey=error").Parse(string(source))
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, values); err != nil {
		return nil, err
	}
	if _, err := libcni.NetworkConfFromBytes(text.Bytes()); err != nil {
		return nil, fmt.Errorf("%s makes no configuration: %w", file, err)
	}
	return text.Bytes(), nil
}
