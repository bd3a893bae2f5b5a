package runtimes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/server/config"
)

// answers is a driver that answers by the name of the shim that it is asked about, and counts
// the questions in the file asked.
const answers = `#!/bin/sh
question=$(cat)
echo x >> "$(dirname "$0")/asked"
case "$question" in
*shim-good*) echo '{"mountOptions":["rro"],"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":true}}}}' ;;
*shim-hangs*) echo $$ > "$(dirname "$0")/pid"; exec sleep 1000 ;;
*shim-garbage*) echo garbage ;;
*shim-options*) echo 'option Nonsense is none of x' >&2; exit 3 ;;
*shim-fails*) echo 'flag provided but not defined: -info' >&2; exit 1 ;;
esac
`

// testSet makes handlers of shims named by their behaviour, each of which is installed unless
// its name says missing.
func testSet(t *testing.T, timeout time.Duration, names ...string) (*Set, string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "berth-shim-v2"), answers)
	tables := map[string]config.Runtime{}
	for _, name := range names {
		shim := filepath.Join(dir, "shim-"+name)
		tables[name] = config.Runtime{Type: config.ShimV2, Shim: shim, Annotations: []string{"a.*"}, SandboxImage: "img"}
		if !strings.Contains(name, "missing") {
			write(t, shim, "#!/bin/sh\n")
		}
	}
	s := New(t.Context(), Options{
		Tables: tables, Driver: filepath.Join(dir, "berth-shim-v2"), State: "/run/x", Timeout: timeout,
		Host: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true},
	})
	t.Cleanup(s.Close)
	return s, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func asked(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(text), "x")
}

// announced are the features of a handler as Status has them.
func announced(t *testing.T, s *Set, name string) *runtimeapi.RuntimeHandlerFeatures {
	t.Helper()
	for _, h := range s.Announced() {
		if h.GetName() == name {
			return h.GetFeatures()
		}
	}
	t.Fatalf("handler %q is not announced", name)
	return nil
}

