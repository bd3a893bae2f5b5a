package shimapi

import (
	"testing"
)

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":               "net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter":    "net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter":    "net/ipv4/conf/eth0.1/rp_filter",
		"../etc/passwd":                     "",
		"net..x":                            "",
		"net/ipv4/../../../../etc/shadow":   "",
		"":                                  "",
		"net.ipv4.a=b":                      "",
		"kernel.shm_rmid_forced":            "kernel/shm_rmid_forced",
		"net.ipv4.ip_unprivileged_port_sta": "net/ipv4/ip_unprivileged_port_sta",
	} {
		got, err := SysctlPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}
