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

// forClients is the mode of a socket that the owner and the group of root may use.
const forClients fs.FileMode = 0o660

// listen serves a unix socket at path, owned by root and with this mode. A socket that a
// dead daemon left is replaced; one that somebody answers at is not, nor is a file that is
// no socket. key names the path in the configuration, for the error.
func listen(ctx context.Context, key, path string, mode fs.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	stale, err := staleSocket(ctx, path)
	if err == nil && stale != nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w, or name another path with --%s", err, key)
	}
	// The socket is never open to others, not even between bind and chmod: it is
	// bound under another name and renamed once its mode is right.
	hidden := fmt.Sprintf("%s.%d", path, os.Getpid())
	if len(hidden) >= len(unix.RawSockaddrUnix{}.Path) {
		hidden = filepath.Join(filepath.Dir(path), ".b")
	}
	_ = os.Remove(hidden)
	l, err := bind(ctx, hidden, mode)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Rename(hidden, path); err != nil {
		l.Close()
		os.Remove(hidden)
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &socket{Listener: l, path: path}, nil
}

// bind makes a socket with this mode at path. Closing it leaves the file.
func bind(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // by then it has another name
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		os.Remove(path)
		return nil, err
	}
	return l, nil
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

// staleSocket is the socket at path that nobody answers at; nil when there is nothing. The
// error says what else is there, and what to do about it.
func staleSocket(ctx context.Context, path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is there and no socket: remove it", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return nil, fmt.Errorf("a server answers at %s already: stop it", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("can't tell whether %s is in use: %w", path, err)
	}
	return info, nil
}
