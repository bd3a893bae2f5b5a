package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// repo is a git repository with a copy of hack/version.sh.
type repo struct {
	t   *testing.T
	dir string
}

func (r repo) git(args ...string) {
	r.t.Helper()
	c := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := c.CombinedOutput(); err != nil {
		r.t.Fatalf("git %q: %v\n%s", args, err, out)
	}
}

func (r repo) version() string {
	r.t.Helper()
	out, err := exec.Command(filepath.Join(r.dir, "hack", "version.sh")).CombinedOutput()
	if err != nil {
		r.t.Fatalf("version.sh: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// Each version is semantic, has its commit, and is later than that of its last tag and
// earlier than that of the next.
func TestVersion(t *testing.T) {
	script, err := os.ReadFile("../../hack/version.sh")
	if err != nil {
		t.Fatal(err)
	}
	r := repo{t, t.TempDir()}
	if err := os.Mkdir(filepath.Join(r.dir, "hack"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "hack", "version.sh"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(r.dir))
	if got := r.version(); got != "0.0.0-dev" {
		t.Errorf("without git the version is %s", got)
	}
	r.git("init", "-q")
	r.git("add", ".")
	semantic := regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?\+g[0-9a-f]{10}(\.dirty)?$`)
	for _, step := range []struct{ tag, want string }{
		{"", "0.0.0-dev.1+"}, {"", "0.0.0-dev.2+"}, {"unrelated", "0.0.0-dev.3+"},
		{"v1.2.3-rc.1", "1.2.3-rc.1+"}, {"", "1.2.3-rc.1.dev.1+"}, {"v1.2.3", "1.2.3+"}, {"", "1.2.4-dev.1+"}, {"", "1.2.4-dev.2+"}, {"v2.0.0", "2.0.0+"},
	} {
		r.git("commit", "-q", "--allow-empty", "-m", "step")
		if step.tag != "" {
			r.git("tag", step.tag)
		}
		got := r.version()
		if !semantic.MatchString(got) || !strings.HasPrefix(got, step.want+"g") {
			t.Errorf("after the tag %q the version is %s, want %s…", step.tag, got, step.want)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "hack", "version.sh"), append(script, '\n'), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := r.version(); !semantic.MatchString(got) || !strings.HasSuffix(got, ".dirty") {
		t.Errorf("with a change that is not committed the version is %s", got)
	}
}

// modified is when a file was written.
func modified(t *testing.T, file string) time.Time {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}
