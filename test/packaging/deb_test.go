package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// built is the package that `make deb` made last.
func built(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("../../bin/dist/berth_*.deb")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skip("no bin/dist/berth_*.deb: run make deb first")
	}
	slices.SortFunc(found, func(a, b string) int { return modified(t, a).Compare(modified(t, b)) })
	return found[len(found)-1]
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// The package has what an operator looks for, where Debian has it, owned by root.
func TestPackageContent(t *testing.T) {
	deb := built(t)
	list := output(t, "dpkg-deb", "-c", deb)
	for path, mode := range map[string]string{
		"./usr/bin/berthd": "-rwxr-xr-x", "./usr/bin/berth": "-rwxr-xr-x", "./usr/bin/berth-shim": "-rwxr-xr-x", "./usr/bin/berth-shim-v2": "-rwxr-xr-x",
		"./usr/lib/systemd/system/berthd.service": "-rw-r--r--", "./etc/berth/config.toml": "-rw-r-----", "./etc/berth/config.d/": "drwxr-xr-x",
		"./etc/crictl.yaml": "-rw-r--r--", "./usr/share/man/man8/berthd.8.gz": "-rw-r--r--", "./usr/share/man/man8/berth.8.gz": "-rw-r--r--",
		"./usr/share/man/man5/berth-config.5.gz": "-rw-r--r--", "./usr/share/bash-completion/completions/berth": "-rw-r--r--",
		"./usr/share/bash-completion/completions/berthd": "-rw-r--r--", "./usr/share/berth/monitoring/alerts.yaml": "-rw-r--r--",
	} {
		ok := false
		for line := range strings.Lines(list) {
			f := strings.Fields(line)
			ok = ok || len(f) >= 6 && f[5] == path && f[0] == mode && f[1] == "root/root"
		}
		if !ok {
			t.Errorf("%s with the mode %s of root is not in the package:\n%s", path, mode, list)
		}
	}
	if strings.Contains(list, "/etc/cni") || strings.Contains(list, "usr/local") {
		t.Errorf("the package configures a network or has local files:\n%s", list)
	}
	dir := t.TempDir()
	output(t, "dpkg-deb", "-R", deb, dir)
	if got := read(t, dir, "DEBIAN/conffiles"); got != "/etc/berth/config.toml\n/etc/crictl.yaml\n" {
		t.Errorf("conffiles are %q", got)
	}
	if unit := read(t, dir, "usr/lib/systemd/system/berthd.service"); !strings.Contains(unit, "ExecStart=/usr/bin/berthd\n") {
		t.Errorf("the unit is\n%s", unit)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		output(t, "sh", "-n", filepath.Join(dir, "DEBIAN", script))
	}
	output(t, "bash", "-n", filepath.Join(dir, "usr/share/bash-completion/completions/berth"))
	version := strings.TrimSpace(output(t, filepath.Join(dir, "usr/bin/berthd"), "--version"))
	control := read(t, dir, "DEBIAN/control")
	if !strings.Contains(control, "Version: "+strings.Replace(strings.TrimPrefix(version, "berthd "), "-", "~", 1)+"\n") {
		t.Errorf("%s is in a package with the control file\n%s", version, control)
	}
	// The file with all defaults as comments is the defaults.
	config := output(t, filepath.Join(dir, "usr/bin/berthd"), "--config", filepath.Join(dir, "etc/berth/config.toml"), "--print-config")
	if want := output(t, filepath.Join(dir, "usr/bin/berthd"), "--config", "/dev/null", "--print-config"); config != want {
		t.Errorf("with the package's file the configuration is\n%s", config)
	}
}

// Completions are what the programs have.
func TestCompletions(t *testing.T) {
	dir := t.TempDir()
	output(t, "dpkg-deb", "-R", built(t), dir)
	complete := func(line string) string {
		words := strings.Split(line, " ")
		script := `source ` + dir + `/usr/share/bash-completion/completions/berth; COMP_WORDS=(` + strings.Join(words[:len(words)-1], " ") + ` "` + words[len(words)-1] + `"); COMP_CWORD=` +
			strings.Repeat("1+", len(words)-2) + `1; COMP_CWORD=$((COMP_CWORD)); _berth; echo "${COMPREPLY[*]}"`
		return strings.TrimSpace(output(t, "bash", "-c", script))
	}
	for line, want := range map[string]string{
		"berth ima": "image", "berth image ex": "export", "berth image check --r": "--repair", "berth --j": "", "berth pods ": "remove", "berth exp": "explain",
	} {
		if got := complete(line); got != want {
			t.Errorf("%q is completed to %q, want %q", line, got, want)
		}
	}
}

// Installed, changed, upgraded, removed and purged in a root of its own: what an operator
// changed stays until the purge, which leaves nothing.
func TestPackageLife(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	deb, root := built(t), t.TempDir()
	for _, d := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root, "var/lib/dpkg/status", "")
	dpkg := func(args ...string) string {
		t.Helper()
		return output(t, "dpkg", append([]string{"--root=" + root, "--log=/dev/null", "--force-script-chrootless", "--force-depends", "--force-confold", "--no-triggers"}, args...)...)
	}
	dpkg("--install", deb)
	config := read(t, root, "etc/berth/config.toml")
	write(t, root, "etc/berth/config.toml", config+"log_level = 4\n")
	write(t, root, "etc/berth/config.d/10-own.toml", "pods_per_shim = 1\n")
	write(t, root, "var/lib/berth/pods/x/pod.json", "{}")
	write(t, root, "run/berth/shims/x/shim.json", `{"id":"x","pid":1,"wire":1}`) // no shim has this number
	dpkg("--install", deb)
	if got := read(t, root, "etc/berth/config.toml"); !strings.HasSuffix(got, "log_level = 4\n") {
		t.Error("an upgrade took back what the operator had changed")
	}
	read(t, root, "var/lib/berth/pods/x/pod.json")
	dpkg("--remove", "berth")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/berthd")); err == nil {
		t.Error("a removed package leaves its programs")
	}
	for _, kept := range []string{"etc/berth/config.toml", "etc/berth/config.d/10-own.toml", "var/lib/berth/pods/x/pod.json"} {
		read(t, root, kept)
	}
	dpkg("--purge", "berth")
	for _, gone := range []string{"etc/berth", "etc/crictl.yaml", "var/lib/berth", "run/berth", "usr/bin"} {
		if _, err := os.Stat(filepath.Join(root, gone)); err == nil {
			t.Errorf("a purge leaves %s", gone)
		}
	}
	if out, err := exec.Command("kill", "-0", "1").CombinedOutput(); err != nil {
		t.Errorf("PID 1: %v %s", err, bytes.TrimSpace(out))
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
