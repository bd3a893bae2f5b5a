package pause

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"syscall"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"berth/oci/memfd"
	"berth/oci/shimapi"
)

// Config describes the pause process of one pod.
type Config struct {
	Cloneflags uintptr           // CLONE_NEW…: the namespaces to make
	Hostname   string            // of the new UTS namespace; "" leaves it
	Loopback   bool              // bring lo up; needs CLONE_NEWNET
	Sysctls    map[string]string // path below /proc/sys → value
	// UIDMaps and GIDMaps belong to CLONE_NEWUSER; they must map ID 0.
	UIDMaps, GIDMaps []syscall.SysProcIDMap
	Cgroup           *os.File // v2 cgroup directory to be cloned into; nil: the caller's cgroup
	// UID, GID and Groups (at most [MaxGroups]) are what the process runs as, in its
	// user namespace.
	UID, GID uint32
	Groups   []uint32
	AppArmor string // profile that pause changes to; "" leaves it
	SELinux  string // label that pause ends up with; "" leaves that of the caller
}

// MaxGroups is how many supplementary groups a pause process can have: as many as pause.c
// has room for.
const MaxGroups = shimapi.MaxPauseGroups

// Launcher starts pause processes. It holds two file descriptors and a thread.
type Launcher struct {
	exe   *os.File
	stage *stage
}

// NewLauncher prepares to start pause processes. Their empty root is mounted on dir for a
// moment, in another mount namespace, so that dir does not change.
func NewLauncher(dir string) (*Launcher, error) {
	exe, err := memfd.Sealed("pause", bytes.NewReader(program), 0o555)
	if err != nil {
		return nil, err
	}
	if err := labelProgram(exe); err != nil {
		return nil, errors.Join(err, exe.Close())
	}
	stage, err := newStage(dir)
	if err != nil {
		return nil, errors.Join(err, exe.Close())
	}
	return &Launcher{exe: exe, stage: stage}, nil
}

// Close releases the launcher. The processes that it has started live on. It is called once.
func (l *Launcher) Close() error { return errors.Join(l.stage.close(), l.exe.Close()) }

// ErrSysctl is wrapped when the kernel does not know a sysctl or refuses its value.
var ErrSysctl = errors.New("the kernel refuses a sysctl")

// Start starts one pause process and returns when it has set everything up. The process is a
// child that the caller has to wait for. Errors name the step that failed.
//
// record is called when the process is there and has its namespaces; it must see to it that
// the process is found again. Should the caller die before that, the process ends by itself.
func (l *Launcher) Start(c Config, record func(pid int) error) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	status, statusPause, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer status.Close()
	recordedPause, recorded, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, statusPause.Close())
	}
	defer recorded.Close()
	argv := c.argv()
	files := []*os.File{recordedPause, null, null, statusPause, l.stage.empty}
	// The program is a file of the child as well, since the fork may move another
	// descriptor over the number that it has here.
	path := fmt.Sprintf("/proc/self/fd/%d", len(files))
	attr := &os.ProcAttr{Env: []string{}, Files: append(files, l.exe), Sys: c.attributes()}
	var proc *os.Process
	// On the stage's thread, so that the process gets the mounts of the stage.
	cerr := l.stage.do(func() {
		if err = keepLabel(c.SELinux != ""); err == nil {
			proc, err = os.StartProcess(path, argv, attr)
		}
	})
	// So that the end of pause's copy is the end of the pipe.
	_, _ = statusPause.Close(), recordedPause.Close()
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("start pause: %w", err)
	}
	if err = report(status, argv); err == nil {
		err = release(proc.Pid, record, recorded, status, argv)
	}
	if err != nil {
		_ = proc.Kill()    // it may have ended
		_, _ = proc.Wait() // its exit status does not matter
		return nil, err
	}
	return proc, nil
}

// keepLabel makes what the calling thread starts have the label of this process, or leaves
// the choice to the policy. For a program with the label of containers' files that would
// choose the one of privileged containers, with which pause may not take that of its pod.
func keepLabel(keep bool) error {
	own, err := "", error(nil)
	if keep {
		own, err = selinux.CurrentLabel()
	}
	if err == nil {
		err = selinux.SetExecLabel(own)
	}
	if err != nil {
		return fmt.Errorf("SELinux label that pause begins with: %w", err)
	}
	return nil
}

