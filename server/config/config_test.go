package config

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAtMost45Keys(t *testing.T) {
	v := reflect.TypeFor[Config]()
	if v.NumField() > 45 {
		t.Errorf("%d keys, the house allows 45: which one does the new key replace?", v.NumField())
	}
	for i := range v.NumField() {
		tag := v.Field(i).Tag
		if tag.Get("toml") == "" || tag.Get("help") == "" {
			t.Errorf("field %s needs a toml and a help tag", v.Field(i).Name)
		}
	}
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Check(); err != nil {
		t.Fatal(err)
	}
}

func TestPrintReadsBack(t *testing.T) {
	want := Default()
	want.Root = `/weird "root" \ with ümlaut`
	want.PinnedImages = []string{"a", "b c"}
	want.DefaultNetwork = true
	want.Timeouts = []string{"drain=90s"}
	want.Runtimes = map[string]Runtime{
		"plain": {Type: Builtin},
		"gvisor": {
			Type: ShimV2, Shim: "/opt/shim", ShimCgroup: "pod", Annotations: []string{"dev.gvisor.*"}, PrivilegedWithoutHostDevices: true,
			Devices: []string{"/dev/kvm", "/dev/fuse:/dev/fuse:rw", "/dev/tty:r"}, AllowedDevices: []string{"/dev/loop-control"}, AllDevicesAllowed: true,
			Options: map[string]any{"TypeUrl": "t", "ConfigPath": "/etc/\"x\"", "Deep": map[string]any{"n": int64(1)}},
		},
	}
	var text strings.Builder
	if err := want.Print(&text); err != nil {
		t.Fatal(err)
	}
	got, err := Load(write(t, text.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoad(t *testing.T) {
	for name, tc := range map[string]struct{ text, wantErr string }{
		"empty":             {"", ""},
		"comment only":      {"# root = 1\n", ""},
		"list as a string":  {`cni_bin_dir = "/x"`, ""},
		"unknown key":       {"root = \"/r\"\n\nlisen = \"unix:///x\"\n", `:3: lisen: unknown key; did you mean listen?`},
		"far from any":      {"\nzzzzzzzz = 1\n", ":2: zzzzzzzz: unknown key; `berthd --print-config`"},
		"unknown table":     {"root = \"/r\"\n[plugins.cri]\nx = 1\n", ":2: plugins: unknown key"},
		"wrong type":        {"state = \"/s\"\nlog_level = \"much\"\n", `:2: log_level: want a number, not "much"`},
		"wrong list":        {"cni_bin_dir = [1]", ":1: cni_bin_dir: want a list"},
		"wrong bool":        {"default_network = \"yes\"", ":1: default_network: want true or false"},
		"wrong duration":    {"stream_idle_timeout = 10", `:1: stream_idle_timeout: want a duration such as "10s", not 10`},
		"table for string":  {"[root]\na = 1", ":1: root: want a string in quotes, not a table"},
		"syntax":            {"root = \"/r\"\nstate =\n", ":2: "},
		"twice":             {"root = \"/r\"\nroot = \"/s\"\n", ":2: "},
		"runtime's key":     {"[runtime.a]\ntype = \"builtin\"\nhsim = 1\n", ":1: runtime: [runtime.a]: unknown key hsim; a table has some of type, shim, options, "},
		"runtime, no table": {"runtime = 1\n", ":1: runtime: want tables [runtime.NAME], not 1"},
		"runtime's type":    {"\n[runtime.a]\nannotations = 1\n", ":2: runtime: [runtime.a]: "},
		"old handlers":      {"runtime_handlers = [\"a\"]\n", ":1: runtime_handlers: unknown key; write a table for each handler, such as [runtime.runc]"},
		"old drain":         {"drain_timeout = \"10s\"\n", `:1: drain_timeout: unknown key; drain_timeout is now timeouts = ["drain=10s"]`},
		"old NRI register":  {"nri_plugin_registration_timeout = \"5s\"\n", `:1: nri_plugin_registration_timeout: unknown key; nri_plugin_registration_timeout is now nri_timeouts = ["register=5s"]`},
		"old NRI request":   {"nri_plugin_request_timeout = \"2s\"\n", `:1: nri_plugin_request_timeout: unknown key; nri_plugin_request_timeout is now nri_timeouts = ["request=2s"]`},
		"old TLS version":   {"stream_tls_min_version = \"1.3\"\n", `:1: stream_tls_min_version: unknown key; stream_tls_min_version is now the end of stream_tls, such as stream_tls = ["self-signed", "min=1.3"]`},
		"two mistakes":      {"b0 = 1\na0 = 2\n", ":1: b0: unknown key"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, tc.text)
			_, err := Load(file)
			if tc.wantErr == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), file+tc.wantErr) {
				t.Errorf("got %v, want …%s", err, tc.wantErr)
			}
		})
	}
}

