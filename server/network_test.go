package server

import (
	"net/netip"
	"testing"

	"berth/server/config"
)

func TestDefaultBridge(t *testing.T) {
	usual, _ := defaultBridge(config.Default().Root)
	if usual != "berth0" {
		t.Errorf("bridge of the usual root is %s", usual)
	}
	a, subnetA := defaultBridge("/tmp/a")
	b, subnetB := defaultBridge("/tmp/b")
	if a == b || subnetA == subnetB {
		t.Errorf("two roots share %s %s", a, subnetA)
	}
	for _, name := range []string{a, b} {
		if len(name) > 15 {
			t.Errorf("%s is longer than an interface name may be", name)
		}
	}
	for i := range 1000 {
		_, subnet := defaultBridge(string(rune(i)))
		p, err := netip.ParsePrefix(subnet)
		if err != nil || p != p.Masked() || netip.MustParsePrefix("10.64.0.0/16").Overlaps(p) {
			t.Fatalf("subnet %s: %v", subnet, err)
		}
	}
}

func TestDefaultNetworkIsOptIn(t *testing.T) {
	cfg := config.Default()
	if conf, err := defaultNetwork(cfg); conf != nil || err != nil {
		t.Errorf("got %s, %v", conf, err)
	}
	cfg.DefaultNetwork = true
	if conf, err := defaultNetwork(cfg); len(conf) == 0 || err != nil {
		t.Errorf("got %s, %v", conf, err)
	}
}
