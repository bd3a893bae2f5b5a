package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

// defaultPath is used when neither the image nor the config sets PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (b *builder) process() error {
	args, err := b.args()
	if err != nil {
		return err
	}
	env, err := b.env()
	if err != nil {
		return err
	}
	b.spec.Process = &specs.Process{
		Terminal: b.conf.GetTty(),
		User: specs.User{
			UID:            b.ctr.User.UID,
			GID:            b.ctr.User.GID,
			AdditionalGids: b.ctr.User.Additional,
		},
		Args:            args,
		Env:             env,
		Cwd:             b.cwd(),
		NoNewPrivileges: b.sc.GetNoNewPrivs(),
		OOMScoreAdj:     b.oomScoreAdj(),
	}
	return nil
}

// args follows the CRI: command replaces the image's entrypoint and drops its
// cmd, args alone replace the cmd.
func (b *builder) args() ([]string, error) {
	entry, args := b.conf.GetCommand(), b.conf.GetArgs()
	if len(entry) == 0 {
		entry = b.img.Entrypoint
		if len(args) == 0 {
			args = b.img.Cmd
		}
	}
	all := slices.Concat(entry, args)
	if len(all) == 0 || all[0] == "" {
		return nil, fmt.Errorf("%w: no command: the image has no entrypoint and no cmd, so set command in the container's config", ErrInvalid)
	}
	for _, a := range all {
		if strings.Contains(a, "\x00") {
			return nil, fmt.Errorf("%w: command or args: %s has a NUL byte", ErrInvalid, clip(a))
		}
	}
	init, err := b.initPath()
	if err != nil || init == "" {
		return all, err
	}
	return append([]string{init, "--"}, all...), nil
}

// initPath is where the init of [Container.Init] is in the container, "" when it
// isn't used: in a PID namespace that is not the container's own it would not be
// PID 1, and someone else reaps there.
func (b *builder) initPath() (string, error) {
	mode, err := b.pidMode()
	if err != nil || b.ctr.Init == "" || mode != runtimeapi.NamespaceMode_CONTAINER {
		return "", err
	}
	if b.covers("/dev") {
		return "/" + shimapi.InitName, nil // never make a file in a host's /dev
	}
	return "/dev/" + shimapi.InitName, nil // a tmpfs of ours: nothing is left in the writable layer
}

// checkVariable: the CRI's values are bytes, but libcontainer hands the environment
// to its init as JSON, which would put other bytes for those that aren't UTF-8.
func checkVariable(kv *runtimeapi.KeyValue) error {
	k, v := kv.GetKey(), kv.GetValue()
	if k == "" || strings.ContainsAny(k, "=\x00") || slices.Contains(v, 0) {
		return fmt.Errorf("%w: envs: %s is not a variable: the name must not be empty nor contain '=', and no byte may be NUL", ErrInvalid, clip(k))
	}
	if !utf8.Valid(v) {
		return fmt.Errorf("%w: envs: the value of %s is not UTF-8 and would be changed on its way; encode it, or mount it as a file", ErrInvalid, clip(k))
	}
	return nil
}

// cwd is the config's, else the image's, else "/"; a relative one starts there.
func (b *builder) cwd() string {
	dir := b.conf.GetWorkingDir()
	if dir == "" {
		dir = b.img.WorkingDir
	}
	return path.Join("/", dir)
}

// env puts what every container has first, then the image's variables, then the
// config's; the last value of a name wins and keeps the first one's place.
func (b *builder) env() ([]string, error) {
	e := environ{values: map[string]string{}}
	e.set("PATH", defaultPath)
	e.set("HOSTNAME", b.hostname())
	if b.conf.GetTty() {
		e.set("TERM", "xterm")
	}
	for _, kv := range b.img.Env {
		// An image's author can't be asked to mend it: skip what is no variable.
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" && !strings.Contains(kv, "\x00") {
			e.set(k, v)
		}
	}
	for _, kv := range b.conf.GetEnvs() {
		if err := checkVariable(kv); err != nil {
			return nil, err
		}
		e.set(kv.GetKey(), string(kv.GetValue()))
	}
	if e.values["HOME"] == "" {
		e.set("HOME", b.home())
	}
	return e.list(), nil
}

// home doesn't trust the image's /etc/passwd to hold a path.
func (b *builder) home() string {
	dir := b.ctr.User.Home
	if !path.IsAbs(dir) || strings.ContainsFunc(dir, unicode.IsControl) {
		return "/"
	}
	return dir
}

func (b *builder) hostname() string {
	if name := b.pod.Config.GetHostname(); name != "" {
		return name
	}
	return b.host.Hostname
}

// environ is a set of variables that remembers in which order names came.
type environ struct {
	names  []string
	values map[string]string
}

func (e *environ) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environ) list() []string {
	out := make([]string, 0, len(e.names))
	for _, n := range e.names {
		out = append(out, n+"="+e.values[n])
	}
	return out
}

// oomScoreAdj is always set: the shim's own is far below what a container may have.
func (b *builder) oomScoreAdj() *int {
	adj := int(b.conf.GetLinux().GetResources().GetOomScoreAdj())
	adj = min(max(adj, -1000), 1000)
	if !b.host.LowerOOM {
		adj = max(adj, b.host.OOMScoreAdj)
	}
	return &adj
}