func TestOnlyTheDefaultFileMayBeAbsent(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a file that was named and is absent must be an error")
	}
}

// Drop-ins are merged in lexical order over the main file; what is no drop-in is not read.
func TestDropIns(t *testing.T) {
	file := write(t, "log_level = 1\npods_per_shim = 1\npinned_images = [\"a\", \"b\"]\n")
	dir := strings.TrimSuffix(file, ".toml") + ".d"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"10-first.toml":   "log_level = 2\npods_per_shim = 2\n",
		"20-second.toml":  "log_level = 3\npinned_images = [\"c\"]\n",
		"30-off.toml.old": "log_level = 4\n", ".hidden.toml": "log_level = 5\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.LogLevel, want.PodsPerShim, want.PinnedImages = 3, 2, []string{"c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the merged configuration differs (-want +got):\n%s", diff)
	}
	bad := filepath.Join(dir, "20-second.toml")
	if err := os.WriteFile(bad, []byte("\nlog_levl = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), bad+":2: log_levl: unknown key; did you mean log_level?") {
		t.Errorf("a mistake in a drop-in gives the error %v, want its file, line and key", err)
	}
}

// A reload changes what it may and names the keys that only a restart changes.
func TestReloaded(t *testing.T) {
	now, next := Default(), Default()
	next.LogLevel, next.PinnedImages, next.Root, next.PodsPerShim = 6, []string{"x"}, "/elsewhere", 1
	merged, changed, restart := now.Reloaded(next)
	want := Default()
	want.LogLevel, want.PinnedImages = 6, []string{"x"}
	if diff := cmp.Diff(want, merged); diff != "" {
		t.Errorf("the configuration after a reload differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"log_level", "pinned_images"}, changed); diff != "" {
		t.Errorf("the changed keys differ (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"root", "pods_per_shim"}, restart); diff != "" {
		t.Errorf("the keys that need a restart differ (-want +got):\n%s", diff)
	}
}

func TestFlagsOverrideFile(t *testing.T) {
	fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
	apply := Flags(fs)
	args := []string{"--root", "/flag", "--cni-bin-dir", "/a,/b", "--cni-bin-dir=/c", "--default-network", "--timeouts", "drain=3s", "--log-level=6"}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	got, err := Load(write(t, "root = \"/file\"\nstate = \"/run/file\"\nlog_level = 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	apply(&got)
	want := Default()
	want.Root, want.State, want.LogLevel = "/flag", "/run/file", 6
	want.CNIBinDir = []string{"/a", "/b", "/c"}
	want.DefaultNetwork, want.Timeouts = true, []string{"drain=3s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRuntimesOfSeveralFiles: a drop-in adds its tables to the others; one of the same
// name is replaced as a whole.
func TestRuntimesOfSeveralFiles(t *testing.T) {
	c := Default()
	for _, text := range []string{
		"[runtime.a]\ntype = \"shim.v2\"\nshim = \"one\"\n[runtime.b]\ntype = \"builtin\"\n",
		"[runtime.a]\ntype = \"builtin\"\n",
	} {
		if err := c.read("f", text); err != nil {
			t.Fatal(err)
		}
	}
	fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
	apply := Flags(fs)
	if err := fs.Parse([]string{`--runtime=c={type="builtin"}`}); err != nil {
		t.Fatal(err)
	}
	want := map[string]Runtime{"a": {Type: Builtin}, "b": {Type: Builtin}}
	if diff := cmp.Diff(want, c.Runtimes); diff != "" {
		t.Error(diff)
	}
	apply(&c)
	if diff := cmp.Diff(map[string]Runtime{"c": {Type: Builtin}}, c.Runtimes); diff != "" {
		t.Errorf("a flag replaces the tables of files, as it does a list: %s", diff)
	}
}

func TestEveryKeyIsAFlag(t *testing.T) {
	fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
	Flags(fs)
	c := Default()
	for key := range fieldsByKey(&c) {
		if fs.Lookup(flagName(key)) == nil {
			t.Errorf("key %s has no flag", key)
		}
	}
}

func TestCheck(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"root: want an absolute path":     func(c *Config) { c.Root = "var" },
		"state: want an absolute path":    func(c *Config) { c.State = "/run/berth/" },
		"must not lie inside each other":  func(c *Config) { c.State = c.Root + "/run" },
		"too long for the sockets":        func(c *Config) { c.State = "/" + strings.Repeat("x", 90) },
		"listen: want unix:///PATH":       func(c *Config) { c.Listen = "tcp://0.0.0.0:1" },
		"listen: a socket's path may":     func(c *Config) { c.Listen = "unix:///" + strings.Repeat("x", 107) },
		"containerd_socket: want auto":    func(c *Config) { c.ContainerdSocket = "unix:///run/x" },
		"containerd_socket: a socket's":   func(c *Config) { c.ContainerdSocket = "/" + strings.Repeat("x", 107) },
		"stream_address: want host:port":  func(c *Config) { c.StreamAddress = "127.0.0.1" },
		"metrics_address: want unix:///":  func(c *Config) { c.MetricsAddress = "0.0.0.0:9723" },
		"want unix:///PATH with a path":   func(c *Config) { c.MetricsAddress = "unix://metrics.sock" },
		"cgroup_driver: want":             func(c *Config) { c.CgroupDriver = "v2" },
		"log_level: want 0 to 10":         func(c *Config) { c.LogLevel = -1 },
		"pods_per_shim: want":             func(c *Config) { c.PodsPerShim = -1 },
		"max_parallel_downloads: want":    func(c *Config) { c.MaxParallelDownloads = 65 },
		"timeouts: want drain to be":      func(c *Config) { c.Timeouts = []string{"drain=-1s"} },
		"cni_bin_dir: name at least one":  func(c *Config) { c.CNIBinDir = nil },
		"certs_dir: want an absolute":     func(c *Config) { c.CertsDir = []string{"x"} },
		"shim_binary: want an absolute":   func(c *Config) { c.ShimBinary = "berth-shim" },
		"allowed_devices: want a device":  func(c *Config) { c.AllowedDevices = []string{"/dev/fuse", "fuse"} },
		`fd, not "/dev/../etc"`:           func(c *Config) { c.AllowedDevices = []string{"/dev/../etc"} },
		`fd, not "/dev/shm/x"`:            func(c *Config) { c.AllowedDevices = []string{"/dev/shm/x"} },
		`fd, not "/dev/a:rw"`:             func(c *Config) { c.AllowedDevices = []string{"/dev/a:rw"} },
		"trust_policy: want an absolute":  func(c *Config) { c.TrustPolicy = "trust.toml" },
		"seed_dir: want an absolute":      func(c *Config) { c.SeedDir = "/seed/" },
		"seccomp_root: want an absolute":  func(c *Config) { c.SeccompRoot = "" },
		"cni_conf_dir: want an absolute ": func(c *Config) { c.CNIConfDir = "../x" },
		"runtime.A_b: a handler's name":   func(c *Config) { c.Runtimes["A_b"] = Runtime{Type: Builtin} },
		"runtime.a.type: want":            func(c *Config) { c.Runtimes["a"] = Runtime{Type: "oci"} },
		"runtime.b.shim: want":            func(c *Config) { c.Runtimes["b"] = Runtime{Type: ShimV2} },
		"runtime.c.shim: want":            func(c *Config) { c.Runtimes["c"] = Runtime{Type: ShimV2, Shim: "bin/shim"} },
		"runtime.d: type \"builtin\"":     func(c *Config) { c.Runtimes["d"] = Runtime{Type: Builtin, Shim: "shim"} },
		"runtime.i.shim_cgroup: want pod": func(c *Config) { c.Runtimes["i"] = Runtime{Type: ShimV2, Shim: "s", ShimCgroup: "pods"} },
		`gvisor.slice, not "/a/../b"`:     func(c *Config) { c.Runtimes["i"] = Runtime{Type: ShimV2, Shim: "s", ShimCgroup: "/a/../b"} },
		`gvisor.slice, not "/"`:           func(c *Config) { c.Runtimes["i"] = Runtime{Type: ShimV2, Shim: "s", ShimCgroup: "/"} },
		`gvisor.slice, not "a:b.slice"`:   func(c *Config) { c.Runtimes["i"] = Runtime{Type: ShimV2, Shim: "s", ShimCgroup: "a:b.slice"} },
		"no shim, options, shim_cgroup,":  func(c *Config) { c.Runtimes["j"] = Runtime{Type: Builtin, ShimCgroup: "pod"} },
		"runtime.f.allowed_devices: want": func(c *Config) { c.Runtimes["f"] = Runtime{Type: Builtin, AllowedDevices: []string{"/dev/fuse:r"}} },
		`runtime.g.devices: want HOST[`:   func(c *Config) { c.Runtimes["g"] = Runtime{Type: Builtin, Devices: []string{"/dev/fuse:x"}} },
		`rw, not "/etc/passwd"`:           func(c *Config) { c.Runtimes["g"] = Runtime{Type: Builtin, Devices: []string{"/etc/passwd"}} },
		`rw, not "/dev/fuse:/etc/fuse:r"`: func(c *Config) { c.Runtimes["g"] = Runtime{Type: Builtin, Devices: []string{"/dev/fuse:/etc/fuse:r"}} },
		"it needs privileged_without_":    func(c *Config) { c.Runtimes["h"] = Runtime{Type: Builtin, AllDevicesAllowed: true} },
		"runtime.e.annotations: want":     func(c *Config) { c.Runtimes["e"] = Runtime{Type: Builtin, Annotations: []string{"a*b"}} },
	} {
		c := Default()
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want …%s…", err, want)
		}
	}
}

// TestCheckTellsAll: an operator should not have to start the daemon once per mistake.
func TestCheckTellsAll(t *testing.T) {
	c := Default()
	c.Root, c.LogLevel, c.StreamAddress, c.Timeouts = "var", 99, "x", []string{"drain=-1s"}
	err := c.Check()
	if err == nil {
		t.Fatal("four wrong keys are no error")
	}
	got := strings.Split(err.Error(), "\n")
	for i, want := range []string{"root: ", "stream_address: ", "log_level: ", "timeouts: "} {
		if len(got) != 4 || !strings.HasPrefix(got[i], want) {
			t.Errorf("line %d of %q, want one that begins with %q, of four", i, got, want)
		}
	}
}

func TestSocketPath(t *testing.T) {
	for listen, want := range map[string]string{
		"unix:///run/berth/berth.sock": "/run/berth/berth.sock",
		"unix:///run//berth/../x":      "/run/x",
		"unix://run/x":                 "",
		"/run/x":                       "",
		"tcp://127.0.0.1:1":            "",
		"":                             "",
	} {
		c := Default()
		c.Listen = listen
		if got := c.SocketPath(); got != want {
			t.Errorf("SocketPath of listen = %q is %q, want %q", listen, got, want)
		}
	}
}

// TestRuntimeKeysAreExplained: each key of a table has its line in what is printed.
func TestRuntimeKeysAreExplained(t *testing.T) {
	names, helps := runtimeKeys()
	for _, tables := range []map[string]Runtime{nil, {"a": {Type: Builtin}}} {
		text := literalRuntimes(tables)
		for i, name := range names {
			if helps[i] == "" || !strings.Contains(text, "#   "+name+": "+helps[i]+"\n") {
				t.Errorf("key %q with help %q is not in\n%s", name, helps[i], text)
			}
		}
	}
}

// TestPrintExplainsEachKey: an operator edits what --print-config writes.
func TestPrintExplainsEachKey(t *testing.T) {
	var text strings.Builder
	if err := Default().Print(&text); err != nil {
		t.Fatal(err)
	}
	// Without tables there is an example, which is no setting.
	printed := strings.Replace(text.String(), literalRuntimes(nil), "runtime = ", 1)
	blocks := strings.Split(strings.TrimSpace(printed)+" ", "\n\n")
	fields := reflect.TypeFor[Config]()
	if len(blocks) != fields.NumField() {
		t.Fatalf("%d keys are printed, want %d", len(blocks), fields.NumField())
	}
	for i, got := range blocks {
		tag := fields.Field(i).Tag
		help, setting, _ := strings.Cut(got, "\n")
		if !strings.HasPrefix(help, "# "+tag.Get("help")) || !strings.HasPrefix(setting, tag.Get("toml")+" = ") {
			t.Errorf("%q is printed, want the help %q and below it the key %s", got, tag.Get("help"), tag.Get("toml"))
		}
	}
}

// TestSuggestion: a slip is put right, and what resembles no key is not.
func TestSuggestion(t *testing.T) {
	c := Default()
	keys := fieldsByKey(&c)
	for key, want := range map[string]string{
		"rooot": "did you mean root?", "cni_conf_dirs": "did you mean cni_conf_dir?", "pods_pershim": "did you mean pods_per_shim?",
		"cgroupdriver": "did you mean cgroup_driver?", "verbosity": "`berthd --print-config`", "": "`berthd --print-config`",
	} {
		if got := suggestion(key, keys); !strings.Contains(got, want) {
			t.Errorf("suggestion(%q) = %q, want …%s…", key, got, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"root", "root", 0}, {"listen", "lisen", 1}, {"state", "taste", 2}, {"kitten", "sitting", 3}} {
		if got, back := editDistance(c.a, c.b), editDistance(c.b, c.a); got != c.want || back != c.want {
			t.Errorf("editDistance of %q and %q is %d, and %d the other way round, want %d", c.a, c.b, got, back, c.want)
		}
	}
}

// TestFlagsOfLists: the first use of a list's flag replaces the list, so that it can be made
// empty too.
func TestFlagsOfLists(t *testing.T) {
	for args, want := range map[string][]string{
		"":                      {"/opt/cni/bin", "/usr/lib/cni"},
		"--cni-bin-dir=":        {},
		"--cni-bin-dir=/a":      {"/a"},
		"--cni-bin-dir=/a,,/b,": {"/a", "/b"},
		"--cni-bin-dir=/a --log-level=1 --cni-bin-dir=/b": {"/a", "/b"},
	} {
		fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
		apply := Flags(fs)
		if err := fs.Parse(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		got := Default()
		apply(&got)
		if diff := cmp.Diff(want, got.CNIBinDir); diff != "" {
			t.Errorf("%q: %s", args, diff)
		}
	}
}

// TestFlagsRefuse: a value that is of another type is an error of the command line.
func TestFlagsRefuse(t *testing.T) {
	for _, arg := range []string{"--log-level=much", "--stream-idle-timeout=10", "--default-network=perhaps", "--log_level=1", "--nosuch=1"} {
		fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		Flags(fs)
		if err := fs.Parse([]string{arg}); err == nil {
			t.Errorf("%s is accepted", arg)
		}
	}
}

// FuzzLoad looks for a file that panics, or that is accepted but does not
// survive being printed and read again.
func FuzzLoad(f *testing.F) {
	f.Add("root = \"/r\"\ncni_bin_dir = [\"a\"]\n")
	f.Add("[root]\nx=1")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		if c.read("f", text) != nil {
			return
		}
		var printed strings.Builder
		if err := c.Print(&printed); err != nil {
			t.Fatal(err)
		}
		again := Default()
		if err := again.read("printed", printed.String()); err != nil {
			t.Fatalf("%v in\n%s", err, printed.String())
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Error(diff)
		}
	})
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestExampleFile: hack/config.toml, which the README shows, is the defaults.
func TestExampleFile(t *testing.T) {
	const example = "../../hack/config.toml"
	var want strings.Builder
	if err := Default().Print(&want); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(example, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("UPDATE=1 go test ./server/config writes it anew: %s", diff)
	}
}
