package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: disk DIR IMAGE [LOG]")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "disk:", err)
		os.Exit(1)
	}
}

func serve(dir, image string, log []string) error {
	data, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer data.Close()
	d := &disk{data: data}
	for _, name := range log {
		if d.notes, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer d.notes.Close()
	}
	root := &fs.Inode{}
	options := &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "berth-test-disk", MaxWrite: 1 << 20},
		OnAdd: func(ctx context.Context) {
			root.AddChild("disk", root.NewPersistentInode(ctx, d, fs.StableAttr{Mode: syscall.S_IFREG}), false)
		},
	}
	server, err := fs.Mount(dir, root, options)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		if err := d.fault.become(orders.Text()); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("so it is")
		}
	}
	_ = d.fault.become("well")
	return server.Unmount()
}

// fault is what is wrong with the disk.
type fault struct {
	mu    sync.Mutex
	errs  bool
	delay time.Duration
	hangs chan struct{} // closed when the disk answers again; nil: it does
}

// become takes one of the orders that doc.go lists.
func (f *fault) become(order string) error {
	name, argument, _ := strings.Cut(order, " ")
	var delay time.Duration
	switch name {
	case "well", "fail", "hang":
	case "slow":
		var err error
		if delay, err = time.ParseDuration(argument); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no such order: %q", order)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs, f.delay = name == "fail", delay
	if f.hangs != nil {
		close(f.hangs)
		f.hangs = nil
	}
	if name == "hang" {
		f.hangs = make(chan struct{})
	}
	return nil
}

// meet is what happens to a request for the disk: it waits, or fails.
func (f *fault) meet() syscall.Errno {
	f.mu.Lock()
	delay, hangs := f.delay, f.hangs
	f.mu.Unlock()
	time.Sleep(delay)
	if hangs != nil {
		<-hangs
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs {
		return syscall.EIO
	}
	return 0
}

// disk is the file. mu makes the order of the log the order of the writes.
type disk struct {
	fs.Inode
	mu          sync.Mutex
	data, notes *os.File // notes may be nil
	fault       fault
}

var (
	_ fs.NodeOpener    = (*disk)(nil)
	_ fs.NodeReader    = (*disk)(nil)
	_ fs.NodeWriter    = (*disk)(nil)
	_ fs.NodeFsyncer   = (*disk)(nil)
	_ fs.NodeGetattrer = (*disk)(nil)
)

func (d *disk) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, 0, 0
}

func (d *disk) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	st, err := d.data.Stat()
	if err != nil {
		return fs.ToErrno(err)
	}
	out.Mode, out.Size, out.Blksize = syscall.S_IFREG|0o600, uint64(st.Size()), 4096
	return 0
}

func (d *disk) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := d.fault.meet(); errno != 0 {
		return nil, errno
	}
	n, err := d.data.ReadAt(dest, off)
	if err != nil && err != io.EOF {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

func (d *disk) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := d.fault.meet(); errno != 0 {
		return 0, errno
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.note('w', off, data); err != nil {
		return 0, fs.ToErrno(err)
	}
	n, err := d.data.WriteAt(data, off)
	return uint32(n), fs.ToErrno(err)
}

func (d *disk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	if errno := d.fault.meet(); errno != 0 {
		return errno
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return fs.ToErrno(d.note('s', 0, nil))
}

func (d *disk) note(kind byte, off int64, data []byte) error {
	if d.notes == nil {
		return nil
	}
	var head [17]byte
	head[0] = kind
	binary.LittleEndian.PutUint64(head[1:], uint64(off))
	binary.LittleEndian.PutUint64(head[9:], uint64(len(data)))
	_, err := d.notes.Write(append(head[:], data...))
	return err
}
