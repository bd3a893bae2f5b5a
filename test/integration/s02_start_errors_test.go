package integration

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// S02: a program that can't be started gives an error that names file and reason;
// the container ends or never was, nothing of it stays, and the pod works on.
func TestS02StartErrors(t *testing.T) {
	p := shared.pod(t)
	command := func(c *runtimeapi.ContainerConfig, args ...string) { c.Command = args }
	cases := map[string]struct {
		change       func(*runtimeapi.ContainerConfig)
		file, reason string
	}{
		"not-there":      {func(c *runtimeapi.ContainerConfig) { command(c, "/no/such/program") }, "/no/such/program", "no such file"},
		"not-in-path":    {func(c *runtimeapi.ContainerConfig) { command(c, "nosuchprogram") }, "nosuchprogram", "not found in $PATH"},
		"not-executable": {mounted(t, "/plainfile", "data\n", 0o644), "/plainfile", "permission denied"},
		"no-interpreter": {mounted(t, "/script", "#!/no/such/shell\n", 0o755), "/script", "no such file"},
		"wrong-arch":     {mounted(t, "/foreign", foreignProgram(t), 0o755), "/foreign", "exec format error"},
		"a-directory":    {func(c *runtimeapi.ContainerConfig) { command(c, "/etc") }, "/etc", "is a directory"},
		"workdir-a-file": {func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/etc/passwd" }, "/etc/passwd", "not a directory"},
	}
	shared.pull(t, busybox)
	before := p.traces()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := p.in(t)
			id, err := p.create(client.Shell(name, "true", c.change))
			text := ""
			if err != nil {
				text = err.Error()
			} else {
				text = neverRan(t, p.ctr(id))
			}
			for _, want := range []string{c.file, c.reason} {
				if !strings.Contains(text, want) {
					t.Errorf("the error %q does not name %q", text, want)
				}
			}
			if strings.Contains(text, "runc") || strings.Contains(text, "OCI") {
				t.Errorf("the error tells of our workings: %q", text)
			}
			if diff := cmp.Diff(before, p.traces()); diff != "" {
				t.Errorf("left of it: %s", diff)
			}
		})
	}
	if got := p.start("after", "sleep 100").Sh("echo fine"); got != "fine\n" {
		t.Errorf("after failures the pod gives %q", got)
	}
}

// neverRan starts a container whose program can't be executed, and removes it; it
// gives what the client is told.
func neverRan(t *testing.T, c *ctr) string {
	t.Helper()
	err := c.TryStart() // nil when only the kernel's exec could tell
	st := c.Ended()
	if st.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 128 || st.GetReason() != "StartError" {
		t.Errorf("%v %d %s", st.GetState(), st.GetExitCode(), st.GetReason())
	}
	if pids := pids(t, c); len(pids) > 0 {
		t.Errorf("processes left: %v", pids)
	}
	c.likely("process", "never started", st.GetMessage())
	if _, err := c.p.s.Runtime.RemoveContainer(within(t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ID}); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	if err != nil {
		return err.Error()
	}
	return st.GetMessage()
}

// mounted makes a file of the host the container's program.
func mounted(t *testing.T, path, text string, mode os.FileMode) func(*runtimeapi.ContainerConfig) {
	t.Helper()
	host := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(host, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: path, HostPath: host, Readonly: true}}
		c.Command = []string{path}
	}
}

// foreignProgram is the beginning of a program for another machine, of which the
// kernel looks at no more than this.
func foreignProgram(t *testing.T) string {
	t.Helper()
	machine := elf.EM_S390
	if runtime.GOARCH == "s390x" {
		machine = elf.EM_X86_64
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Ehsize: 64, Phentsize: 56, Phnum: 1, Phoff: 64}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	out, err := binary.Append(nil, binary.LittleEndian, h)
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + strings.Repeat("\x00", 56)
}
