package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"berth/oci/atomicfile"
)

const testBridge = "berthtest0"

func request(netns string) Request {
	return Request{PodID: strings.Repeat("0123456789abcdef", 4), Name: "web-0", Namespace: "shop", UID: "u-1", NetNS: netns}
}

func onDefault(t *testing.T) (n *Network, ipam string) {
	t.Helper()
	ipam = filepath.Join(t.TempDir(), "ipam")
	list, err := DefaultConflist(testBridge, ipam, "10.231.7.0/24")
	if err != nil {
		t.Fatal(err)
	}
	return open(t, Options{BinDirs: []string{realPlugins()}, Default: list}), ipam
}

func TestDefaultNetworkAttachesAndLeavesNothing(t *testing.T) {
	onNode(t, func(t *testing.T) {
		n, ipam := onDefault(t)
		if err := n.Ready(); err != nil {
			t.Fatal(err)
		}
		before := state(t, testBridge, ipam)
		ns := newPodNS(t)
		r := request(ns)
		r.PortMappings = []PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: 18080}}
		res, err := n.Add(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"10.231.7.2"}, res.IPs); diff != "" {
			t.Error(diff)
		}
		inNS(t, ns, func() error { return hasAddressAndRoute("10.231.7.2/24", "10.231.7.1") })
		reach(t, ns, "10.231.7.2:80", "10.231.7.1:18080")
		if err := n.Del(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, state(t, testBridge, ipam)); diff != "" {
			t.Errorf("left on the node:\n%s", diff)
		}
		nothingRemembered(t, n)
	})
}

