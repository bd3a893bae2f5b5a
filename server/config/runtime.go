package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Types of a [Runtime].
const (
	// Builtin is libcontainer in berth's own shim.
	Builtin = "builtin"
	// ShimV2 is a program that speaks the shim API of containerd, version 2 or 3.
	ShimV2 = "shim.v2"
)

// Runtime is what a table [runtime.NAME] says about the handler NAME of a RuntimeClass
// (KEP-585).
type Runtime struct {
	Type string `toml:"type" help:"builtin (libcontainer in berth's own shim), or shim.v2"`
	Shim string `toml:"shim" help:"of shim.v2: the shim's program, by its path or by its name in the daemon's PATH"`
	// Options go to the shim as they are.
	Options map[string]any `toml:"options" help:"of shim.v2: a table for the shim; one of runc takes the fields of containerd.runc.v1.Options (BinaryName, Root, SystemdCgroup, …), any other those of runtimeoptions.v1.Options (TypeUrl, ConfigPath, ConfigBody)"`
	// ShimCgroup is "pod", a path or a slice.
	ShimCgroup string `toml:"shim_cgroup" help:"of shim.v2: where each pod's shim has a cgroup of its own, with what it starts and no container: pod is the pod's cgroup, whose limit then has to have room for it (the overhead of the RuntimeClass), or the path of a cgroup such as /gvisor-shims, with the systemd driver a slice; empty: the shim is accounted with berth's own, outside of any pod"`
	// Annotations of pods and containers that the runtime gets to see.
	Annotations []string `toml:"annotations" help:"keys of the annotations of pods and containers that the runtime gets to see; a * at the end matches the rest"`
	// Devices are HOST[:CONTAINER][:ACCESS].
	Devices        []string `toml:"devices" help:"devices of the host that each container of the handler gets, HOST[:CONTAINER][:ACCESS] below /dev such as /dev/kvm or /dev/fuse:/dev/fuse:rw"`
	AllowedDevices []string `toml:"allowed_devices" help:"what pods of the handler may ask for beside allowed_devices of the node"`
	// PrivilegedWithoutHostDevices is for runtimes that have devices of their own.
	PrivilegedWithoutHostDevices bool `toml:"privileged_without_host_devices" help:"keep the host's devices out of privileged containers"`
	// AllDevicesAllowed changes the rules of PrivilegedWithoutHostDevices.
	AllDevicesAllowed bool `toml:"privileged_without_host_devices_all_devices_allowed" help:"with the key before it: such a container may use any device all the same, of which it makes the nodes itself"`
	// NoSandboxContainer is for runtimes without a machine or kernel of their own.
	NoSandboxContainer bool `toml:"no_sandbox_container" help:"of shim.v2: leave out the container that stands for the pod, which runtimes with a machine or kernel of their own need"`
	// SandboxImage is pulled when a pod needs it, and kept.
	SandboxImage string `toml:"sandbox_image" help:"of shim.v2: the image of that container; empty: a program of berth's own"`
}

// runtimeKeys are the keys of a table, each with its help text.
func runtimeKeys() (names, helps []string) {
	for f := range reflect.TypeFor[Runtime]().Fields() {
		names, helps = append(names, f.Tag.Get("toml")), append(helps, f.Tag.Get("help"))
	}
	return names, helps
}

// handlerName is a label of RFC 1123, what a RuntimeClass may name (KEP-585).
var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// assignRuntimes adds tables to those that there are. One of the same name is replaced.
func assignRuntimes(into *map[string]Runtime, value any) error {
	tables, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("want tables [runtime.NAME], not %s", describe(value))
	}
	all := maps.Clone(*into)
	if all == nil {
		all = map[string]Runtime{}
	}
	for name, table := range tables {
		r, err := decodeRuntime(table)
		if err != nil {
			return fmt.Errorf("[runtime.%s]: %w", name, err)
		}
		all[name] = r
	}
	*into = all
	return nil
}

func decodeRuntime(table any) (r Runtime, err error) {
	if _, ok := table.(map[string]any); !ok {
		return r, fmt.Errorf("want a table, not %s", describe(table))
	}
	text, err := toml.Marshal(table)
	if err != nil {
		return r, err
	}
	meta, err := toml.Decode(string(text), &r)
	if err != nil {
		return r, err
	}
	for _, key := range meta.Undecoded() {
		if key[0] != "options" {
			names, _ := runtimeKeys()
			return r, fmt.Errorf("unknown key %s; a table has some of %s", key, strings.Join(names, ", "))
		}
	}
	return r, nil
}

