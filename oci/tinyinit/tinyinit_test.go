package tinyinit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestInstallOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := Install(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(first)
	second, err := Install(dir)
	after, _ := os.Stat(second)
	if err != nil || !os.SameFile(before, after) || before.Mode() != 0o555 {
		t.Errorf("%s, then %s, %v, mode %v", first, second, err, before.Mode())
	}
	if _, err := Install(dir + "/none"); err == nil {
		t.Error("a directory that isn't there was accepted")
	}
}

// run runs init with a command; not as PID 1, which integration tests do.
func run(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	path, err := Install(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, env
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestCodes(t *testing.T) {
	path := []string{"PATH=/nonexistent:/etc/passwd:/usr/bin:/bin"}
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		env    []string
		args   []string
		code   int
		stderr string
	}{
		"code":           {path, []string{"--", "sh", "-c", "exit 7"}, 7, ""},
		"absolute":       {nil, []string{"--", "/bin/sh", "-c", "exit 0"}, 0, ""},
		"default PATH":   {nil, []string{"--", "sh", "-c", "exit 5"}, 5, ""},
		"signal":         {path, []string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
		"missing":        {path, []string{"--", "nosuch"}, 127, "nosuch: no such file"},
		"missing path":   {path, []string{"--", missing}, 127, missing + ": no such file"},
		"not executable": {path, []string{"--", "/etc/passwd"}, 126, "permission denied"},
		"long name":      {path, []string{"--", strings.Repeat("x", 5000)}, 127, "no such file"},
		"no command":     {path, []string{"--"}, 2, "usage"},
		"no dashes":      {path, []string{"sh", "-c", "exit 7"}, 2, "usage"},
	} {
		code, _, stderr := run(t, c.env, c.args...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: code %d, stderr %q", name, code, stderr)
		}
	}
	if _, out, _ := run(t, []string{"A=1"}, "--", "/usr/bin/env"); out != "A=1\n" {
		t.Errorf("the environment became %q", out)
	}
}

// With -e the command takes init's place, and variables get their bytes.
func TestBytes(t *testing.T) {
	env := []string{
		"PATH=/usr/bin:/bin", "BERTH_BYTES_0=A=\u00ff\u0080x\u00c3\u00a9", "PLAIN=é\u20ac",
		"BERTH_BYTES_12=BERTH_BYTES_0=y", "BERTH_BYTES_1", "BERTH_BYTES_2=\u00c2",
	}
	code, out, stderr := run(t, env, "-e", "env", "-0")
	want := strings.Join([]string{
		env[0], "A=\xff\x80x\xc3\xa9", env[2], "BERTH_BYTES_0=y", "BERTH_BYTES_1", "\xc2", "",
	}, "\x00")
	if code != 0 || out != want {
		t.Errorf("code %d, %q, want %q, %s", code, out, want, stderr)
	}
	if code, out, _ := run(t, env, "-e", "sh", "-c", "echo $PPID; exit 7"); code != 7 || strings.TrimSpace(out) != strconv.Itoa(os.Getpid()) {
		t.Errorf("code %d, its parent is %s, want this process", code, out)
	}
	if code, _, stderr := run(t, env, "-e", "nosuch"); code != 127 || !strings.Contains(stderr, "nosuch: no such file") {
		t.Errorf("code %d, %q", code, stderr)
	}
}

// Every signal that can be handed on is, real-time ones too, and the command
// starts with the mask that init was given.
func TestSignals(t *testing.T) {
	path, err := Install(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// A shell can't trap what was ignored when it began, as SIGHUP is below nohup. What
	// is caught here is back at its default in the programs that are started.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGWINCH, 34, 64} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, "--", "bash", "-c", "trap 'kill $!; exit 9' "+sigName(sig)+"; sleep 100 >/dev/null & echo up; wait")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("signal %d: code %d, want the handler's", sig, code)
		}
	}
}

func sigName(s syscall.Signal) string {
	return map[syscall.Signal]string{1: "HUP", 10: "USR1", 15: "TERM", 28: "WINCH", 34: "RTMIN", 64: "RTMAX"}[s]
}
