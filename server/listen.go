package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listen serves a unix socket at path, mode 0660 and owned by root. A socket a
// dead daemon left is replaced; one that somebody answers at is not, nor is a
// file that is no socket.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The socket is never open to others, not even between bind and chmod: it is
	// bound under another name and renamed once its mode is right.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(hidden) >= len(unix.RawSockaddrUnix{}.Path) {
		hidden = filepath.Join(filepath.Dir(path), ".b")
	}
	_ = os.Remove(hidden)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", hidden)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it would remove the hidden name; see socket
	if err := errors.Join(os.Chmod(hidden, 0o660), os.Rename(hidden, path)); err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &socket{Listener: l, path: path}, nil
}

// socket is a listener whose name goes with it.
type socket struct {
	net.Listener
	path string
	once sync.Once
}

// Close removes the name while the socket still answers: once it does not,
// another daemon may have put its own there.
func (s *socket) Close() error {
	s.once.Do(func() { os.Remove(s.path) })
	return s.Listener.Close()
}

// removeStale removes a socket at path that nobody answers at.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen: %s is there and no socket: remove it, or name another path with --listen", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen: a server answers at %s already: stop it, or name another path with --listen", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("listen: can't tell whether %s is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}
