package cni

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadyTellsTheReason(t *testing.T) {
	f := newFault(t)
	good := string(conflist(t, "1.0.0", "net", f.conf("", nil)))
	cases := []struct {
		name, file, text string
		want             []string // parts of the reason; none: ready
	}{
		{"no config", "README", "x", []string{"no CNI configuration in "}},
		{"ready", "10-a.conflist", good, nil},
		{"list in a .conf", "10-a.conf", good, nil},
		{"single", "10-a.conf", `{"cniVersion":"1.0.0","name":"one","type":"fault"}`, nil},
		{"not JSON", "10-a.conflist", `{"name":`, []string{"bad CNI configuration file ", "10-a.conflist", "unexpected end"}},
		{"empty", "10-a.conflist", ``, []string{"bad CNI configuration file "}},
		{"no plugins", "10-a.conflist", `{"name":"x"}`, []string{"bad CNI configuration file ", "no plugin"}},
		{"no name", "10-a.conf", `{"type":"fault"}`, []string{"bad CNI configuration file ", `"name"`}},
		{"plugin missing", "10-a.conflist", strings.ReplaceAll(good, `"type":"fault"`, `"type":"nowhere"`), []string{`plugin "nowhere"`, f.bin}},
		{"IPAM missing", "10-a.conflist", strings.ReplaceAll(good, `"type":"fault"`, `"type":"fault","ipam":{"type":"noipam"}`), []string{`plugin "noipam"`, f.bin}},
		{"path as plugin", "10-a.conflist", strings.ReplaceAll(good, `"type":"fault"`, `"type":"../fault"`), []string{`plugin "../fault"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, c.file), []byte(c.text))
			n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
			err := n.Ready()
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrNotReady) {
				t.Fatalf("Ready() = %v, want ErrNotReady", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not tell %q", err, part)
				}
			}
			if _, addErr := n.Add(t.Context(), request("/x")); !errors.Is(addErr, ErrNotReady) {
				t.Errorf("Add: %v", addErr)
			}
			nothingRemembered(t, n)
		})
	}
}

func TestFirstFileDecides(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	for _, name := range []string{"20-second", "10-first", "30-third"} {
		write(t, filepath.Join(dir, name+".conflist"), conflist(t, "1.0.0", name, f.conf("", nil)))
	}
	write(t, filepath.Join(dir, "00-not-a-config.txt"), nil)
	if err := os.Mkdir(filepath.Join(dir, "01.conflist"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}, Default: conflist(t, "1.0.0", "default", f.conf("", nil))})
	text, err := n.LastLoad()
	if err != nil || !strings.Contains(text, "10-first") {
		t.Errorf("loaded %s, %v", text, err)
	}
}

// CNI 1.1: plugins in files of their own become part of what DEL will have.
func TestPluginsFromTheirOwnFiles(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	sub := filepath.Join(dir, "net")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "10-net.conflist"), conflist(t, "1.1.0", "net", f.conf("listed", nil)))
	write(t, filepath.Join(sub, "10-more.conf"), []byte(`{"type":"fault","mark":"own file","fault":{"log":"`+f.log+`"}}`))
	n := open(t, Options{ConfDir: dir, BinDirs: []string{f.bin}})
	r := request("/x")
	if _, err := n.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(sub); err != nil {
		t.Fatal(err)
	}
	n.reload()
	if err := n.Del(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	marks(t, f, "ADD listed", "ADD own file", "DEL own file", "DEL listed")
}

func TestStatusOfThePluginsIsAskedAndShared(t *testing.T) {
	f := newFault(t)
	n := open(t, Options{BinDirs: []string{f.bin},
		Default: conflist(t, "1.1.0", "net", f.conf("m", map[string]any{"status": "the fabric is down"}))})
	for range 3 {
		if err := n.Ready(); !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "the fabric is down") {
			t.Fatalf("Ready() = %v", err)
		}
	}
	marks(t, f, "STATUS m")
	n.statusAt = n.statusAt.Add(-2 * statusTTL)
	_ = n.Ready()
	marks(t, f, "STATUS m", "STATUS m")
}

// The directory is made, filled, changed, emptied, removed and made again.
func TestWatcherSeesEveryChange(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc", "cni", "net.d")
	file := filepath.Join(dir, "10.conflist")
	seen := make(chan string, 64)
	w, err := newWatcher(dir, func() []string {
		data, err := os.ReadFile(file)
		if err != nil {
			data = []byte("none")
		}
		seen <- string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until := func(want string) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for {
			select {
			case got := <-seen:
				if got == want {
					return
				}
			case <-timeout:
				t.Fatalf("never saw %q", want)
			}
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	until("none")
	must(os.MkdirAll(dir, 0o700))
	write(t, file, []byte("one"))
	until("one")
	write(t, file+".tmp", []byte("two"))
	must(os.Rename(file+".tmp", file))
	until("two")
	must(os.Remove(file))
	until("none")
	must(os.RemoveAll(filepath.Join(root, "etc")))
	must(os.MkdirAll(dir, 0o700))
	write(t, file, []byte("three"))
	until("three")
	must(w.close())
}

func TestBadOptions(t *testing.T) {
	for name, opt := range map[string]Options{
		"nothing":     {},
		"bad default": {ConfDir: t.TempDir(), CacheDir: t.TempDir(), BinDirs: []string{"/x"}, Default: []byte("{}")},
	} {
		if n, err := New(opt); err == nil {
			n.Close()
			t.Errorf("%s: no error", name)
		}
	}
	for name, bad := range map[string][3]string{
		"bridge":  {"a-name-that-is-too-long", "/d", "10.0.0.0/24"},
		"subnet":  {"b0", "/d", "10.0.0.0"},
		"dataDir": {"b0", "", "10.0.0.0/24"},
	} {
		if _, err := DefaultConflist(bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("DefaultConflist with a bad %s: no error", name)
		}
	}
}

func TestBandwidthFromAnnotations(t *testing.T) {
	cases := []struct {
		in, out string
		want    *Bandwidth
		bad     bool
	}{
		{"", "", nil, false},
		{"10M", "", &Bandwidth{IngressRate: 10e6, IngressBurst: minBurst}, false},
		{"", "100M", &Bandwidth{EgressRate: 100e6, EgressBurst: 10e6}, false},
		{"1Gi", "1e9", &Bandwidth{IngressRate: 1 << 30, IngressBurst: 107374182, EgressRate: 1e9, EgressBurst: 1e8}, false},
		{"1P", "", &Bandwidth{IngressRate: 1e15, IngressBurst: maxBurst}, false},
		{"999", "", nil, true},
		{"2P", "", nil, true},
		{"-1M", "", nil, true},
		{"10MB", "", nil, true},
		{"fast", "", nil, true},
		{"0x10M", "", nil, true},
	}
	for _, c := range cases {
		a := map[string]string{}
		if c.in != "" {
			a[ingressAnnotation] = c.in
		}
		if c.out != "" {
			a[egressAnnotation] = c.out
		}
		got, err := BandwidthFrom(a)
		if (err != nil) != c.bad {
			t.Errorf("%q, %q: error %v", c.in, c.out, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q, %q: %s", c.in, c.out, diff)
		}
	}
}

func TestCapabilitiesHaveTheConventionalShape(t *testing.T) {
	r := request("/x")
	if got := r.capabilities(); len(got) > 0 {
		t.Errorf("a pod that asks nothing offers %v", got)
	}
	r.PortMappings = []PortMapping{
		{Protocol: "UDP", ContainerPort: 53, HostPort: 5353, HostIP: "127.0.0.1"},
		{ContainerPort: 80, HostPort: 80, HostIP: "0.0.0.0"},
		{ContainerPort: 443},
	}
	r.Bandwidth = &Bandwidth{IngressRate: 1000, IngressBurst: 2000}
	r.DNS = &DNS{Servers: []string{"1.1.1.1"}}
	r.CgroupParent = "/kubepods/pod1"
	r.Annotations = map[string]string{"a": "b"}
	want := map[string]any{
		"portMappings":                      []mapping{{5353, 53, "udp", "127.0.0.1"}, {80, 80, "tcp", ""}},
		"bandwidth":                         map[string]uint64{"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 0, "egressBurst": 0},
		"dns":                               map[string][]string{"servers": {"1.1.1.1"}, "searches": nil, "options": nil},
		"cgroupPath":                        "/kubepods/pod1",
		"io.kubernetes.cri.pod-annotations": map[string]string{"a": "b"},
	}
	if diff := cmp.Diff(want, r.capabilities()); diff != "" {
		t.Error(diff)
	}
}
