package sandbox

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// defaultInterface is the one that CNI makes.
	defaultInterface = "eth0"
	// maxInterfaces is how many others are told: who administers the pod's network can
	// make any number, and each is a part of lists that all pods share.
	maxInterfaces = 32
)

// netDevice is a line of /proc/net/dev.
type netDevice struct {
	name   string
	counts []uint64 // in the columns' order: eight received, eight sent
}

// netDevices reads a pod's interfaces through its pause process.
func netDevices(pid int) []netDevice {
	return parseNetDevices(readText(fmt.Sprintf("/proc/%d/net/dev", pid)))
}

// parseNetDevices leaves lo out, and gives the default interface first: eth0, or the
// first one where there is none.
func parseNetDevices(dev string) (out []netDevice) {
	for line := range strings.Lines(dev) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if name == "lo" {
			continue
		}
		f := strings.Fields(rest)
		// The kernel takes names of any bytes; with one that is no text the whole list
		// of pods could not be sent.
		if !ok || len(f) < 16 || !utf8.ValidString(name) {
			continue
		}
		d := netDevice{name: strings.Clone(name), counts: make([]uint64, len(f))}
		for i := range f {
			d.counts[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
		switch {
		case name == defaultInterface && len(out) > 0:
			d, out[0] = out[0], d
			fallthrough
		default:
			if len(out) <= maxInterfaces {
				out = append(out, d)
			}
		}
	}
	return out
}

func networkUsage(devices []netDevice, now time.Time) *runtimeapi.NetworkUsage {
	out := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for i, d := range devices {
		iface := &runtimeapi.NetworkInterfaceUsage{
			Name: d.name, RxBytes: u64(d.counts[0]), RxErrors: u64(d.counts[2]), TxBytes: u64(d.counts[8]), TxErrors: u64(d.counts[10]),
		}
		if i == 0 {
			out.DefaultInterface = iface
		} else {
			out.Interfaces = append(out.Interfaces, iface)
		}
	}
	return out
}

func packets(devices []netDevice) (out []InterfacePackets) {
	for _, d := range devices {
		out = append(out, InterfacePackets{
			Name: d.name, Received: d.counts[1], ReceivedDropped: d.counts[3], Sent: d.counts[9], Dropped: d.counts[11],
		})
	}
	return out
}
