package oci

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
)

// The CRI and the kernel take any bytes as the value of an environment variable. A spec,
// and what libcontainer sends to its init, is JSON, which carries only Unicode text. A
// variable that is not UTF-8 is therefore written as BERTH_BYTES_n=NAME=VALUE, in which
// the code point of each character is the value of one byte. The container's command then
// begins with a program of berth's that restores the variables and executes the command
// (package tinyinit).
const (
	bytesPrefix = "BERTH_BYTES_"
	bytesFlag   = "-e"
)

// NeedsBytes tells whether a container has variables that are not UTF-8, so that
// [Container.Bytes] must be set.
func NeedsBytes(c *runtimeapi.ContainerConfig) bool {
	return slices.ContainsFunc(c.GetEnvs(), func(kv *runtimeapi.KeyValue) bool { return !utf8.Valid(kv.GetValue()) })
}

// ExecArgs is the command line by which cmd is executed in a container with this spec.
// Where the container has variables that are not UTF-8, cmd is executed through the
// program that restores them.
func ExecArgs(spec *specs.Spec, cmd []string) []string {
	args := spec.Process.Args
	if len(args) > 2 && args[1] == "--" && path.Base(args[0]) == shimapi.InitName {
		args = args[2:] // what the init executes
	}
	if len(args) < 3 || args[1] != bytesFlag || path.Base(args[0]) != shimapi.InitName {
		return cmd
	}
	return append([]string{args[0], bytesFlag}, cmd...)
}

// encodeBytes puts variables that are not UTF-8 in a form that JSON can carry, and
// with them those that look like it.
func encodeBytes(env []string, wanted bool) []string {
	if !wanted {
		return env
	}
	for i, kv := range env {
		if !utf8.ValidString(kv) || strings.HasPrefix(kv, bytesPrefix) {
			env[i] = bytesPrefix + strconv.Itoa(i) + "=" + latin1(kv)
		}
	}
	return env
}

func latin1(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

func (b *builder) checkVariable(kv *runtimeapi.KeyValue) error {
	k, v := kv.GetKey(), kv.GetValue()
	if k == "" || strings.ContainsAny(k, "=\x00") || slices.Contains(v, 0) {
		return invalid("envs: %s is not a variable: the name must not be empty nor contain '=', and no byte may be NUL", clip(k))
	}
	if b.ctr.Bytes == "" && !utf8.Valid(v) {
		return invalid("envs: the value of %s is not UTF-8 and would be changed on its way; encode it, or mount it as a file", clip(k))
	}
	return nil
}

// setVariables puts what every container has first, then the image's variables, then
// the config's; the last value of a name wins and keeps the first one's place.
func (b *builder) setVariables() error {
	e := &b.vars
	e.values = map[string]string{}
	e.set("PATH", defaultPath)
	e.set("HOSTNAME", b.hostname())
	if b.conf.GetTty() {
		e.set("TERM", "xterm")
	}
	for _, kv := range b.img.Env {
		// Who runs an image can't mend it, so a string that is no variable is skipped.
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" && !strings.Contains(kv, "\x00") {
			e.set(k, v)
		}
	}
	for _, kv := range b.conf.GetEnvs() {
		if err := b.checkVariable(kv); err != nil {
			return err
		}
		e.set(kv.GetKey(), string(kv.GetValue()))
	}
	return nil
}

// env is the environment of the process in the form that a spec can carry.
func (b *builder) env() []string { return encodeBytes(b.vars.list(), b.ctr.Bytes != "") }

// environ is a set of variables in the order in which their names came first.
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
