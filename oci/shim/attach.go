package shim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// lastPatience is how long a client may still take the last output of a container
// that has ended.
const lastPatience = 10 * time.Second

// streams carries out the verbs of containers' streams.
type streams struct{ registry *registry }

// attach connects a client's files with a container's streams until the container ends, the
// client hangs up, or it is too slow for the output. It answers twice: when they are
// connected, and at the end.
func (s streams) attach(c *call, r shimapi.AttachRequest) (any, error) {
	ctr, err := s.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	ends, err := takeEnds(c, r)
	if err != nil {
		return nil, err
	}
	defer ends.close()
	gone := c.hungUp()
	a := &attached{ctr: ctr, gone: gone, lost: make(chan struct{}, 1)}
	defer a.close()
	a.follow("stdout", ends.stdout)
	a.follow("stderr", ends.stderr)
	if ends.stdin != nil && ctr.stdin {
		defer ctr.feedFrom(ends.stdin)()
	}
	if err := c.answer(nil, nil); err != nil {
		return nil, errAnswered
	}
	return nil, a.wait()
}

// attached is a client with the outputs that it follows.
type attached struct {
	ctr   *container
	gone  <-chan struct{}
	lost  chan struct{} // gets an element when the client is too slow
	sinks []*sink
}

func (a *attached) follow(name string, f *os.File) {
	if st := a.ctr.io.stream(name); f != nil && st != nil {
		a.sinks = append(a.sinks, st.attach(f, a.lost))
	}
}

func (a *attached) close() {
	for _, k := range a.sinks {
		k.close()
	}
}

// wait returns when the container has ended and the client has all its output, or can't get
// it any more.
func (a *attached) wait() error {
	if err := a.await(a.ctr.done, nil); err != nil {
		return err
	}
	late := time.NewTimer(lastPatience)
	defer late.Stop()
	for _, k := range a.sinks {
		if err := a.await(k.over, late.C); err != nil {
			return err
		}
	}
	return nil
}

func (a *attached) await(over <-chan struct{}, late <-chan time.Time) error {
	select {
	case <-over:
		return nil
	case <-a.lost:
		return tooSlow(a.ctr.id)
	case <-late:
		return tooSlow(a.ctr.id)
	case <-a.gone:
		return errAnswered
	}
}

func tooSlow(id string) error {
	return fault(shimapi.KindInternal, "the client reads more slowly than container %s writes and was cut off; the log has all of the output", id)
}

// ends are the files of an attaching client. Those that it does not want are nil.
type ends struct{ stdin, stdout, stderr *os.File }

func takeEnds(c *call, r shimapi.AttachRequest) (*ends, error) {
	e, files := &ends{}, c.files
	wanted := []struct {
		flag bool
		to   **os.File
	}{{r.Stdin, &e.stdin}, {r.Stdout, &e.stdout}, {r.Stderr, &e.stderr}}
	count := 0
	for _, w := range wanted {
		if w.flag {
			count++
		}
	}
	if count != len(files) {
		return nil, fault(shimapi.KindInvalid, "attach to %d streams with %d files", count, len(files))
	}
	c.files = nil
	for _, w := range wanted {
		if !w.flag {
			continue
		}
		f, err := shimapi.Pollable(files[0])
		if err != nil {
			e.close()
			shimapi.CloseFiles(files)
			return nil, err
		}
		*w.to, files = f, files[1:]
	}
	return e, nil
}

func (e *ends) close() {
	for _, f := range []*os.File{e.stdin, e.stdout, e.stderr} {
		if f != nil {
			_ = f.Close() // the client has its own
		}
	}
}

// feedFrom starts a goroutine that copies a client's input to the container. The returned
// function ends it and waits for its end.
func (ctr *container) feedFrom(input *os.File) (end func()) {
	stop, fed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(fed)
		ctr.feed(input, stop)
		if ctr.stdinOnce {
			ctr.endInput()
		}
	}()
	return func() {
		close(stop)
		_ = input.Close() // wakes the feed that reads
		for {
			if in := ctr.io.input(); in != nil {
				_ = in.SetWriteDeadline(time.Now()) // wakes the feed that writes
			}
			select {
			case <-fed:
				return
			case <-time.After(10 * time.Millisecond): // another feed took the deadline back
			}
		}
	}
}

// feed copies a client's input to the container until one of them ends or stop
// is closed. The first client's end is the end of the input with stdin_once.
func (ctr *container) feed(from *os.File, stop <-chan struct{}) {
	in := &patientWriter{ctr.io.input, stop}
	_, _ = io.Copy(in, from) // whichever side ended it, it ends
}

// patientWriter writes to a container's stdin, for as long as the container does
// not read if need be, but not longer than stop.
type patientWriter struct {
	input func() *os.File
	stop  <-chan struct{}
}

func (w *patientWriter) Write(data []byte) (int, error) {
	written := 0
	for {
		in := w.input()
		if in == nil {
			return written, unix.EPIPE
		}
		n, err := in.Write(data[written:])
		written += n
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return written, err
		}
		select {
		case <-w.stop:
			return written, err
		default: // another client has detached
			if err := in.SetWriteDeadline(time.Time{}); err != nil {
				return written, err
			}
		}
	}
}

func (s streams) closeStdin(_ *call, r shimapi.IDRequest) (any, error) {
	ctr, err := s.registry.container(r.ID)
	if err != nil {
		return nil, err
	}
	ctr.endInput()
	return nil, nil
}

// endInput closes the container's stdin and reports that by an event, because the daemon has
// a duplicate to close as well.
func (ctr *container) endInput() {
	closed := ctr.io.closeStdin()
	if ctr.task != nil && closed {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		if err := ctr.task.CloseInput(ctx); err != nil && !isGone(err) {
			slog.Warn("input not closed by the foreign shim", "container", ctr.id, "error", err)
		}
	}
	if closed {
		ctr.recorder.endInput()
	}
}

func (s streams) reopen(_ *call, r shimapi.IDRequest) (any, error) {
	ctr, err := s.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if ctr.io.log == nil {
		return nil, nil
	}
	return nil, ctr.io.log.reopen()
}

func (s streams) resize(_ *call, r shimapi.ResizeRequest) (any, error) {
	ctr, err := s.registry.running(r.ID)
	if err != nil {
		return nil, err
	}
	if ctr.task != nil {
		return nil, ctr.resizeTask(r)
	}
	if r.ExecID != "" {
		return nil, fault(shimapi.KindInvalid, "an exec's terminal is resized by the client, which holds its master")
	}
	master := ctr.io.input()
	if !ctr.io.terminal || master == nil {
		return nil, fault(shimapi.KindInvalid, "container %s has no terminal", r.ID)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	size := &unix.Winsize{Row: r.Height, Col: r.Width}
	cerr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	return nil, errors.Join(err, cerr)
}
