package oci

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/thread"
)

// Labels are the SELinux labels (security contexts, USER:ROLE:TYPE:LEVEL) of a pod or a
// container. Both are empty on a host without SELinux.
type Labels struct {
	// Process is that of the processes; "" leaves the choice to the policy, which for
	// the usual ones means a domain that is not confined, such as spc_t.
	Process string
	// File is that of the root file system and of all that is made for the container.
	File string
}

// superPrivileged is the type that the policies for containers know for one that may do
// all that root may.
const superPrivileged = "spc_t"

// Confined reports whether the labels keep the processes from files that are not
// labelled for them.
func (l Labels) Confined() bool {
	return l.Process != "" && partsOf(l.Process).kind != superPrivileged
}

// Level is the level of the files: a sensitivity and categories, such as s0:c1,c2.
func (l Labels) Level() string { return partsOf(l.File).level }

// Shared is the label of files that containers of any level may use: without categories.
func (l Labels) Shared() string {
	p := partsOf(l.File)
	p.level = noCategories
	return p.String()
}

// noCategories is the level that those of all pods dominate.
const noCategories = "s0"

// labelParts are the parts of a label; see selinux(8).
type labelParts struct{ user, role, kind, level string }

func partsOf(label string) labelParts {
	f := append(strings.SplitN(label, ":", 4), "", "", "", "")
	return labelParts{f[0], f[1], f[2], f[3]}
}

func (p labelParts) String() string {
	return strings.Join([]string{p.user, p.role, p.kind, p.level}, ":")
}

// PodLabels are the labels of a pod's pause process and of the pod's files. level is the
// pod's own, see [Pod.Level]. The error wraps [ErrInvalid] or [ErrUnsupported].
func PodLabels(cfg *runtimeapi.PodSandboxConfig, level string, h Host) (Labels, error) {
	sc := cfg.GetLinux().GetSecurityContext()
	return labelsOf(sc.GetSelinuxOptions(), level, isOpen(sc.GetPrivileged(), sc.GetNamespaceOptions()), h)
}

// ContainerLabels are the labels of a container: what its options say, or those of its pod
// when it has none; for what neither says the type that the host's policy has for
// containers and the level of the pod, which all containers of the pod share. The error
// wraps [ErrInvalid] or [ErrUnsupported].
func ContainerLabels(p Pod, cfg *runtimeapi.ContainerConfig, h Host) (Labels, error) {
	sc, pod := cfg.GetLinux().GetSecurityContext(), p.Config.GetLinux().GetSecurityContext()
	options := sc.GetSelinuxOptions()
	if options == nil {
		options = pod.GetSelinuxOptions()
	}
	ns := sc.GetNamespaceOptions()
	if ns == nil {
		ns = pod.GetNamespaceOptions()
	}
	return labelsOf(options, p.Level, isOpen(sc.GetPrivileged(), ns), h)
}

// isOpen tells whether processes are left in the domain that the policy gives those of the
// runtime: privileged ones, and those that share the machine's processes or IPC, as a label
// would keep them from what they share. CRI-O and Docker do the same; the host network
// does not count, as with containerd.
func isOpen(privileged bool, ns *runtimeapi.NamespaceOption) bool {
	return privileged || ns.GetPid() == runtimeapi.NamespaceMode_NODE || ns.GetIpc() == runtimeapi.NamespaceMode_NODE
}

