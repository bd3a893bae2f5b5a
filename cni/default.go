package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// DefaultName is the name of the network that [DefaultConflist] describes.
const DefaultName = "berth"

// maxIfName is IFNAMSIZ less its NUL.
const maxIfName = 15

// DefaultConflist describes a network for a node without a configuration of
// its own: a bridge that is the pods' gateway, addresses of subnet counted by
// host-local in dataDir, masquerading towards the outside, host ports. One
// further subnet of the other family makes it dual-stack.
func DefaultConflist(bridge, dataDir, subnet string, more ...string) ([]byte, error) {
	if bridge == "" || len(bridge) > maxIfName {
		return nil, fmt.Errorf("bridge name %q: give 1 to %d characters", bridge, maxIfName)
	}
	if dataDir == "" {
		return nil, fmt.Errorf("no directory for the addresses in use was given")
	}
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, s := range append([]string{subnet}, more...) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("pod subnet %q: %w", s, err)
		}
		ranges = append(ranges, []map[string]string{{"subnet": p.Masked().String()}})
		everywhere := "0.0.0.0/0"
		if p.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, map[string]string{"dst": everywhere})
	}
	return json.Marshal(map[string]any{
		// What every packaged set of plugins speaks: Debian's know no 1.1.
		"cniVersion": "1.0.0",
		"name":       DefaultName,
		"plugins": []map[string]any{{
			"type": "bridge", "bridge": bridge,
			"isGateway": true, "ipMasq": true,
			"hairpinMode": true, // a pod reaches itself through its host port
			"ipam":        map[string]any{"type": "host-local", "dataDir": dataDir, "ranges": ranges, "routes": routes},
		}, {
			"type": "portmap", "snat": true,
			"capabilities": map[string]bool{"portMappings": true},
		}},
	})
}
