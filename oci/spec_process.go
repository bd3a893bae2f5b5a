package oci

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

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
		return nil, fmt.Errorf("%w: no command: the image has no entrypoint and no cmd, so set command in the container's config", ErrInvalid)
	}
	for _, a := range all {
		if strings.Contains(a, "\x00") {
			return nil, fmt.Errorf("%w: command or args: %s has a NUL byte", ErrInvalid, clip(a))
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
	mode, err := b.pidMode()
	if err != nil || b.ctr.Init == "" || mode != runtimeapi.NamespaceMode_CONTAINER {
		return "", err
	}
	return b.programPath(), nil
}

// programPath is where berth's own program is in the container.
func (b *builder) programPath() string {
	if b.covers("/dev") {
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