// labelProgram gives the program the label of a container's files, without categories: the
// policies allow a process to begin with the label of a container only with such a file. A
// host without SELinux, and a policy that knows no containers, have no such label.
func labelProgram(exe *os.File) error {
	process, file := selinux.ContainerLabels()
	selinux.ReleaseLabel(process)
	if file == "" {
		return nil
	}
	context, err := selinux.NewContext(file)
	if err != nil {
		return fmt.Errorf("label of containers' files: %w", err)
	}
	context["level"] = "s0"
	if err := selinux.SetFileLabel(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), context.Get()); err != nil {
		return fmt.Errorf("label the program of pause: %w", err)
	}
	return nil
}

func (c Config) ownUsers() bool { return c.Cloneflags&unix.CLONE_NEWUSER != 0 }

func (c Config) argv() []string {
	argv := []string{"pause", fmt.Sprint("u", c.UID), fmt.Sprint("g", c.GID)}
	if c.ownUsers() {
		argv = append(argv, "m")
	}
	if len(c.Groups) > 0 {
		argv = append(argv, "G"+strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Groups), " ", ","), "[]"))
	}
	if c.AppArmor != "" {
		argv = append(argv, "a"+c.AppArmor)
	}
	if c.SELinux != "" {
		argv = append(argv, "x"+c.SELinux)
	}
	if c.Loopback {
		argv = append(argv, "l")
	}
	if c.Hostname != "" {
		argv = append(argv, "h"+c.Hostname)
	}
	settings := len(argv)
	for path, value := range c.Sysctls {
		argv = append(argv, "s"+path+"="+value)
	}
	sort.Strings(argv[settings:]) // an order that does not depend on the map's
	return argv
}

func (c Config) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: c.Cloneflags, Setsid: true}
	if c.Cgroup != nil {
		a.UseCgroupFD, a.CgroupFD = true, int(c.Cgroup.Fd())
	}
	if c.ownUsers() {
		a.Cloneflags |= unix.CLONE_NEWNS // it may not join the empty mount namespace
		a.UidMappings, a.GidMappings = c.UIDMaps, c.GIDMaps
		a.GidMappingsEnableSetgroups = true
		// Root of the new namespace: else exec would drop its capabilities.
		a.Credential = &syscall.Credential{}
	}
	return a
}

// steps names what pause.c was doing, by the number it reports.
var steps = []string{
	"done", "read its arguments", "bring the loopback up", "set the host name", "write a sysctl",
	"leave the host's mounts", "drop capabilities", "give up privileges", "install its seccomp filter", "block signals",
	"make a cgroup namespace", "change to its AppArmor profile", "become its user and groups",
	"take its SELinux label",
}

// release has the process recorded and lets it go on, to its end of the setup.
func release(pid int, record func(int) error, recorded io.Writer, status io.Reader, argv []string) error {
	if err := record(pid); err != nil {
		return fmt.Errorf("record pause: %w", err)
	}
	if _, err := recorded.Write([]byte{1}); err != nil {
		return fmt.Errorf("start pause: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(status, 64))
	if err != nil {
		return fmt.Errorf("start pause: %w", err)
	}
	if len(said) == 0 {
		return nil
	}
	return failure(said, argv)
}

// report reads what a pause process, started with argv, writes before it waits to be
// recorded: that all is done, or what failed.
func report(status io.Reader, argv []string) error {
	said := make([]byte, 8)
	n, err := status.Read(said) // a write of so few bytes is not divided
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("start pause: %w", err)
	}
	if n == 1 && said[0] == 0 {
		return nil
	}
	return failure(said[:n], argv)
}

// failure is what a report of pause says.
func failure(said []byte, argv []string) error {
	if len(said) != 8 {
		return errors.New("start pause: it died before it was set up")
	}
	step, errno := binary.NativeEndian.Uint32(said), syscall.Errno(binary.NativeEndian.Uint32(said[4:]))
	if place := int(step >> 8); place > 0 && place < len(argv) {
		return fmt.Errorf("start pause: %w: %s: %w", ErrSysctl, argv[place][1:], errno)
	}
	name := "do its work"
	if int(step) < len(steps) {
		name = steps[step]
	}
	return fmt.Errorf("start pause: it could not %s: %w", name, errno)
}