func TestAnswers(t *testing.T) {
	s, _ := testSet(t, time.Minute, "good", "garbage", "fails")
	for _, name := range []string{"good", "garbage", "fails"} { // one that does not tell runs pods
		h, err := s.Handler(t.Context(), name)
		if err != nil || filepath.Base(h.Shim) != "shim-"+name || h.Image != "img" || len(h.Annotations) != 1 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if f := announced(t, s, "good"); !f.GetRecursiveReadOnlyMounts() || !f.GetUserNamespaces() {
		t.Errorf("features %v", f)
	}
	if f := announced(t, s, ""); !f.GetUserNamespaces() {
		t.Errorf("of the built-in runtime: %v", f)
	}
	for i, want := range []string{"does not tell what it can do: exit status 1\nflag provided but not defined: -info", "does not tell what it can do: invalid character 'g'", ""} {
		state := s.States()[i] // by name: fails, garbage, good
		if !strings.Contains(state.Error, want) || want == "" && state.Error != "" || state.Refused {
			t.Errorf("state %+v, want %q", state, want)
		}
		if f := announced(t, s, state.Name); (f == nil) != (want != "") {
			t.Errorf("%s has features %v", state.Name, f)
		}
	}
}

// TestOptionsThatAreNotUnderstood: pods are refused before anything of them is made, with the
// option and the key to change.
func TestOptionsThatAreNotUnderstood(t *testing.T) {
	s, _ := testSet(t, time.Minute, "options")
	_, err := s.Handler(t.Context(), "options")
	for _, want := range []string{`runtime handler "options"`, "option Nonsense is none of x", "change runtime.options.options"} {
		if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if st := s.States(); !st[0].Refused || announced(t, s, "options") != nil {
		t.Errorf("states %+v", st)
	}
}

// TestUnknownHandler: the error names those that there are.
func TestUnknownHandler(t *testing.T) {
	s, _ := testSet(t, time.Minute, "good")
	if _, err := s.Handler(t.Context(), "kata"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), `one of ["good"]`) {
		t.Errorf("error %v", err)
	}
}

// TestProgramThatAppears: a shim that is missing is named with what to change; once it is
// there Status asks it without being told of it, and pods run.
func TestProgramThatAppears(t *testing.T) {
	s, dir := testSet(t, time.Minute, "good-missing")
	_, err := s.Handler(t.Context(), "good-missing")
	for _, want := range []string{`runtime handler "good-missing"`, filepath.Join(dir, "shim-good-missing"), "no such file", "runtime.good-missing.shim"} {
		if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if f := announced(t, s, "good-missing"); f != nil || asked(t, dir) != 0 {
		t.Errorf("features %v of a missing program, asked %d times", f, asked(t, dir))
	}
	if st := s.States(); !st[0].Refused {
		t.Errorf("states %+v", st)
	}
	write(t, filepath.Join(dir, "shim-good-missing"), "#!/bin/sh\n")
	s.Announced() // asks
	s.Wait()
	if f := announced(t, s, "good-missing"); !f.GetUserNamespaces() {
		t.Errorf("features %v", f)
	}
	if _, err := s.Handler(t.Context(), "good-missing"); err != nil || asked(t, dir) != 1 {
		t.Errorf("error %v, asked %d times", err, asked(t, dir))
	}
	if err := os.Remove(filepath.Join(dir, "shim-good-missing")); err != nil {
		t.Fatal(err)
	}
	if f := announced(t, s, "good-missing"); f != nil {
		t.Errorf("features %v of a program that is gone", f)
	}
}

// TestDriverIsMissing: of berth's own program it is said where it belongs.
func TestDriverIsMissing(t *testing.T) {
	s, dir := testSet(t, time.Minute, "good")
	s.Wait()
	if err := os.Remove(filepath.Join(dir, "berth-shim-v2")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Handler(t.Context(), "good"); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "install it beside berth-shim") {
		t.Errorf("error %v", err)
	}
}

// TestProgramThatHangs: neither the start nor Status wait for it, other handlers answer, pods
// of its own are refused, the next one asks again, and no process stays.
func TestProgramThatHangs(t *testing.T) {
	began := time.Now()
	s, dir := testSet(t, 2*time.Second, "hangs", "good")
	if f := announced(t, s, "hangs"); f != nil || time.Since(began) > time.Second {
		t.Errorf("features %v, after %v", f, time.Since(began))
	}
	if _, err := s.Handler(t.Context(), "good"); err != nil {
		t.Error(err)
	}
	gaveUp, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Handler(gaveUp, "hangs"); !errors.Is(err, context.Canceled) {
		t.Errorf("a client that gave up gets %v", err)
	}
	var pods sync.WaitGroup
	for range 5 { // they share one question
		pods.Go(func() {
			_, err := s.Handler(t.Context(), "hangs")
			if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), `handler "hangs"`) || !strings.Contains(err.Error(), "within 2s") || !strings.Contains(err.Error(), "runtime.hangs.shim") {
				t.Errorf("error %v", err)
			}
		})
	}
	pods.Wait()
	if n := asked(t, dir); n != 2 { // of hangs and of good
		t.Errorf("asked %d times", n)
	}
	s.Announced() // must not ask again
	s.Wait()
	if n := asked(t, dir); n != 2 {
		t.Errorf("asked %d times after Status", n)
	}
	write(t, filepath.Join(dir, "berth-shim-v2"), strings.ReplaceAll(answers, "shim-hangs", "shim-none"))
	if _, err := s.Handler(t.Context(), "hangs"); err != nil { // now it answers, if only nonsense
		t.Errorf("error %v of a program that answers now", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
		t.Errorf("process %s runs on", text)
	}
}

// TestFailedQuestionIsRepeated: by a Status some time later, and by no Status before that.
func TestFailedQuestionIsRepeated(t *testing.T) {
	for _, behaviour := range []string{"fails", "hangs"} {
		s, dir := testSet(t, 2*time.Second, behaviour)
		h := s.handlers[behaviour]
		s.Wait()
		first := h.asked
		for range 100 {
			if f := announced(t, s, behaviour); f != nil || h.asked != first {
				t.Fatalf("%s: features %v, asked anew: %t", behaviour, f, h.asked != first)
			}
		}
		s.opt.Retry = time.Nanosecond // it is some time later
		state := s.States()[0]        // asks
		if !strings.Contains(state.Error, "shim-"+behaviour) || strings.Contains(state.Error, "being asked") {
			t.Errorf("%s: while it is asked again: %+v", behaviour, state)
		}
		s.Wait()
		if h.asked == first || h.asked.fails != 1 {
			t.Errorf("%s: it is not asked again some time later", behaviour)
		}
		write(t, filepath.Join(dir, "berth-shim-v2"), strings.ReplaceAll(answers, "shim-good", "shim-"+behaviour))
		s.opt.Timeout = time.Minute
		s.Announced() // asks
		s.Wait()
		if f := announced(t, s, behaviour); !f.GetUserNamespaces() {
			t.Errorf("%s: features %v once it answers", behaviour, f)
		}
		last := h.asked
		s.Announced()
		if h.asked != last || s.States()[0].Error != "" {
			t.Errorf("%s: it is asked again after its answer, or has an error: %+v", behaviour, s.States())
		}
	}
}

// TestDelay: it grows to a bound, and no configuration makes it shorter than what it says.
func TestDelay(t *testing.T) {
	s := &Set{opt: Options{Retry: 10 * time.Second}}
	for fails, want := range map[int]time.Duration{0: 10 * time.Second, 1: 20 * time.Second, 5: 320 * time.Second, 6: maxRetry, 1e6: maxRetry} {
		if got := s.delay(fails); got != want {
			t.Errorf("after %d failures %v, want %v", fails, got, want)
		}
	}
	s.opt.Retry = time.Hour
	if got := s.delay(3); got != time.Hour {
		t.Errorf("%v, want an hour", got)
	}
}

// TestCloseEndsQuestions: a daemon that stops waits for no foreign program.
func TestCloseEndsQuestions(t *testing.T) {
	s, _ := testSet(t, time.Hour, "hangs")
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := s.Handler(t.Context(), "hangs"); err == nil {
		t.Error("a closed set answers")
	}
}

// TestShimOptions: a shim of runc gets what follows from the configuration of berth, and what
// the table says overrides it in any spelling.
func TestShimOptions(t *testing.T) {
	s := New(t.Context(), Options{State: "/run/x", SystemdCgroup: true, Tables: map[string]config.Runtime{
		"runc":   {Type: config.ShimV2, Shim: "/none/containerd-shim-runc-v2", Options: map[string]any{"systemd_cgroup": false}},
		"gvisor": {Type: config.ShimV2, Shim: "/none/containerd-shim-runsc-v1", Options: map[string]any{"ConfigPath": "/c"}},
	}})
	defer s.Close()
	o := s.handlers["runc"].means.Options
	if len(o) != 2 || o["Root"] != "/run/x/runc" || o["systemd_cgroup"] != false {
		t.Errorf("options of runc %v", o)
	}
	if o := s.handlers["gvisor"].means.Options; len(o) != 1 || o["ConfigPath"] != "/c" {
		t.Errorf("options of gVisor %v", o)
	}
	if d := s.handlers["gvisor"].means.SocketDir; d != "/run/x/s" {
		t.Errorf("directory of sockets %q", d)
	}
	s.opt.State = "/" + strings.Repeat("x", 60)
	if d := s.socketDir(); d != "" {
		t.Errorf("directory of sockets %q is too long", d)
	}
}
