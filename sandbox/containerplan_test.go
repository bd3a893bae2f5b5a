package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci"
	"berth/sandbox/record"
)

// wishInput is what a case changes before a container is planned.
type wishInput struct {
	pod  *runtimeapi.PodSandboxConfig
	ctr  *runtimeapi.ContainerConfig
	img  ocispec.ImageConfig
	host oci.Host
	// runtime is the pod's handler h; nil: the pod names none.
	runtime *Handler
}

// wishOf is a container of a pod with its own network and IPC, made of an image.
func wishOf() *wishInput {
	in := &wishInput{pod: networked("a"), ctr: containerConfig("c"), host: testHost()}
	in.host.UserNS, in.host.IDMap, in.host.RRO, in.host.Seccomp, in.host.SwapAccount = true, true, true, true, true
	in.host.Capabilities = oci.DefaultCapabilities()
	in.pod.LogDirectory = "/var/log/pods/a"
	in.ctr.LogPath = "c/0.log"
	in.ctr.Linux.SecurityContext.NamespaceOptions = nil
	in.img = ocispec.ImageConfig{User: "www", Env: []string{"LANG=C"}, WorkingDir: "/srv", StopSignal: "SIGQUIT"}
	return in
}

func (in *wishInput) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.ctr.Linux.SecurityContext
}

// plan plans the container, whose ID is all 1 in a pod whose ID is all 0.
func (in *wishInput) plan() (containerPlan, error) {
	paths := layout{root: "/root", state: "/state"}
	rec := &podRecord{Pod: record.Pod{ID: strings.Repeat("0", 64), PausePID: 42, Handler: "h", Runtime: in.runtime}, config: in.pod}
	rec.derive(paths)
	w := containerWish{
		ID: strings.Repeat("1", 64), Config: in.ctr, Pod: rec, TargetPID: 77,
		Image: Image{ID: "sha256:app", Layers: []string{"app-0", "app-1"}, Config: in.img},
	}
	for _, mt := range in.ctr.GetMounts() {
		if name := mt.GetImage().GetImage(); name != "" {
			w.Volumes = append(w.Volumes, Image{ID: "sha256:" + name, Layers: []string{name + "-0"}})
		}
	}
	return planContainer(w, in.host, paths)
}

// containerPlans are the golden cases: name → change of [wishOf].
var containerPlans = map[string]func(*wishInput){
	"ctr-plain": func(*wishInput) {},
	"ctr-mounts": func(in *wishInput) {
		in.ctr.Mounts = []*runtimeapi.Mount{
			imageMount("/models", "model", "sub"),
			{ContainerPath: "/data", HostPath: "/vol/data", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			{ContainerPath: "/etc/hosts", HostPath: "/kubelet/hosts"},
			imageMount("/weights", "weight", ""),
		}
	},
	"ctr-users": func(in *wishInput) {
		ids := []*runtimeapi.IDMapping{{HostId: 100000, Length: 65536}}
		in.pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: nsPod, Uids: ids, Gids: ids}
		in.ctr.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/vol/data", UidMappings: ids, GidMappings: ids}, imageMount("/models", "model", "")}
	},
	"ctr-limits": func(in *wishInput) {
		in.host.Controllers = map[string]bool{"cpu": true, "memory": true}
		in.host.LowerOOM, in.host.OOMScoreAdj, in.host.CgroupV2 = false, -500, false
		in.ctr.Linux.Resources = &runtimeapi.LinuxContainerResources{
			CpuShares: 512, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -900,
			HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
		}
	},
	"ctr-security": func(in *wishInput) {
		in.host.AppArmor, in.host.AppArmorDefault = true, "berth-default"
		sc := in.security()
		sc.ReadonlyRootfs, sc.NoNewPrivs = true, true
		sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/profiles/a.json"}
		sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}
		in.img.Volumes = map[string]struct{}{"/cache": {}}
	},
	"ctr-privileged": func(in *wishInput) {
		in.pod.Linux.SecurityContext.Privileged, in.security().Privileged = true, true
		in.ctr.Devices = []*runtimeapi.Device{{HostPath: "/dev/fuse", ContainerPath: "/dev/fuse", Permissions: "rw"}}
		in.ctr.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.test/gpu=0"}}
	},
	"ctr-init-and-bytes": func(in *wishInput) {
		in.pod.Annotations = map[string]string{InitAnnotation: "true"}
		in.ctr.Envs = []*runtimeapi.KeyValue{{Key: "BYTES", Value: []byte{'a', 0xff}}}
		in.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	},
	"ctr-target": func(in *wishInput) {
		in.ctr.StopSignal, in.ctr.Stdin, in.ctr.StdinOnce, in.ctr.Tty = runtimeapi.Signal_SIGNAL_SIGUSR1, true, true, true
		in.pod.Linux.CgroupParent = "/kubepods/burstable/pod1"
		in.security().NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "t"}
	},
}

// Each golden file is the whole plan of one container, with the spec as far as it is
// decided.
func TestPlansOfContainers(t *testing.T) {
	for name, change := range containerPlans {
		t.Run(name, func(t *testing.T) {
			in := wishOf()
			change(in)
			plan, err := in.plan()
			if err != nil {
				t.Fatal(err)
			}
			wantPlan(t, name, plan)
		})
	}
}

// A golden file whose case went away would never fail.
func TestPlansHaveCases(t *testing.T) {
	files, err := filepath.Glob("testdata/plans/ctr-*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if _, ok := containerPlans[strings.TrimSuffix(filepath.Base(f), ".json")]; !ok {
			t.Errorf("%s belongs to no case: remove it", f)
		}
	}
}

// A plan is completed with what is found and with nothing else: all that it decided
// before is in the spec.
func TestAPlanIsCarriedOut(t *testing.T) {
	n := newFakeNode(t)
	pod, host := n.pod("a"), t.TempDir()
	cfg := containerConfig("c")
	cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/host", HostPath: host}, imageMount("/models", "model", "")}
	if _, err := n.m.CreateContainer(t.Context(), pod, cfg, nil); err != nil {
		t.Fatal(err)
	}
	r := n.shim.creates[0]
	w, err := n.m.wish(n.m.index.pods[pod], cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.ID = r.ID
	plan, err := planContainer(w, n.m.containerVerbs.host, n.m.containerVerbs.paths)
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(r.Spec, &got); err != nil {
		t.Fatal(err)
	}
	want := *plan.Spec.Spec
	image := slices.IndexFunc(want.Mounts, func(m specs.Mount) bool { return m.Destination == "/models" })
	if want.Mounts[image].Source != "model" {
		t.Errorf("before it is mounted the image's bind comes from %q", want.Mounts[image].Source)
	}
	want.Mounts[image].Source = plan.Volumes[0].Image.Target
	want.Process.User, want.Process.Env = got.Process.User, got.Process.Env
	wantJSON, _ := json.Marshal(want)
	if gotJSON, _ := json.Marshal(got); string(gotJSON) != string(wantJSON) {
		t.Errorf("the spec is\n%s\nwant that of the plan\n%s", gotJSON, wantJSON)
	}
	req := plan.Create
	req.Spec = r.Spec
	if wantJSON, _ := json.Marshal(req); string(wantJSON) != string(asJSON(t, r)) {
		t.Errorf("the request is\n%s\nwant that of the plan\n%s", asJSON(t, r), wantJSON)
	}
	if _, err := os.Stat(plan.Volumes[0].Image.Target); err != nil {
		t.Error(err)
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
