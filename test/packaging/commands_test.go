package packaging

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// freshEnv is set in the process that runs as on a machine of its own; it is the root of
// the repository.
const freshEnv = "BERTH_TEST_FRESH"

// The commands of the pages do what the pages say: on a machine of its own (hack/fresh.sh),
// where berth is installed and a berthd runs with the default paths.
func TestDocumentedCommands(t *testing.T) {
	if root := os.Getenv(freshEnv); root != "" {
		runDocumented(t, root)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	for _, p := range []string{"berthd", "berth", "berth-shim", "cni/bridge", "crictl"} {
		if _, err := os.Stat("../../bin/" + p); err != nil {
			t.Skip("no bin/" + p + ": run make build cni crictl first")
		}
	}
	apart(t, "TestDocumentedCommands", freshEnv+"="+absolute(t, "../.."))
}

// apart runs a test of this program as on a machine of its own, with the repository and
// Go's caches of this one.
func apart(t *testing.T, test, env string) {
	t.Helper()
	root := absolute(t, "../..")
	self := filepath.Join(t.TempDir(), "packaging.test")
	output(t, "cp", "/proc/"+strconv.Itoa(os.Getpid())+"/exe", self)
	args := []string{"--bind", root, "--bind", filepath.Dir(self)}
	for dir := range strings.Lines(output(t, "go", "env", "GOROOT", "GOCACHE", "GOMODCACHE")) {
		args = append(args, "--bind", strings.TrimSpace(dir))
	}
	args = append(args, "/", self, "-test.v", "-test.run", "^"+test+"$")
	ctx, cancel := context.WithTimeout(t.Context(), 10*client.Patience+5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(root, "hack/fresh.sh"), args...)
	c.Env = append(os.Environ(), env)
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

// operator is who follows the pages.
type operator struct {
	t     *testing.T
	root  string // of the repository
	dir   string // where commands are run that are not make's
	names *strings.Replacer
}

func runDocumented(t *testing.T, root string) {
	o := operator{t: t, root: root, dir: t.TempDir(), names: strings.NewReplacer()}
	t.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:"+os.Getenv("PATH")+":/usr/sbin:/sbin:"+root+"/bin")
	for _, d := range documentation {
		if d.where != here {
			t.Logf("%s: not here, as %s: %s", d.page, d.why, d.command)
			continue
		}
		o.try(d)
		if d.command == "make install" {
			o.start()
		}
		if d.command == "berth image load images.tar" {
			o.pods()
		}
	}
	o.shell("berth pods remove", "")
	o.shell("kill $(pidof berthd)", "") // a shim without pods goes with the daemon
	client.Eventually(t, "every shim has left", func() bool { return exec.Command("pgrep", "-x", "berth-shim").Run() != nil })
}

// try runs a command of a page.
func (o *operator) try(d documented) {
	o.t.Helper()
	run := d.run
	if run == "" {
		run = d.command
	}
	run = o.names.Replace(run)
	if out := o.shell(run, ""); !regexp.MustCompile(d.says).MatchString(out) {
		o.t.Errorf("%s: %q prints\n%s\nwant %q", d.page, d.command, out, d.says)
	}
}

func (o *operator) shell(run, in string) string {
	o.t.Helper()
	c := exec.CommandContext(o.t.Context(), "bash", "-c", run)
	c.Dir, c.Stdin = o.dir, strings.NewReader(in)
	if strings.Contains(run, "make ") {
		c.Dir = o.root
	}
	c.WaitDelay = time.Second
	out, err := c.CombinedOutput()
	o.t.Logf("$ %s\n%s", run, out)
	if err != nil {
		o.t.Fatalf("%q: %v\n%s", run, err, out)
	}
	return string(out)
}

// start starts the installed berthd, as its unit does, and makes the archive of an image.
func (o *operator) start() {
	write(o.t, "/etc/berth/config.d", "10-test.toml", "default_network = true\ncni_bin_dir = [\""+o.root+"/bin/cni\"]\n")
	log, err := os.Create(filepath.Join(o.dir, "berthd.log"))
	if err != nil {
		o.t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command("/usr/local/bin/berthd")
	c.Dir, c.Stdout, c.Stderr = "/", log, log
	if err := c.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
		if text, err := os.ReadFile(log.Name()); o.t.Failed() && err == nil {
			o.t.Logf("berthd.log:\n%s", text)
		}
	})
	o.shell(o.root+"/bin/demo image images.tar", "")
	cri, err := client.Dial("unix:///run/berth/berth.sock")
	if err != nil {
		o.t.Fatal(err)
	}
	defer cri.Close()
	if _, err := cri.Pods(client.Within(o.t), nil); err != nil {
		o.t.Fatal(err)
	}
}

// pods runs one that lives and one whose container the kernel kills for its memory.
func (o *operator) pods() {
	cri, err := client.Dial("unix:///run/berth/berth.sock")
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { cri.Close() })
	kit := client.Kit{Client: cri, T: o.t, LogDir: o.dir, Namespace: "documented"}
	shell := func(name, script string, memory int64) *runtimeapi.ContainerConfig {
		return client.Shell(name, script, func(c *runtimeapi.ContainerConfig) {
			c.Image.Image = imageName
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: memory}
		})
	}
	lives, killed := kit.Run(kit.PodConfig("lives")), kit.Run(kit.PodConfig("killed"))
	lives.Start(shell("sleeps", "exec sleep 10000", 0))
	grows := killed.Start(shell("grows", "exec tail /dev/zero", 64<<20))
	grows.Ended()
	o.names = strings.NewReplacer("POD|CONTAINER", lives.ID, "POD", lives.ID, "FILE", "exported.tar", "REF...", imageName, "KILLED", grows.ID)
}
