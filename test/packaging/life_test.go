package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// nodeEnv allows the life of the package on this machine, whose packages it changes: guest,
// where systemd is, or stand-in, on a machine of its own where a script is for systemctl.
const nodeEnv = "BERTH_TEST_PACKAGE_LIFE"

// apt asks nothing, and the machine has no network for packages that berth only recommends.
const apt = "apt-get -y -q --no-install-recommends "

// lifeDir has the two packages, older and newer, that `make debs` makes.
const lifeDir = "../../bin/life"

// life is a node whose administrator has berth as a package.
type life struct {
	operator
	cri          client.Kit
	older, newer string // packages
	systemd      bool
	pods         []*pod
	manifests    string             // where a kubelet that runs looks for its pods; "": none runs
	tried        map[[2]string]bool // commands of the pages
}

// pod is one whose container counts in its log.
type pod struct {
	ctr     *client.Container
	log     string
	pid     int
	started int64
}

// The package is installed, upgraded below running pods, reloaded, downgraded, removed
// with and without its pods, and purged with live shims, by the commands of the pages.
// What is printed is the transcript.
func TestGuestPackageLife(t *testing.T) {
	mode := os.Getenv(nodeEnv)
	if mode == "" {
		t.Skip("it changes the packages of the machine: it runs in the guest (make test-vm SUITES=deb) and by TestPackageLifeStandIn")
	}
	if mode != "guest" {
		standIn(t)
	}
	l := newLife(t, mode == "guest")
	l.installs()
	l.kubelet()
	l.refused()
	l.upgrades()
	l.reloads()
	l.stops()
	l.downgrades()
	l.removes()
	l.purges()
	if l.systemd {
		for _, d := range documentation {
			if d.where == inGuest && !l.tried[[2]string{d.page, d.command}] {
				t.Errorf("%s: no test runs %q", d.page, d.command)
			}
		}
	}
}

func newLife(t *testing.T, systemd bool) *life {
	l := &life{systemd: systemd, tried: map[[2]string]bool{}}
	l.t, l.dir, l.root = t, t.TempDir(), "../.."
	l.names = strings.NewReplacer()
	find := func(pattern string) string {
		all, err := filepath.Glob(filepath.Join(lifeDir, pattern))
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %q: make debs makes the packages", pattern, all)
		}
		return all[0]
	}
	l.older, l.newer = find("berth_1.0.0~rc.1_*.deb"), find("berth_1.0.0_*.deb")
	for name, from := range map[string]string{"berth_OLDER_amd64.deb": l.older, "berth_VERSION_amd64.deb": l.newer} {
		output(t, "cp", from, filepath.Join(l.dir, name))
	}
	output(t, "chmod", "755", l.dir)
	t.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"+absolute(t, "../../bin"))
	t.Setenv("DEBIAN_FRONTEND", "noninteractive")
	config := "default_network = true\ncni_bin_dir = [\"" + absolute(t, "../../bin/cni") + "\"]\n"
	if !systemd {
		config += "cgroup_driver = \"cgroupfs\"\n"
	}
	write(t, "/etc/berth/config.d", "10-test.toml", config)
	return l
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// follow runs a command of a page; apt asks no questions, and fetches nothing.
func (l *life) follow(page, command string) string {
	l.t.Helper()
	i := slices.IndexFunc(documentation, func(d documented) bool { return d.page == page && d.command == command })
	if i < 0 {
		l.t.Fatalf("%s has no command %q", page, command)
	}
	l.tried[[2]string{page, command}] = true
	return l.shell(strings.Replace(command, "apt-get ", apt, 1), "")
}

// installs: the daemon runs and is enabled, and serves pods.
func (l *life) installs() {
	l.step("the older package is installed")
	l.shell("cp berth_OLDER_amd64.deb first_amd64.deb && "+apt+"install ./first_amd64.deb", "")
	if got := strings.TrimSpace(l.shell("systemctl is-active berthd; systemctl is-enabled berthd", "")); got != "active\nenabled" {
		l.t.Errorf("after the installation berthd is %q", got)
	}
	l.follow("README.md", "systemctl enable --now berthd")
	l.connect()
	l.versions("1.0.0-rc.1", "")
	l.shell("berth check || true", "")
	l.shell(absolute(l.t, "../../bin/demo")+" image images.tar && berth image load images.tar", "")
	l.run("first")
	l.run("second")
}