// labelsOf: a type that was chosen counts for an open process too.
func labelsOf(o *runtimeapi.SELinuxOption, level string, open bool, h Host) (Labels, error) {
	switch {
	case !h.SELinux:
		return Labels{}, nil // the kubelet sends the options whenever the pod has them
	case h.Labels.Process == "" && o != nil:
		return Labels{}, unsupported("security_context.selinux_options: the SELinux policy of this node has no type for containers: install its module container")
	case h.Labels.Process == "", level == "" && o == nil:
		return Labels{}, nil
	case level == "": // a pod of a berth that gave no levels, or made before the policy was there
		level = noCategories
	}
	if err := checkLabelOptions(o, level); err != nil {
		return Labels{}, err
	}
	process, file := partsOf(h.Labels.Process), partsOf(h.Labels.File)
	process.user, file.user = cmp.Or(o.GetUser(), process.user), cmp.Or(o.GetUser(), file.user)
	process.role, process.kind = cmp.Or(o.GetRole(), process.role), cmp.Or(o.GetType(), process.kind)
	process.level = cmp.Or(o.GetLevel(), level)
	file.level = process.level
	if open && o.GetType() == "" {
		return Labels{File: file.String()}, nil
	}
	return Labels{Process: process.String(), File: file.String()}, nil
}

// The bounds are not in the expressions: as counted repetitions they would be compiled to
// hundreds of steps, in milliseconds of every start.
var (
	labelName  = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)
	labelLevel = regexp.MustCompile(`^s[0-9]+[s0-9c.,:-]*$`)
)

const (
	maxLabelName  = 128
	maxLabelLevel = 257
)

// checkLabelOptions refuses what would end a part of a label, or an option of a mount: the
// label of files becomes one. Whether the policy knows the label, [CheckLabels] tells.
func checkLabelOptions(o *runtimeapi.SELinuxOption, level string) error {
	for field, s := range map[string]string{"user": o.GetUser(), "role": o.GetRole(), "type": o.GetType()} {
		if len(s) > maxLabelName || !labelName.MatchString(s) {
			return invalid("security_context.selinux_options.%s: %s is not part of a label: use up to %d letters, digits, _, - and .", field, clip(s), maxLabelName)
		}
	}
	if s := cmp.Or(o.GetLevel(), level); len(s) > maxLabelLevel || !labelLevel.MatchString(s) {
		return invalid("security_context.selinux_options.level: %s is no level: give one such as s0:c1,c2", clip(s))
	}
	return nil
}

// CheckLabels asks the kernel whether the policy that is loaded knows the labels. The
// error wraps [ErrInvalid].
func CheckLabels(l Labels) error {
	for _, label := range []string{l.Process, l.File} {
		if label == "" || !selinux.GetEnabled() {
			continue
		}
		if err := checkLabel(label); err != nil {
			return invalid("security_context.selinux_options: the SELinux policy of this node does not know the label %s: %s", clip(label), reason(err))
		}
	}
	return nil
}

// checkLabel asks by the label that a thread would execute a program with, and executes
// none: policies allow that to all who may start containers. The kernel's file for the
// question, /sys/fs/selinux/context, is not theirs to write with Debian's policy.
func checkLabel(label string) (err error) {
	thread.Run(func() { err = selinux.SetExecLabel(label) })
	return err
}

// detectSELinux finds the labels that the policy has for containers, in the file
// lxc_contexts(5) of the policy. One without levels (neither MCS nor MLS) can't tell pods
// apart and counts as one that does not know containers.
func detectSELinux(h *Host) error {
	if h.SELinux = selinux.GetEnabled(); !h.SELinux {
		return nil
	}
	process, file := selinux.ContainerLabels() // with categories of its own, which are not used
	selinux.ReleaseLabel(process)
	p, f := partsOf(process), partsOf(file)
	if p.level == "" || f.level == "" {
		return nil
	}
	p.level, f.level = noCategories, noCategories
	if l := (Labels{Process: p.String(), File: f.String()}); CheckLabels(l) == nil {
		h.Labels = l
	}
	return nil
}

// selinux: libcontainer mounts the container's own file systems with the label of files,
// and gives the keyring of the process the label of the process.
func (b *builder) selinux() error {
	l, err := ContainerLabels(b.pod, b.conf, b.host)
	b.spec.Process.SelinuxLabel, b.spec.Linux.MountLabel = l.Process, l.File
	return err
}
