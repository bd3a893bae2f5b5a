package sandbox

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

func TestCgroupPathOfSlices(t *testing.T) {
	systemd := oci.Host{SystemdCgroup: true}
	for _, c := range []struct {
		h            oci.Host
		parent, want string
	}{
		{oci.Host{}, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1"},
		{oci.Host{}, "kubepods//x/", "/kubepods/x"},
		{oci.Host{}, "/a-b.slice", "/a-b.slice"},
		{oci.Host{}, "", "/"},
		{systemd, "kubepods-burstable-pod1_2.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice"},
		{systemd, "system.slice", "/system.slice"},
		{systemd, "-.slice", "/"},
	} {
		if got := cgroupPath(c.h, c.parent); got != c.want {
			t.Errorf("%q with systemd %t: %s, want %s", c.parent, c.h.SystemdCgroup, got, c.want)
		}
	}
}

// A cgroup tells of a pod what it tells of that pod alone.
func TestOwnCgroups(t *testing.T) {
	u := newStatistics(layout{}, newIndex(), oci.Host{}, nil)
	add := func(id, parent string, state record.Intent) {
		s := newSandbox("", podRecord{
			Pod:    record.Pod{ID: id, Intent: state},
			config: &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: parent}},
		})
		u.index.addPod(s)
	}
	unnamed := strings.Repeat("f", 64)
	add("own", "/kubepods/burstable/pod1", record.Ready)
	add("dead", "/kubepods/burstable/pod1", record.Stopped) // the pod's sandbox before this one
	add("shared1", "/kubepods/pod2", record.Ready)
	add("shared2", "/kubepods/pod2", record.Ready)
	add("above", "/kubepods/pod3", record.Ready)
	add("below", "/kubepods/pod3/x", record.Ready)
	add("root", "/", record.Ready)
	add("making", "/kubepods/burstable/pod1", record.Making)
	add(unnamed, "", record.Ready)
	want := map[string]string{"own": "/kubepods/burstable/pod1", "below": "/kubepods/pod3/x", unnamed: "/berth-" + unnamed[:13]}
	if got := u.ownCgroups(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	u.host.SystemdCgroup = true
	if got := u.ownCgroups(); got[unnamed] != "" {
		t.Errorf("the slice of all services is the pod's: %v", got)
	}
}

const netDevHeader = "Inter-|   Receive                                                |  Transmit\n" +
	" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"

func TestNetworkTellsEachInterfaceOnce(t *testing.T) {
	dev := netDevHeader +
		"    lo:  100  1 0 0 0 0 0 0  100  1 0 0 0 0 0 0\n" +
		" tunl0:    0  0 0 0 0 0 0 0    0  0 0 0 0 0 0 0\n" +
		"  eth0: 4000 30 2 1 0 0 0 0 5000 40 3 4 0 0 0 0\n" +
		"  net1:    7  1 0 0 0 0 0 0    8  1 0 0 0 0 0 0\n"
	n := networkUsage(parseNetDevices(dev), time.Now())
	d := n.GetDefaultInterface()
	if d.GetName() != "eth0" || d.RxBytes.Value != 4000 || d.RxErrors.Value != 2 || d.TxBytes.Value != 5000 || d.TxErrors.Value != 3 {
		t.Errorf("default interface: %v", d)
	}
	var names []string
	for _, i := range n.GetInterfaces() {
		names = append(names, i.GetName())
	}
	if strings.Join(names, " ") != "tunl0 net1" {
		t.Errorf("interfaces besides it: %v", names)
	}
}

// A pod that administers its network makes thousands of interfaces, some with names
// that are no text, to make the statistics of all pods too long or impossible to send.
func TestAttackInterfaces(t *testing.T) {
	var dev strings.Builder
	dev.WriteString(netDevHeader + " ev\xff\xfel: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 4000 30 2 1 0 0 0 0 5000 40 3 4 0 0 0 0\n")
	for i := range 20_000 {
		fmt.Fprintf(&dev, "dummy%d: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", i)
	}
	n := networkUsage(parseNetDevices(dev.String()), time.Now())
	if _, err := proto.Marshal(n); err != nil {
		t.Error(err)
	}
	if n.GetDefaultInterface().GetName() != "eth0" || len(n.GetInterfaces()) != maxInterfaces {
		t.Errorf("default %v and %d others", n.GetDefaultInterface(), len(n.GetInterfaces()))
	}
}