func (l *life) connect() {
	l.t.Helper()
	cri, err := client.Dial("unix:///run/berth/berth.sock")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { cri.Close() })
	l.cri = client.Kit{Client: cri, T: l.t, LogDir: l.dir, Namespace: "life"}
	if _, err := cri.Pods(client.Within(l.t), nil); err != nil {
		l.t.Fatal(err)
	}
}

// run runs a pod that counts, by the kubelet if there is one.
func (l *life) run(name string) {
	l.t.Helper()
	if l.manifests != "" {
		l.static(strings.ReplaceAll(name, " ", "-"))
		return
	}
	config := l.cri.PodConfig(name)
	if !l.systemd {
		config.Linux.CgroupParent = "/berth-packaging"
	}
	p := l.cri.Run(config)
	c := p.Start(client.Shell("counts", client.Counter, func(c *runtimeapi.ContainerConfig) { c.Image.Image = imageName }))
	l.add(c, filepath.Join(config.GetLogDirectory(), "counts.log"))
	l.live("it was started")
}

func (l *life) add(c *client.Container, log string) {
	l.t.Helper()
	var info struct {
		PID int `json:"pid"`
	}
	started := c.Verbose(&info).GetStartedAt()
	l.pods = append(l.pods, &pod{ctr: c, log: log, pid: info.PID, started: started})
}

var logged = regexp.MustCompile(`(?m)^\S+ stdout F (\d+)$`)

// live checks that each container is the process that it was, that its counting goes on
// without a gap, and that commands run in it.
func (l *life) live(since string) {
	l.t.Helper()
	for _, p := range l.pods {
		st := p.ctr.Status()
		if st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || st.GetStartedAt() != p.started || unix.Kill(p.pid, 0) != nil {
			l.t.Errorf("since %s: container %s, process %d, is %v", since, p.ctr.ID, p.pid, st)
		}
		if out := l.shell("crictl exec "+p.ctr.ID+" echo answer", ""); !strings.Contains(out, "answer") {
			l.t.Errorf("since %s: an exec says %q", since, out)
		}
	}
	l.count(since)
}

// count checks that the counters go on, without the daemon if need be.
func (l *life) count(since string) {
	l.t.Helper()
	for _, p := range l.pods {
		n := len(logged.FindAllString(read(l.t, "/", p.log), -1))
		client.Eventually(l.t, "the counter goes on", func() bool { return len(logged.FindAllString(read(l.t, "/", p.log), -1)) > n+5 })
		for i, m := range logged.FindAllStringSubmatch(read(l.t, "/", p.log), -1) {
			if m[1] != strconv.Itoa(i) {
				l.t.Errorf("since %s: line %d of the log is %s", since, i, m[1])
				break
			}
		}
	}
}

// versions checks which daemon runs and that its newest shim is of that version, and one
// older, if there is one, of another.
func (l *life) versions(daemon, older string) {
	l.t.Helper()
	said := l.shell("berth version", "")
	for _, want := range []string{"(?m)^berth +" + regexp.QuoteMeta(daemon) + "$", "(?m)^berthd +" + regexp.QuoteMeta(daemon) + ", pid"} {
		if !regexp.MustCompile(want).MatchString(said) {
			l.t.Errorf("want %q of\n%s", want, said)
		}
	}
	if older != "" && !regexp.MustCompile("(?m)^berth-shim +"+regexp.QuoteMeta(older)+", pid").MatchString(said) {
		l.t.Errorf("no shim of %s in\n%s", older, said)
	}
}

func (l *life) step(what string) { l.t.Helper(); l.t.Logf("== %s", what) }

