package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/program"
)

// What the scenarios (sNN_…_test.go) have in common: facts of the kernel, and
// the operator's program.

// probePath is where containers have the program of test/integration/probe.
const probePath = "/probe"

// probe is that program on the host, for the shared node.
var probe = sync.OnceValues(func() (string, error) {
	file := filepath.Join(shared.Dir, "probe")
	return file, program.Build("test/integration/probe", file)
})

func probeFile(t *testing.T) string {
	t.Helper()
	file, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// withProbe mounts the probe into a container.
func withProbe(t *testing.T) func(*runtimeapi.ContainerConfig) {
	file := probeFile(t)
	return func(c *runtimeapi.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtimeapi.Mount{ContainerPath: probePath, HostPath: file, Readonly: true})
	}
}

// runs has a container run the probe as its first process.
func runs(t *testing.T, task ...string) func(*runtimeapi.ContainerConfig) {
	mount := withProbe(t)
	return func(c *runtimeapi.ContainerConfig) {
		mount(c)
		c.Command = append([]string{probePath}, task...)
	}
}

// mayMount is for containers that mount: AppArmor's default profile denies it to
// whatever capabilities.
var mayMount = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}

// named gives a test's pod another name than its other ones have.
func named(name string) func(*runtimeapi.PodSandboxConfig) {
	return func(c *runtimeapi.PodSandboxConfig) { c.Metadata.Name += "-" + name }
}

// volume is a directory of the shared node for one test.
func volume(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(shared.Dir, "volume-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// procFile reads a file of a process on the host.
func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// statusField is a field of /proc/PID/status.
func statusField(t *testing.T, pid int, field string) string {
	t.Helper()
	value, ok := procStatus(t, pid)[field]
	if !ok {
		t.Fatalf("/proc/%d/status has no %s", pid, field)
	}
	return value
}

// namespaceOf is the inode of a namespace of a process on the host.
func namespaceOf(t *testing.T, pid int, kind string) string {
	t.Helper()
	return inode(t, strconv.Itoa(pid), kind)
}

// processes are those of the host in a PID namespace, by their PIDs on the host,
// zombies too; the values are their PIDs inside.
func processes(t *testing.T, namespace string) map[int]int {
	t.Helper()
	out := map[int]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		link, err := os.Readlink(d + "/ns/pid")
		status, rerr := os.ReadFile(d + "/status")
		if err != nil || rerr != nil || link != namespace {
			continue // it ended meanwhile
		}
		_, ids, _ := strings.Cut(string(status), "\nNSpid:")
		ids, _, _ = strings.Cut(ids, "\n")
		f := strings.Fields(ids)
		host, _ := strconv.Atoi(filepath.Base(d))
		out[host], _ = strconv.Atoi(f[len(f)-1])
	}
	return out
}

// mountOptions are those of a mount point as a process sees it, with what
// mountinfo says of its propagation; "" when nothing is mounted there.
func mountOptions(t *testing.T, pid int, at string) (options string) {
	t.Helper()
	for line := range strings.Lines(procFile(t, pid, "mountinfo")) {
		before, _, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); f[4] == at {
			options = strings.Join(f[5:], " ") // the last one hides those before it
		}
	}
	return options
}