// portmap is only run for pods that have something for it to do, in DEL too.
func TestPortmapIsRunWhenNeeded(t *testing.T) {
	f := newFault(t)
	if err := os.Link(filepath.Join(f.bin, "fault"), filepath.Join(f.bin, "portmap")); err != nil {
		t.Fatal(err)
	}
	first, second := f.conf("first", nil), f.conf("portmap", nil)
	second["type"] = "portmap"
	n := open(t, Options{BinDirs: []string{f.bin}, Default: conflist(t, "1.0.0", "net", first, second)})
	for _, ports := range [][]PortMapping{nil, {{ContainerPort: 80, HostPort: 80}}} {
		r := request("/x")
		r.PortMappings = ports
		if _, err := n.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := n.Del(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	marks(t, f, "ADD first", "DEL first", "ADD first", "ADD portmap", "DEL portmap", "DEL first")
}

func hasAddressAndRoute(cidr, gateway string) error {
	l, err := netlink.LinkByName(ifName)
	if err != nil {
		return err
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	if len(addrs) != 1 || addrs[0].IPNet.String() != cidr {
		return fmt.Errorf("addresses of eth0: %v, want %s", addrs, cidr)
	}
	routes, err := netlink.RouteGet(net.ParseIP("203.0.113.1"))
	if err != nil {
		return err
	}
	if got := routes[0].Gw.String(); got != gateway {
		return fmt.Errorf("default route by %s, want %s", got, gateway)
	}
	return nil
}

// reach listens in the pod and connects from the node, the test's own thread.
func reach(t *testing.T, ns, listen, dial string) {
	t.Helper()
	var l net.Listener
	inNS(t, ns, func() (err error) { l, err = net.Listen("tcp", listen); return err })
	if l == nil {
		return
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp", dial, 5*time.Second)
	if err != nil {
		t.Errorf("from the node: %v", err)
		return
	}
	c.Close()
}

func nothingRemembered(t *testing.T, n *Network) {
	t.Helper()
	pods, err := n.rememberedPods()
	if err != nil || len(pods) > 0 {
		t.Errorf("remembered after Del: %v, %v", pods, err)
	}
}

func TestDualStackGivesIPv4First(t *testing.T) {
	onNode(t, func(t *testing.T) {
		ipam := filepath.Join(t.TempDir(), "ipam")
		list, err := DefaultConflist(testBridge, ipam, "fd77:1::/64", "10.231.8.0/24")
		if err != nil {
			t.Fatal(err)
		}
		n := open(t, Options{BinDirs: []string{realPlugins()}, Default: list})
		r := request(newPodNS(t))
		res, err := n.Add(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"10.231.8.2", "fd77:1::2"}, res.IPs); diff != "" {
			t.Error(diff)
		}
		if err := n.Del(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if left := state(t, testBridge, ipam); left != "" {
			t.Errorf("left on the node:\n%s", left)
		}
	})
}

// A plugin late in the chain fails or hangs: what the bridge did is undone.
func TestFailedAddLeavesNothing(t *testing.T) {
	for _, how := range []string{"fail", "hang"} {
		t.Run(how, func(t *testing.T) {
			onNode(t, func(t *testing.T) {
				f := newFault(t)
				n, ipam := withFault(t, f, how)
				ctx := t.Context()
				if how == "hang" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 700*time.Millisecond)
					defer cancel()
				}
				start := time.Now()
				_, err := n.Add(ctx, request(newPodNS(t)))
				if err == nil || errors.Is(err, ErrNotReady) {
					t.Fatalf("Add: %v", err)
				}
				if how == "hang" && (!errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second) {
					t.Errorf("Add ended after %v with %v", time.Since(start), err)
				}
				if left := state(t, testBridge, ipam); left != "" {
					t.Errorf("left on the node:\n%s", left)
				}
				nothingRemembered(t, n)
				noProcessOf(t, f)
			})
		})
	}
}

// withFault is the default network with a fault plugin at the end of the chain.
func withFault(t *testing.T, f fault, add string) (n *Network, ipam string) {
	t.Helper()
	ipam = filepath.Join(t.TempDir(), "ipam")
	list, err := DefaultConflist(testBridge, ipam, "10.231.9.0/24")
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := json.Unmarshal(list, &conf); err != nil {
		t.Fatal(err)
	}
	conf["plugins"] = append(conf["plugins"].([]any), f.conf("", map[string]any{"add": add}))
	if list, err = json.Marshal(conf); err != nil {
		t.Fatal(err)
	}
	return open(t, Options{BinDirs: []string{realPlugins(), f.bin}, Default: list}), ipam
}

// noProcessOf finds processes that were started from the fault plugin: they
// all carry its name as argument zero and hold its log's directory in no other way.
func noProcessOf(t *testing.T, f fault) {
	t.Helper()
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range cmdlines {
		data, err := os.ReadFile(c)
		if err == nil && strings.HasPrefix(string(data), f.bin) {
			t.Errorf("still running: %s %q", c, data)
		}
	}
}

// What Add was given is what Del gives, whatever the directory says by then.
func TestDelUsesWhatAddUsed(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "10-net.conflist")
	write(t, file, conflist(t, "1.0.0", "net", f.conf("old", nil)))
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
	r := request("/run/netns-of-the-pod")
	r.PortMappings = []PortMapping{{ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81}}
	r.Annotations = map[string]string{"not": "declared"}
	if _, err := n.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	n.reload()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	// A restarted daemon knows the ID and little else.
	if err := n.Del(canceled, Request{PodID: r.PodID}); err != nil {
		t.Fatal(err)
	}
	args := "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=" + r.PodID + ";K8S_POD_UID=u-1"
	want := faultCall{Command: "ADD", ContainerID: r.PodID, NetNS: r.NetNS, Args: args, Mark: "old",
		RuntimeConfig: map[string]any{"portMappings": []any{
			map[string]any{"containerPort": 80.0, "hostPort": 8080.0, "protocol": "tcp"}}}}
	del := want
	del.Command, del.PrevResult = "DEL", map[string]any{
		"cniVersion": "1.0.0", "ips": []any{map[string]any{"address": "10.231.1.2/24"}}}
	if diff := cmp.Diff([]faultCall{want, del}, f.calls()); diff != "" {
		t.Error(diff)
	}
	nothingRemembered(t, n)
}

// A daemon killed in the middle of Add has no result, only its intent.
func TestDelAfterInterruptedAdd(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "10-net.conflist")
	write(t, file, conflist(t, "1.0.0", "net", f.conf("old", nil)))
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
	r := request("/run/ns")
	list, err := n.current()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.writeIntent(list, r.runtimeConf()); err != nil {
		t.Fatal(err)
	}
	write(t, file, conflist(t, "1.0.0", "other", f.conf("new", nil)))
	n.reload()
	if err := n.Del(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	marks(t, f, "DEL old")
	// Again, and nothing is known: the present network is asked.
	if err := n.Del(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	marks(t, f, "DEL old", "DEL new")
}

func marks(t *testing.T, f fault, want ...string) {
	t.Helper()
	var got []string
	for _, c := range f.calls() {
		got = append(got, c.Command+" "+c.Mark)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDelSurvivesDamage(t *testing.T) {
	f := newFault(t)
	conf := conflist(t, "1.0.0", "net", f.conf("m", nil))
	cases := map[string]func(n *Network, pod string) error{
		"broken intent":     func(n *Network, pod string) error { return os.WriteFile(n.intentPath(pod), []byte("{"), 0o600) },
		"no intent":         func(n *Network, pod string) error { return os.Remove(n.intentPath(pod)) },
		"no cache at all":   func(n *Network, _ string) error { return os.RemoveAll(n.opt.CacheDir) },
		"no libcni results": func(n *Network, _ string) error { return os.RemoveAll(filepath.Join(n.opt.CacheDir, "results")) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(f.log)
			n := open(t, Options{BinDirs: []string{f.bin}, Default: conf})
			r := request("/run/ns")
			if _, err := n.Add(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := damage(n, r.PodID); err != nil {
				t.Fatal(err)
			}
			if err := n.Del(t.Context(), r); err != nil {
				t.Error(err)
			}
			marks(t, f, "ADD m", "DEL m")
			nothingRemembered(t, n)
		})
	}
}

// A DEL that fails is told and can be repeated with the same configuration.
func TestFailedDelIsRemembered(t *testing.T) {
	f := newFault(t)
	n := open(t, Options{BinDirs: []string{f.bin}, Default: conflist(t, "1.0.0", "net", f.conf("m", map[string]any{"del": "fail"}))})
	r := request("/run/ns")
	if _, err := n.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Del(t.Context(), r); err == nil || !strings.Contains(err.Error(), "told to fail") {
			t.Fatalf("Del: %v", err)
		}
	}
	marks(t, f, "ADD m", "DEL m", "DEL m")
}

func TestGCDetachesUnknownPodsOnly(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "10-net.conflist")
	write(t, file, conflist(t, "1.0.0", "older", f.conf("older", nil)))
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
	stale, kept := request("/a"), request("/b")
	stale.PodID, kept.PodID = "stale", "kept"
	if _, err := n.Add(t.Context(), stale); err != nil {
		t.Fatal(err)
	}
	write(t, file, conflist(t, "1.1.0", "newer", f.conf("newer", nil)))
	n.reload()
	if _, err := n.Add(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	if err := n.GC(t.Context(), func() []Attachment { return []Attachment{{"kept"}} }); err != nil {
		t.Fatal(err)
	}
	marks(t, f, "ADD older", "ADD newer", "DEL older", "GC newer")
	calls := f.calls()
	want := []any{map[string]any{"containerID": "kept", "ifname": ifName}}
	if diff := cmp.Diff(want, calls[3].ValidAttachments); diff != "" {
		t.Errorf("GC was told of other attachments: %s", diff)
	}
	if _, err := os.Stat(n.intentPath("kept")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.intentPath("stale")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the stale pod is still remembered")
	}
}

// A GC that asks no plugin reads nothing of the pods that are known. One whose intent is lost is
// found by what libcni remembers.
func TestGCReadsWhatIsUnknownOnly(t *testing.T) {
	f := newFault(t)
	n := open(t, Options{BinDirs: []string{f.bin}, Default: conflist(t, "1.0.0", "a-net", f.conf("m", nil))})
	for _, pod := range []string{"kept", "a-kept", "lost"} {
		r := request("/" + pod)
		r.PodID = pod
		if _, err := n.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(n.opt.CacheDir, "results"), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	gc := func(known ...Attachment) {
		t.Helper()
		if err := n.GC(t.Context(), func() []Attachment { return known }); err != nil {
			t.Fatal(err)
		}
	}
	gc(Attachment{"kept"}, Attachment{"a-kept"}, Attachment{"lost"})
	buf := make([]byte, 64<<10)
	size, _ := unix.Read(fd, buf) // an error: there is no event
	if opened := strings.Count(string(buf[:max(0, size)]), "eth0\x00"); opened > 0 {
		t.Errorf("%d files of libcni were opened", opened)
	}
	if err := os.Remove(n.intentPath("lost")); err != nil {
		t.Fatal(err)
	}
	gc(Attachment{"kept"}, Attachment{"a-kept"})
	marks(t, f, "ADD m", "ADD m", "ADD m", "DEL m")
}

// A crash may cut off the writing of a record. The rest of it goes when the daemon
// starts, and only then: later it could be a record that is being written.
func TestCutOffRecordsGoAtTheStart(t *testing.T) {
	f := newFault(t)
	opt := Options{
		CacheDir: t.TempDir(), BinDirs: []string{f.bin}, ConfDir: t.TempDir(),
		Default: conflist(t, "1.1.0", "net", f.conf("m", nil)),
	}
	for round, stays := range []bool{true, false} {
		n := open(t, opt)
		var cut []string
		for _, record := range []string{n.intentPath("x"), n.attemptPath("x")} {
			if err := os.MkdirAll(filepath.Dir(record), 0o700); err != nil {
				t.Fatal(err)
			}
			cut = append(cut, filepath.Join(filepath.Dir(record), atomicfile.TempPrefix+"1"))
		}
		if round == 0 {
			for _, c := range cut {
				write(t, c, []byte("{"))
			}
			if err := n.GC(t.Context(), func() []Attachment { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range cut {
			if _, err := os.Stat(c); stays != (err == nil) {
				t.Errorf("round %d: %s: %v", round, c, err)
			}
		}
	}
}

// A pod of an earlier daemon may have a name that CNI_ARGS can't carry; it must
// still be released.
func TestArgsThatCantBeSaidAreLeftOut(t *testing.T) {
	r := Request{PodID: "p", Name: "a=b", Namespace: "n;m", UID: "u"}
	want := [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_INFRA_CONTAINER_ID", "p"}, {"K8S_POD_UID", "u"}}
	if diff := cmp.Diff(want, r.args()); diff != "" {
		t.Error(diff)
	}
}

// A namespace that was unmounted behind the pod's back leaves a plain file, which
// the real plugins refuse; the pod must be released all the same.
func TestDelWithoutTheNamespace(t *testing.T) {
	onNode(t, func(t *testing.T) {
		n, _ := onDefault(t)
		ns := newPodNS(t)
		r := request(ns)
		if _, err := n.Add(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := unix.Unmount(ns, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := n.Del(t.Context(), r); err != nil {
			t.Error(err)
		}
		nothingRemembered(t, n)
	})
}

// What was remembered with a name that CNI_ARGS can't carry is released as well.
func TestDelLeavesOutRememberedArgs(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "10-net.conflist"), conflist(t, "1.0.0", "net", f.conf("old", nil)))
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
	r := request("/run/ns")
	list, err := n.current()
	if err != nil {
		t.Fatal(err)
	}
	rt := r.runtimeConf()
	rt.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "a=b"}}
	if err := n.writeIntent(list, rt); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	calls := f.calls()
	if len(calls) != 1 || calls[0].Args != "IgnoreUnknown=1" {
		t.Errorf("called with %+v", calls)
	}
}

// A plugin that succeeds without an address would make a pod that is ready and can't
// be reached. The caller must hear of it and nothing may stay attached.
func TestAddWithoutAnAddressFails(t *testing.T) {
	for name, result := range map[string]string{
		"nothing":        `{"cniVersion":"1.0.0"}`,
		"the node's end": `{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"}],"ips":[{"address":"10.231.1.2/24","interface":0}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFault(t)
			n := open(t, Options{BinDirs: []string{f.bin},
				Default: conflist(t, "1.0.0", "net", f.conf("m", map[string]any{"Result": json.RawMessage(result)}))})
			_, err := n.Add(t.Context(), request("/x"))
			if !errors.Is(err, errNoAddress) {
				t.Errorf("Add: %v", err)
			}
			marks(t, f, "ADD m", "DEL m")
			nothingRemembered(t, n)
		})
	}
}