// refused: a release that can't read the configuration is installed, and the daemon before
// it serves on until the configuration is mended.
func (l *life) refused() {
	l.step("upgraded with a configuration that the newer release does not understand")
	write(l.t, "/etc/berth/config.d", "20-old.toml", "drain_timeout = \"10s\"\n")
	pid := l.mainPID()
	said := l.shell(apt+"install ./berth_VERSION_amd64.deb 2>&1", "")
	for _, want := range []string{"not restarted", "20-old.toml:1: drain_timeout: unknown key; drain_timeout is now timeouts"} {
		if !strings.Contains(said, want) {
			l.t.Errorf("the upgrade does not say %q:\n%s", want, said)
		}
	}
	if now := l.mainPID(); now != pid {
		l.t.Errorf("the daemon was replaced by one that can't start: %s, was %s", now, pid)
	}
	l.live("the upgrade that was not finished")
	if err := os.Remove("/etc/berth/config.d/20-old.toml"); err != nil {
		l.t.Fatal(err)
	}
	l.shell(apt+"install --allow-downgrades ./berth_OLDER_amd64.deb", "")
	l.live("the older package came back")
}

// upgrades: pods go on, new ones are of the new release.
func (l *life) upgrades() {
	l.step("upgraded below running pods and an exec")
	session := l.session(l.pods[0])
	l.follow("operations.md", "apt-get install ./berth_VERSION_amd64.deb")
	l.versions("1.0.0", "1.0.0-rc.1")
	l.live("the upgrade")
	session.ends()
	l.run("of the newer release")
	l.versions("1.0.0", "1.0.0-rc.1")
	if out := l.shell("berth version", ""); !regexp.MustCompile(`(?m)^berth-shim +1\.0\.0, pid`).MatchString(out) {
		l.t.Errorf("a pod of the newer release has no shim of it:\n%s", out)
	}
}

// reloads: what can change changes, what is wrong changes nothing.
func (l *life) reloads() {
	l.step("reloaded")
	pid := l.mainPID()
	write(l.t, "/etc/berth/config.d", "20-level.toml", "log_level = 4\nshm_size = \"1MiB\"\n")
	l.follow("operations.md", "systemctl reload berthd")
	l.logged(`"The configuration was reloaded" changed=\["log_level"\] needRestart=\["shm_size"\]`)
	write(l.t, "/etc/berth/config.d", "20-level.toml", "log_stage = 4\n")
	l.follow("operations.md", "systemctl reload berthd")
	l.logged(`The configuration was not reloaded, nothing was changed.*log_stage`)
	if err := os.Remove("/etc/berth/config.d/20-level.toml"); err != nil {
		l.t.Fatal(err)
	}
	l.follow("operations.md", "systemctl reload berthd")
	if now := l.mainPID(); now != pid {
		l.t.Errorf("a reload replaced the daemon: %s, was %s", now, pid)
	}
	l.live("the reloads")
}

// stops: what belongs to no pod is looked for while the daemon is stopped, and pods go on.
func (l *life) stops() {
	l.step("stopped, to look for leaks")
	l.follow("operations.md", "systemctl stop berthd")
	l.shell("berth check --leaks --repair", "")
	l.count("the daemon was stopped")
	l.shell("systemctl start berthd", "")
	l.live("the daemon was started again")
}

func (l *life) mainPID() string {
	l.t.Helper()
	return strings.TrimSpace(l.shell("systemctl show --value -p MainPID berthd", ""))
}

// logged waits until the daemon has logged what matches.
func (l *life) logged(expression string) {
	l.t.Helper()
	want, text := regexp.MustCompile(expression), ""
	client.Eventually(l.t, "the daemon logs "+expression, func() bool {
		out, err := exec.Command("journalctl", "-b", "-o", "cat", "--no-pager", "-u", "berthd").CombinedOutput()
		text = string(out)
		return err == nil && want.MatchString(text)
	})
}

func (l *life) downgrades() {
	l.step("downgraded")
	l.follow("operations.md", "apt-get install --allow-downgrades ./berth_OLDER_amd64.deb")
	l.versions("1.0.0-rc.1", "1.0.0")
	l.live("the downgrade")
	l.step("upgraded again, as a node that moves is")
	l.follow("migrate.md", "apt-get install ./berth_VERSION_amd64.deb")
	l.live("the second upgrade")
}

