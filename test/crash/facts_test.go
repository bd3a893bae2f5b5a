package crash

import (
	"slices"
	"strings"
	"time"

	"berth/test/node"
)

// facts reads what the machine has of the node. The daemon and the witness's processes,
// which come and go, are left out.
func (d *daemon) facts() node.Facts {
	d.t.Helper()
	var passedOver []string
	if d.witness != nil {
		passedOver = append(passedOver, d.witness.ID)
	}
	out, err := d.Facts(passedOver...)
	if err != nil {
		d.t.Fatal(err)
	}
	if d.shimKills > 0 {
		out = slices.DeleteFunc(out, func(f string) bool {
			return strings.HasPrefix(f, "file run/shims/") || strings.HasPrefix(f, "process ") && strings.Contains(f, "berth-shim --dir")
		})
	}
	return out
}

// settled checks that the facts become want. Some take their time: what a killed
// daemon started may end after it, and the kernel frees links by itself.
func (d *daemon) settled(when string, want node.Facts) {
	d.t.Helper()
	var diff string
	for deadline := time.Now().Add(patience / 4); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if diff = want.Diff(d.facts()); diff == "" {
			return
		}
	}
	d.t.Errorf("%s, the machine differs (+ left, - lost):\n%s", when, diff)
}

// naming are the facts that name an ID and are the kernel's or the network's.
func (d *daemon) naming(id string) node.Facts {
	d.t.Helper()
	var out node.Facts
	for _, f := range d.facts() {
		file := strings.HasPrefix(f, "file root/pods/") || strings.HasPrefix(f, "file root/quarantine/")
		if strings.Contains(f, id[:13]) && !file {
			out = append(out, f)
		}
	}
	return out
}
