package sandbox

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// outputBudget is how much is still read of an output whose process has ended:
// the most that a pipe holds (fs.pipe-max-size). More can only come from a child.
const outputBudget = 1 << 20

// output is our end of a process's output. What the process wrote before it
// ended is read in full, however slowly a client takes it; a child that keeps
// the other end open is waited for execDrain only.
type output struct {
	f     *os.File
	ended atomic.Pointer[time.Time] // nil: the process runs
	extra int                       // bytes read since; the reader's alone
}

// end tells that the process has ended.
func (o *output) end() {
	at := time.Now().Add(execDrain)
	o.ended.Store(&at)
	_ = o.f.SetReadDeadline(at) // for a read that waits already
}

// Read implements [io.Reader]. A deadline that has passed fails a read even when
// there is something to read, so it is moved as long as there is.
func (o *output) Read(p []byte) (int, error) {
	last := o.ended.Load()
	if last == nil {
		return o.f.Read(p)
	}
	deadline := *last
	if o.pending() > 0 && o.extra < outputBudget {
		deadline = time.Now().Add(execDrain)
	}
	_ = o.f.SetReadDeadline(deadline)
	n, err := o.f.Read(p)
	o.extra += n
	return n, err
}

// pending is how many bytes can be read at once.
func (o *output) pending() (n int) {
	raw, err := o.f.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) // closed: 0
	return n
}

// copyTo ends with the output or with w.
func (o *output) copyTo(w io.Writer) { _, _ = io.Copy(w, o) }
