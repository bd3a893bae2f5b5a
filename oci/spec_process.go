package oci

import (
	"path"
	"slices"
	"strings"
	"unicode"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	if err := b.setVariables(); err != nil {
		return err
	}
	if dir := b.conf.GetWorkingDir(); dir != "" && !path.IsAbs(dir) || len(dir) >= unix.PathMax || strings.Contains(dir, "\x00") {
		return invalid("working_dir: %s must be an absolute path of at most %d bytes without NUL", clip(dir), unix.PathMax-1)
	}
	b.spec.Process = &specs.Process{
		Terminal:        b.conf.GetTty(),
		Args:            args,
		Env:             b.env(),
		Cwd:             b.cwd(),
		NoNewPrivileges: b.sc.GetNoNewPrivs(),
		Rlimits:         b.host.Defaults.Ulimits,
		// Always set: the shim's own is far below what a container may have.
		OOMScoreAdj: oomScoreAdj(b.conf.GetLinux().GetResources(), b.host),
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
		return nil, invalid("no command: the image has no entrypoint and no cmd, so set command in the container's config")
	}
	for _, a := range all {
		if strings.Contains(a, "\x00") {
			return nil, invalid("command or args: %s has a NUL byte", clip(a))
		}
	}
	if b.ctr.Bytes != "" {
		all = append([]string{b.programPath(), bytesFlag}, all...)
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
	mode, err := b.joins().pidMode()
	if err != nil || b.ctr.Init == "" || mode != runtimeapi.NamespaceMode_CONTAINER {
		return "", err
	}
	return b.programPath(), nil
}

// programPath is where berth's own program is in the container.
func (b *builder) programPath() string {
	if covers(b.binds, "/dev") {
		return "/" + shimapi.InitName // never make a file in a host's /dev
	}
	return "/dev/" + shimapi.InitName // a tmpfs of ours: nothing is left in the writable layer
}

// cwd is the config's, else the image's, else "/"; a relative one starts there.
func (b *builder) cwd() string {
	dir := b.conf.GetWorkingDir()
	if dir == "" {
		dir = b.img.WorkingDir
	}
	return path.Join("/", dir)
}

// checkUser finds what can't be resolved in any image.
func (b *builder) checkUser() error {
	_, err := UserRequest{Image: b.img.User, Context: b.sc}.wish()
	return err
}

// setUser makes u the user of the process, who has a home.
func (b *builder) setUser(u User) {
	b.spec.Process.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Additional}
	if b.vars.values["HOME"] == "" {
		b.vars.set("HOME", homeOf(u))
	}
	b.spec.Process.Env = b.env()
}

// homeOf does not trust the image's /etc/passwd to hold a path.
func homeOf(u User) string {
	if !path.IsAbs(u.Home) || strings.ContainsFunc(u.Home, unicode.IsControl) {
		return "/"
	}
	return u.Home
}

func (b *builder) hostname() string {
	if name := b.pod.Config.GetHostname(); name != "" {
		return name
	}
	return b.host.Hostname
}
