package procfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/test/fewfiles"
)

func TestParseStat(t *testing.T) {
	const tail = " 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 2 3"
	for name, c := range map[string]struct {
		text string
		want Stat
	}{
		"plain":                  {"42 (sh) S" + tail, Stat{PID: 42, State: 'S', Parent: 1, Group: 7, Start: 4711}},
		"a name like fields":     {"42 (a) R 1 2) Z" + tail, Stat{PID: 42, State: 'Z', Parent: 1, Group: 7, Start: 4711}},
		"a name of parentheses":  {"42 ()))) S" + tail, Stat{PID: 42, State: 'S', Parent: 1, Group: 7, Start: 4711}},
		"short":                  {"42 (sh) S 1 7", Stat{}},
		"empty":                  {"", Stat{}},
		"no number for a parent": {"42 (sh) S" + strings.Replace(tail, " 1 ", " x ", 1), Stat{}},
		"no number for a group":  {"42 (sh) S" + strings.Replace(tail, " 7 ", " x ", 1), Stat{}},
		"no number for the time": {"42 (sh) S" + strings.Replace(tail, "4711", "-1", 1), Stat{}},
	} {
		got, err := parseStat(42, []byte(c.text))
		if got != c.want || (err == nil) != (c.want != Stat{}) {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// A child in a process group of its own, while it runs and once it has ended.
func TestReadStat(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	own, err := ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadStat(pid)
	if err != nil || s.PID != pid || s.Group != pid || s.Start < own.Start || s.Ended() {
		t.Errorf("of a child: got %+v, %v; want group %d, a start since %d, running", s, err, pid, own.Start)
	}
	_ = cmd.Process.Kill()
	for deadline := time.Now().Add(10 * time.Second); !s.Ended() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s, _ = ReadStat(pid)
	}
	if !s.Ended() {
		t.Errorf("of a killed child: state is %c, want Z", s.State)
	}
	_ = cmd.Wait()
	if s, err := ReadStat(pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of none: got %+v, %v; want an error that is fs.ErrNotExist", s, err)
	}
}

// A process that lives is told from one that has ended, and from one that can't be looked at.
func TestLivesAndPidfd(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	s, err := ReadStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	pidfd := func(start uint64) error {
		fd, err := Pidfd(pid, start, 0)
		if err == nil {
			_ = syscall.Close(fd)
		}
		return err
	}
	for name, ask := range map[string]func(uint64) error{
		"Lives": func(start uint64) error { return Lives(pid, start) }, "Pidfd": pidfd,
	} {
		if err := ask(s.Start); err != nil {
			t.Errorf("%s of a process that lives: %v", name, err)
		}
		if err := ask(s.Start + 1); !errors.Is(err, ErrEnded) {
			t.Errorf("%s of another process with its PID: %v, want ErrEnded", name, err)
		}
		enough := fewfiles.Spare(t, 0)
		err := ask(s.Start)
		if enough(); !errors.Is(err, syscall.EMFILE) || errors.Is(err, ErrEnded) {
			t.Errorf("%s without descriptors: %v, want EMFILE", name, err)
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for _, err := range []error{Lives(0, 0), Lives(pid, s.Start), pidfd(s.Start)} {
		if !errors.Is(err, ErrEnded) {
			t.Errorf("of none, or of one that has ended: %v, want ErrEnded", err)
		}
	}
}

func TestBootID(t *testing.T) {
	first, err := BootID()
	if err != nil || !regexp.MustCompile(`^[0-9a-f-]{36}$`).MatchString(first) {
		t.Errorf("BootID() = %q, %v; want a UUID", first, err)
	}
	if second, _ := BootID(); second != first {
		t.Errorf("BootID() changed from %q to %q", first, second)
	}
}
