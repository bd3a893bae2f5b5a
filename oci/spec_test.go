package oci

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/profiles/seccomp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write testdata/*.json from what Spec gives now")

// specInput is what a case changes before Spec is called.
type specInput struct {
	pod  Pod
	ctr  containerInput
	img  ocispec.ImageConfig
	host Host
}

// containerInput is a container with what was found for it.
type containerInput struct {
	Container
	Found
}

// Spec plans a container and completes its spec.
func Spec(p Pod, c containerInput, img ocispec.ImageConfig, h Host) (*specs.Spec, error) {
	d, err := Plan(p, c.Container, img, h)
	if err != nil {
		return nil, err
	}
	return d.Complete(c.Found)
}

// linux gives the container's linux config, making it on first use.
func (in *specInput) linux() *runtimeapi.LinuxContainerConfig {
	if in.ctr.Config.Linux == nil {
		in.ctr.Config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	return in.ctr.Config.Linux
}

func (in *specInput) security() *runtimeapi.LinuxContainerSecurityContext {
	if in.linux().SecurityContext == nil {
		in.linux().SecurityContext = &runtimeapi.LinuxContainerSecurityContext{}
	}
	return in.linux().SecurityContext
}

func (in *specInput) podSecurity() *runtimeapi.LinuxSandboxSecurityContext {
	return in.pod.Config.Linux.SecurityContext
}

// selinux puts the pod on a host with SELinux.
func (in *specInput) selinux(level string) {
	in.host.SELinux, in.host.Labels = true, containerLabels
	in.pod.Level = level
}

// containerLabels are those of the usual policies.
var containerLabels = Labels{Process: "system_u:system_r:container_t:s0", File: "system_u:object_r:container_file_t:s0"}

func (in *specInput) privileged() {
	in.podSecurity().Privileged = true
	in.security().Privileged = true
}

// userns gives the pod a user namespace.
func (in *specInput) userns() {
	line := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
	in.podSecurity().NamespaceOptions = &runtimeapi.NamespaceOption{
		Pid: modeContainer, UsernsOptions: &runtimeapi.UserNamespace{Mode: modePod, Uids: line, Gids: line},
	}
}

// bind adds a mount whose source is what its host_path says.
func (in *specInput) bind(m *runtimeapi.Mount) {
	in.ctr.Config.Mounts = append(in.ctr.Config.Mounts, m)
	in.ctr.Mounts = append(in.ctr.Mounts, Mount{Mount: m, Source: m.HostPath})
}

func deviceNode(path, kind string, major, minor int64, access string) Device {
	mode := os.FileMode(0o660)
	var id uint32
	return Device{specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &id, GID: &id}, access, path, false}
}

func v2Host() Host {
	return Host{
		CgroupV2:     true,
		Controllers:  map[string]bool{"cpu": true, "cpuset": true, "memory": true, "pids": true, "hugetlb": true},
		CgroupFlags:  []string{"nsdelegate", "memory_recursiveprot"},
		SwapAccount:  true,
		Capabilities: slices.Clone(capabilityNames),
		LowerOOM:     true,
		Seccomp:      true, RRO: true, IDMap: true, UserNS: true,
		Kernel: [2]int{6, 18}, Arch: "amd64", Hostname: "node-1",
	}
}

// v1Host is the sandboxed kind: an old hierarchy, not all controllers, and a
// daemon that may not lower an OOM score.
func v1Host() Host {
	h := v2Host()
	h.CgroupV2, h.CgroupFlags, h.SwapAccount, h.LowerOOM = false, nil, false, false
	h.Controllers = map[string]bool{"cpu": true, "memory": true, "devices": true}
	h.Capabilities = slices.DeleteFunc(h.Capabilities, func(c string) bool { return c == "CAP_SYS_RESOURCE" })
	h.OOMScoreAdj = -500
	return h
}

func baseInput() *specInput {
	return &specInput{
		pod: Pod{
			ID: "pod0", PID: 42, NetNS: "/run/berth/pods/pod0/net",
			ShmPath: "/run/berth/pods/pod0/shm", HostnamePath: "/var/lib/berth/pods/pod0/hostname",
			HostsPath: "/var/lib/berth/pods/pod0/hosts", ResolvPath: "/var/lib/berth/pods/pod0/resolv.conf",
			Config: &runtimeapi.PodSandboxConfig{
				Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u-1"},
				Hostname: "web-0",
				Linux: &runtimeapi.LinuxPodSandboxConfig{
					CgroupParent:    "/kubepods/burstable/podu-1",
					SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: modeContainer}},
				},
			},
		},
		ctr: containerInput{
			Container{
				ID: "ctr0", Rootfs: "/run/berth/containers/ctr0/rootfs",
				Config: &runtimeapi.ContainerConfig{
					Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
					Image:    &runtimeapi.ImageSpec{Image: "sha256:abc", UserSpecifiedImage: "example.org/app:1"},
				},
			},
			Found{
				User:        User{Additional: []uint32{0, 10}, Home: "/root"},
				HostDevices: []Device{deviceNode("/dev/null", "c", 1, 3, "rwm"), deviceNode("/dev/sda", "b", 8, 0, "rwm")},
			},
		},
		img: ocispec.ImageConfig{
			Entrypoint: []string{"/entry"}, Cmd: []string{"--serve"}, WorkingDir: "/srv",
			Env: []string{"PATH=/app/bin:/bin", "LANG=C"},
		},
		host: v2Host(),
	}
}

// specCases are the golden cases: name → change of [baseInput].
var specCases = map[string]func(*specInput){
	"plain": func(*specInput) {},
	"command": func(in *specInput) {
		in.ctr.Config.Command, in.ctr.Config.Args = []string{"/bin/sh", "-c"}, []string{"date"}
	},
	"command-alone":   func(in *specInput) { in.ctr.Config.Command = []string{"/bin/date"} },
	"args-alone":      func(in *specInput) { in.ctr.Config.Args = []string{"--debug"} },
	"env":             envCase,
	"terminal-user":   terminalCase,
	"host-namespaces": hostNamespacesCase,
	"pid-pod":         func(in *specInput) { in.podSecurity().NamespaceOptions.Pid = modePod },
	"pid-target": func(in *specInput) {
		in.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: modeTarget, TargetId: "other"}
		in.ctr.TargetPID = 77
	},
	"userns":          func(in *specInput) { in.userns() },
	"userns-host-net": usernsHostNetCase,
	"privileged":      func(in *specInput) { in.privileged() },
	"privileged-v1":   func(in *specInput) { in.privileged(); in.host = v1Host() },
	"capabilities": func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"net_admin", "CAP_SYS_TIME"}, DropCapabilities: []string{"Chown"}}
	},
	"capabilities-drop-all": func(in *specInput) {
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_BIND_SERVICE"}, DropCapabilities: []string{"all"}}
	},
	"capabilities-add-all-v1": func(in *specInput) {
		in.host = v1Host()
		in.security().Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"SYS_MODULE"}}
	},
	"capabilities-ambient": func(in *specInput) {
		in.ctr.User = User{UID: 1000, GID: 1000, Additional: []uint32{1000}}
		in.security().Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_RAW", "SYS_NICE"}, DropCapabilities: []string{"ALL"}}
	},
	"readonly-rootfs":  func(in *specInput) { in.security().ReadonlyRootfs, in.security().NoNewPrivs = true, true },
	"mounts":           mountsCase,
	"mounts-over-ours": mountsOverOursCase,
	"no-pod-files": func(in *specInput) {
		in.pod.ShmPath, in.pod.HostnamePath, in.pod.HostsPath, in.pod.ResolvPath = "", "", "", ""
	},
	"unmasked": func(in *specInput) { in.security() },
	"masked": func(in *specInput) {
		in.security().MaskedPaths, in.security().ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	},
	"seccomp-default":   func(in *specInput) { in.security().Seccomp = &runtimeapi.SecurityProfile{} },
	"seccomp-localhost": seccompLocalhostCase,
	"seccomp-unconfined": func(in *specInput) {
		in.security().Seccomp = &runtimeapi.SecurityProfile{ProfileType: profileUnconfined}
	},
	"apparmor-selinux": func(in *specInput) {
		in.host.AppArmor, in.host.AppArmorDefault = true, "berth-default"
		in.selinux("s0:c3,c4")
		in.security().SelinuxOptions = &runtimeapi.SELinuxOption{Type: "spc_t", Level: "s0:c1,c2"}
	},
	"selinux-relabel": func(in *specInput) {
		in.selinux("s0:c3,c4")
		in.bind(&runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: "/kubelet/hosts", SelinuxRelabel: true})
	},
	"apparmor-localhost": func(in *specInput) {
		in.host.AppArmor = true
		in.security().Apparmor = &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: "localhost/mine"}
	},
	"resources": func(in *specInput) { in.linux().Resources = allResources() },
	"resources-v1": func(in *specInput) {
		in.host = v1Host()
		r := allResources()
		r.Unified, r.CpusetCpus, r.CpusetMems = nil, "", ""
		r.HugepageLimits[0].Limit = 0
		in.linux().Resources = r
	},
	"devices": func(in *specInput) {
		in.ctr.Devices = []Device{deviceNode("/dev/fuse", "c", 10, 229, "rw"), deviceNode("/dev/loop0", "b", 7, 0, "r")}
	},
	"devices-userns": func(in *specInput) {
		in.userns()
		moved := deviceNode("/dev/gpu", "c", 195, 1, "rw")
		moved.Source = "/dev/gpu1"
		in.ctr.Devices = []Device{deviceNode("/dev/fuse", "c", 10, 229, "rw"), moved}
	},
	"systemd": func(in *specInput) {
		in.host.SystemdCgroup = true
		in.pod.Config.Linux.CgroupParent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice"
	},
	"init": func(in *specInput) { in.ctr.Init = "/usr/libexec/berth-init" },
	"user-annotations-stay-out": func(in *specInput) {
		in.ctr.Config.Annotations = map[string]string{"org.systemd.property.ExecStart": "x", "run.oci.handler": "y", "org.criu.config": "/z"}
		in.ctr.Config.Labels = map[string]string{"app": "web"}
		in.pod.Config.Annotations = in.ctr.Config.Annotations
	},
}

func envCase(in *specInput) {
	in.img.Env = []string{"LANG=C", "nonsense", "=x", "HOME=/nowhere", "MODE=a", "MODE=b"}
	in.ctr.Config.Envs = []*runtimeapi.KeyValue{
		{Key: "MODE", Value: []byte("c")}, {Key: "EMPTY"}, {Key: "TEXT", Value: []byte("a=b\nc")}, {Key: "EMPTY", Value: []byte("no")},
	}
}

func terminalCase(in *specInput) {
	in.ctr.Config.Tty = true
	in.img.WorkingDir = "work/../here"
	in.ctr.User = User{UID: 1000, GID: 100, Additional: []uint32{100, 5000}, Home: "/home/me"}
}

func hostNamespacesCase(in *specInput) {
	o := &runtimeapi.NamespaceOption{Network: modeNode, Pid: modeNode, Ipc: modeNode}
	in.podSecurity().NamespaceOptions = o
	in.security().NamespaceOptions = o
	in.pod.NetNS, in.pod.ShmPath, in.pod.Config.Hostname = "", "", ""
}

func usernsHostNetCase(in *specInput) {
	in.userns()
	in.podSecurity().NamespaceOptions.Network = modeNode
	in.security().NamespaceOptions = in.podSecurity().NamespaceOptions
	in.pod.NetNS = ""
}

func mountsCase(in *specInput) {
	in.bind(&runtimeapi.Mount{ContainerPath: "/data/deep/er", HostPath: "/vol/3", Readonly: true})
	in.bind(&runtimeapi.Mount{ContainerPath: "/data", HostPath: "/vol/1", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})
	in.bind(&runtimeapi.Mount{ContainerPath: "/data/deep/", HostPath: "/vol/2", MountOptions: []string{"noexec", "nosuid", "nodev"}})
	in.bind(&runtimeapi.Mount{ContainerPath: "/ro", HostPath: "/vol/4", Readonly: true, RecursiveReadOnly: true})
	in.bind(&runtimeapi.Mount{ContainerPath: "/both", HostPath: "/vol/5", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL})
	in.bind(&runtimeapi.Mount{ContainerPath: "/late", HostPath: "/vol/6", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER})
	line := []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}
	in.bind(&runtimeapi.Mount{ContainerPath: "/mapped", HostPath: "/vol/7", UidMappings: line, GidMappings: line})
}

func mountsOverOursCase(in *specInput) {
	in.ctr.Init = "/usr/libexec/berth-init"
	for _, path := range []string{"/dev", "/sys/fs/cgroup", "/etc/hosts", "/etc/../etc/resolv.conf"} {
		in.bind(&runtimeapi.Mount{ContainerPath: path, HostPath: "/vol" + path})
	}
}

func seccompLocalhostCase(in *specInput) {
	in.security().Seccomp = &runtimeapi.SecurityProfile{ProfileType: profileLocalhost, LocalhostRef: "/p.json"}
	in.ctr.Seccomp = &seccomp.Seccomp{
		LinuxSeccomp: specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}},
		Syscalls:     []*seccomp.Syscall{{Name: "chmod", LinuxSyscall: specs.LinuxSyscall{Action: specs.ActErrno}}},
	}
}

func allResources() *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 512, CpusetCpus: "0-1", CpusetMems: "0",
		MemoryLimitInBytes: 64 << 20, OomScoreAdj: -900,
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}},
		Unified:        map[string]string{"memory.high": "50000000", "cpu.max.burst": "10000"},
	}
}

func TestSpecGolden(t *testing.T) {
	for name, change := range specCases {
		t.Run(name, func(t *testing.T) {
			in := baseInput()
			change(in)
			spec, err := Spec(in.pod, in.ctr, in.img, in.host)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(bytes.TrimSpace(want)), string(got)); diff != "" {
				t.Errorf("spec differs from %s (go test -update writes it anew):\n%s", file, diff)
			}
		})
	}
}

// A golden file whose case went away would never fail.
func TestSpecGoldenFilesHaveCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := specCases[strings.TrimSuffix(filepath.Base(f), ".json")]; !ok {
			t.Errorf("%s belongs to no case: remove it", f)
		}
	}
}

func TestSpecDoesNotChangeItsArguments(t *testing.T) {
	for name, change := range specCases {
		in, same := baseInput(), baseInput()
		change(in)
		change(same)
		for range 2 {
			if _, err := Spec(in.pod, in.ctr, in.img, in.host); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := json.Marshal([]any{same.pod, same.ctr, same.img, same.host})
		after, _ := json.Marshal([]any{in.pod, in.ctr, in.img, in.host})
		if !bytes.Equal(before, after) {
			t.Errorf("%s: Spec changed its arguments", name)
		}
	}
}
