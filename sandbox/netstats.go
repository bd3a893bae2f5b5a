package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"os"
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
	// maxNetDev bounds what is read of them, at about 130 bytes each.
	maxNetDev = 1 << 20
)

// readNetwork reads a pod's interfaces through its pause process.
func readNetwork(pid int, now time.Time) *runtimeapi.NetworkUsage {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	return parseNetwork(f, now)
}

// parseNetwork leaves lo out. The first interface is the default one where there is
// no eth0; the others are those besides it.
func parseNetwork(dev io.Reader, now time.Time) *runtimeapi.NetworkUsage {
	out := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for sc := bufio.NewScanner(io.LimitReader(dev, maxNetDev)); sc.Scan(); {
		name, rest, ok := strings.Cut(strings.TrimSpace(sc.Text()), ":")
		f := strings.Fields(rest)
		// The kernel takes names of any bytes; with one that is no text the whole list
		// of pods could not be sent.
		if !ok || len(f) < 11 || name == "lo" || !utf8.ValidString(name) {
			continue
		}
		n := func(i int) *runtimeapi.UInt64Value { v, _ := strconv.ParseUint(f[i], 10, 64); return u64(v) }
		iface := &runtimeapi.NetworkInterfaceUsage{Name: name, RxBytes: n(0), RxErrors: n(2), TxBytes: n(8), TxErrors: n(10)}
		switch {
		case out.DefaultInterface == nil:
			out.DefaultInterface = iface
			continue
		case name == defaultInterface:
			iface, out.DefaultInterface = out.DefaultInterface, iface
		}
		if len(out.Interfaces) < maxInterfaces {
			out.Interfaces = append(out.Interfaces, iface)
		}
	}
	return out
}