// checkRuntimes wants a type, and a program where the type needs one.
func (c Config) checkRuntimes(wrong func(key, format string, args ...any)) {
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		r, key := c.Runtimes[name], "runtime."+name
		if !handlerName.MatchString(name) {
			wrong(key, "a handler's name has up to 63 of a-z, 0-9 and -, and begins and ends without a -")
		}
		r.checkType(key, wrong)
		r.checkDevices(key, wrong)
		for _, a := range r.Annotations {
			if a == "" || strings.Contains(strings.TrimSuffix(a, "*"), "*") {
				wrong(key+".annotations", "want keys of annotations, with a * at most at the end, not %q", a)
			}
		}
	}
}

// checkDevices wants devices that a container can be given.
func (r Runtime) checkDevices(key string, wrong func(key, format string, args ...any)) {
	for _, p := range r.AllowedDevices {
		if !isListable(p) {
			wrong(key+".allowed_devices", wantDevice, p)
		}
	}
	for _, d := range r.Devices {
		if parts := givenDevice.FindStringSubmatch(d); parts == nil || !isListable(parts[1]) || parts[2] != "" && !isListable(parts[2]) {
			wrong(key+".devices", "want HOST[:CONTAINER][:ACCESS] with paths below /dev that are not in /dev/shm, mqueue, pts or fd, and access of r, w and m, such as /dev/fuse:/dev/fuse:rw, not %q", d)
		}
	}
	if r.AllDevicesAllowed && !r.PrivilegedWithoutHostDevices {
		wrong(key+".privileged_without_host_devices_all_devices_allowed", "it needs privileged_without_host_devices = true: without that a privileged container may use any device anyway")
	}
}

// givenDevice is an entry of [Runtime.Devices].
var givenDevice = regexp.MustCompile(`^(/[^:,]+)(?::(/[^:,]+))?(?::[rwm]{1,3})?$`)

// hasShim tells whether the table has keys that only mean something with a shim.
func (r Runtime) hasShim() bool {
	return r.Shim != "" || len(r.Options) > 0 || r.ShimCgroup != "" || r.NoSandboxContainer || r.SandboxImage != ""
}

func (r Runtime) checkType(key string, wrong func(key, format string, args ...any)) {
	switch r.Type {
	case Builtin:
		if r.hasShim() {
			wrong(key, `type "builtin" takes no shim, options, shim_cgroup, no_sandbox_container or sandbox_image`)
		}
	case ShimV2:
		plain := !strings.Contains(r.Shim, "/") || filepath.IsAbs(r.Shim) && filepath.Clean(r.Shim) == r.Shim
		if r.Shim == "" || !plain {
			wrong(key+".shim", "want the absolute path of a program such as containerd-shim-runsc-v1, or its name in PATH, not %q", r.Shim)
		}
		if !isCgroup(r.ShimCgroup) {
			wrong(key+".shim_cgroup", "want pod, the absolute path of a cgroup below the root, or a slice such as gvisor.slice, not %q", r.ShimCgroup)
		}
	default:
		wrong(key+".type", `want "builtin" or "shim.v2", not %q`, r.Type)
	}
}

// isCgroup tells whether shims can be put below a cgroup of that name.
func isCgroup(p string) bool {
	if strings.ContainsAny(p, ":\n\x00") {
		return false
	}
	slice := strings.HasSuffix(p, ".slice") && !strings.Contains(p, "/") && p != ".slice"
	return p == "" || p == "pod" || slice || filepath.IsAbs(p) && filepath.Clean(p) == p && p != "/"
}

// exampleRuntimes stands in the printed configuration while there is no table.
const exampleRuntimes = `# [runtime.gvisor]
# type = "shim.v2"
# shim = "containerd-shim-runsc-v1"
# annotations = ["dev.gvisor.*"]
# [runtime.gvisor.options]
# TypeUrl = "io.containerd.runsc.v1.options"
# ConfigPath = "/etc/containerd/runsc.toml"
`

// literalRuntimes are the tables as TOML writes them, below what their keys mean.
func literalRuntimes(all map[string]Runtime) string {
	var keys strings.Builder
	names, helps := runtimeKeys()
	for i, name := range names {
		fmt.Fprintf(&keys, "#   %s: %s\n", name, helps[i])
	}
	if len(all) == 0 {
		return keys.String() + exampleRuntimes
	}
	text, err := toml.Marshal(map[string]any{"runtime": all})
	if err != nil {
		return "# " + err.Error() + "\n" // no value that was read from TOML
	}
	return keys.String() + string(text)
}

// runtimeFlag adds tables given as NAME={type="builtin"}.
type runtimeFlag struct{ tables *map[string]Runtime }

// String implements [flag.Value].
func (f runtimeFlag) String() string { return "" }

// Set implements [flag.Value].
func (f runtimeFlag) Set(s string) error {
	var tables map[string]any
	if _, err := toml.Decode(s, &tables); err != nil {
		return fmt.Errorf(`want a table such as gvisor={type="shim.v2", shim="containerd-shim-runsc-v1"}: %w`, err)
	}
	return assignRuntimes(f.tables, tables)
}
