package config

import (
	"fmt"
	"maps"
	"path/filepath"
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
	Type string `toml:"type"` // Builtin or ShimV2
	// Shim is the shim's program, by its path or by its name in the daemon's PATH.
	Shim string `toml:"shim"`
	// Options go to the shim as they are. A shim of runc takes the fields of
	// containerd.runc.v1.Options (BinaryName, Root, SystemdCgroup, …), any other those of
	// runtimeoptions.v1.Options (TypeUrl, ConfigPath, ConfigBody).
	Options map[string]any `toml:"options"`
	// Annotations of pods and containers that the runtime gets to see; a * at the end
	// matches the rest.
	Annotations []string `toml:"annotations"`
	// PrivilegedWithoutHostDevices keeps the host's devices out of privileged containers,
	// for runtimes that have devices of their own.
	PrivilegedWithoutHostDevices bool `toml:"privileged_without_host_devices"`
	// NoSandboxContainer leaves out the container that stands for the pod, which runtimes
	// with a machine or kernel of their own need.
	NoSandboxContainer bool `toml:"no_sandbox_container"`
	// SandboxImage is the image of that container, which is pulled when a pod needs it and
	// kept; empty: a program of berth's own.
	SandboxImage string `toml:"sandbox_image"`
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
			return r, fmt.Errorf("unknown key %s", key)
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
		for _, a := range r.Annotations {
			if a == "" || strings.Contains(strings.TrimSuffix(a, "*"), "*") {
				wrong(key+".annotations", "want keys of annotations, with a * at most at the end, not %q", a)
			}
		}
	}
}

func (r Runtime) checkType(key string, wrong func(key, format string, args ...any)) {
	switch r.Type {
	case Builtin:
		if r.Shim != "" || len(r.Options) > 0 || r.NoSandboxContainer || r.SandboxImage != "" {
			wrong(key, `type "builtin" takes no shim, options, no_sandbox_container or sandbox_image`)
		}
	case ShimV2:
		plain := !strings.Contains(r.Shim, "/") || filepath.IsAbs(r.Shim) && filepath.Clean(r.Shim) == r.Shim
		if r.Shim == "" || !plain {
			wrong(key+".shim", "want the absolute path of a program such as containerd-shim-runsc-v1, or its name in PATH, not %q", r.Shim)
		}
	default:
		wrong(key+".type", `want "builtin" or "shim.v2", not %q`, r.Type)
	}
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

// literalRuntimes are the tables as TOML writes them.
func literalRuntimes(all map[string]Runtime) string {
	if len(all) == 0 {
		return exampleRuntimes
	}
	text, err := toml.Marshal(map[string]any{"runtime": all})
	if err != nil {
		return "# " + err.Error() + "\n" // no value that was read from TOML
	}
	return string(text)
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