// removes: without a word pods stay, and a package that comes again finds them; asked to,
// it stops them first.
func (l *life) removes() {
	l.step("removed without its pods")
	l.shell(apt+"remove berth", "")
	if out, err := exec.Command("pgrep", "-x", "berthd").CombinedOutput(); err == nil {
		l.t.Errorf("a daemon of a removed package runs: %s", out)
	}
	l.count("the removal")
	l.shell(apt+"install ./berth_VERSION_amd64.deb", "")
	l.live("the package came again")
	l.step("removed with its pods")
	l.stopKubelet()
	l.follow("operations.md", "BERTH_PODS=stop apt-get remove berth")
	for _, p := range l.pods {
		if unix.Kill(p.pid, 0) == nil {
			l.t.Errorf("process %d of a pod that was to stop runs", p.pid)
		}
	}
	l.pods = nil
	client.Eventually(l.t, "the shims leave", func() bool { return exec.Command("pgrep", "^berth-shim").Run() != nil })
	read(l.t, "/etc/berth", "config.toml")
}

// purges: with live shims, of pods that nobody has stopped.
func (l *life) purges() {
	l.step("purged with live shims")
	l.shell(apt+"install ./berth_VERSION_amd64.deb", "")
	l.run("last")
	l.follow("operations.md", "apt-get purge berth")
	client.Eventually(l.t, "the container has ended", func() bool { return unix.Kill(l.pods[0].pid, 0) != nil })
	if out, err := exec.Command("pgrep", "-a", "^berth").CombinedOutput(); err == nil {
		l.t.Errorf("a purge leaves processes:\n%s", out)
	}
	for _, gone := range []string{"/etc/berth", "/var/lib/berth/pods", "/var/lib/berth/images", "/run/berth", "/usr/bin/berthd", "/etc/crictl.yaml"} {
		if _, err := os.Stat(gone); err == nil {
			l.t.Errorf("a purge leaves %s:\n%s", gone, output(l.t, "find", gone))
		}
	}
	if left := regexp.MustCompile(`(?m)^.* /(run|var/lib)/berth/.*$`).FindAllString(read(l.t, "/proc/self", "mountinfo"), -1); left != nil {
		l.t.Errorf("a purge leaves the mounts\n%s", strings.Join(left, "\n"))
	}
	if l.systemd {
		units := func() string { // the guest's own begin with berth- as well
			return output(l.t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "berth*.scope", "berthd.service")
		}
		client.Eventually(l.t, "no unit of berth is left", func() bool { return strings.TrimSpace(units()) == "" })
	}
	l.pods = nil
}

// session is an exec whose client is crictl.
type session struct {
	l   *life
	out string
	c   *exec.Cmd
}

func (l *life) session(p *pod) *session {
	l.t.Helper()
	s := &session{l: l, out: filepath.Join(l.dir, "session.out")}
	file, err := os.Create(s.out)
	if err != nil {
		l.t.Fatal(err)
	}
	defer file.Close()
	s.c = exec.Command("crictl", "exec", p.ctr.ID, "sh", "-c", strings.Replace(client.Counter, "/never", "/session", 2))
	s.c.Stdout, s.c.Stderr = file, file
	if err := s.c.Start(); err != nil {
		l.t.Fatal(err)
	}
	client.Eventually(l.t, "the exec says something", func() bool { return strings.Contains(read(l.t, "/", s.out), "\n5\n") })
	return s
}

// ends: a session ends with the daemon that serves it, and its client is told; nothing
// of it stays in the container.
func (s *session) ends() {
	s.l.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.c.Wait() }()
	select {
	case err := <-ended:
		s.l.t.Logf("the exec's client ends with %v and has had %d lines", err, strings.Count(read(s.l.t, "/", s.out), "\n"))
	case <-time.After(client.Patience):
		_ = s.c.Process.Kill()
		s.l.t.Errorf("the client of an exec hangs after the upgrade")
	}
}
