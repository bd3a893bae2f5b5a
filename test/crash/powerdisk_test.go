package crash

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"berth/test/program"
)

// powerDisk is a filesystem upon a disk that notes each write and each flush, or that
// fails when it is told (test/disk). All is on a tmpfs.
type powerDisk struct {
	t       *testing.T
	dir     string // of the files below
	mount   string // the filesystem
	program *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

const powerDiskSize = 320 << 20 // XFS takes no less than 300 MiB

// powerFilesystems are how a disk gets a filesystem, by its name. All that mkfs leaves for
// later would be noise in the log.
var powerFilesystems = map[string][]string{
	"ext4": {"mkfs.ext4", "-q", "-F", "-O", "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"},
	"xfs":  {"mkfs.xfs", "-q", "-f", "-K"},
}

func newPowerDisk(t *testing.T, mkfs []string) *powerDisk {
	t.Helper()
	d := &powerDisk{t: t, dir: t.TempDir()}
	d.mount = filepath.Join(d.dir, "mount")
	d.must(unix.Mount("berth-test", d.dir, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { d.must(unix.Unmount(d.dir, 0)) })
	for _, name := range []string{"mount", "fuse"} {
		d.must(os.Mkdir(filepath.Join(d.dir, name), 0o755))
	}
	file := filepath.Join(d.dir, "program")
	d.must(program.Build("test/disk", file))
	d.must(os.WriteFile(d.file("disk"), nil, 0o600))
	d.must(os.Truncate(d.file("disk"), powerDiskSize))
	d.command(mkfs[0], append(mkfs[1:], d.file("disk"))...)
	d.command("cp", "--sparse=always", d.file("disk"), d.file("before"))
	d.program = exec.Command(file, d.file("fuse"), d.file("disk"), d.file("log"))
	d.program.Stderr = os.Stderr
	return d
}

func (d *powerDisk) file(name string) string { return filepath.Join(d.dir, name) }

func (d *powerDisk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *powerDisk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// on mounts the filesystem, with all writes noted from here.
func (d *powerDisk) on() {
	d.t.Helper()
	var err error
	d.orders, err = d.program.StdinPipe()
	d.must(err)
	out, err := d.program.StdoutPipe()
	d.must(err)
	d.must(d.program.Start())
	d.answers = bufio.NewReader(out)
	if line, err := d.answers.ReadString('\n'); err != nil || line != "ready\n" {
		d.t.Fatalf("the disk says %q: %v", line, err)
	}
	d.command("mount", "-o", "loop", filepath.Join(d.file("fuse"), "disk"), d.mount)
}

// unmount unmounts the filesystem. A process that another test has just forked has copies of
// this one's descriptors until it executes its program, and the filesystem is busy meanwhile.
func (d *powerDisk) unmount() {
	d.t.Helper()
	var err error
	eventually(d.t, "the filesystem can be unmounted", func() bool {
		err = unix.Unmount(d.mount, 0)
		return !errors.Is(err, unix.EBUSY)
	})
	d.must(err)
}

// off unmounts it.
func (d *powerDisk) off() {
	d.t.Helper()
	d.unmount()
	d.must(d.orders.Close())
	d.must(d.program.Wait())
}

// now is how long the log is: a position in time.
func (d *powerDisk) now() int64 {
	d.t.Helper()
	st, err := os.Stat(d.file("log"))
	d.must(err)
	return st.Size()
}

// write is a record of the log.
type write struct {
	off, at, size int64 // on the disk; of the data in the log
	flush         bool
}

func (w write) end() int64 { return w.at + w.size }

func (d *powerDisk) log() (all []write) {
	d.t.Helper()
	f, err := os.Open(d.file("log"))
	d.must(err)
	defer f.Close()
	var head [17]byte
	for at := int64(0); ; {
		if _, err := f.ReadAt(head[:], at); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			d.t.Fatal(err)
		}
		w := write{
			off: int64(binary.LittleEndian.Uint64(head[1:])), at: at + int64(len(head)),
			size: int64(binary.LittleEndian.Uint64(head[9:])), flush: head[0] == 's',
		}
		all = append(all, w)
		at = w.end()
	}
}

// cut is a loss of power: after so many records of the log, of which those since the last
// flush reached the disk or not, as the disk liked.
type cut struct {
	records int
	// lost tells of a write since the last flush how much of it is missing at its end: 0
	// is nothing, 1 all of it, 2 half of its sectors.
	lost func() int
	name string
}

// cuts chooses moments between two positions of the log.
func cuts(log []write, from, to int64, n int, r *rand.Rand) (out []cut) {
	var records []int
	for i, w := range log {
		if w.end() > from && w.end() <= to {
			records = append(records, i+1)
		}
	}
	for i := range n {
		// Spread evenly, and by chance within each part.
		at := records[min((i*len(records)+r.IntN(len(records)))/n, len(records)-1)]
		c := cut{records: at}
		switch i % 4 {
		case 0:
			c.name, c.lost = "nothing since the flush is there", func() int { return 1 }
		case 1:
			c.name, c.lost = "all is there", func() int { return 0 }
		case 2:
			c.name, c.lost = "some is there", func() int { return r.IntN(2) }
		default:
			c.name, c.lost = "some is there, some of it torn", func() int { return r.IntN(3) }
		}
		out = append(out, c)
	}
	return out
}

// flushed is a copy of the disk with what had surely reached it, which goes forward in time.
type flushed struct {
	disk  *powerDisk
	log   []write
	done  int // records that are applied
	notes *os.File
}

func (d *powerDisk) replay(log []write) *flushed {
	d.t.Helper()
	notes, err := os.Open(d.file("log"))
	d.must(err)
	d.t.Cleanup(func() { notes.Close() })
	return &flushed{disk: d, log: log, notes: notes}
}

// after makes the disk "cut" what a loss of power leaves.
func (f *flushed) after(c cut) {
	f.disk.t.Helper()
	last := f.done
	for i := f.done; i < c.records; i++ {
		if f.log[i].flush {
			last = i + 1
		}
	}
	before, err := os.OpenFile(f.disk.file("before"), os.O_RDWR, 0)
	f.disk.must(err)
	defer before.Close()
	for ; f.done < last; f.done++ {
		f.apply(before, f.log[f.done], f.log[f.done].size)
	}
	f.disk.command("cp", "--sparse=always", before.Name(), f.disk.file("cut"))
	image, err := os.OpenFile(f.disk.file("cut"), os.O_RDWR, 0)
	f.disk.must(err)
	defer image.Close()
	for _, w := range f.log[last:c.records] {
		const sector = 4096 // which a disk writes whole; ext4 does not mount with half a superblock
		switch c.lost() {
		case 0:
			f.apply(image, w, w.size)
		case 2:
			f.apply(image, w, w.size/2/sector*sector)
		}
	}
}

func (f *flushed) apply(image *os.File, w write, size int64) {
	f.disk.t.Helper()
	var data bytes.Buffer
	_, err := io.Copy(&data, io.NewSectionReader(f.notes, w.at, size))
	f.disk.must(err)
	if _, err := image.WriteAt(data.Bytes(), w.off); err != nil {
		f.disk.t.Fatal(fmt.Errorf("write to the copy: %w", err))
	}
}
