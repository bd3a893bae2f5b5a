package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadFS is a FUSE file system whose server answers one process at most: all others
// wait as they do for an NFS server that is gone.
type deadFS struct {
	t    *testing.T
	Path string
	dev  *os.File
}

// mountDead mounts one; answers is the process that gets answers, 0 for none.
func mountDead(t *testing.T, answers int) *deadFS {
	t.Helper()
	if data, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(data), "\tfuse\n") {
		t.Skip("the kernel has no FUSE")
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	d := &deadFS{t: t, Path: filepath.Join(t.TempDir(), "dead"), dev: os.NewFile(uintptr(fd), "fuse")}
	if err := os.Mkdir(d.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("berth-dead", d.Path, "fuse", 0, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// By force: the connection ends, and a process that waits for an answer is told.
		// Closing the device alone would wait for the read of it.
		_ = unix.Unmount(d.Path, unix.MNT_FORCE|unix.MNT_DETACH)
		d.dev.Close()
	})
	if answers != 0 {
		go d.serve(answers)
	}
	return d
}

// waiting waits until a request is not answered.
func (d *deadFS) waiting() {
	d.t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	var minor int
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); f[4] == d.Path {
			_, err = fmt.Sscanf(f[2], "0:%d", &minor)
		}
	}
	if err != nil || minor == 0 {
		d.t.Fatalf("the mount is not found: %v", err)
	}
	control := d.t.TempDir()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(control, unix.MNT_DETACH) }()
	if err := d.await(filepath.Join(control, fmt.Sprint(minor), "waiting")); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deadFS) await(counter string) error {
	const long = 10 // looks in a row: a request that is being answered waits for a moment, too
	looks := 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) { // nothing tells
		data, err := os.ReadFile(counter)
		if err != nil {
			return err
		}
		if looks++; strings.TrimSpace(string(data)) == "0" {
			looks = 0
		}
		if looks == long {
			return nil
		}
	}
	return fmt.Errorf("nobody waits for the dead file system")
}

// The parts of <linux/fuse.h> that a root directory needs.
const (
	fuseGetattr, fuseInit = 3, 26
	fuseHeader            = 40 // bytes of struct fuse_in_header
)

// serve answers who may be answered, until the file system is unmounted.
func (d *deadFS) serve(pid int) {
	buf := make([]byte, 1<<17)
	for {
		n, err := d.dev.Read(buf)
		if err != nil || n < fuseHeader {
			return
		}
		le := binary.NativeEndian
		opcode, unique, from := le.Uint32(buf[4:]), le.Uint64(buf[8:]), int(le.Uint32(buf[32:]))
		if opcode != fuseInit && !isThread(from, pid) {
			continue
		}
		var body []byte
		switch opcode {
		case fuseInit:
			body = make([]byte, 64)
			le.PutUint32(body, 7)
			le.PutUint32(body[4:], 31)
			le.PutUint32(body[20:], 4096) // max_write
		case fuseGetattr:
			body = make([]byte, 104)
			le.PutUint64(body[16:], 1) // inode
			le.PutUint32(body[16+60:], unix.S_IFDIR|0o755)
			le.PutUint32(body[16+64:], 2)
		}
		var out bytes.Buffer
		code := int32(0)
		if body == nil {
			code = -int32(unix.ENOSYS)
		}
		_ = binary.Write(&out, le, uint32(16+len(body)))
		_ = binary.Write(&out, le, code)
		_ = binary.Write(&out, le, unique)
		out.Write(body)
		_, _ = d.dev.Write(out.Bytes())
	}
}

// isThread tells whether a thread is one of a process.
func isThread(tid, pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, tid))
	return err == nil
}
