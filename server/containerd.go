package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"berth/oci/flock"
	"berth/server/config"
)

// containerdSocket is where the kubelet's cAdvisor asks for containers, whatever the
// kubelet is told, and where the kubelet looks for a runtime when it is told nothing.
const containerdSocket = "/run/containerd/containerd.sock"

// containerdFront serves the CRI and the view of package containerdview on the path of
// containerd's socket, until a containerd takes that back.
type containerdFront struct {
	socket *lentSocket
	server *grpc.Server
	ended  chan struct{} // closed when nobody watches the path any more
}

// openContainerd serves at containerd_socket. It is nil when it is off, or with "auto" when
// the path can't be had; main, which serves the CRI, does it too where the path is its own.
func (n *node) openContainerd(ctx context.Context, main *grpc.Server) (*containerdFront, error) {
	path := n.cfg.ContainerdSocket
	switch path {
	case config.Off:
		return nil, nil
	case config.Auto:
		path = containerdSocket
	}
	if path == n.cfg.SocketPath() {
		n.cri.RegisterContainerd(main)
		return nil, nil
	}
	socket, err := lend(ctx, path)
	if err != nil && n.cfg.ContainerdSocket == config.Auto {
		klog.FromContext(ctx).Info("The kubelet's cAdvisor will not know berth's pods: its way to them can't be served", "socket", path, "reason", err.Error())
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containerd_socket: %w", err)
	}
	server := n.newServer()
	n.cri.RegisterAsContainerd(server)
	f := &containerdFront{socket: socket, server: server, ended: make(chan struct{})}
	go func() { _ = server.Serve(socket.listener) }() // ends with Stop
	go f.watch(ctx)
	return f, nil
}

// watch stops to serve when the path is another's, so that its clients come to that one.
func (f *containerdFront) watch(ctx context.Context) {
	defer close(f.ended)
	log := klog.FromContext(ctx)
	for {
		select {
		case _, ok := <-f.socket.changes.Events:
			if !ok {
				return
			}
		case err, ok := <-f.socket.changes.Errors:
			if !ok {
				return
			}
			log.Error(err, "Watch of the directory of containerd's socket", "socket", f.socket.path)
		}
		if f.socket.isLost() {
			log.Info("Another server has taken its socket back, which berth serves no longer", "socket", f.socket.path)
			f.server.Stop()
			return
		}
	}
}

// close ends what drain has left, and takes the socket away unless it is another's.
func (f *containerdFront) close() error {
	err := f.socket.changes.Close()
	<-f.ended
	f.server.Stop()
	return errors.Join(err, f.socket.takeAway())
}

// lentSocket is a socket at a path that belongs to another program, while that does not
// run. It is put there without ever replacing what anybody answers at, and known by its
// inode, which nothing else gets while it is served.
//
// It is made, and what is in its way is moved, under two fixed names beside the path, so
// that the next daemon can remove what a killed one left there. A lock on the directory
// keeps the daemons that come and go at once apart.
type lentSocket struct {
	path     string
	listener net.Listener
	own      fs.FileInfo
	changes  *fsnotify.Watcher // of the directory
	madeDir  bool
}

// lend serves at path, mode 0660 and owned by root. The error says why it can't.
func lend(ctx context.Context, path string) (_ *lentSocket, err error) {
	s := &lentSocket{path: path}
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o711); err == nil {
		s.madeDir = true
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.giveUp()
		}
	}()
	lock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	// Watched before it is there, so that no change is missed.
	if s.changes, err = fsnotify.NewWatcher(); err != nil {
		return nil, err
	}
	if err := s.changes.Add(dir); err != nil {
		return nil, err
	}
	stale, err := staleSocket(ctx, path)
	if err != nil {
		return nil, err
	}
	hidden := s.beside(hiddenName)
	s.clear()
	if s.listener, err = bind(ctx, hidden, forClients); err != nil {
		return nil, err
	}
	defer os.Remove(hidden)
	if s.own, err = os.Lstat(hidden); err != nil {
		return nil, err
	}
	if stale != nil {
		if err := s.remove(stale); err != nil {
			return nil, err
		}
	}
	// A link, unlike a rename, replaces nothing that has come meanwhile.
	return s, os.Link(hidden, path)
}

// giveUp undoes what lend has done before it failed.
func (s *lentSocket) giveUp() {
	if s.listener != nil {
		s.listener.Close()
	}
	if s.changes != nil {
		_ = s.changes.Close()
	}
	s.removeDir()
}

const (
	// hiddenName is what the socket is called until it is at its path. It is short, since
	// the path of a socket has 107 bytes at most.
	hiddenName = ".berth"
	// asideName is what a socket in the way is called while it is looked at a last time.
	asideName = ".berth-old"
)

func (s *lentSocket) beside(name string) string { return filepath.Join(filepath.Dir(s.path), name) }

// lock takes the directory, which daemons have for moments only.
func (s *lentSocket) lock() (*os.File, error) {
	dir := filepath.Dir(s.path)
	f, err := flock.WaitDir(dir, lockPatience)
	if err != nil {
		return nil, err
	}
	locked, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(dir); err == nil && !os.SameFile(locked, now) {
			err = fmt.Errorf("%s was made anew meanwhile", dir)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// clear removes what a daemon left that was killed while it had the lock.
func (s *lentSocket) clear() {
	for _, name := range []string{hiddenName, asideName} {
		_ = os.Remove(s.beside(name)) // what stays is met again when the name is used
	}
}

// isLost tells whether the path is another's. A path that is only gone is not: a client
// that is connected is served on, and the path is left to whoever has cleared it.
func (s *lentSocket) isLost() bool {
	info, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Lstat(filepath.Dir(s.path))
		return err != nil // without its directory it can't be watched either
	}
	return err != nil || !os.SameFile(info, s.own)
}

// isSame tells whether two looks saw one file. The number alone is given again to a file
// that comes after it.
func isSame(a, b fs.FileInfo) bool { return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) }

// takeAway removes the socket unless the path is another's, and the directory if it was
// made for it.
func (s *lentSocket) takeAway() error {
	lock, err := s.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the path has gone with its directory
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	err = s.remove(s.own)
	s.removeDir()
	return err
}

func (s *lentSocket) removeDir() {
	if s.madeDir {
		_ = os.Remove(filepath.Dir(s.path)) // stays when others use it
	}
}

// remove removes what is at the path if it is known there. It is moved aside first: what
// has come since the last look at it is put back. The caller has the lock.
func (s *lentSocket) remove(known fs.FileInfo) error {
	if info, err := os.Lstat(s.path); err != nil || !isSame(info, known) {
		return nil // gone, or another's
	}
	aside := s.beside(asideName)
	if err := os.Rename(s.path, aside); err != nil {
		return err
	}
	info, err := os.Lstat(aside)
	if err != nil {
		return err
	}
	if !isSame(info, known) {
		err = os.Link(aside, s.path) // unless a third has come
	}
	return errors.Join(err, os.Remove(aside))
}
