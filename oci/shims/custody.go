package shims

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// custody is what we keep of a pod or container for the heir of its shim: at most
// four descriptors. Its fields are guarded by Set.mu.
type custody struct {
	shimapi.Custody
	// Streams are plain numbers: as files of Go's poller every output of the
	// container would wake us.
	streams map[string]int
	pidfd   *os.File
	exit    *shimapi.ExitStatus // of an orphan that we have reaped
	reaping bool                // a reaper uses the pidfd
	dropped bool                // it closes the pidfd when it is done
}

// keep takes custody of a container; files are ours from here on.
func (sh *Shim) keep(c shimapi.Custody, files []*os.File) {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	sh.keepLocked(c, files)
}

func (sh *Shim) keepLocked(c shimapi.Custody, files []*os.File) {
	sh.dropLocked(c.ID)
	if sh.shims.ctx.Err() != nil { // Close has let go of all there was
		shimapi.CloseFiles(files)
		return
	}
	k := &custody{Custody: c, streams: map[string]int{}}
	k.Files = nil
	for i, f := range files {
		switch {
		case i >= len(c.Files):
			_ = f.Close() // a copy that is not ours to know
		case c.Files[i] == shimapi.FilePidfd:
			k.pidfd = f
		default:
			if fd := rawCopy(f); fd >= 0 {
				k.streams[c.Files[i]] = fd
			}
			_ = f.Close() // we have the copy
		}
	}
	sh.kept[c.ID] = k
}

// rawCopy is a descriptor of the same open file, -1 when there is none to be had.
func rawCopy(f *os.File) int {
	fd := -1
	raw, err := f.SyscallConn()
	if err != nil {
		return fd
	}
	if err := raw.Control(func(old uintptr) { fd, _ = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1
	}
	return fd
}

func (sh *Shim) drop(id string) {
	sh.shims.mu.Lock()
	defer sh.shims.mu.Unlock()
	for s := sh; s != nil; s = s.nextLocked() {
		s.dropLocked(id)
	}
}

// nextLocked is the heir if it is known.
func (sh *Shim) nextLocked() *Shim {
	select {
	case <-sh.decided:
		return sh.next
	default:
		return nil
	}
}

func (sh *Shim) dropLocked(id string) {
	if k := sh.kept[id]; k != nil {
		k.closeFiles()
		delete(sh.kept, id)
	}
}

func (k *custody) closeFiles() {
	for name := range k.streams {
		k.closeStream(name)
	}
	switch {
	case k.reaping:
		k.dropped = true
	case k.pidfd != nil:
		_ = k.pidfd.Close() // a handle
		k.pidfd = nil
	}
}

func (k *custody) closeStream(name string) {
	if fd, ok := k.streams[name]; ok {
		_ = unix.Close(fd) // a copy of the shim's
		delete(k.streams, name)
	}
}

// heed lets go, or takes hold, of what an event is about.
func (sh *Shim) heed(e shimapi.Event) {
	s := sh.shims
	id := e.Record.ID
	s.mu.Lock()
	k := sh.kept[id]
	switch {
	case k == nil:
	case e.Record.Status == shimapi.StatusStopped && e.Record.Pod == "":
		sh.dropLocked(id)
	case e.Record.Status == shimapi.StatusStopped:
		k.closeFiles() // its state and cgroup stay until it is deleted
	case e.Record.StdinClosed:
		k.closeStream(shimapi.FileStdin) // or the container would not see the end
	}
	s.mu.Unlock()
	if k == nil && e.Replay {
		sh.borrow(s.ctx, id)
	}
}

// borrow asks the shim for what it gave the daemon before us. A shim too old to
// know how has no heir.
func (sh *Shim) borrow(ctx context.Context, id string) {
	c, err := sh.sendAlone(ctx, shimapi.MethodLend, shimapi.IDRequest{ID: id}, nil)
	if err != nil {
		return
	}
	defer c.close()
	var lent shimapi.Custody
	if files, err := c.receive(ctx, &lent); err == nil {
		c.shim.keep(lent, files)
	}
}

// lendTo hands a pod or container over to the shim that is to adopt it.
func (k *custody) lendTo(ctx context.Context, sh *Shim) error {
	sh.shims.mu.Lock()
	r := shimapi.AdoptRequest{Custody: k.Custody, Exit: k.exit}
	var files []*os.File
	add := func(name string, fd int) {
		if copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			r.Files, files = append(r.Files, name), append(files, os.NewFile(uintptr(copied), name))
		}
	}
	for name, fd := range k.streams {
		add(name, fd)
	}
	if k.pidfd != nil {
		if fd := rawCopy(k.pidfd); fd >= 0 {
			r.Files, files = append(r.Files, shimapi.FilePidfd), append(files, os.NewFile(uintptr(fd), shimapi.FilePidfd))
		}
	}
	sh.shims.mu.Unlock()
	defer shimapi.CloseFiles(files)
	c, err := sh.sendAlone(ctx, shimapi.MethodAdopt, r, files)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.receive(ctx, nil)
	return err
}
