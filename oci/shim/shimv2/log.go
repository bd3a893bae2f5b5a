package shimv2

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

const (
	// logName is the fifo of a shim's log in its bundle, which is made before the shim starts.
	logName = "log"
	// maxLines is how many lines of one shim's log are passed on. A container may be able
	// to make its shim write, and what is in the log of all would have to give way.
	maxLines = 1000
	// maxLine is how much of a line is passed on, in bytes.
	maxLine = 4 << 10
)

// shimLog passes on what a shim writes to the fifo "log" in its bundle. It is open for
// writing as well, so that it does not end, and a shim that opens it does not wait.
type shimLog struct{ fifo *os.File }

func openLog(b shimapi.Bundle) (*shimLog, error) {
	path := filepath.Join(b.Dir, logName)
	if err := unix.Mkfifo(path, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("log of the shim: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("log of the shim: %w", err)
	}
	l := &shimLog{f}
	go l.pass(b.ID)
	return l, nil
}

// pass ends when the fifo is closed. What is over the bounds is read and dropped: the shim
// must not wait for its log.
func (l *shimLog) pass(id string) {
	in := bufio.NewReaderSize(l.fifo, maxLine)
	for n := 0; ; n++ {
		line, more, err := in.ReadLine()
		if err != nil {
			return
		}
		for more && err == nil {
			_, more, err = in.ReadLine()
		}
		switch {
		case n < maxLines:
			slog.Info("foreign shim", "pod", id, "says", string(line))
		case n == maxLines:
			slog.Warn("foreign shim says more than is kept", "pod", id)
		}
	}
}

func (l *shimLog) close() { _ = l.fifo.Close() } // ends pass
