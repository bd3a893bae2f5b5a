package shimapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// MaxFrame bounds the JSON of a frame, in bytes.
	MaxFrame = 16 << 20
	// MaxFiles bounds the file descriptors of a frame.
	MaxFiles = 4

	headerSize = 4
)

// ErrFrame is wrapped when the peer sends what is no frame. The connection can't be used any
// more.
var ErrFrame = errors.New("malformed frame")

// WriteFrame sends v as one frame, together with files. These stay the caller's.
func WriteFrame(conn *net.UnixConn, v any, files ...*os.File) error {
	frame, err := encodeFrame(v, len(files))
	if err != nil {
		return err
	}
	return send(conn, frame, files)
}

func encodeFrame(v any, files int) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > MaxFrame || files > MaxFiles {
		return nil, fmt.Errorf("%w: %d bytes and %d files are over the bound", ErrFrame, len(body), files)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, headerSize+len(body)), uint32(len(body)))
	return append(frame, body...), nil
}

func send(conn *net.UnixConn, frame []byte, files []*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			raw, err := f.SyscallConn() // Fd would make the file block
			if err != nil {
				return fmt.Errorf("send file: %w", err)
			}
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return fmt.Errorf("send file: %w", err)
			}
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// ReadFrame receives one frame into v and returns its files, which are then the
// caller's to close. It is [io.EOF] when the peer closed between frames.
func ReadFrame(conn *net.UnixConn, v any) ([]*os.File, error) {
	header, files, err := readHeader(conn)
	if err == nil {
		err = readBody(conn, header, v)
	}
	if err != nil {
		CloseFiles(files)
		return nil, err
	}
	return files, nil
}

// CloseFiles closes files that came with a frame and are not needed.
func CloseFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written to them, so nothing can be lost
	}
}

func readHeader(conn *net.UnixConn) (size uint32, files []*os.File, err error) {
	var header [headerSize]byte
	rights := make([]byte, unix.CmsgSpace(MaxFiles*4))
	n, rn, flags, _, err := conn.ReadMsgUnix(header[:], rights)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, nil, err
	}
	files, err = received(rights[:rn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = truncated(len(files))
	}
	if err == nil && n < headerSize {
		_, err = io.ReadFull(conn, header[n:])
	}
	size = binary.BigEndian.Uint32(header[:])
	if err == nil && size > MaxFrame {
		err = fmt.Errorf("%w: %d bytes announced", ErrFrame, size)
	}
	return size, files, err
}

// truncated is why the kernel has delivered only so many files of a frame: those fill our buffer,
// or there are no descriptors for more (scm_detach_fds in net/core/scm.c).
func truncated(files int) error {
	if files < MaxFiles {
		return fmt.Errorf("receive the files of a frame: %w", unix.EMFILE)
	}
	return fmt.Errorf("%w: more than %d files", ErrFrame, MaxFiles)
}

// received makes files of control messages. It does so even if one of the messages is
// invalid, so that the caller can close the others.
func received(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	for i := range messages {
		fds, perr := unix.ParseUnixRights(&messages[i])
		if perr != nil {
			err = fmt.Errorf("%w: %w", ErrFrame, perr)
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, err
}

// bodyPiece is the memory that a body gets before any of it has arrived: most need no more.
const bodyPiece = 16 << 10

func readBody(conn net.Conn, size uint32, v any) error {
	var body []byte
	for uint32(len(body)) < size { //nolint:gosec // at most MaxFrame
		missing := int(size) - len(body)
		body = slices.Grow(body, min(missing, max(bodyPiece, len(body))))
		n, err := conn.Read(body[len(body):min(cap(body), len(body)+missing)])
		body = body[:len(body)+n]
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: ended after %d of %d bytes", ErrFrame, len(body), size)
		}
		if err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}

// Pollable replaces f by a file that waits in Go's poller, so that deadlines and Close
// interrupt it. It makes the open file description, which others may share, non-blocking. f
// is closed in every case.
func Pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	name := f.Name()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", name, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s non-blocking: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
